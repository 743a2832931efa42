"""What Sphinx needs to build the book without a network: equations as MathML, notebooks that never stop a build."""

from __future__ import annotations

import html
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from myst_nb.sphinx_ import Parser
from pydantic import BaseModel
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    app.add_source_parser(NotebookParser, override=True)
    app.connect("autodoc-process-docstring", _list_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class NotebookParser(Parser):
    """myst-nb's parser; of a file that it cannot read, a page that says so."""

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Parse a page or a notebook into the document."""
        try:
            super().parse(inputstring, document)
        except Exception as error:  # a foreign output, an attachment: the other pages must be written all the same
            section = nodes.section(ids=["page"])
            section += nodes.title("", "A page that could not be shown")
            section += nodes.paragraph(
                "", f"{type(error).__name__}: {error}. The file itself is in the report's folder."
            )
            document += section


def to_mathml(equation: str, display: str) -> str:
    """Return LaTeX as MathML, or its source where it is no LaTeX that latex2mathml knows."""
    try:
        return convert(equation, display=display)
    except Exception:  # its errors have no common base; a RecursionError is among them
        return f'<code class="math">{html.escape(equation)}</code>'


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(to_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{to_mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def _list_fields(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """List the fields of settings with their defaults below their class; keep |x| from being read as a substitution."""
    if what == "data" and lines and (type(thing).__doc__ or "").startswith(lines[0]):
        lines.clear()  # a dict's own docstring, where the name has none
    lines[:] = [line if "`" in line else line.replace("|", r"\|") for line in lines]
    if isinstance(thing, type) and issubclass(thing, BaseModel):
        lines += ["", "Fields:", ""]
        for field, info in thing.model_fields.items():
            default = "required" if info.is_required() else f"default ``{repr(info.default)[:60]}``"
            lines.append(f"* ``{field}``, {default}" + (f": {info.description}" if info.description else ""))
        lines.append("")
