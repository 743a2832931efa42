"""How names and numbers are written, the same in tables, figures and on the page.

Owns display names and number formats. Never computes a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from xprompt.config.methods import METHODS
from xprompt.reporting.statistics import AVERAGE, Interval
from xprompt.tasks.registry import get_task
from xprompt.tasks.superglue import TASKS

METRICS = {"accuracy": "accuracy", "macro_f1": "macro F1", "f1a": "F1a", "em": "EM", "score": "score"}
PROTOCOLS = {
    "held_out": "selected on a part of train, reported on validation",
    "paper": "selected and reported on validation, as in the paper",
}


def method(name: str) -> str:
    """Return a method's display name; an unknown one is shown as it is."""
    return METHODS[name].title if name in METHODS else name


def task(name: str) -> str:
    """Return a task's display name, by its name or by the path of its declaration; another name as it is."""
    return get_task(name).title if name in TASKS or name.endswith(".json") else name


def points(value: float | None, signed: bool = False) -> str:
    """Write points with one decimal and a true minus; empty where there is no number."""
    if value is None or math.isnan(value):
        return ""
    text = f"{value:+.1f}" if signed else f"{value:.1f}"
    return ("0.0" if float(text) == 0 else text).replace("-", "−")


def cell(of: Interval) -> str:
    """Write a mean with half its 95 % interval; a single seed has none."""
    return points(of.mean) if of.n < 2 else f"{points(of.mean)} ± {points(of.half)}"


def span(low: float, high: float) -> str:
    """Write an interval of differences."""
    return "" if math.isnan(low) else f"[{points(low, signed=True)}, {points(high, signed=True)}]"


def statement(row: Mapping[str, Any]) -> str:
    """Say in one sentence what a paired difference shows, in words that its interval allows."""
    where = "on average over the tasks" if row["task"] == AVERAGE else f"on {task(row['task'])}"
    a, b = method(row["a"]), method(row["b"])
    a = a[0].upper() + a[1:]
    size = points(abs(row["mean"]))
    seeds = f"{row['n']} seed{'s' if row['n'] != 1 else ''}, {row['protocol']} protocol"
    if row["verdict"] == "one seed":
        return f"{a} is {points(row['mean'], True)} points from {b} {where} with a single seed: that decides nothing."
    inside = f"95 % interval {span(row['low'], row['high'])}, {seeds}"
    if row["verdict"] == "above":
        return f"{a} is {size} points above {b} {where} ({inside})."
    if row["verdict"] == "below":
        return f"{a} is {size} points below {b} {where} ({inside})."
    return f"{a} and {b} are not told apart {where}: {points(row['mean'], True)} points ({inside})."


def statements(differences: Any) -> list[str]:
    """Return `statement` of each average in a table of differences, or of each task where nothing was averaged."""
    rows: list[Mapping[str, Any]] = differences.to_dict("records")
    averages = [row for row in rows if row["task"] == AVERAGE]
    return [statement(row) for row in averages or rows]


def out_of_reach(tasks: Sequence[str]) -> list[str]:
    """Say that a backbone does not do these tasks; of none, nothing."""
    if not tasks:
        return []
    names = ", ".join(task(name) for name in tasks)
    return [
        f"* {names}: full fine-tuning is not shown to be above the majority class either: with these settings the "
        "backbone does not do the task, and differences between prompts say nothing there."
    ]


def stage_statements(measured: Mapping[str, Mapping[str, float]], reference: str) -> list[str]:
    """Say what each stage of one prompt scores, and how far that is from one of them: stage → metric → fraction."""
    scores = {stage: 100 * sum(found.values()) / len(found) for stage, found in measured.items()}
    return [
        f"{stage}: {points(score)} points, {points(score - scores[reference], signed=True)} against {reference}."
        for stage, score in scores.items()
        if stage != reference
    ]


def example(task: Any, record: Any, source: str) -> str:
    """Return a record as the model reads it, with its label; of other people's data, the template alone.

    An executed notebook is meant to be passed on, and most data sets may not be: only generated examples are shown.
    """
    if source == "nano":
        return f"{task.render(record)}\nlabel: {task.label_text(record.label)!r} out of {task.label_words}"
    return f"{task.template}\nlabels: {task.label_words} (the examples of this source are not shown: they are not ours)"
