"""`xprompt ls`: what there is: tasks, profiles, methods, notebooks, runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from xprompt.config.methods import METHODS
from xprompt.config.profiles import PROFILES
from xprompt.errors import ConfigError, did_you_mean
from xprompt.files import path_of
from xprompt.tasks.superglue import TASKS
from xprompt.units import align_columns

HELP = "list tasks, profiles, methods, notebooks or runs"
DESCRIPTION = "List the tasks, profiles, methods or notebooks there are, or the runs of the reports here."
KINDS = ("tasks", "profiles", "methods", "notebooks", "runs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser this subcommand's choices."""
    parser.add_argument("kind", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--reports", default="reports", metavar="FOLDER", help="where reports lie, for runs; or one "
                        "report's folder; default: %(default)s")  # fmt: skip


def execute(chosen: argparse.Namespace) -> int:
    """Print the list and return 0."""
    if chosen.kind not in KINDS:
        raise ConfigError(f"ls {chosen.kind}: needed one of {', '.join(KINDS)}.{did_you_mean(chosen.kind, KINDS)}")
    rows = {"tasks": _tasks, "profiles": _profiles, "methods": _methods, "notebooks": _notebooks}
    found = _runs(path_of(chosen.reports)) if chosen.kind == "runs" else rows[chosen.kind]()
    print(align_columns(found, left=len(found[0])))
    return 0


def _tasks() -> list[list[str]]:
    head = ["task", "fields and template", "label words", "metrics"]
    return [head] + [
        [t.name, _line(t.template), ", ".join(t.label_words), ", ".join(t.metrics)] for t in TASKS.values()
    ]


def _profiles() -> list[list[str]]:
    return [["profile", "backbone", "about"]] + [[p.name, p.backbone, p.about] for p in PROFILES.values()]


def _methods() -> list[list[str]]:
    return [["method", "title", "starts from"]] + [[m.name, m.title, m.parent or ""] for m in METHODS.values()]


def _notebooks() -> list[list[str]]:
    from xprompt.files import parse_json
    from xprompt.reproduce import NOTEBOOKS

    rows = [["notebook", "about"]]
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        try:
            cells = parse_json(path.read_text(encoding="utf-8"))["cells"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: no notebook can be read from it ({error}). Restore the file.") from error
        text = next(("".join(c["source"]) for c in cells if c["cell_type"] == "markdown"), "").strip()
        rows.append([path.stem, text.split("\n")[0].lstrip("# ")])
    return rows


def _runs(folder: Path) -> list[list[str]]:
    from xprompt.runs.store import Store

    if not folder.is_dir():
        raise ConfigError(f"--reports {folder}: there is no such folder here; run something first, or name another.")
    rows = [["folder", "task", "method", "seed", "protocol", "score"]]
    for root in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        store = Store(root)
        for run_id in store.ids():
            path = store.path(run_id)
            record, fault = store.look(run_id) if path.exists() else (store.get(run_id), "")
            if fault:  # listed, and left where it is
                rows.append([str(path), f"damaged ({fault})"[:80], "", "", "", ""])
            if record is None:
                continue
            score = f"{100 * record['score']:.1f}" if record["score"] is not None else ""
            names = [str(record[name]) for name in ("task", "method", "seed", "protocol")]
            rows.append([str(path), *names, score])
    if len(rows) == 1:
        raise ConfigError(
            f"--reports {folder} holds no report with runs: give the folder of one, or the one where reports lie."
        )
    return rows


def _line(text: str) -> str:
    return text.replace("\n", " ⏎ ")
