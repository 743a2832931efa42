"""Pictures drawn from run records, nothing re-run: differences, ratio pairs, training curves, importance and masks.

They are SVG that a page holds as it is: text and axes take the page's colours, light or dark, and a seed's dot or line
leads to its run's page.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xprompt.reporting import saliency, wording
from xprompt.reporting.figures import method_style
from xprompt.reporting.rows import AVERAGE, tasks_in
from xprompt.reporting.statistics import PAIRS, differences, with_average

Record = Mapping[str, Any]
Link = Callable[[str], str]

# Colours that stand for the page's own, and are replaced by them in the SVG.
_INK, _FAINT, _GROUND = "#010203", "#040506", "#070809"
_PAGE = {_INK: "currentColor", _FAINT: "var(--pst-color-border)", _GROUND: "var(--pst-color-background)"}
_LOOK: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "xprompt", "font.size": 10, "axes.titlesize": 10, "axes.labelsize": 9.5,
    "xtick.labelsize": 9, "ytick.labelsize": 9.5, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _FAINT,
    "xtick.color": _INK, "ytick.color": _INK, "grid.color": _FAINT, "axes.grid": True, "axes.grid.axis": "x",
    "axes.axisbelow": True, "axes.facecolor": "none", "figure.facecolor": "none", "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "xtick.major.size": 0, "ytick.major.size": 0,
}  # fmt: skip
_TUNED = ("prompt_tuning",)
_RETRAINED = ("xprompt", "prompt_tuning_matched")
PANELS = 4  # next to each other
REFERENCE_PAIRS = tuple(pair for pair in PAIRS if {"fine_tuning", "majority"} & set(pair))
"""Differences so much larger than the others that one axis cannot show both."""
PROMPT_PAIRS = tuple(pair for pair in PAIRS if pair not in REFERENCE_PAIRS)


def forest(
    rows: pd.DataFrame,
    link: Link,
    compared: Sequence[tuple[str, str]] = PROMPT_PAIRS,
    *,
    width: float = 7.0,
    every_task: bool = False,
) -> str | None:
    """Draw paired differences with their 95 % intervals, filled where 0 is outside, and each seed as a dot.

    Args:
        rows: tidy rows of one profile, backbone and protocol.
        link: run ID → address of the run's page.
        compared: (a, b) of the differences a − b.
        width: inches.
        every_task: all pairs on every task; else all pairs on average, and the first pair on every task.

    Returns the SVG, or None where no two methods share a seed.
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
    with mpl.rc_context(_LOOK):
        figure = Figure(figsize=(width, 0.62 + 0.235 * len(shown)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=_INK, lw=1)
        for y, row in enumerate(shown):
            if row is None:  # the line that says which pair follows, task by task
                continue
            colour = method_style(row["a"])[0]
            decided = row["verdict"] in ("above", "below")
            if row["n"] > 1:
                axes.plot([row["low"], row["high"]], [y, y], color=colour, lw=1.8, solid_capstyle="butt")
            for x, run in _seed_gaps(scores, row):
                _dot(axes, x, y + 0.28, colour, link(run) if run else None)
            axes.plot(row["mean"], y, "o", ms=6.5, mec=colour, mfc=colour if decided else _GROUND, mew=1.6)
        axes.set_yticks(range(len(shown)), names)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel("points")
        return to_svg(figure, f"Forest plot of paired differences: {label}")


def ratio_maps(records: Sequence[Record]) -> str | None:
    """Draw for each task what each pair of prune ratios gains over the unpruned prompt, the mean over seeds, in points.

    Args:
        records: run records of one protocol. Scores are on the split that the runs selected on. Of a task with runs
            of several searches the grid's are shown: the others stop candidates early.

    Returns the SVG, or None where no XPrompt run has the prompt-tuning run that it started from.
    """
    unpruned = {_key(r): r["details"]["best_score"] for r in records if r["method"] == "prompt_tuning" and _best(r)}
    searched = [r for r in records if r["method"] == "xprompt" and _key(r) in unpruned and _candidates(r)]
    by_task: dict[str, list[Record]] = {}
    for record in searched:
        by_task.setdefault(record["task"], []).append(record)
    maps = {}
    for task, found in by_task.items():
        grids = [r for r in found if r["details"].get("search", {}).get("strategy") == "grid"]
        lines = [
            (c["token_ratio"], c["piece_ratio"], 100 * (c["selection_score"] - unpruned[_key(r)]))
            for r in grids or found for c in _candidates(r) if c.get("selection_score") is not None
        ]  # fmt: skip
        table = pd.DataFrame(lines, columns=["token", "piece", "gain"])
        table = table.pivot_table(index="token", columns="piece", values="gain", aggfunc="mean")
        searches = sorted({r["details"].get("search", {}).get("strategy", "halving") for r in found})
        maps[task] = table, len({r["seed"] for r in grids or found}), "" if grids else ", " + ", ".join(searches)
    maps = {task: entry for task, entry in maps.items() if entry[0].size > 1}
    if not maps:
        return None
    # A few pairs lose so much that a scale which holds them would show the others in one colour.
    limit = max(
        1.0, float(np.nanquantile([abs(v) for table, _, _ in maps.values() for v in table.to_numpy().flat], 0.7))
    )
    with mpl.rc_context({**_LOOK, "axes.grid": False}):
        figure, panels = _panels(len(maps), 2.5, 2.35)
        for axes, (task, (table, n, note)) in zip(panels, maps.items(), strict=False):
            image = axes.pcolormesh(table.to_numpy(), cmap="RdBu", vmin=-limit, vmax=limit)
            axes.set_xticks(np.arange(table.shape[1]) + 0.5, [f"{ratio:g}"[-2:] for ratio in table.columns])
            axes.set_yticks(np.arange(table.shape[0]) + 0.5, [f"{ratio:g}"[-2:] for ratio in table.index])
            axes.set_title(f"{wording.task(task)}, {wording.seeds(n)}{note}")
            axes.set_xlabel("piece prune ratio")
            axes.set_ylabel("token prune ratio")
        figure.colorbar(
            image, ax=list(panels), label="points over the unpruned prompt", shrink=0.6, aspect=30, extend="both"
        )
        return to_svg(figure, f"Heat maps of the prune ratios' gains for {', '.join(map(wording.task, maps))}")


def curves(records: Sequence[Record], link: Link, retraining: bool = False) -> str | None:
    """Draw the selection score against the step, a panel for each task and a line for each seed.

    Args:
        records: run records of one protocol.
        link: run ID → address of the run's page.
        retraining: re-training of pruned prompts and of the matched budget; else prompt tuning.
    """
    methods = _RETRAINED if retraining else _TUNED
    chosen = [r for r in records if r["method"] in methods and len(_points(r)[0]) > 1]
    tasks = list(dict.fromkeys(r["task"] for r in chosen))
    if not chosen:
        return None
    with mpl.rc_context({**_LOOK, "axes.grid.axis": "y"}):
        figure, panels = _panels(len(tasks), 2.5, 2.1)
        for axes, task in zip(panels, tasks, strict=False):
            for record in chosen:
                if record["task"] == task:
                    steps, scores = _points(record)
                    colour, marker = method_style(record["method"])
                    (line,) = axes.plot(steps, scores, color=colour, lw=1.1, alpha=0.85, marker=marker, ms=3)
                    line.set_url(link(record["run"]))
            axes.set_title(wording.task(task))
            axes.set_xlabel("step")
            axes.set_ylabel("selection score")
        handles = [mpl.lines.Line2D([], [], color=method_style(m)[0], marker=method_style(m)[1], ms=4) for m in methods]
        figure.legend(handles, [wording.method(m) for m in methods], loc="outside lower center", ncols=2)
        return to_svg(figure, f"Selection score by step for {', '.join(map(wording.task, tasks))}")


def importance_gallery(records: Sequence[Record], link: Link, limit: int = 60) -> str | None:
    """Draw the importance of every piece of each XPrompt run's prompt, a row of maps a task; pruned pieces are grey.

    Args:
        records: run records of one protocol.
        link: run ID → address of the run's page.
        limit: maps at most.

    A map's colours span three decades below its own largest value.
    """
    with mpl.rc_context({**_LOOK, "axes.grid": False}):
        figure = saliency.gallery(records, link, limit)
        if figure is None:
            return None
        tasks = dict.fromkeys(axes.get_ylabel() for axes in figure.axes if axes.get_ylabel())
        return to_svg(figure, f"Importance of prompt pieces after pruning for {', '.join(tasks)}")


def to_svg(figure: Figure, label: str) -> str:
    """Return a figure as SVG for a page: in the page's colours, scalable, with a text for those who do not see it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for stand_in, colour in _PAGE.items():
        text = text.replace(stand_in, colour)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # the same names in every figure: one page holds several
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"<a xlink:href=", '<a target="_top" xlink:href=', text)
    size = re.search(r'width="([\d.]+)pt" height="[\d.]+pt"', text)
    wide = 4 / 3 * float(size[1]) if size else 600
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{_quote(label)}"', text, count=1)
    return (
        f'<div class="picture" tabindex="0" role="group" aria-label="{_quote(label.split(":")[0])}">'
        f'<div style="max-width:{wide:.0f}px;min-width:{min(wide, 390):.0f}px">'
        + re.sub(r"\n\s*\n", "\n", text).strip() + "</div></div>"
    )  # fmt: skip


def _quote(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def _panels(count: int, width: float, height: float) -> tuple[Figure, Sequence[Axes]]:
    columns = min(PANELS, count)
    num_rows = math.ceil(count / columns)
    figure = Figure(figsize=(width * columns + 0.6, height * num_rows + 0.35), layout="constrained")
    panels = list(figure.subplots(num_rows, columns, squeeze=False).ravel())
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels


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


def _key(record: Record) -> tuple[Any, ...]:
    """What a run shares with the prompt-tuning run that it starts from."""
    shared = [record["config"].get(name) for name in ("tune", "length", "init", "few_shot", "limit_train", "pattern")]
    return record["task"], record["seed"], record["protocol"], str(shared)


def _best(record: Record) -> bool:
    return (record.get("details") or {}).get("best_score") is not None


def _candidates(record: Record) -> Sequence[Mapping[str, Any]]:
    return (record.get("details") or {}).get("candidates") or ()


def _points(record: Record) -> tuple[list[int], list[float]]:
    """Steps and selection scores in points, as far as they were finite."""
    known = [h for h in record.get("history") or () if h.get("selection_score") is not None]
    return [h["step"] for h in known], [100 * h["selection_score"] for h in known]
