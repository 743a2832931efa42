"""Fig 6, 7, 9 and 10: how importance is distributed over tokens and pieces, and maps of it before and after pruning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xprompt.pruning.ratio import num_pruned
from xprompt.reporting import wording
from xprompt.reporting.by_seed import over_seeds, overall
from xprompt.reporting.figures import importance_map, method_style
from xprompt.reporting.panels import name_left, panels
from xprompt.reporting.rows import tasks_in

Record = Mapping[str, Any]
#: Level → what its entries are called.
LEVELS = {"token": "tokens", "piece": "pieces"}
_DECADES = 1e-3  # of a map's colours: what is lower has the lowest colour
_NEAR_ZERO = 0.1  # of the largest


def distribution_rows(records: Iterable[Record], level: str) -> pd.DataFrame:
    """Return a row for each XPrompt run: how unequal the importance of its prompt's entries is.

    Args:
        level: "token" or "piece".

    Columns: profile, backbone, task, seed, protocol, level, entries, near_zero (percent of the entries below a tenth
    of the largest), top_tenth (percent of the summed importance that the highest tenth of the entries holds; 10 where
    all are equal), run.
    """
    lines = []
    for record in _searches(records):
        values = np.sort(_importance(record, level))[::-1]
        top = max(1, round(len(values) / 10))
        lines.append(
            {
                **{name: record[name] for name in ("profile", "backbone", "task", "seed", "protocol")},
                "level": level, "entries": len(values),
                "near_zero": 100 * float((values < _NEAR_ZERO * values[0]).mean()),
                "top_tenth": 100 * float(values[:top].sum() / (values.sum() or 1.0)), "run": record["run"],
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


def distribution_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row a task and the average, means ± half the 95 % interval over seeds."""
    near_zero, top = over_seeds(rows, "near_zero"), over_seeds(rows, "top_tenth")
    return pd.DataFrame(
        {
            "task": wording.task(task),
            "below a tenth of the largest (%)": wording.cell(near_zero[task]),
            "held by the highest tenth (%)": wording.cell(top[task]),
            "seeds": str(near_zero[task].n),
        }
        for task in near_zero
    )


def distribution_statement(rows: pd.DataFrame) -> str:
    """Say whether most entries are near zero and few are high, as in the paper."""
    near_zero, top = (overall(rows, name).within(0, 100) for name in ("near_zero", "top_tenth"))
    low, high = (near_zero.mean if near_zero.n < 2 else bound for bound in (near_zero.low, near_zero.high))
    verdict = "which may be more or less than half"
    if low > 50 or high < 50:
        verdict = "most, as in the paper" if low > 50 else "less than half (where little ends is our choice)"
    return (
        f"{wording.with_span(near_zero)} % of the {LEVELS[rows['level'].iloc[0]]} lie below a tenth of the prompt's "
        f"largest importance, {verdict}; the highest tenth holds {wording.with_span(top)} % of the sum."
    )


def distribution_figure(records: Iterable[Record], level: str) -> Figure:
    """Draw Fig 6 ("token") or Fig 7 ("piece"): a histogram of importance, a panel for each task.

    Each prompt's importance is divided by its largest. Bars are the mean over seeds, a dot is a seed.
    """
    chosen = _searches(records)
    tasks = tasks_in(pd.DataFrame({"task": [record["task"] for record in chosen]}))
    edges = np.linspace(0, 1, 21)
    figure, axes = panels(len(tasks), 3.3, 2.7)
    for panel, task in zip(axes, tasks, strict=True):
        shares = []
        for record in chosen:
            if record["task"] == task:
                values = _importance(record, level)
                counts, _ = np.histogram(values / (values.max() or 1.0), edges)
                shares.append(100 * counts / counts.sum())
        colour = method_style("xprompt")[0]
        panel.stairs(np.mean(shares, axis=0), edges, fill=True, color=colour, alpha=0.55, lw=0)
        if len(shares) > 1:
            middles = np.tile((edges[1:] + edges[:-1]) / 2, len(shares))
            panel.scatter(middles, np.concatenate(shares), s=8, color="0.2", alpha=0.55, linewidths=0, zorder=3)
        panel.set(title=f"{wording.task(task)}, {wording.seeds(len(shares))}", xlim=(0, 1),
                  xlabel="importance (share of the largest)")  # fmt: skip
    name_left(axes, f"{LEVELS[level]} (%)")
    return figure


