"""How much paired differences prove: both intervals, verdicts of a whole table, the seeds that half a point needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from xprompt.reporting import wording
from xprompt.reporting.figures import method_styles
from xprompt.reporting.forest import draw_difference
from xprompt.reporting.rows import AVERAGE, whole
from xprompt.reporting.statistics import LEVEL, seeds_needed, spread_bounds

EFFECTS = (0.5, 1.0, 2.0)
"""Points on the average that the table of seeds asks for."""
POWER = 0.8


def evidence_table(gaps: pd.DataFrame) -> pd.DataFrame:
    """Return a row per difference: both intervals, p as it is and Holm's, and the verdict that follows from Holm's.

    Args:
        gaps: of `xprompt.reporting.resampling.with_examples`, then `xprompt.reporting.statistics.corrected`.
    """
    return pd.DataFrame(
        {
            "comparison": f"{wording.method(row['a'])} − {wording.method(row['b'])}",
            "task": wording.task(row["task"]),
            "points": wording.points(row["mean"], signed=True),
            "95 % interval, seeds": wording.span(row["low"], row["high"]),
            "seeds and examples": wording.span(row["low_both"], row["high_both"]),
            "p": _p(row["p"]),
            "p (Holm)": _p(row["p_holm"]),
            "verdict (Holm)": row["verdict_holm"],
            "seeds": str(row["n"]),
        }
        for row in gaps.to_dict("records")
    )


def seeds_table(gaps: pd.DataFrame, effects: Sequence[float] = EFFECTS) -> pd.DataFrame:
    """Return a row per comparison of the average: its standard deviation over seeds, and the seeds each effect needs.

    Args:
        gaps: as `differences` returns them; comparisons with one seed are left out.
        effects: true differences in points.
    """
    asked = [f"seeds for {effect:g} points" for effect in effects]
    lines = [
        (
            f"{wording.method(row['a'])} − {wording.method(row['b'])}",
            f"{spread:.2f}",
            *(f"{seeds_needed(spread, effect, POWER):,}" for effect in effects),
            str(row["n"]),
        )
        for row in _overall(gaps).to_dict("records")
        if not math.isnan(spread := _spread(row))
    ]
    return pd.DataFrame(lines, columns=["comparison", "standard deviation", *asked, "seeds here"])


def evidence_statements(gaps: pd.DataFrame) -> list[str]:
    """Say how many verdicts are left after Holm, what the examples add to intervals, and how many seeds are enough.

    Args:
        gaps: as for `evidence_table`.
    """
    tested = gaps[gaps["n"] > 1]
    if tested.empty:
        return ["One seed: there is nothing to test, and no interval."]
    alone, left = (int(tested[name].isin(["above", "below"]).sum()) for name in ("verdict", "verdict_holm"))
    sentences = [
        f"Of the table's {len(tested)} differences {alone} are significant taken one by one, {left} after Holm's "
        "correction."
    ]
    both = tested.dropna(subset=["low_both"])
    both = both[both["high"] > both["low"]]
    if len(both):
        wider = ((both["high_both"] - both["low_both"]) / (both["high"] - both["low"])).median()
        found = both["verdict"].isin(["above", "below"])
        lost = found & (both["low_both"] < 0) & (both["high_both"] > 0)
        sentences.append(
            f"The choice of validation examples makes intervals {wider:.1f} times as wide (median); {lost.sum()} of "
            f"{found.sum()} that exclude 0 over seeds include it then."
        )
    main = _overall(tested)
    main = main[(main["a"] == "xprompt") & (main["b"] == "prompt_tuning")]
    for row in main.to_dict("records"):
        spread = _spread(row)
        bounds = spread_bounds(spread, row["n"])
        needed, fewest, most = (seeds_needed(of, EFFECTS[0], POWER) for of in (spread, *bounds))
        where = "the average" if row["task"] == AVERAGE else wording.task(row["task"])
        sentences.append(
            f"To find half a point between XPrompt and prompt tuning on {where} takes {needed:,} seeds ({POWER:.0%} "
            f"power, standard deviation of the paired difference {spread:.2f} points), {fewest:,} to {most:,} by the "
            f"95 % interval of that deviation over the {row['n']} seeds here."
        )
    return sentences


def evidence_figure(gaps: pd.DataFrame) -> Figure:
    """Draw the average of every comparison, or that of the one task: thick over seeds, thin over examples too.

    A mark is filled where Holm's verdict over the whole table is significant. The distance to the majority class, many
    times the others, is left to the table.
    """
    compared = gaps[gaps["b"] != "majority"]
    rows = _overall(compared if len(compared) else gaps).to_dict("records")
    figure = Figure(figsize=(8.5, 1.3 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="0.3", lw=1)
    styles = method_styles(row["a"] for row in rows)
    for y, row in enumerate(rows):
        bars = (("low_both", "high_both", 1.1), ("low", "high", 4.0))
        draw_difference(axes, row, y, styles[row["a"]], bars=bars, size=8)
    axes.set_yticks(range(len(rows)), [f"{wording.method(row['a'])} − {wording.method(row['b'])}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")
    where = wording.task(rows[0]["task"]) if rows else ""
    axes.set_xlabel(f"difference in points ({where})")
    return figure


def _overall(gaps: pd.DataFrame) -> pd.DataFrame:
    return gaps[gaps["task"] == whole(gaps)]


def _spread(row: Mapping[Any, Any]) -> float:
    """The standard deviation over seeds, from the interval; NaN of one seed."""
    if row["n"] < 2:
        return math.nan
    return float((row["high"] - row["low"]) / 2 / stats.t.ppf((1 + LEVEL) / 2, row["n"] - 1) * math.sqrt(row["n"]))


def _p(value: float) -> str:
    return "" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
