"""An executed notebook as one HTML page that needs no network: pictures inside it, equations as MathML.

Owns that page. Never executes a notebook. nbconvert's own page loads MathJax and two other scripts from the web, so
that without a network its equations stay source text.
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
    """nbconvert's HTML, without what it would fetch."""

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """Markdown, its equations included, to HTML."""
        return MarkdownWithMath(renderer=_Renderer(escape=False, anchor_link_text=self.anchor_link_text)).render(source)


def to_page(notebook: NotebookNode, title: str) -> str:
    """The page's text. Raises latex2mathml's error where an equation is no LaTeX."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exporter = PageExporter(embed_images=True, raw_template=_PAGE)
        html, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    return html
