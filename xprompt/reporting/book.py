"""The book of a report: a Sphinx project written from its notebooks, tables and run records, and built to HTML.

`index.html` is the front page, `book/` the rest. Both open from disk and fetch nothing. Nothing is run again, and the
manifest is only read, so that the book can be rewritten while runs go on.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

from xprompt.errors import StoreError
from xprompt.files import path_of, write_atomically
from xprompt.reporting import book_chapters, book_pages
from xprompt.reporting.layout import Report

PROJECT = ".book"  # the folder, in the output, of the Sphinx project and of what it has read so far
EVERY = 180.0  # seconds between two builds while runs go on
SHARE = 0.05  # of the time, at most, that these builds take
BESIDE = ("tables", "figures", "notebooks", "manifest.json")  # what pages link to
_UNUSED = ("*.map", "*webpack-macros.html")  # of the theme, for its developers; half of the book's size


def build(report: Report, output: str | Path | None = None, others: Sequence[str] = ()) -> Path:
    """Build a report's book and return its front page. Only what has changed since the last build is read again.

    Args:
        report: a report, finished or not, or a published one.
        output: where index.html and book/ are written, with copies of the files that pages link to; default: the
            report's own folder.
        others: names of books in folders next to `output`, to link to.

    Raises `StoreError` where the folder holds no report, or Sphinx cannot build the book.
    """
    if not report.manifest_path.is_file() and not any(report.store.records()):
        raise StoreError(f"{report.root} holds no report: give the folder of one, such as reports/published/nano.")
    target = path_of(output) if output else report.root
    project = (target / PROJECT).resolve()
    if target.resolve() != report.root.resolve():
        _copy_beside(report.root, target)
    contents = book_pages.read(report)
    pages = {
        **book_pages.write(contents, others),
        **book_chapters.write(report.notebooks, contents.statuses, contents.published),
    }
    chapters_changed = _write_sources(project / "source", pages)
    book = (target / "book").resolve()
    _run_sphinx(project, book, contents, fresh=chapters_changed)
    for path in (path for pattern in _UNUSED for path in book.rglob(pattern)):
        path.unlink()
    front = target / "index.html"
    write_atomically(front, _from_above((book / "index.html").read_text(encoding="utf-8")))
    return front


@contextmanager
def kept_fresh(report: Report, every: float = EVERY) -> Iterator[None]:
    """Rewrite the book from time to time while the block goes on, in a process of its own, where runs have finished.

    Args:
        report: the report that the block writes to.
        every: seconds until the first build, and between two; more where a build takes over `SHARE` of them.

    A build that fails is left out in silence: the one after the block tells why.
    """
    done = threading.Event()

    def refresh() -> None:
        seen, pause = None, every
        while not done.wait(pause):
            state = _newest(report.store.runs)
            if state and state != seen:
                seen, began = state, time.monotonic()
                command = [sys.executable, "-m", "xprompt", "book", str(report.root)]
                with suppress(OSError):
                    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
                pause = max(every, (time.monotonic() - began) / SHARE)

    thread = threading.Thread(target=refresh, name="book", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _newest(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.glob("*/record.json") if path.exists()), default=0.0)


def _copy_beside(root: Path, target: Path) -> None:
    for name in BESIDE:
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, dirs_exist_ok=True)
        elif (root / name).is_file():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, target / name)


def _write_sources(source: Path, pages: Mapping[str, str]) -> bool:
    """Write the project's files, those that differ alone, and return whether there are other chapters than before."""
    source.mkdir(parents=True, exist_ok=True)
    before = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    for name in before - pages.keys():
        (source / name).unlink()
    for name, text in pages.items():
        path = source / name
        if name not in before or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return before != pages.keys()


def _run_sphinx(project: Path, book: Path, contents: book_pages.Contents, fresh: bool) -> None:
    from sphinx.application import Sphinx  # it takes a second, which no other part of the room should cost
    from sphinx.util.docutils import docutils_namespace

    static = project / "static"
    _write_static(static)
    remarks = io.StringIO()
    try:
        with docutils_namespace(), _quiet():  # so that one process can build several books
            app = Sphinx(
                project / "source", None, book, project / "doctrees", "html", status=None, warning=remarks,
                confoverrides=_settings(contents, static),
            )  # fmt: skip
            app.connect("html-collect-pages", lambda app: book_pages.run_pages(contents))
            app.connect("html-page-context", _add_tables_script)
            app.build(force_all=fresh)
        shutil.rmtree(book.parent / "jupyter_execute", ignore_errors=True)  # myst-nb's copies of the notebooks
        shutil.rmtree(book / "_static" / "locales", ignore_errors=True)  # half a megabyte that no page reads
    except Exception as error:
        raise StoreError(
            f"the book of {contents.root} could not be built ({type(error).__name__}: {error}). Delete "
            f"{project} and try again; the report itself is whole."
        ) from error
    write_atomically(project / "warnings.txt", remarks.getvalue())


