"""The figures, drawn from tidy rows or from importance scores.

Owns colours, labels and units. Never averages (`statistics` does) and never saves (`layout` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xprompt.config.methods import METHODS
from xprompt.errors import ConfigError
from xprompt.reporting import published, wording
from xprompt.reporting.statistics import AVERAGE, Interval, differences, interval, with_average
from xprompt.tasks.superglue import TASKS

# Seaborn's colour-blind-safe palette, the same colour for a method in every figure; markers tell them apart in grey.
# A method's place in the declarations decides, so that a new one changes no other.
_PLACES = (7, 0, 1, 4, 5, 2, 3, 9, 8, 6)
_PALETTE = [sns.color_palette("colorblind")[place] for place in _PLACES]
_MARKERS = "s*^oPXDvd<>hpH8"
COLOUR = {name: (0.45, 0.45, 0.45) if i == 0 else _PALETTE[(i - 1) % len(_PALETTE)] for i, name in enumerate(METHODS)}
MARKER = {name: _MARKERS[i % len(_MARKERS)] for i, name in enumerate(METHODS)}
PRUNED = (0.72, 0.72, 0.72)
PROMPTS = ("fine_tuning", "prompt_tuning", "xprompt")


def style() -> None:
    """Set the look of every figure and printed table of a notebook; text stays text in an SVG."""
    pd.set_option("display.width", 160, "display.max_columns", 30, "display.max_colwidth", 80)
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "xprompt", "figure.dpi": 100, "axes.titlesize": 12})


def task_scores(rows: pd.DataFrame, protocol: str = "held_out") -> Figure:
    """Draw Tab 1: for each task and the average, each method's mean score with its 95 % interval over seeds.

    Small dots are the single seeds; the majority class is a line.
    """
    scores = with_average(rows[rows["protocol"] == protocol])
    found = list(scores["task"].unique())
    own = [name for name in found if name not in (*TASKS, AVERAGE)]
    tasks = [name for name in [*TASKS, *own, AVERAGE] if name in found]
    methods = [name for name in METHODS if name in set(scores["method"]) and name != "majority"]
    if not tasks or not methods:
        raise ConfigError(f"no scores under the {protocol!r} protocol: run the grid with it first.")
    figure = Figure(figsize=(max(5.5, 1.9 * len(tasks)), 4.6), layout="constrained")
    axes = figure.subplots()
    step = 0.8 / len(methods)
    for place, method in enumerate(methods):
        offset = (place - (len(methods) - 1) / 2) * step
        for x, task in enumerate(tasks):
            values = _values(scores, task, method)
            if values.size:
                label = wording.method(method) if x == 0 or not _values(scores, tasks[0], method).size else None
                jitter = np.linspace(0.18, 0.36, values.size) * step
                axes.scatter(x + offset + jitter, values, s=14, color=COLOUR[method], alpha=0.5, linewidths=0)
                _point(axes, x + offset, interval(values), method, label)
    for x, task in enumerate(tasks):
        values = _values(scores, task, "majority")
        if values.size:
            label = wording.method("majority") if x == 0 else ""
            axes.hlines(values.mean(), x - 0.45, x + 0.45, COLOUR["majority"], "--", lw=1.3, label=label)
    axes.set_xticks(range(len(tasks)), [wording.task(task) for task in tasks])
    axes.set_xlim(-0.55, len(tasks) - 0.45)
    axes.grid(False, axis="x")
    axes.set_ylabel("score on validation (points)")
    axes.set_title(f"{_profiles(scores)}, {_seeds(scores)}\n{wording.PROTOCOLS[protocol]}")
    _unique_legend(figure, axes)
    return figure


def scale(rows: pd.DataFrame, backbone_params: dict[str, int], protocol: str = "held_out") -> Figure:
    """Draw Fig 1: the average score against model scale, and XPrompt's gain over prompt tuning beside the paper's.

    Args:
        rows: tidy rows of one profile or of several.
        backbone_params: backbone → its number of parameters.
        protocol: the rows to show.

    Bars are 95 % intervals over seeds; a line joins only backbones measured on the same tasks. Source: paper Fig 1;
    only its average gains were to be had, so only they are drawn, in the right-hand panel.
    """
    rows = rows[rows["protocol"] == protocol]
    figure = Figure(figsize=(10.5, 4.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    parts = [of_backbone for _, of_backbone in rows.groupby(["profile", "backbone"], sort=False)]
    parts.sort(key=lambda part: backbone_params[part["backbone"].iloc[0]])
    of_tasks = [tuple(sorted(part["task"].unique())) for part in parts]
    joined = len(set(of_tasks)) == 1
    for place, method in enumerate(PROMPTS):
        points = []
        for part in parts:
            scores = with_average(part)
            values = _values(scores, scores["task"].iloc[-1], method)  # the average, or the one task there is
            if values.size:
                x = backbone_params[part["backbone"].iloc[0]] * 1.12 ** (place - 1)  # side by side, not on top
                points.append((x, interval(values)))
        _line(left, points, method, wording.method(method), joined)
    names = [part["profile"].iloc[0] for part in parts]
    what = ", ".join(f"{n} ({len(t)} task{'s' * (len(t) > 1)})" for n, t in zip(names, of_tasks, strict=True))
    left.set_ylabel("average score on validation (points)")
    left.set_title(f"ours: {what}")
    gained = []
    for part in parts:
        table = differences(part, [("xprompt", "prompt_tuning")])
        if not table.empty:
            row = table.iloc[-1]
            gain = Interval(row["mean"], row["low"], row["high"], int(row["n"]))
            gained.append((backbone_params[part["backbone"].iloc[0]], gain))
    right.axhline(0, color="0.3", lw=1)
    _line(right, gained, "xprompt", "ours, 95 % interval", joined)
    sizes, gains = zip(*sorted(published.gains().values()), strict=True)
    paper = "paper: Large, XL, XXL (no interval published)"
    right.plot(sizes, gains, ls=":", marker="D", mfc="white", color="black", label=paper)
    right.set_ylabel("XPrompt minus prompt tuning (points)")
    right.set_title("gain over prompt tuning")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("backbone parameters")
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _short(value)))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.margins(x=0.08, y=0.12)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, fontsize=9, frameon=False)
    return figure


def importance_map(token: Any, piece: Any, token_mask: Any, piece_mask: Any, title: str = "") -> Figure:
    """Draw Fig 9 and 10: the importance of every token and piece before pruning, and what pruning left of it.

    Args:
        token: (P,) importance of each token, at γ = 1.
        piece: (P, K) importance of each piece, at ζ = 1.
        token_mask: (P,) true or 1 where the token survives.
        piece_mask: (P, K) true or 1 where the piece survives.
        title: above both panels.

    Pruned cells are grey. Both panels share one logarithmic colour scale. Source: paper Fig 9, 10.
    """
    token, piece = np.asarray(token, dtype=float), np.asarray(piece, dtype=float)
    token_mask, piece_mask = np.asarray(token_mask).astype(bool), np.asarray(piece_mask).astype(bool)
    length, pieces = piece.shape
    if token.shape != (length,) or token_mask.shape != (length,) or piece_mask.shape != piece.shape:
        raise ConfigError(
            f"importance of {token.shape} tokens and {piece.shape} pieces does not fit masks of {token_mask.shape} "
            f"and {piece_mask.shape}: all four must come from one prompt."
        )
    figure = Figure(figsize=(10.5, max(3.6, 0.24 * length + 2.0)), layout="constrained")
    grids = figure.subplots(1, 4, width_ratios=[1.4, pieces, 1.4, pieces], sharey=True)
    alive = token_mask[:, None] & piece_mask
    shown = [(token[:, None], True), (piece, True), (token[:, None], token_mask[:, None]), (piece, alive)]
    norms = [_norm(token), _norm(piece)] * 2
    images = []
    palette = mpl.colormaps["viridis"].with_extremes(bad=PRUNED)
    for axes, (values, mask), norm in zip(grids, shown, norms, strict=True):
        cells = np.ma.masked_where(~np.broadcast_to(mask, values.shape), values)
        images.append(axes.pcolormesh(cells, cmap=palette, norm=norm, edgecolors="white", linewidth=0.3))
        axes.set_facecolor(PRUNED)
        axes.grid(False)
        wide = values.shape[1] > 1
        axes.set_xticks(np.arange(values.shape[1])[:: 3 if wide else 1] + 0.5)
        axes.set_xticklabels(range(1, values.shape[1] + 1, 3) if wide else ["token"])
        if wide:
            axes.set_xlabel("piece of the token")
        axes.tick_params(length=0, labelsize=9)
    grids[0].invert_yaxis()
    grids[0].set_yticks(np.arange(length)[:: 1 if length <= 24 else 5] + 0.5)
    grids[0].set_yticklabels(range(1, length + 1, 1 if length <= 24 else 5))
    grids[0].set_ylabel("prompt token")
    grids[1].set_title(f"before: {length} tokens, {length * pieces} pieces")
    grids[3].set_title(f"after: {int(alive.any(1).sum())} tokens, {int(alive.sum())} pieces (pruned in grey)")
    what = {
        0: r"importance of the token, mean $|\partial L/\partial\gamma_i|$ (nats)",
        1: r"importance of the piece, mean $|\partial L/\partial\zeta_{ij}|$ (nats)",
    }
    for place, label in what.items():
        under = grids[2 * place : 2 * place + 2]
        bar = figure.colorbar(images[place], ax=under, label=label, location="bottom", fraction=0.05, aspect=45)
        wide = (norms[place].vmax or 1) > 50 * (norms[place].vmin or 1)
        bar.locator = ticker.LogLocator(subs=(1, 3) if wide else (1, 2, 5), numticks=8)
        bar.formatter = ticker.FuncFormatter(lambda value, _: f"{value:.2g}")
        bar.minorlocator = ticker.NullLocator()
    if title:
        figure.suptitle(title)
    return figure


def _line(axes: Axes, points: Sequence[tuple[float, Interval]], method: str, label: str, joined: bool) -> None:
    if joined:
        axes.plot([x for x, _ in points], [of.mean for _, of in points], color=COLOUR[method], lw=1.2)
    for place, (x, of) in enumerate(points):
        _point(axes, x, of, method, label if place == 0 else None)


def _point(axes: Axes, x: float, of: Interval, method: str, label: str | None) -> None:
    half = None if of.n < 2 else [[of.half], [of.half]]
    axes.errorbar(
        [x],
        [of.mean],
        yerr=half,
        fmt=MARKER[method],
        color=COLOUR[method],
        ms=7,
        capsize=4,
        lw=1.6,
        label=label,
    )


def _values(scores: pd.DataFrame, task: str, method: str) -> np.ndarray:
    return scores[(scores["task"] == task) & (scores["method"] == method)]["value"].to_numpy()


def _norm(values: np.ndarray) -> mpl.colors.LogNorm:
    """Return a scale of at most three decades below the largest value; what is lower has the lowest colour."""
    high = float(values.max()) or 1.0
    known = values[values > high * 1e-3]
    low = float(known.min()) if known.size else high * 1e-3
    return mpl.colors.LogNorm(min(low, high / 2), high, clip=True)


def _short(value: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"


def _profiles(scores: pd.DataFrame) -> str:
    return ", ".join(f"profile {name}" for name in scores["profile"].unique())


def _seeds(scores: pd.DataFrame) -> str:
    numbers = scores.groupby(["task", "method"])["seed"].nunique()
    if numbers.max() == 1:
        return "a single seed: no interval"
    text = str(numbers.max()) if numbers.min() == numbers.max() else f"{numbers.min()} to {numbers.max()}"
    return f"mean and 95 % interval over {text} seeds (small dots)"


def _unique_legend(figure: Figure, axes: Axes) -> None:
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=10)
