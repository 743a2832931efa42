"""`xprompt predict`: label texts by a finished prompt."""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from pathlib import Path
from typing import Any

from xprompt.errors import ConfigError, shown
from xprompt.files import path_of, try_folder, write_atomically

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
    output = _check_output(chosen.output, chosen.file) if chosen.output else None
    inputs = _inputs(chosen)
    if output:
        try_folder(next(folder for folder in output.parents if folder.exists()))  # none is made for what may fail yet

    from xprompt.runs.classifier import classifier  # torch comes with it

    clf = classifier(chosen.folder, backbone=chosen.backbone, task=chosen.task, device=chosen.device)
    if chosen.text and len(clf.fields) > 1:
        fields = " ".join(f"--field {name}=TEXT" for name in clf.fields)
        given = shown(chosen.text[0])
        raise ConfigError(f"--text {given}: {clf.task.name} takes {len(clf.fields)} texts; give {fields}.")
    rows = [[p.label, *(f"{value:.6f}" for value in p.probabilities.values())] for p in clf(inputs)]
    rows = [["label", *(f"p({label})" for label in clf.labels)], *rows]
    if not output:
        csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
        return 0
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(output, text.getvalue())
    print(f"{len(rows) - 1:,} labels: {chosen.output}", file=sys.stderr)
    return 0


def _check_output(output: str, file: str | None) -> Path:
    """Return where to write, links followed; `ConfigError` where that is the input, or what no file can replace."""
    path = os.path.realpath(path_of(output))
    if file and os.path.exists(path_of(file)) and os.path.exists(path) and os.path.samefile(path_of(file), path):
        raise ConfigError(f"--output {output} is the --file that is read: name another file, so that both are kept.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(f"--output {output} is no file: name one, or leave it out for standard output.")
    return Path(path)


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

    path = path_of(chosen.file)
    readers = {".csv": read_table, ".tsv": read_table, ".jsonl": read_jsonl}
    if path.suffix not in readers:
        raise ConfigError(f"--file {path}: needed one of {', '.join(readers)}; save it as one of these.")
    if path.is_file() and not path.stat().st_size:
        raise ConfigError(f"--file {path} is empty: a table has the names of its columns at least, and inputs below.")
    return list(readers[path.suffix](path))
