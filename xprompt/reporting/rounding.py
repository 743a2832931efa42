"""How much of the seeds' spread rounding makes: runs of one seed whose initial prompts differ in their last bits.

At a high learning rate a difference of one bit grows until two prompts have nothing in common. What they then differ by
is no property of the seed, its data order or its initial prompt, and no careful seeding takes it away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from xprompt.config.run_config import RunConfig
from xprompt.errors import ConfigError
from xprompt.reporting import wording
from xprompt.reporting.rows import tasks_in, tidy
from xprompt.reporting.statistics import LEVEL, with_average
from xprompt.runs.grid import grid


def rounding_configs(
    profile: str, tasks: Sequence[str], seeds: Sequence[int], draws: int, **choices: Any
) -> list[RunConfig]:
    """Return each seed's prompt tuning as the main results have it, and again from `draws` initial prompts beside its.

    Args:
        draws: 1 or more; each is a run.
        choices: as of `grid`.

    Raises `ConfigError`.
    """
    if draws < 1:
        raise ConfigError(f"{draws} draws of the last bits: give 1 or more.")
    plain = grid(profile, tasks, ["prompt_tuning"], seeds, **choices)
    return [config.replace(rounding=draw) for draw in range(draws + 1) for config in plain]


def shares(records: Iterable[Mapping[str, Any]], level: float = LEVEL) -> pd.DataFrame:
    """Return, for each task and their average, the standard deviation over seeds and what rounding alone makes of it.

    With the runs of a seed as one group, the mean squares within and between groups give rounding's variance, and that
    of the seed beside it; their sum is the variance of runs that differ in seed, as other notebooks have them. The
    share's interval is the exact one of the intraclass correlation (Shrout and Fleiss, 1979).

    Args:
        records: of `rounding_configs`.
        level: coverage in (0, 1).

    Returns columns task, seeds, draws (runs of each), spread and rounding (standard deviations, points; spread from the
    sum of the two parts, of which the seed's is 0 or more, and not that of one run a seed), share, low and high, in
    [0, 1]. Tasks with one seed, or without a draw for every seed, are left out.
    """
    records = list(records)
    draw = {record["run"]: record["config"].get("rounding", 0) for record in records}
    rows = tidy(records)
    rows = rows[rows["metric"] == "score"]
    by_draw = [
        with_average(part).assign(draw=number) for number, part in rows.groupby(rows["run"].map(draw), sort=True)
    ]
    lines = []
    together = pd.concat(by_draw) if by_draw else rows.assign(draw=0)
    for task in tasks_in(together):
        table = together[together["task"] == task].pivot_table(index="seed", columns="draw", values="value")
        values = table.dropna().to_numpy()  # (seeds, runs of each)
        if min(values.shape) > 1:
            lines.append({"task": task, **_one_way(values, level)})
    return pd.DataFrame(lines, columns=["task", "seeds", "draws", "spread", "rounding", "share", "low", "high"])


def _one_way(values: np.ndarray, level: float) -> dict[str, float]:
    """Return the parts of the variance of n groups of k values, (n, k)."""
    groups, size = values.shape
    within = float(values.var(axis=1, ddof=1).mean())
    between = float(size * values.mean(axis=1).var(ddof=1))
    total = within + max(0.0, (between - within) / size)
    found = {"seeds": groups, "draws": size, "spread": math.sqrt(total), "rounding": math.sqrt(within)}
    if total == 0:
        return found | dict.fromkeys(("share", "low", "high"), math.nan)
    if within == 0:
        return found | dict.fromkeys(("share", "low", "high"), 0.0)

    freedom, tail = (groups - 1, groups * (size - 1)), (1 - level) / 2
    ratio = between / within

    def share(f: float) -> float:
        return min(1.0, max(0.0, 1 - (f - 1) / (f + size - 1)))

    low = share(ratio * float(stats.f.isf(tail, *reversed(freedom))))
    high = share(ratio / float(stats.f.isf(tail, *freedom)))
    return found | {"share": share(ratio), "low": low, "high": high}


def rounding_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return a row per task, for reading: both standard deviations in points, and rounding's share of the variance.

    Args:
        found: as `shares` returns it.
    """
    return pd.DataFrame(
        {
            "task": wording.task(row["task"]),
            "standard deviation over seeds, from both parts": f"{row['spread']:.2f}",
            "over roundings of one seed": f"{row['rounding']:.2f}",
            "rounding's share of the variance": _share(row),
            "runs": f"{row['seeds']} seeds × {row['draws']}",
        }
        for row in found.to_dict("records")
    )


def rounding_statement(found: pd.DataFrame) -> str:
    """Say how much of the last row's spread, the average's where there is one, is rounding."""
    if found.empty:
        return "Two seeds or more, each with its draws, are needed to separate rounding from seeds."
    row = found.to_dict("records")[-1]
    where = "the average" if row["task"] == "average" else wording.task(row["task"])
    if math.isnan(row["share"]):
        return f"On {where} all runs have one score: neither seeds nor rounding move it."
    return (
        f"On {where} one seed whose initial prompt differs in its last bits alone spreads by {row['rounding']:.2f} "
        f"points (standard deviation), other seeds by {row['spread']:.2f}: rounding makes {_share(row)} of the "
        "variance."
    )


def _share(row: Mapping[Any, Any]) -> str:
    if math.isnan(row["share"]):
        return ""
    return f"{row['share']:.0%} ({row['low']:.0%} to {row['high']:.0%})"
