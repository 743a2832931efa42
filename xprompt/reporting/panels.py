"""What figures with a panel for each task share: how panels are placed, lines with intervals, one legend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Transform, offset_copy

from xprompt.reporting.by_seed import overall

PANELS, WIDEST = 4, 12.5  # next to each other, and together in inches: a page shrinks what is wider
PALETTE = sns.color_palette("colorblind")
DISTINCT = [PALETTE[place] for place in (0, 1, 2, 3, 4, 9, 5)]
"""Of the palette, without what is pale or close to another."""


def panels(
    count: int, width: float, height: float, sharey: bool = False, names: Sequence[str] = ()
) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with `count` panels of so many inches, and those panels.

    Args:
        names: what stands left of the panels; the figure has room for the longest line.
    """
    num_rows = math.ceil(count / min(PANELS, max(1, int(WIDEST / width))))
    columns = math.ceil(count / num_rows)  # five panels are three and two, not four and one
    longest = max((len(text) for name in names for text in name.split("\n")), default=0)
    room = max(0.8, 0.09 * longest)  # inches
    figure = Figure(figsize=(width * columns + room, height * num_rows + 0.4), layout="constrained")
    axes = list(figure.subplots(num_rows, columns, squeeze=False, sharey=sharey).ravel())
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def name_left(axes: Sequence[Axes], label: str) -> None:
    """Name the vertical axis of the first panel of every row."""
    grid = axes[0].get_gridspec()
    for panel in axes[:: grid.ncols if grid else 1]:
        panel.set_ylabel(label)


def fit(axes: Axes, values: pd.Series) -> None:
    """Let the vertical axis span these values; an interval that goes beyond them is cut off."""
    low, high = float(values.min()), float(values.max())
    room = 0.15 * (high - low) or 1.0
    axes.set_ylim(low - room, high + room)


def legend(figure: Figure, axes: Axes, where: Literal["upper", "lower"] = "lower") -> None:
    """Give the figure one legend, that of a panel, above or below all panels."""
    handles, labels = axes.get_legend_handles_labels()
    places: dict[str, Any] = {"upper": "outside upper center", "lower": "outside lower center"}
    figure.legend(handles, labels, loc=places[where], ncols=min(4, len(labels)), frameon=False, fontsize=10)


def line(
    axes: Axes,
    rows: pd.DataFrame,
    x: str,
    y: str,
    colour: Any,
    marker: str,
    label: str,
    shift: float = 0.0,
    joined: bool = True,
    possible: tuple[float, float] = (-math.inf, math.inf),
) -> None:
    """Draw the mean of column `y` over seeds at every `x`, with its 95 % interval; every row is a dot.

    Args:
        rows: of one task.
        shift: points to the right, so that no line hides another.
        joined: whether a line joins the places, which have an order then.
        possible: the least and the greatest value there can be; an interval ends there.
    """
    places = sorted(rows[x].unique())
    spans = [overall(rows[rows[x] == place], y).within(*possible) for place in places]
    errors = np.nan_to_num([[span.mean - span.low for span in spans], [span.high - span.mean for span in spans]])
    dots, bars = (beside(axes, points) for points in (shift + 4, shift))  # a bar would hide its dots
    axes.scatter(rows[x], rows[y], s=9, color=[colour], alpha=0.4, linewidths=0, transform=dots, rasterized=True)
    axes.errorbar(places, [span.mean for span in spans], yerr=errors, color=colour, marker=marker, ms=5, lw=1.4,
                  capsize=3, label=label, ls="-" if joined else "", transform=bars)  # fmt: skip
    hold(axes, rows[x], rows[y])
    for bound in ("low", "high"):
        hold(axes, places, [getattr(span, bound) for span in spans])


def beside(axes: Axes, points: float) -> Transform:
    """Return a transform that draws so many points to the right of the data, on a linear axis and on a log one."""
    whole: Any = axes.figure
    return offset_copy(axes.transData, whole, x=points, units="points")


def hold(axes: Axes, x: Iterable[float], y: Iterable[float]) -> None:
    """Let the axes span these points; matplotlib does not see what is drawn beside its place."""
    axes.update_datalim([at for at in zip(x, y, strict=True) if np.isfinite(at).all()])
    axes.autoscale_view()
