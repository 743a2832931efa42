"""`python -m xprompt book`: build the book of a report."""

from __future__ import annotations

import argparse
from pathlib import Path

from xprompt.files import write_atomically

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

    folders = [Path(folder) for folder in chosen.folders]
    names = [folder.resolve().name for folder in folders]
    for folder, name in zip(folders, names, strict=True):
        output = Path(chosen.output) / name if chosen.output else None
        others = [other for other in names if other != name]
        print(f"Book: {build(Report(folder), output, others)}", flush=True)
    if chosen.output:  # what a web server shows of the folder itself
        first = f"{names[0]}/index.html"
        first = f'<meta http-equiv="refresh" content="0; url={first}"><a href="{first}">{names[0]}</a>'
        write_atomically(Path(chosen.output) / "index.html", f"<!doctype html>\n<title>XPrompt</title>\n{first}\n")
    return 0
