"""The figures, drawn from tidy rows or from importance scores, and the look of each method in all of them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
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
from xprompt.reporting import paper, wording
from xprompt.reporting.claims import averages
from xprompt.reporting.panels import beside, hold
from xprompt.reporting.rows import methods_in, tasks_in, whole
from xprompt.reporting.statistics import Interval, differences, interval, with_average

# Seaborn's colour-blind-safe palette in the order of the declarations, without its yellow and its light pink, which are
# pale on white; then the same colours darker. Markers distinguish the methods where colours do not.
_HUES = [sns.color_palette("colorblind")[place] for place in (7, 0, 1, 4, 5, 2, 3, 9)]
_COLOURS = [(0.45, 0.45, 0.45), *_HUES, *(tuple(0.55 * part for part in hue) for hue in _HUES[1:])]
_MARKERS = "s*^oPXDvd<>hpH8."
_SPARE = (7, 6, 4, 3, 0, 1, 2, 5)  # hues, those of the main methods last
PRUNED = (0.72, 0.72, 0.72)
FIG1_METHODS = ("fine_tuning", "prompt_tuning", "xprompt")


def method_style(name: str) -> tuple[Any, Any]:
    """Return a method's colour and matplotlib marker, the same in every figure.

    The place of its declaration in `METHODS` decides, so that a method appended there changes no other's look. Of 256
    methods no two have the same colour and marker; of the first 16, no two share either.
    """
    place = list(METHODS).index(name) if name in METHODS else len(METHODS)
    turn = place // len(_COLOURS)
    return _COLOURS[place % len(_COLOURS)], _MARKERS[(place + turn) % len(_MARKERS)]


def method_styles(names: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    """Return the colour and marker of each method of one figure, with hues that differ while there are some.

    The method that is declared first keeps its look. Another of the same hue has one that is free in this figure, and
    keeps its own where none is.
    """
    chosen = {name: method_style(name) for name in names}
    declared = sorted(chosen, key=lambda name: list(METHODS).index(name) if name in METHODS else len(METHODS))
    owners: dict[int, str] = {}  # hue → the method that keeps it
    for name in declared:
        owners.setdefault(_hue(chosen[name][0]), name)
    free = (hue for hue in _SPARE if hue not in owners)
    for name in declared:
        if owners[_hue(chosen[name][0])] != name and (hue := next(free, None)) is not None:
            chosen[name] = _HUES[hue], chosen[name][1]
    return chosen


def _hue(colour: Any) -> int:
    """The place in `_HUES` of a colour, however dark."""
    place = _COLOURS.index(colour)
    return max(0, place - 1) if place <= len(_HUES) else place - len(_HUES)


def style() -> None:
    """Set the look of a notebook's figures and printed tables; text stays text in an SVG."""
    pd.set_option("display.precision", 2, "display.width", 160, "display.max_columns", 30, "display.max_colwidth", 80)
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "xprompt", "figure.dpi": 100, "axes.titlesize": 12})


def task_scores(rows: pd.DataFrame, protocol: str = "held_out") -> Figure:
    """Draw Tab 1: for each task and the average, each method's mean score with its 95 % interval over seeds.

    Args:
        rows: tidy rows of one profile.
        protocol: the rows to show, "held_out" or "paper".

    Small dots are the single seeds; the majority class is a dashed line. Where that lies so far below the methods that
    they would be drawn on top of each other, the axis ends above it and its score is written there. Raises
    `ConfigError` where there is no score.
    """
    scores = with_average(rows[rows["protocol"] == protocol])
    tasks, methods = tasks_in(scores), [name for name in methods_in(scores) if name != "majority"]
    if not methods:
        raise ConfigError(f"no scores under the {protocol!r} protocol: run the grid with it first.")
    width = max(1.9, 0.34 * len(methods))  # inches per task
    num_panels = math.ceil(width * len(tasks) / 11)
    per_panel = math.ceil(len(tasks) / num_panels)
    size = (max(5.5, width * per_panel), 0.9 + 3.7 * num_panels)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(num_panels, 1, sharey=True, squeeze=False)[:, 0]
    of_methods = scores[scores["method"] != "majority"]["value"]
    bottom = of_methods.min() - 0.5 * max(10.0, of_methods.max() - of_methods.min())
    drawn: dict[str, Any] = {}  # title → what the legend shows of it: one entry, though each task draws the method
    for place, axes in enumerate(panels):
        _draw_scores(axes, scores, tasks[place * per_panel :][:per_panel], methods, bottom)
        axes.set_xlim(-0.55, per_panel - 0.45)
        axes.set_ylabel("score on validation (points)")
        handles, titles = axes.get_legend_handles_labels()
        drawn |= dict(zip(titles, handles, strict=True))
    if any(axes.texts for axes in panels):  # room below for what is written there
        low, high = panels[0].get_ylim()
        panels[0].set_ylim(low - 0.09 * (high - low), high)
    heading = (f"{_profiles(scores)}, {_seeds(scores)}", wording.PROTOCOLS[protocol])
    letters = 12 if size[0] > 8 else 10  # points
    panels[0].set_title("\n".join(textwrap.fill(text, int(112 * size[0] / letters - 5)) for text in heading),
                        fontsize=letters)  # fmt: skip
    titles = [title for title in map(wording.method, methods_in(scores)) if title in drawn]
    figure.legend([drawn[title] for title in titles], titles, loc="outside lower center",
                  ncols=3 if size[0] > 8 else 2, frameon=False, fontsize=10)  # fmt: skip
    return figure


