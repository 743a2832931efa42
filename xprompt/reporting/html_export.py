"""An executed notebook as one HTML page that needs no network: pictures inside it, equations as MathML.

nbconvert's own page loads MathJax and two other scripts from the web; without a network its equations stay source.
"""

from __future__ import annotations

import warnings
from typing import Any

from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

_SCRIPTS = ("html_head_js_requirejs", "html_head_js_mathjax", "html_head_js_mermaidjs")
_PAGE = "{% extends 'lab/index.html.j2' %}" + "".join(f"{{% block {name} %}}{{% endblock %}}" for name in _SCRIPTS)


class _Renderer(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        return convert(body)

    def block_math(self, body: str) -> str:
        return convert(body, display="block")


class PageExporter(HTMLExporter):
    """Export as nbconvert does, without what its page fetches from the web."""

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """Convert Markdown with its equations to HTML."""
        return MarkdownWithMath(renderer=_Renderer(escape=False, anchor_link_text=self.anchor_link_text)).render(source)


def to_page(notebook: NotebookNode, title: str) -> str:
    """Return the page's HTML. Raises latex2mathml's error where an equation is not LaTeX."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exporter = PageExporter(embed_images=True, raw_template=_PAGE)
        html, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    return html
