"""Paired differences drawn, in a page or in a file: one with its interval and its runs, and the forest plot."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xprompt.reporting import wording
from xprompt.reporting.figures import method_style
from xprompt.reporting.rows import AVERAGE, tasks_in
from xprompt.reporting.statistics import PAIRS, differences, with_average

Link = Callable[[str], str]

REFERENCE_PAIRS = tuple(pair for pair in PAIRS if {"fine_tuning", "majority"} & set(pair))
"""Differences so much larger than the others that one axis cannot show both."""
PROMPT_PAIRS = tuple(pair for pair in PAIRS if pair not in REFERENCE_PAIRS)


def forest(
    rows: pd.DataFrame,
    compared: Sequence[tuple[str, str]] = PROMPT_PAIRS,
    *,
    width: float = 7.5,
    every_task: bool = False,
    link: Link | None = None,
    ink: str = "black",
    ground: str = "white",
) -> Figure | None:
    """Draw paired differences with their 95 % intervals, filled where 0 is outside, and each seed as a dot.

    Args:
        rows: tidy rows of one profile, backbone and protocol.
        compared: (a, b) of the differences a − b.
        width: inches.
        every_task: all pairs on every task; else all pairs on average, and the first pair on every task.
        link: run ID → address of the run's page, where a seed's dot leads.
        ink, ground: colours of the line at 0 and of what is not filled.

    Returns the figure, whose label says in words what it shows, or None where no two methods share a seed.
    """
    gaps = differences(rows, compared)
    if gaps.empty:
        return None
    present = [pair for pair in compared if ((gaps["a"] == pair[0]) & (gaps["b"] == pair[1])).any()]
    tasks = tasks_in(gaps)
    shown: list[Any] = [row for row in gaps.to_dict("records")
             if every_task or row["task"] == AVERAGE or _pair(row) == present[0] or len(tasks) == 1]  # fmt: skip

    def place(row: Mapping[str, Any]) -> tuple[Any, ...]:
        below, pair, task = row["task"] != AVERAGE, present.index(_pair(row)), tasks.index(row["task"])
        return (pair, below, task) if every_task else (below, pair, task)

    shown.sort(key=place)
    by_task = AVERAGE in tasks and not every_task
    names = [_describe(row, not by_task) for row in shown]
    scores = with_average(rows)
    if by_task:  # a line without a mark says what the rows below it are
        start = next(y for y, row in enumerate(shown) if row["task"] != AVERAGE)
        pair = _describe({**shown[start], "task": AVERAGE}, False)
        for y, head in ((start, f"{pair}:"), (0, f"average over {scores['task'].nunique() - 1} tasks:")):
            shown.insert(y, None)
            names.insert(y, head)
    means = ["" if row is None else f" {wording.points(row['mean'], True)}" for row in shown]
    label = "; ".join(f"{name}{mean}" for name, mean in zip(names, means, strict=True)).replace(":;", ":")
    figure = Figure(figsize=(width, 0.62 + 0.235 * len(shown)), layout="constrained")
    figure.set_label(f"Forest plot of paired differences: {label}")
    axes = figure.subplots()
    axes.axvline(0, color=ink, lw=1)
    for y, row in enumerate(shown):
        if row is not None:
            look = method_style(row["a"])[0], "o"
            draw_difference(axes, row, y, look, dots=seed_gaps(scores, row), size=6.5, link=link, ground=ground)
    axes.set_yticks(range(len(shown)), names)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("points")
    return figure


def draw_difference(
    axes: Axes,
    row: Mapping[Any, Any],
    y: float,
    look: tuple[Any, Any],
    *,
    dots: Sequence[tuple[float, str]] = (),
    bars: Sequence[tuple[str, str, float]] = (("low", "high", 1.8),),
    size: float = 7.0,
    link: Link | None = None,
    ground: Any = "white",
) -> None:
    """Draw one paired difference at height `y`: its intervals, its mean, and below these a dot for each run.

    The mean is filled where the verdict is "above" or "below": Holm's, where the row has one, else its own.

    Args:
        row: of `differences`, `corrected` or `with_examples`.
        look: colour and marker.
        dots: as `seed_gaps` returns them.
        bars: columns of the lower and upper bound, and the line's width in points; NaN bounds are left out.
        size: of the mark, in points.
        link: run ID → address of the run's page, where a dot leads.
        ground: colour of a mark that is not filled.
    """
    colour, marker = look
    for low, high, width in bars:
        if not math.isnan(row[low]):
            axes.plot([row[low], row[high]], [y, y], color=colour, lw=width, solid_capstyle="butt")
    if dots:
        drawn = axes.scatter([x for x, _ in dots], [y + 0.27] * len(dots), s=11, color=[colour], alpha=0.6,
                             linewidths=0)  # fmt: skip
        if link:
            drawn.set_urls([link(run) if run else None for _, run in dots])
    filled = row.get("verdict_holm", row["verdict"]) in ("above", "below")
    axes.plot(row["mean"], y, marker, ms=size, mec=colour, mfc=colour if filled else ground, mew=1.6)


def seed_gaps(scores: pd.DataFrame, row: Mapping[Any, Any]) -> list[tuple[float, str]]:
    """Return each run's difference from the other method's mean with its seed, and the run's ID, "" for an average.

    Args:
        scores: as `with_average` returns them.
        row: with a, b and task.
    """
    part = scores[(scores["task"] == row["task"]) & (scores["metric"] == "score")]
    base = part[part["method"] == row["b"]].groupby("seed")["value"].mean()
    own = part[(part["method"] == row["a"]) & part["seed"].isin(base.index)]
    return [(value - base[seed], run) for seed, value, run in zip(own["seed"], own["value"], own["run"], strict=True)]


def _pair(row: Mapping[Any, Any]) -> tuple[str, str]:
    return row["a"], row["b"]


def _describe(row: Mapping[str, Any], every_task: bool) -> str:
    """The pair in few words, of an average; below it, the task."""
    if row["task"] != AVERAGE and not every_task:
        return f"on {wording.task(row['task'])}"
    names = [re.sub(r"^(?:prompt tuning|XPrompt) \((.*)\)$", r"\1", wording.method(name)) for name in _pair(row)]
    pair = f"{names[0]} − {names[1].removeprefix('full ')}"
    return pair if row["task"] == AVERAGE and not every_task else f"{pair}, {wording.task(row['task'])}"