def _draw_scores(axes: Axes, scores: pd.DataFrame, tasks: Sequence[str], methods: Sequence[str], bottom: float) -> None:
    step, styles = 0.8 / len(methods), method_styles(methods)
    for x, task in enumerate(tasks):
        majority = _values(scores, task, "majority")
        if majority.size:
            colour, _ = method_style("majority")
            label, level = wording.method("majority"), float(majority.mean())
            if level >= bottom:
                axes.hlines(level, x - 0.45, x + 0.45, colour, "--", lw=1.3, label=label)
            else:
                axes.text(x, 0.02, f"{label} {wording.points(level)}", color=colour, fontsize=9, ha="center",
                          va="bottom", transform=axes.get_xaxis_transform(),
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})  # fmt: skip
        for place, method in enumerate(methods):
            values = _values(scores, task, method)
            if values.size:
                center = x + (place - (len(methods) - 1) / 2) * step
                dots = center + np.linspace(0.25, 0.45, values.size) * step  # to the right of the mean's marker
                axes.scatter(dots, values, s=14, color=styles[method][0], alpha=0.5, linewidths=0)
                _point(axes, center, interval(values).within(0, 100), styles[method], wording.method(method))
        if x:
            axes.axvline(x - 0.5, color="0.85", lw=0.8, zorder=0)
    axes.set_xticks(range(len(tasks)), [wording.task(task) for task in tasks])
    axes.grid(False, axis="x")


def scale(rows: pd.DataFrame, backbone_params: dict[str, int], protocol: str = "held_out") -> Figure:
    """Draw Fig 1: the average score against model scale, and XPrompt's gain over prompt tuning, ours and the paper's.

    Args:
        rows: tidy rows of one profile or of several.
        backbone_params: backbone → its number of parameters.
        protocol: the rows to show.

    Bars are 95 % intervals over seeds; a line joins backbones only where all were measured on the same tasks.
    Source: paper Fig 1. Differs: of the paper only the average gains, which are the numbers we have of it.
    """
    rows = rows[rows["protocol"] == protocol]
    figure = Figure(figsize=(10.5, 4.9), layout="constrained")
    left, right = figure.subplots(1, 2, subplot_kw={"xscale": "log"})
    groups = rows.groupby(["profile", "backbone"], sort=False)
    several = rows["backbone"].nunique() > rows["profile"].nunique()  # of a profile: then their names say more
    measured = [
        (backbone_params[str(backbone)], str(backbone if several else profile), part)
        for (profile, backbone), part in groups
    ]
    measured.sort(key=lambda entry: entry[0])
    joined = len({frozenset(part["task"]) for _, _, part in measured}) == 1
    for place, method in enumerate(FIG1_METHODS):
        points = []
        for size, _, part in measured:
            scores = with_average(part)
            values = _values(scores, tasks_in(scores)[-1], method)  # the average, or the one task there is
            if values.size:
                points.append((size, interval(values).within(0, 100)))
        _line(left, points, method, wording.method(method), joined, 9 * (place - 1))  # apart: none hides another
    left.set_ylabel("average score on validation (points)")
    of_tasks: dict[tuple[str, ...], list[str]] = {}  # tasks → the backbones measured on them
    for _, name, part in measured:
        of_tasks.setdefault(tuple(tasks_in(part)), []).append(name)
    texts = [f"{', '.join(dict.fromkeys(names))} on {', '.join(map(wording.task, tasks))}"
             for tasks, names in of_tasks.items()]  # fmt: skip
    left.set_title("\n".join(textwrap.wrap("ours: " + "; ".join(texts), 52)))
    our_gains = []
    for size, _, part in measured:
        pair = ("xprompt", "prompt_tuning")
        if gain := averages(differences(part, [pair]), whole(part)).get(pair):
            our_gains.append((size, gain))
    right.axhline(0, color="0.3", lw=1)
    _line(right, our_gains, "xprompt", "ours, 95 % interval", joined)
    sizes, gains = zip(*sorted(paper.gains().values()), strict=True)
    label = "paper: Large, XL, XXL (no interval published)"
    right.plot(sizes, gains, ls=":", marker="D", mfc="white", color="black", label=label)
    right.set_ylabel("XPrompt minus prompt tuning (points)")
    right.set_title("gain over prompt tuning")
    for axes, all_sizes in ((left, [size for size, _, _ in measured]), (right, [*sizes, *backbone_params.values()])):
        axes.set_xlim(min(all_sizes) / 1.6, max(all_sizes) * 1.6)
        axes.set_xlabel("backbone parameters")
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _short(value)))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.margins(y=0.12)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, fontsize=9, frameon=False)
    left.set_xticks(sorted({size for size, _, _ in measured}))  # close to each other where all are ours
    return figure


