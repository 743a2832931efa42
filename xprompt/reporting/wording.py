"""Titles, numbers and verdicts as text, the same in tables, figures and on the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from xprompt.config.methods import METHODS
from xprompt.reporting.rows import AVERAGE
from xprompt.reporting.statistics import Interval
from xprompt.tasks.registry import get_task
from xprompt.tasks.superglue import TASKS

METRICS = {"accuracy": "accuracy", "macro_f1": "macro F1", "f1a": "F1a", "em": "EM", "score": "score"}
PROTOCOLS = {
    "held_out": "selected on a part of train, reported on validation",
    "paper": "selected and reported on validation, as in the paper",
}


def method(name: str) -> str:
    """Return a method's title from its declaration; the name itself where there is no declaration."""
    return METHODS[name].title if name in METHODS else name


def task(name: str) -> str:
    """Return a task's display name, by its name or by the path of its declaration; another name as it is."""
    return get_task(name).title if name in TASKS or name.endswith(".json") else name


def points(value: float | None, signed: bool = False, digits: int = 1) -> str:
    """Write a number, with one decimal as points have, and a true minus; empty where there is none."""
    if value is None or math.isnan(value):
        return ""
    text = f"{value:{'+' * signed},.{digits}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.lstrip("+-")


def cell(value: Interval, digits: int = 1) -> str:
    """Write a mean ± half its 95 % interval; of a single seed the mean alone."""
    mean = points(value.mean, digits=digits)
    return mean if value.n < 2 else f"{mean} ± {points(value.half, digits=digits)}"


def with_span(value: Interval, digits: int = 1, signed: bool = False) -> str:
    """Write a mean with the bounds of its 95 % interval; of a single seed the mean alone."""
    mean = points(value.mean, signed, digits)
    return mean if value.n < 2 else f"{mean} {span(value.low, value.high, digits, signed)}"


def counted(count: int, noun: str) -> str:
    """Write how many there are: "1 task", "2 tasks"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def seeds(count: int) -> str:
    """Write how many seeds."""
    return counted(count, "seed")


def span(low: float, high: float, digits: int = 1, signed: bool = True) -> str:
    """Write an interval, one of differences with its signs; empty where there is none.

    A bound so near to 0 that its decimals would not tell its side, on which the verdict hangs, has one or two more.
    """
    return "" if math.isnan(low) else f"[{_bound(low, digits, signed)}, {_bound(high, digits, signed)}]"


def _bound(value: float, digits: int, signed: bool) -> str:
    more = next((more for more in (digits, digits + 1, digits + 2) if round(value, more)), digits)
    return points(value, signed, more)


def named(tasks: Sequence[str], most: int = 3) -> str:
    """Write the tasks' names, or how many there are where there are more than `most`."""
    return ", ".join(map(task, tasks)) if len(tasks) <= most else counted(len(tasks), "task")


def average_over(tasks: Sequence[str], noun: str = "tasks") -> str:
    """Write what an average is over: both names of two tasks, else how many there are; `noun` is what they are."""
    number = f"the {len(tasks)} {noun}" if tasks else f"the {noun}"
    return f"on average over {' and '.join(map(task, tasks)) if len(tasks) == 2 else number}"


def statement(row: Mapping[str, Any], tasks: Sequence[str] = (), noun: str = "tasks") -> str:
    """Say in one sentence what a paired difference shows, and no more than its interval allows.

    Args:
        row: a row of `xprompt.reporting.statistics.differences`; of `corrected`, the sentence says where the difference
            is significant by itself and not after Holm's correction.
        tasks: those that an average is over.
        noun: what they are, such as "pairs".
    """
    where = average_over(tasks, noun) if row["task"] == AVERAGE else f"on {task(row['task'])}"
    a, b = method(row["a"]), method(row["b"])
    subject = a[0].upper() + a[1:]
    size = points(abs(row["mean"]))
    if row["verdict"] == "one seed":
        return f"{subject} minus {b} {where}: {points(row['mean'], True)} points with one seed, which decides nothing."
    if row["verdict"] == "no spread":
        same = f"{points(row['mean'], True)} points with each of {seeds(row['n'])}"
        return f"{subject} minus {b} {where}: {same}, which without a spread decides nothing."
    interval = f"95 % interval {span(row['low'], row['high'])}"
    basis = f"{interval}, {seeds(row['n'])}" + ", by the paper's protocol" * (row["protocol"] == "paper")
    if row["verdict"] in ("above", "below"):
        lost = row.get("verdict_holm", row["verdict"]) != row["verdict"]
        holm = "; not after Holm's correction" * lost
        return f"{subject} is {size} points {row['verdict']} {b} {where} ({basis}{holm})."
    return f"No significant difference between {a} and {b} {where}: {points(row['mean'], True)} points ({basis})."


def statements(differences: Any, noun: str = "tasks") -> list[str]:
    """Return `statement` of each pair's average in a table of differences, or of its tasks where it has none."""
    rows: list[Mapping[str, Any]] = differences.to_dict("records")
    tasks = list(dict.fromkeys(row["task"] for row in rows if row["task"] != AVERAGE))
    pairs = [tuple(row.get(name) for name in ("profile", "protocol", "sample", "a", "b")) for row in rows]
    averaged = {pair for pair, row in zip(pairs, rows, strict=True) if row["task"] == AVERAGE}
    return [
        statement(row, tasks, noun)
        for pair, row in zip(pairs, rows, strict=True)
        if row["task"] == AVERAGE or pair not in averaged
    ]


def unsolved_tasks(tasks: Sequence[str]) -> list[str]:
    """Return a sentence that the backbone does not solve these tasks; an empty list where there are none.

    Args:
        tasks: as `xprompt.reporting.tables.unsolved_tasks` returns them.
    """
    if not tasks:
        return []
    names = ", ".join(task(name) for name in tasks)
    return [
        f"* {names}: even full fine-tuning is not significantly above the majority class. With these settings the "
        "backbone does not solve the task, so differences between prompts mean nothing there."
    ]


def stage_statements(measured: Mapping[str, Mapping[str, float]], reference: str) -> list[str]:
    """Say what each stage of one prompt scores, and how far that is from the stage `reference`.

    Args:
        measured: stage → metric → fraction in [0, 1].
        reference: one of the stages.
    """
    scores = {stage: 100 * sum(metrics.values()) / len(metrics) for stage, metrics in measured.items()}
    return [
        f"{stage}: {points(score)} points, {points(score - scores[reference], signed=True)} against {reference}."
        for stage, score in scores.items()
        if stage != reference
    ]


def example(task: Any, record: Any, source: str) -> str:
    """Return an example as the model reads it, with its label; of a data set that is not ours, the template alone.

    Executed notebooks are passed on, and most data sets may not be: only generated examples are shown.

    Args:
        task: the task's declaration.
        record: one of its examples.
        source: where the example comes from; "nano" means generated.
    """
    if source == "nano":
        return f"{task.render(record)}\nlabel: {task.label_text(record.label)!r} out of {task.label_words}"
    return f"{task.template}\nlabels: {task.label_words} (the examples of this source are not shown: they are not ours)"
