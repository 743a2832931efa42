"""Means, 95 % intervals and paired differences over seeds, from tidy rows; many verdicts at once; enough seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from xprompt.config.methods import METHODS
from xprompt.reporting.rows import AVERAGE

LEVEL = 0.95
Verdict = Literal["above", "below", "no significant difference", "no spread", "one seed"]
NO_DIFFERENCE: Verdict = "no significant difference"

REFERENCE = "prompt_tuning"
_MAIN_PAIRS = (
    ("xprompt", "prompt_tuning"),
    ("xprompt", "prompt_tuning_matched"),
    ("xprompt", "xprompt_random"),
    ("xprompt", "xprompt_reversed"),
    ("xprompt", "prompt_tuning_length"),
    ("prompt_tuning_matched", "prompt_tuning"),
    ("fine_tuning", "prompt_tuning"),
    ("prompt_tuning", "majority"),
)
_PAIRED = {name for pair in _MAIN_PAIRS for name in pair}
PAIRS = (
    *_MAIN_PAIRS,
    *((name, REFERENCE) for name, method in METHODS.items() if method.settings and name not in _PAIRED),
)
"""The comparisons (a, b) of the main results, each the difference a − b. Every other method that trains is compared
with prompt tuning. A pair with a method that was not run is left out."""


@dataclass(frozen=True)
class Interval:
    """A mean over `n` seeds and its two-sided interval, in the values' own unit; NaN bounds where n < 2."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Return half the interval's width; NaN where n < 2."""
        return (self.high - self.low) / 2

    @property
    def verdict(self) -> Verdict:
        """Say on which side of 0 the whole interval lies, if it lies on one; "no spread" where it has no width.

        Scores come in steps of an example: a few seeds with the same difference are chance, not certainty.
        """
        if self.n < 2:
            return "one seed"
        if self.low == self.high != 0:
            return "no spread"
        if self.low > 0:
            return "above"
        return "below" if self.high < 0 else NO_DIFFERENCE

    def within(self, low: float, high: float) -> Interval:
        """Return the interval without what no value can be, such as a share below 0 %."""
        return Interval(self.mean, max(self.low, low), min(self.high, high), self.n) if self.n > 1 else self


def interval(values: Sequence[float] | np.ndarray, level: float = LEVEL) -> Interval:
    """Return the mean of `values` with its Student-t interval, n − 1 degrees of freedom.

    Args:
        values: one finite number per seed, any unit.
        level: coverage in (0, 1).

    Raises `ValueError` where there are no values, or one is not finite.
    """
    array = np.asarray(values, dtype=float)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"an interval needs one or more finite values, not {array.tolist()}.")
    mean, n = float(array.mean()), int(array.size)
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    spread = float(array.std(ddof=1))
    if spread <= 1e-9 * abs(mean):  # equal values, subtracted from others
        return Interval(mean, mean, mean, n)
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * spread / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def with_average(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the `score` rows, and below them each seed's mean over the tasks as task "average".

    A two-metric task counts once, by its score. A seed has an average only where every task has a number of that seed,
    so that no average is over an easier choice of tasks. With one task the average would say nothing new and is left
    out.
    Source: paper Tab 1 (the average column), Lester et al. (2021) for the two-metric tasks.
    """
    scores = rows[rows["metric"] == "score"]
    num_tasks = scores["task"].nunique()
    if num_tasks < 2:
        return scores.reset_index(drop=True)
    keys = ["profile", "backbone", "protocol", "method", "seed"]
    grouped = (
        scores.dropna(subset="value")
        .groupby(keys, as_index=False, sort=False)
        .agg(value=("value", "mean"), num_params=("num_params", "max"), tasks=("task", "nunique"))
    )
    average = grouped[grouped["tasks"] == num_tasks].drop(columns="tasks")
    average = average.assign(task=AVERAGE, metric="score", run="")
    return pd.concat([scores, average[scores.columns]], ignore_index=True)


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per (profile, protocol, task, metric, method): mean, low, high, n over the seeds."""
    keys = ["profile", "protocol", "task", "metric", "method"]
    lines = []
    for key, group in rows.groupby(keys, sort=False):
        over_seeds = interval(group["value"].to_numpy())
        lines.append((*key, over_seeds.mean, over_seeds.low, over_seeds.high, over_seeds.n))
    return pd.DataFrame(lines, columns=[*keys, "mean", "low", "high", "n"])


def differences(rows: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Return the paired differences a − b of each (a, b), per task and for the average, over their common seeds.

    Paired means seed by seed: both methods saw the same data order and, where they tune a prompt, the same start.

    Args:
        rows: tidy rows in points, as `tidy` makes them.
        pairs: (a, b) method names.

    Returns columns profile, protocol, task, a, b, mean, low, high, n, verdict; pairs with no common seed are absent.
    """
    scores = with_average(rows)
    lines = []
    for (profile, protocol, task), group in scores.groupby(["profile", "protocol", "task"], sort=False):
        by_method = group.pivot_table(index="seed", columns="method", values="value")
        for a, b in pairs:
            if a not in by_method or b not in by_method:
                continue
            by_seed = (by_method[a] - by_method[b]).dropna()
            if by_seed.empty:
                continue
            gap = interval(by_seed.to_numpy())
            lines.append((profile, protocol, task, a, b, gap.mean, gap.low, gap.high, gap.n, gap.verdict))
    columns = ["profile", "protocol", "task", "a", "b", "mean", "low", "high", "n", "verdict"]
    return pd.DataFrame(lines, columns=columns)