def _settings(contents: book_pages.Contents, static: Path) -> dict[str, Any]:
    """What would stand in Sphinx's conf.py."""
    return {
        "project": "XPrompt",
        "html_title": "XPrompt book",
        "extensions": [
            "myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "xprompt.reporting.book_extension",
        ],
        "source_suffix": {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"},
        "default_role": "code",
        "smartquotes_action": "D",  # dashes, which docutils writes as two hyphens; quotes stay as they are
        "templates_path": [str(resources.files(__package__) / "templates")],
        "suppress_warnings": ["myst.header", "myst.xref_missing", "mystnb.unknown_mime_type"],
        # Nothing is executed and nothing fetched.
        "nb_execution_mode": "off",
        "nb_merge_streams": True,
        "nb_ipywidgets_js": {},
        "myst_enable_extensions": ["dollarmath"],
        "myst_heading_anchors": 3,
        "html_math_renderer": "mathml",
        "html_show_search_summary": False,  # it fetches pages, which a browser does not do from disk
        "html_copy_source": False,
        "html_show_sourcelink": False,
        "html_show_copyright": False,
        "html_show_sphinx": False,
        "html_domain_indices": False,
        "html_static_path": [str(static)],
        "html_css_files": ["book.css"],
        "html_js_files": ["book.js"],
        "html_context": {"default_mode": "auto"},
        "html_theme": "sphinx_book_theme",
        "html_theme_options": {
            "use_download_button": False,
            "use_fullscreen_button": False,
            "show_navbar_depth": 1,
            "show_toc_level": 2,
            "home_page_in_toc": True,
            "logo": {"text": contents.name},
            "navigation_with_keys": False,
            "footer_content_items": [],
            "navbar_start": [], "navbar_center": [], "navbar_end": [], "navbar_persistent": [],
        },
        "autodoc_member_order": "bysource",
        "autodoc_typehints": "signature",
        "napoleon_use_param": False,  # which would repeat what is said of two parameters together
        "napoleon_custom_sections": [("Source", "Notes"), ("Differs", "Notes")],
    }  # fmt: skip


def _write_static(static: Path) -> None:
    """The project's own style and script, and DataTables as a plain script: a browser loads no module from disk."""
    own = resources.files(__package__) / "static"
    bundle = resources.files("itables") / "html"
    script = (bundle / "dt_bundle.js").read_text(encoding="utf-8")
    exported = re.search(r"export\{([^}]*)\};?", script)
    if exported is None:
        raise StoreError("itables' dt_bundle.js is not as this version needs it: install the one of constraints.txt.")
    table = next(part.partition(" as ")[0] for part in exported[1].split(",") if part.endswith(" as default"))
    script = script.replace(exported[0], f"window.DataTable={table};}})();")
    files = {name: (own / name).read_text(encoding="utf-8") for name in ("book.css", "book.js", "tables.js")}
    files |= {"datatables.js": f"(()=>{{{script}", "datatables.css": (bundle / "dt_bundle.css").read_text("utf-8")}
    static.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = static / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _add_tables_script(app: Any, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Give DataTables to the pages that have a long table."""
    body = context.get("body") or ""
    if 'class="sortable' in body or body.count("<tr") > 20:
        app.add_css_file("datatables.css")
        app.add_js_file("datatables.js")
        app.add_js_file("tables.js")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the remarks of Sphinx's extensions on each other from the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _from_above(page: str) -> str:
    """The book's front page as it is from the folder above: its links lead into book/."""

    def relink(link: re.Match[str]) -> str:
        inside = os.path.normpath(f"book/{link[2]}") if link[2] else link[2]
        return f'{link[1]}="{inside}'

    page = re.sub(r'\b((?:xlink:)?href|src|action)="(?![a-z]+:|#|/)([^"#?]*)', relink, page)
    return page.replace('data-content_root="./"', 'data-content_root="book/"')
