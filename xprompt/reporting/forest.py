"""The forest plot: paired differences between methods with their intervals and seeds, in a page or in a file."""

from __future__ import annotations

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
    head = f"{_describe({**shown[0], 'task': AVERAGE}, False)}:"
    names = [_describe(row, not by_task) for row in shown]
    label = "; ".join(f"{name} {wording.points(row['mean'], True)}" for name, row in zip(names, shown, strict=True))
    if by_task:
        start = next(y for y, row in enumerate(shown) if row["task"] != AVERAGE)
        shown.insert(start, None)
        names.insert(start, head)
    scores = with_average(rows)
    figure = Figure(figsize=(width, 0.62 + 0.235 * len(shown)), layout="constrained")
    figure.set_label(f"Forest plot of paired differences: {label}")
    axes = figure.subplots()
    axes.axvline(0, color=ink, lw=1)
    for y, row in enumerate(shown):
        if row is None:  # the line that says which pair follows, task by task
            continue
        colour = method_style(row["a"])[0]
        decided = row["verdict"] in ("above", "below")
        if row["n"] > 1:
            axes.plot([row["low"], row["high"]], [y, y], color=colour, lw=1.8, solid_capstyle="butt")
        for x, run in _seed_gaps(scores, row):
            _dot(axes, x, y + 0.28, colour, link(run) if link and run else None)
        axes.plot(row["mean"], y, "o", ms=6.5, mec=colour, mfc=colour if decided else ground, mew=1.6)
    axes.set_yticks(range(len(shown)), names)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("points")
    return figure


def _dot(axes: Axes, x: float, y: float, colour: Any, url: str | None) -> None:
    dots = axes.scatter([x], [y], s=11, color=[colour], alpha=0.65, linewidths=0)
    if url:
        dots.set_urls([url])


def _pair(row: Mapping[Any, Any]) -> tuple[str, str]:
    return row["a"], row["b"]


def _describe(row: Mapping[str, Any], every_task: bool) -> str:
    """The pair in few words, of an average; below it, the task."""
    if row["task"] != AVERAGE and not every_task:
        return f"on {wording.task(row['task'])}"
    names = [re.sub(r"^(?:prompt tuning|XPrompt) \((.*)\)$", r"\1", wording.method(name)) for name in _pair(row)]
    pair = f"{names[0]} − {names[1].removeprefix('full ')}"
    return pair if row["task"] == AVERAGE and not every_task else f"{pair}, {wording.task(row['task'])}"


def _seed_gaps(scores: pd.DataFrame, row: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Each common seed's difference, with the ID of the run of `a`, "" for an average."""
    of_task = scores[scores["task"] == row["task"]].drop_duplicates(["method", "seed"])
    a, b = (of_task[of_task["method"] == name].set_index("seed") for name in _pair(row))
    return [(a.loc[s, "value"] - b.loc[s, "value"], a.loc[s, "run"]) for s in a.index if s in b.index]