def protocol_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each method's paired differences paper − held_out, per task and for the average, over common seeds.

    Args:
        rows: tidy rows in points, as `tidy` makes them.

    Returns the columns of `differences`, with `method` in place of `protocol`; a method run by one protocol is absent.
    """
    swapped = rows.assign(method=rows["protocol"], protocol=rows["method"])
    return differences(swapped, [("paper", "held_out")]).rename(columns={"protocol": "method"})


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p-values: to reject those below α makes one wrong rejection or more with probability ≤ α.

    Args:
        p_values: (N,), each in [0, 1]; NaN where nothing was tested, which counts for nothing and stays NaN.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    values = np.asarray(p_values, dtype=float)
    adjusted = np.full(values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)  # the smallest counts for all N tests, the next for N − 1 …
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else steps
    return adjusted


def corrected(gaps: pd.DataFrame, by: str = "") -> pd.DataFrame:
    """Return differences with the columns `p`, `p_holm` and `verdict_holm`, for a table whose rows are read at once.

    `p` is that of the two-sided paired t test, NaN with one seed or without a spread; all rows of the table are one
    family.

    Args:
        gaps: as `differences` returns them.
        by: a column, such as "task", whose values are a family each.
    """
    if by and len(gaps):
        return pd.concat([corrected(part) for _, part in gaps.groupby(by)]).sort_index()
    n = gaps["n"].to_numpy(dtype=float)
    half = ((gaps["high"] - gaps["low"]) / 2).to_numpy(dtype=float)
    mean = gaps["mean"].to_numpy(dtype=float)
    freedom = np.where(n > 1, n - 1, np.nan)
    error = half / stats.t.ppf((1 + LEVEL) / 2, freedom)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, np.where(mean == 0, 0.0, np.nan), np.abs(mean) / error)
    p = 2 * stats.t.sf(ratio, freedom)
    p_holm = holm(p)
    verdicts: list[Verdict] = [
        alone if math.isnan(value) else NO_DIFFERENCE if value >= 1 - LEVEL else "above" if size > 0 else "below"
        for value, size, alone in zip(p_holm, mean, gaps["verdict"], strict=True)
    ]
    return gaps.assign(p=p, p_holm=p_holm, verdict_holm=verdicts)


def weakest(gaps: pd.DataFrame) -> Interval:
    """Return the difference that decides whether all are above 0.

    One whose whole interval is below 0 refutes it: the lowest of those. Else one whose interval holds 0, or of a single
    seed, which has none, leaves it open: the one with the lowest mean. Else all are above 0: the one with the lowest
    bound.

    Args:
        gaps: one or more rows of `differences`.
    """
    rows: Any = gaps.sort_values("mean").to_dict("records")
    refuting = [row for row in rows if row["high"] < 0]
    undecided = [row for row in rows if not row["low"] > 0]
    if refuting:
        row = min(refuting, key=lambda row: row["high"])
    else:
        row = undecided[0] if undecided else min(rows, key=lambda row: row["low"])
    return Interval(float(row["mean"]), float(row["low"]), float(row["high"]), int(row["n"]))


def spread_bounds(spread: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of a standard deviation that was measured over n ≥ 2 seeds of a normal variable."""
    upper, lower = (stats.chi2.ppf((1 + sign * level) / 2, n - 1) for sign in (1, -1))
    return spread * math.sqrt((n - 1) / upper), spread * math.sqrt((n - 1) / lower)


def seeds_needed(spread: float, effect: float = 0.5, power: float = 0.8, level: float = LEVEL) -> int:
    """Return the fewest seeds with which a paired two-sided t test finds a difference with this probability.

    Args:
        spread: standard deviation over seeds of the paired difference, ≥ 0, in any unit.
        effect: the true difference, > 0, in the same unit.
        power: probability to find it, in (0, 1).
        level: 1 − the test's level, in (0, 1).

    Raises `ValueError` where a value is out of its range.
    """
    if not (0 <= spread < math.inf and 0 < effect < math.inf and 0 < power < 1 and 0 < level < 1):
        raise ValueError(f"spread {spread}, effect {effect}, power {power} or level {level} is out of its range.")

    quantiles = (np.arange(4096) + 0.5) / 4096  # of the measured spread; scipy's noncentral t is NaN in places

    def finds(n: int) -> bool:
        limit, shift = stats.t.ppf((1 + level) / 2, n - 1), effect * math.sqrt(n) / spread
        limits = limit * np.sqrt(stats.chi2.ppf(quantiles, n - 1) / (n - 1))  # where the true spread is the unit
        return bool(np.mean(stats.norm.sf(limits - shift) + stats.norm.cdf(-limits - shift)) >= power)

    # As many as with a known spread, which is too few by one or two.
    z = stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(power)
    n = max(2, math.floor((max(0.0, z) * spread / effect) ** 2))
    while spread > 0 and n < 10_000 and not finds(n):
        n += 1
    return n
