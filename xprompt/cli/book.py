"""`python -m xprompt book`: build the book of a report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from xprompt.errors import ConfigError
from xprompt.files import holds_other_work, path_of, write_atomically

_FRONT = "<!doctype html>\n<title>XPrompt</title>\n"  # how the page begins that leads to the first of several books
HELP = "build the book of a report"
DESCRIPTION = (
    "Build the book of a report, finished or going on: index.html and book/, which open from disk and fetch nothing. "
    "Nothing is run. `reproduce` does the same at its end."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser this subcommand's choices."""
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a report, such as reports/nano or "
                        "reports/published/nano; several are linked to each other")  # fmt: skip
    parser.add_argument("--output", default="", metavar="FOLDER", help="where the books are written, each to a folder "
                        "of its report's name; default: into the reports")  # fmt: skip


def execute(chosen: argparse.Namespace) -> int:
    """Build the books, print where they are, and return 0."""
    from xprompt.reporting.book import build  # pandas, matplotlib and Sphinx come with it
    from xprompt.reporting.layout import Report

    folders = [path_of(folder) for folder in chosen.folders]
    places = [folder.resolve() for folder in folders]
    names = [place.name for place in places]
    target = path_of(chosen.output) if chosen.output else None
    if target:
        _check_target(target, names)
    linked = target or len({place.parent for place in places}) == 1  # each book looks for the others beside it
    for folder, name in zip(folders, names, strict=True):
        others = [other for other in names if other != name and linked]
        print(f"Book: {build(Report(folder), target / name if target else None, others)}", flush=True)
    if target:  # what a web server shows of the folder itself
        first = f"{names[0]}/index.html"
        first = f'<meta http-equiv="refresh" content="0; url={first}"><a href="{first}">{names[0]}</a>'
        write_atomically(target / "index.html", f"{_FRONT}{first}\n")
    return 0


def _check_target(target: Path, names: Sequence[str]) -> None:
    """Raise `ConfigError` where one of the books would replace another, or what is none."""
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"--output {target}: {', '.join(repeated)} names several reports, of which one would replace another; "
            "give each an --output, or rename one."
        )
    front = target / "index.html"
    foreign = [target / name for name in names if holds_other_work(target / name)]
    if front.is_file() and not front.read_text(encoding="utf-8", errors="replace").startswith(_FRONT):
        foreign.append(front)
    if foreign:
        raise ConfigError(
            f"--output {target}: what no book wrote would be overwritten in {', '.join(map(str, foreign))}; give a "
            "folder of its own, such as reports/book."
        )