def before_and_after(record: Record) -> Figure:
    """Draw Fig 9 and 10 from an XPrompt run's record: the map of its tuned prompt, and what the search pruned of it."""
    details = record["details"]
    ratios = f"token prune ratio {details['token_ratio']:g}, piece prune ratio {details['piece_ratio']:g}"
    return importance_map(
        details["importance"]["token"], details["importance"]["piece"], _token_mask(details), details["piece_mask"],
        title=f"{wording.task(record['task'])}, seed {record['seed']}: {ratios}",
    )  # fmt: skip


def gallery(records: Sequence[Record], link: Callable[[str], str] | None = None, limit: int = 60) -> Figure | None:
    """Draw the importance of every piece of each XPrompt run's prompt, a row of maps a task; pruned pieces are grey.

    In a map a row is a token and a column a piece.

    Args:
        records: run records of one protocol.
        link: run ID → address of the run's page, for an SVG.
        limit: maps at most.

    A map's colours span three decades below its own largest value. Returns None where no run has importance scores.
    """
    chosen = _searches(records)
    tasks = list(dict.fromkeys(r["task"] for r in chosen))
    seeds = sorted({r["seed"] for r in chosen})[: max(1, limit // max(1, len(tasks)))]
    maps = {(r["task"], r["seed"]): r for r in chosen}
    if not maps:
        return None
    palette = mpl.colormaps["viridis"].with_extremes(bad=(0.62, 0.62, 0.62))
    norm = mpl.colors.LogNorm(_DECADES, 1)  # of shares of a map's largest
    figure = Figure(figsize=(max(4.2, 1.2 + 1.55 * len(seeds)), 1.2 + 1.6 * len(tasks)), layout="constrained")
    grid = figure.subplots(len(tasks), len(seeds), squeeze=False)
    for y, task in enumerate(tasks):
        for x, seed in enumerate(seeds):
            axes = grid[y, x]
            axes.set(xticks=[], yticks=[])
            if (task, seed) not in maps:
                axes.set_axis_off()
                continue
            record = maps[task, seed]
            piece = np.asarray(record["details"]["importance"]["piece"], dtype=float)  # (P, K)
            kept = np.asarray(record["details"]["token_mask"])[:, None] * np.asarray(record["details"]["piece_mask"])
            top = float(np.nanmax(piece)) or 1.0
            cells = np.ma.masked_where((kept == 0) | ~np.isfinite(piece), np.clip(piece / top, _DECADES, None))
            image = axes.imshow(cells, aspect="auto", cmap=palette, interpolation="nearest", norm=norm)
            if link is not None:
                image.set_url(link(record["run"]))
            axes.set_xlabel(f"seed {seed}: {int(kept.sum())} of {kept.size} pieces", fontsize=8)
            if x == 0:
                axes.set_ylabel(wording.task(task), fontsize=10)
    label = "importance (share of the map's largest)\na row is a token, a column a piece of it; grey: pruned"
    bar = figure.colorbar(mpl.cm.ScalarMappable(norm, palette), ax=grid, location="bottom", format="{x:g}",
                          fraction=0.2 / len(tasks), aspect=min(40, 8 * len(seeds) + 16), pad=0.01)  # fmt: skip
    bar.set_label(label, fontsize=9)
    return figure


def _searches(records: Iterable[Record]) -> list[Record]:
    """The XPrompt runs that say how important each piece was."""
    return [r for r in records if r["method"] == "xprompt" and (r["details"].get("importance") or {}).get("piece")]


def _token_mask(details: Mapping[str, Any]) -> np.ndarray:
    """The tokens that pruning of tokens left, (P,).

    The record's mask is of those that survive, and so has none that lost all its pieces afterwards. The others follow
    from scores and ratio, lowest first, of equals the earlier.
    """
    scores = np.asarray(details["importance"]["token"], dtype=float)
    left = np.ones(len(scores), dtype=bool)
    left[np.argsort(scores, kind="stable")[: num_pruned(len(scores), details["token_ratio"])]] = False
    return left | np.asarray(details["token_mask"], dtype=bool)


def _importance(record: Record, level: str) -> np.ndarray:
    """The importance of each token (P,) or of each piece (P · K,)."""
    return np.ravel(np.asarray(record["details"]["importance"][level], dtype=float))
