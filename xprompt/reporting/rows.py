"""Tidy rows: the one form of a result that every table and figure is made from, in points (0–100)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from xprompt.config.methods import METHODS
from xprompt.tasks.superglue import TASKS

AVERAGE = "average"
"""The name that the mean over all tasks has in the column `task`."""
COLUMNS = (
    "profile", "backbone", "task", "method", "seed", "protocol", "metric", "value", "num_params", "run",
)  # fmt: skip


def tidy(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per run and metric, in points (0–100), with the run's score as one more metric.

    Args:
        records: run records; their metrics and score are fractions in [0, 1].

    Returns the columns of `COLUMNS`, in the order given; a row that comes twice is kept once.
    """
    rows = []
    for record in records:
        identity = [record[name] for name in ("profile", "backbone", "task", "method", "seed", "protocol")]
        for metric, fraction in {**record["metrics"], "score": record["score"]}.items():
            value = float("nan") if fraction is None else 100 * fraction
            rows.append((*identity, metric, value, record["num_params"], record["run"]))
    return pd.DataFrame(rows, columns=list(COLUMNS)).drop_duplicates(ignore_index=True)


def tasks_in(rows: pd.DataFrame) -> list[str]:
    """Return the tasks of `rows` in the order of tables: SuperGLUE's, custom ones as they come, then the average."""
    present = list(rows["task"].unique())
    return _in_order([name for name in present if name != AVERAGE], TASKS) + [AVERAGE] * (AVERAGE in present)


def whole(rows: pd.DataFrame) -> str:
    """Return what a table with the column `task` is judged by: the one task there is, else the average."""
    tasks = rows["task"].unique()
    return str(tasks[0]) if len(tasks) == 1 else AVERAGE


def methods_in(rows: pd.DataFrame) -> list[str]:
    """Return the methods of `rows` in the order of their declarations, then those that are declared nowhere."""
    return _in_order(list(rows["method"].unique()), METHODS)


def _in_order(names: Sequence[str], known: Iterable[str]) -> list[str]:
    known = list(known)
    return [name for name in known if name in names] + [name for name in names if name not in known]
