"""Any column of rows over seeds, by task and on average, as intervals; a difference as text."""

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

    The average is of each seed's mean over the tasks, of the seeds that every task has; without such a seed it is the
    mean of the tasks' means, and has no interval.
    """
    by_seed = rows.pivot_table(index="seed", columns="task", values=column, aggfunc="mean")
    found = {task: interval(by_seed[task].dropna().to_numpy()) for task in tasks_in(rows)}
    complete = by_seed.dropna()
    if len(found) > 1 and len(complete):
        found[AVERAGE] = interval(complete.mean(axis=1).to_numpy())
    elif len(found) > 1:
        found[AVERAGE] = Interval(float(by_seed.mean().mean()), math.nan, math.nan, 1)
    return found


def overall(rows: pd.DataFrame, column: str) -> Interval:
    """Return the interval of the average, or of the one task there is."""
    return list(over_seeds(rows, column).values())[-1]


def gap_cell(gaps: pd.DataFrame, a: str, b: str, task: str) -> str:
    """Write the difference a − b on a task with its interval; empty where it was not measured.

    Args:
        gaps: as `xprompt.reporting.statistics.differences` returns them.
    """
    for row in gaps[(gaps["a"] == a) & (gaps["b"] == b) & (gaps["task"] == task)].to_dict("records"):
        return wording.with_span(Interval(row["mean"], row["low"], row["high"], row["n"]), signed=True)
    return ""