def importance_map(token: Any, piece: Any, token_mask: Any, piece_mask: Any, title: str = "") -> Figure:
    """Draw Fig 9 and 10: the importance of every token and piece, before pruning and after it.

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
    surviving = token_mask[:, None] & piece_mask  # (P, K)
    shown = [(token[:, None], True), (piece, True), (token[:, None], token_mask[:, None]), (piece, surviving)]
    norms = [_norm(token), _norm(piece)] * 2
    images = []
    palette = mpl.colormaps["viridis"].with_extremes(bad=PRUNED)
    drawn = {"cmap": palette, "edgecolors": "white", "linewidth": 0.3, "rasterized": True}  # hundreds of cells a map
    for axes, (values, mask), norm in zip(grids, shown, norms, strict=True):
        cells = np.ma.masked_where(~np.broadcast_to(mask, values.shape), values)
        images.append(axes.pcolormesh(cells, norm=norm, **drawn))
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
    left, emptied = int(surviving.any(1).sum()), int((token_mask & ~surviving.any(1)).sum())
    note = f",\n{emptied} more lost all pieces" if emptied else ""
    grids[3].set_title(f"after (grey: pruned): {int(surviving.sum())} pieces, in {left} tokens{note}")
    labels = {
        0: r"importance of the token, mean $|\partial L/\partial\gamma_i|$ (nats)",
        1: r"importance of the piece, mean $|\partial L/\partial\zeta_{ij}|$ (nats)",
    }
    for place, label in labels.items():
        under = grids[2 * place : 2 * place + 2]
        bar = figure.colorbar(images[place], ax=under, label=label, location="bottom", fraction=0.05, aspect=40,
                              shrink=0.9)  # fmt: skip
        wide = (norms[place].vmax or 1) > 50 * (norms[place].vmin or 1)
        bar.locator = ticker.LogLocator(subs=(1, 3) if wide else (1, 2, 5), numticks=8)
        bar.formatter = ticker.FuncFormatter(lambda value, _: f"{value:.2g}")
        bar.minorlocator = ticker.NullLocator()
    if title:
        figure.suptitle(title)
    return figure


def _line(
    axes: Axes, points: Sequence[tuple[float, Interval]], method: str, label: str, joined: bool, shift: float = 0.0
) -> None:
    if joined:
        axes.plot([x for x, _ in points], [value.mean for _, value in points], color=method_style(method)[0], lw=1.2,
                  transform=beside(axes, shift))  # fmt: skip
    for place, (x, value) in enumerate(points):
        _point(axes, x, value, method_style(method), label if place == 0 else None, shift)


def _point(axes: Axes, x: float, value: Interval, look: tuple[Any, Any], label: str | None, shift: float = 0.0) -> None:
    colour, marker = look
    error = None if value.n < 2 else [[max(0.0, value.mean - value.low)], [max(0.0, value.high - value.mean)]]
    axes.errorbar([x], [value.mean], yerr=error, marker=marker, ls="", color=colour, ms=7, capsize=4, lw=1.6,
                  label=label, transform=beside(axes, shift))  # fmt: skip
    hold(axes, [x] * 3, [value.mean, value.low, value.high])


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
            return f"{value / size:.3g} {unit}"
    return f"{value:g}"


def _profiles(scores: pd.DataFrame) -> str:
    return ", ".join(f"profile {name}" for name in scores["profile"].unique())


def _seeds(scores: pd.DataFrame) -> str:
    numbers = scores.groupby(["task", "method"])["seed"].nunique()
    if numbers.max() == 1:
        return "a single seed: no interval"
    text = str(numbers.max()) if numbers.min() == numbers.max() else f"{numbers.min()} to {numbers.max()}"
    return f"mean and 95 % interval over {text} seeds (small dots)"
