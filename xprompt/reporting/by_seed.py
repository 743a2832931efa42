"""Any column of rows over seeds, by task and on average, as intervals and as text."""

from __future__ import annotations

import math

import pandas as pd

from xprompt.reporting import wording
from xprompt.reporting.rows import AVERAGE, tasks_in
from xprompt.reporting.statistics import Interval, interval


def over_seeds(rows: pd.DataFrame, column: str) -> dict[str, Interval]:
    """Return task → interval of a column over seeds; last, where there are several tasks, that of the average.

    Args:
        rows: with `task` and `seed`; several rows of one task and seed count by their mean.

    The average is of each seed's mean over the tasks, of the seeds that every task has.
    """
    by_seed = rows.pivot_table(index="seed", columns="task", values=column, aggfunc="mean")
    found = {task: interval(by_seed[task].dropna().to_numpy()) for task in tasks_in(rows)}
    complete = by_seed.dropna()
    if len(found) > 1 and len(complete):
        found[AVERAGE] = interval(complete.mean(axis=1).to_numpy())
    return found


def overall(rows: pd.DataFrame, column: str) -> Interval:
    """Return the interval of the average, or of the one task there is."""
    return list(over_seeds(rows, column).values())[-1]


def cell(value: Interval, digits: int = 1) -> str:
    """Write a mean ± half its 95 % interval with so many decimals; of a single seed the mean alone."""
    mean = _number(value.mean, digits)
    return mean if value.n < 2 else f"{mean} ± {_number(value.half, digits)}"


def with_span(value: Interval, digits: int = 1, signed: bool = False) -> str:
    """Write a mean with the bounds of its interval; of a single seed the mean alone."""
    mean, low, high = (_number(number, digits, signed) for number in (value.mean, value.low, value.high))
    return mean if value.n < 2 else f"{mean} [{low}, {high}]"


def gap_cell(gaps: pd.DataFrame, a: str, b: str, task: str) -> str:
    """Write the difference a − b on a task with its interval; empty where it was not measured.

    Args:
        gaps: as `xprompt.reporting.statistics.differences` returns them.
    """
    for row in gaps[(gaps["a"] == a) & (gaps["b"] == b) & (gaps["task"] == task)].to_dict("records"):
        span = f" {wording.span(row['low'], row['high'])}" if row["n"] > 1 else ""
        return wording.points(row["mean"], signed=True) + span
    return ""


def _number(value: float, digits: int, signed: bool = False) -> str:
    """A number with so many decimals and a true minus; none before a zero."""
    text = f"{value:{'+' * signed},.{digits}f}"
    return text.replace("-", "−") if math.isnan(value) or float(text.replace(",", "")) else text.lstrip("+-")
