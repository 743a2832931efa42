"""Fig 1: what XPrompt gains over prompt tuning on backbones of several sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from xprompt.reporting import wording
from xprompt.reporting.by_seed import gap_cell
from xprompt.reporting.figures import FIG1_METHODS
from xprompt.reporting.rows import AVERAGE, tasks_in, whole
from xprompt.reporting.statistics import differences, interval, with_average


def scale_table(rows: pd.DataFrame, sizes: Mapping[str, int], protocol: str = "held_out") -> pd.DataFrame:
    """Return a row per backbone, the smallest first: average scores of `FIG1_METHODS`, and two differences.

    Args:
        rows: tidy rows of one profile or several.
        sizes: backbone → its parameters.
    """
    pairs = [("xprompt", "prompt_tuning"), ("fine_tuning", "prompt_tuning")]
    lines, of_protocol = [], rows[rows["protocol"] == protocol]
    for backbone, part in sorted(of_protocol.groupby("backbone"), key=lambda each: sizes[str(each[0])]):
        scores, gaps = with_average(part), differences(part, pairs)
        judged = whole(scores)
        of_task = scores[scores["task"] == judged]
        values = {m: of_task[of_task["method"] == m]["value"].to_numpy() for m in FIG1_METHODS}
        lines.append(
            {
                "backbone": backbone,
                "parameters": f"{sizes[str(backbone)]:,}",
                **{wording.method(m): wording.cell(interval(v)) if v.size else "" for m, v in values.items()},
                **{f"{wording.method(a)} − {wording.method(b)}": gap_cell(gaps, a, b, judged) for a, b in pairs},
                "seeds": str(of_task["seed"].nunique()),
            }
        )
    return pd.DataFrame(lines)


def scale_gains(rows: pd.DataFrame, protocol: str = "held_out") -> pd.DataFrame:
    """Return a row per backbone: XPrompt less prompt tuning on average, or on the one task; empty where there is none.

    Args:
        rows: tidy rows of one profile or several.

    Returns the columns of `differences`, `backbone`, and `tasks`, those that the average is over.
    """
    found = []
    for backbone, part in rows[rows["protocol"] == protocol].groupby("backbone", sort=False):
        gaps = differences(part, [("xprompt", "prompt_tuning")])
        if len(gaps):
            tasks = tuple(name for name in tasks_in(gaps) if name != AVERAGE)
            judged = gaps[gaps["task"] == whole(gaps)]
            over: Any = [tasks] * len(judged)
            found.append(judged.assign(backbone=backbone, tasks=over))
    empty = differences(rows.iloc[:0], []).assign(backbone="", tasks=())
    return pd.concat(found, ignore_index=True) if found else empty


def scale_statements(gains: pd.DataFrame, sizes: Mapping[str, int]) -> list[str]:
    """Say what XPrompt gains at every size, the smallest first, where there are several.

    Args:
        gains: as `scale_gains` returns them.
        sizes: backbone → its parameters.
    """
    rows: Any = gains.to_dict("records")
    rows = sorted(rows, key=lambda row: sizes[row["backbone"]])
    return [
        f"{row['backbone']} ({sizes[row['backbone']]:,} parameters): {wording.statement(row, row['tasks'])}"
        for row in (rows if len(rows) > 1 else [])
    ]
