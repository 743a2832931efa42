"""An executed notebook as one HTML page that needs no network: pictures inside it, equations as MathML.

nbconvert's own page loads MathJax and two other scripts from the web; without a network its equations stay source.
"""

from __future__ import annotations

import html
import warnings
from typing import Any

from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

_SCRIPTS = ("html_head_js_requirejs", "html_head_js_mathjax", "html_head_js_mermaidjs")
_PAGE = "{% extends 'lab/index.html.j2' %}" + "".join(f"{{% block {name} %}}{{% endblock %}}" for name in _SCRIPTS)

_FALLBACK = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1>
<p>This notebook could not be shown as a page ({error}); open {title}.ipynb in Jupyter.</p></body></html>
"""


class _Renderer(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        return _to_mathml(body, "inline")

    def block_math(self, body: str) -> str:
        return _to_mathml(body, "block")


def _to_mathml(body: str, display: str) -> str:
    """The equation, or its source where it is no LaTeX that latex2mathml knows."""
    try:
        return convert(body, display=display)
    except Exception:  # its errors have no common base; a RecursionError is among them
        return f'<code class="math">{html.escape(body)}</code>'


class PageExporter(HTMLExporter):
    """Export as nbconvert does, without what its page fetches from the web."""

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """Convert Markdown with its equations to HTML."""
        return MarkdownWithMath(renderer=_Renderer(escape=False, anchor_link_text=self.anchor_link_text)).render(source)


def to_page(notebook: NotebookNode, title: str) -> str:
    """Return the page's HTML; of a notebook that nbconvert cannot show, a page that says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exporter = PageExporter(embed_images=True, raw_template=_PAGE)
            page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
        except Exception as error:  # a cell's attachment, an output of a foreign kind: its text is in the .ipynb
            page = _FALLBACK.format(title=html.escape(title), error=html.escape(f"{type(error).__name__}: {error}"))
    return page
