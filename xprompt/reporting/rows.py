"""Run records → tidy rows, the one form that every table and figure is made from.

Owns the columns and the unit (points, 0–100). Never averages and never decides what is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

COLUMNS = (
    "profile", "backbone", "task", "method", "seed", "protocol", "metric", "value", "num_params", "run",
)  # fmt: skip


def tidy(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per run and metric, in points (0–100), with the run's score as one more metric.

    Args:
        records: run records; their metrics and score are fractions in [0, 1].

    Returns the columns of `COLUMNS`, in the order given; equal rows twice are kept once.
    """
    rows = []
    for record in records:
        about = [record[name] for name in ("profile", "backbone", "task", "method", "seed", "protocol")]
        for metric, fraction in {**record["metrics"], "score": record["score"]}.items():
            value = float("nan") if fraction is None else 100 * fraction
            rows.append((*about, metric, value, record["num_params"], record["run"]))
    return pd.DataFrame(rows, columns=list(COLUMNS)).drop_duplicates(ignore_index=True)
