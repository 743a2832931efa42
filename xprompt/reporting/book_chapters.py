"""The book's chapters that are written elsewhere: executed notebooks, guides, and the reference of the public names."""

from __future__ import annotations

import ast
import json
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

import xprompt

PACKAGE = Path(xprompt.__file__).parent
LONG = 25  # lines of printed text above which an output is folded into a box that scrolls
SHOWN = 20_000  # characters of one printed text that a page shows; the .ipynb has more
_WIDGET = "application/vnd.jupyter.widget-view+json"
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def write(notebooks: Path, statuses: Mapping[str, str], published: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the chapters' files: path in the Sphinx project → text.

    Args:
        notebooks: the folder of executed notebooks; each of them is a chapter.
        statuses: notebook → "done", or why it is not.
        published: of the book of a published report, the project's path of each of its tables and figures → the item.
    """
    pages = {}
    for path in sorted(notebooks.glob("*.ipynb")):
        suffix, text = _read_notebook(path, statuses.get(path.stem, "done"))
        pages[f"notebooks/{path.stem}{suffix}"] = text
    chapters = {Path(name).stem for name in pages}
    for path in sorted(_guides().glob("*.md")):
        pages[f"guides/{path.name}"] = _relink(path.read_text(encoding="utf-8"), chapters, published or {})
    return {**pages, **_reference()}


def guide_titles() -> dict[str, str]:
    """Return guide → title, in the order of the book; empty where the guides are not installed."""
    return {
        path.stem: path.read_text("utf-8").partition("\n")[0].lstrip("# ") for path in sorted(_guides().glob("*.md"))
    }


def _guides() -> Path:
    """Where the guides are: beside the package in a checkout, inside it in a wheel."""
    packaged = PACKAGE / "notebooks" / "guides"
    return packaged if packaged.is_dir() else PACKAGE.parent / "notebooks" / "guides"


def _read_notebook(path: Path, status: str) -> tuple[str, str]:
    """The suffix and the text of a notebook's chapter; of a file that is no notebook, a page that says so."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # cut short, or not JSON: each library on the way has its own errors
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return ".md", f"# {path.stem}\n\nThis notebook could not be shown as a page: {reason}\n"
    notebook.metadata.setdefault("language_info", {"name": "python"})  # one that never ran does not say
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _WIDGET not in output.get("data", {})]
            for output in cell.outputs:
                if len(text := output.get("text", "")) > SHOWN:
                    output.text = f"{text[: SHOWN // 2]}\n… the file has {len(text) - SHOWN:,} characters more …\n"
                    output.text += text[-SHOWN // 2 :]
            if sum(output.get("text", "").count("\n") for output in cell.outputs) > LONG:
                cell.metadata["tags"] = sorted({*cell.metadata.get("tags", []), "output_scroll"})
    first = next((cell for cell in notebook.cells if cell.cell_type == "markdown"), None)
    if first is None or not first.source.lstrip().startswith("# "):
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(f"# {path.stem}", id="title"))
    if status != "done":
        note = f"```{{warning}}\nThis notebook did not come to its end: {status}\n```"
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(note, id="status"))
    return ".ipynb", nbformat.writes(notebook) + "\n"


def _relink(text: str, chapters: set[str], published: Mapping[str, str]) -> str:
    """A guide whose links stay within the book; where one leads to a file of the project, its path stands instead.

    A link to another report's table or figure, of which this book has no page, is left as its text.
    """

    def relink(link: re.Match[str]) -> str:
        label, target = link.groups()
        if re.match(r"[a-z]+:|#", target) or "/" not in target:
            return link[0]
        name = posixpath.basename(target)
        if name.endswith(".ipynb") and name.removesuffix(".ipynb") in chapters:
            return f"[{label}](../notebooks/{name})"
        place = posixpath.normpath(posixpath.join("notebooks/guides", target))
        if place in published:
            return f'<a href="../tables.html#{published[place]}">{label}</a>'
        if place.startswith("reports/published/") and posixpath.splitext(place)[1]:
            return label
        return label if label.strip("`").rstrip("/") == place else f"{label} (`{place}`)"

    return _LINK.sub(relink, text)


def _reference() -> dict[str, str]:
    """Pages of the public names, one for each room, and a list of them."""
    rooms: dict[str, list[tuple[str, str, str]]] = {}
    for name, home in xprompt._HOME.items():
        kind, summary = _declaration(home, name)
        rooms.setdefault(home.partition(".")[0], []).append((name, kind, summary))
    pages = {}
    overview = ["Reference", "=========", "", "The public names of ``import xprompt as xp``.", ""]
    for room, names in rooms.items():
        overview += [room, "-" * len(room), ""]
        lines = [f"xprompt.{room}", "=" * (8 + len(room)), ""]
        for name, kind, summary in names:
            place = f"xprompt.{xprompt._HOME[name]}.{name}" if kind == "data" else f"xprompt.{name}"
            overview += [f"* :any:`xp.{name} <{place}>`" + (f": {summary}" if summary else "")]
            lines += [f".. auto{kind}:: {place}"]
            lines += {"class": ["   :members:"], "data": ["   :no-value:"]}.get(kind, []) + [""]
        overview.append("")
        pages[f"api/{room}.rst"] = "\n".join(lines)
    overview += [".. toctree::", "   :hidden:", "", *(f"   {room}" for room in rooms), ""]
    return {**pages, "api/index.rst": "\n".join(overview)}


def _declaration(home: str, name: str) -> tuple[str, str]:
    """Whether a public name is a class, a function or data, and the first line of its docstring, without an import.

    Data has its docstring below it, as a statement of its own.
    """
    path = PACKAGE.joinpath(*home.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for node, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            return kind, (ast.get_docstring(node) or "").partition("\n")[0]
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            said = below.value if isinstance(below, ast.Expr) else None
            return "data", str(said.value).partition("\n")[0] if isinstance(said, ast.Constant) else ""
    raise LookupError(f"{path} declares no {name}")


def title_of(path: Path) -> str:
    """Return a notebook's first heading; its name where it has none."""
    try:
        cells: list[Any] = json.loads(path.read_text(encoding="utf-8"))["cells"]
        heads = [re.match(r"\s*# (.+)", "".join(cell["source"])) for cell in cells if cell["cell_type"] == "markdown"]
        return next(head[1].strip() for head in heads if head)
    except (OSError, ValueError, LookupError, TypeError, StopIteration):
        return path.stem
