"""`xprompt predict`: label texts by a finished prompt."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

from xprompt.errors import ConfigError

HELP = "label texts by a finished prompt"
DESCRIPTION = (
    "Label texts by a finished prompt, and print CSV: the label, and the probability of each label. FOLDER is a run's "
    "folder, a saved prompt's, or a PEFT folder that xprompt wrote."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser this subcommand's choices."""
    parser.add_argument("folder", metavar="FOLDER", help="reports/<profile>/runs/<run ID>, or where a prompt was saved")
    parser.add_argument("--text", action="append", default=[], metavar="TEXT", help="a text to label, for a task "
                        "with one field; may be given again")  # fmt: skip
    parser.add_argument("--field", action="append", default=[], metavar="NAME=TEXT", help="a field of the one input, "
                        "for a task with several: --field premise=… --field hypothesis=…")  # fmt: skip
    parser.add_argument("--file", metavar="FILE", help="a .csv, .tsv or .jsonl file with a column for each field")
    parser.add_argument("--output", metavar="FILE", help="write the CSV there; default: standard output")
    parser.add_argument("--backbone", metavar="NAME", help="in place of the one that the prompt names")
    parser.add_argument("--task", metavar="NAME", help="in place of the one that the prompt names")
    parser.add_argument("--device", metavar="NAME", help="cpu or cuda; default: the GPU where there is one")


def execute(chosen: argparse.Namespace) -> int:
    """Label what was given, print it and return 0."""
    inputs = _inputs(chosen)

    from xprompt.runs.classifier import classifier  # torch comes with it

    clf = classifier(chosen.folder, backbone=chosen.backbone, task=chosen.task, device=chosen.device)
    rows = [[p.label, *(f"{value:.6f}" for value in p.probabilities.values())] for p in clf(inputs)]
    rows = [["label", *(f"p({label})" for label in clf.labels)], *rows]
    if not chosen.output:
        csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
        return 0
    try:
        with Path(chosen.output).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows(rows)
    except OSError as error:
        raise ConfigError(
            f"--output {chosen.output} cannot be written ({error.strerror}): name another file."
        ) from error
    print(f"{len(rows) - 1:,} labels: {chosen.output}", file=sys.stderr)
    return 0


def _inputs(chosen: argparse.Namespace) -> list[Any]:
    if sum(map(bool, (chosen.text, chosen.field, chosen.file))) != 1:
        raise ConfigError("nothing to label, or too much: give --text, --field (each once a field) or --file.")
    if chosen.text:
        return chosen.text
    if chosen.field:
        pairs = [pair.partition("=") for pair in chosen.field]
        wrong = [name for name, equals, _ in pairs if not (name and equals)]
        if wrong or len({name for name, _, _ in pairs}) < len(pairs):
            raise ConfigError(f"--field {' --field '.join(chosen.field)}: give NAME=TEXT, each name once.")
        return [{name: text for name, _, text in pairs}]

    from xprompt.data.text_files import read_jsonl, read_table

    path = Path(chosen.file)
    readers = {".csv": read_table, ".tsv": read_table, ".jsonl": read_jsonl}
    if path.suffix not in readers:
        raise ConfigError(f"--file {path}: needed one of {', '.join(readers)}; save it as one of these.")
    return list(readers[path.suffix](path))
