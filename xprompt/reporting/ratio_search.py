"""What successive halving over the prune ratios costs and loses, compared with the full grid: rows, table, figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from xprompt.errors import ConfigError
from xprompt.reporting import wording
from xprompt.reporting.by_seed import over_seeds
from xprompt.reporting.figures import method_style
from xprompt.reporting.rows import AVERAGE

REGRETS = {"selection_regret": "on the selection split", "validation_regret": "on validation"}
SHARES = {"trained_share": "trained", "evaluated_share": "evaluated", "seconds_share": "time"}


def pair_searches(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row for each task and seed that has both a grid run and a halving run over the same ratio pairs.

    Columns: profile, backbone, task, seed, candidates (different masks), each search's selection and validation score
    in points, the regrets (grid − halving: positive where the grid is better), halving's shares of the grid's cost in
    percent, the seconds of each search (importance and the last evaluation included, the prompt-tuning run that both
    start from not), and the names of the runs.

    Raises `ConfigError` where no task and seed has both.
    """
    by_key: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for record in records:
        search = record["details"].get("search", {})
        if record["method"] == "xprompt" and search:
            ratios = tuple((c["token_ratio"], c["piece_ratio"]) for c in record["details"]["candidates"])
            key = (record["profile"], record["backbone"], record["task"], record["seed"], ratios)
            by_key.setdefault(key, {})[search["strategy"]] = record
    rows = []
    for (profile, backbone, task, seed, _), by_strategy in by_key.items():
        if set(by_strategy) != {"grid", "halving"}:
            continue
        grid, halving = by_strategy["grid"], by_strategy["halving"]
        best_grid, best_halving = (
            max(candidate["selection_score"] for candidate in search["details"]["candidates"])
            for search in (grid, halving)
        )
        grid_costs, halving_costs = (
            search["details"]["search"] | {"seconds": search["seconds"]["total"]} for search in (grid, halving)
        )
        share = {
            name: 100 * halving_costs[name] / grid_costs[name]
            for name in ("trained_examples", "evaluated_examples", "seconds")
        }
        rows.append(
            {
                "profile": profile, "backbone": backbone, "task": task, "seed": seed,
                "candidates": grid_costs["candidates"],
                "grid_selection": 100 * best_grid, "halving_selection": 100 * best_halving,
                "selection_regret": 100 * (best_grid - best_halving),
                "grid_validation": 100 * grid["score"], "halving_validation": 100 * halving["score"],
                "validation_regret": 100 * (grid["score"] - halving["score"]),
                "trained_share": share["trained_examples"], "evaluated_share": share["evaluated_examples"],
                "seconds_share": share["seconds"], "grid_seconds": grid_costs["seconds"],
                "halving_seconds": halving_costs["seconds"], "run": halving["run"], "grid_run": grid["run"],
            }
        )  # fmt: skip
    if not rows:
        raise ConfigError("no task and seed has both a grid run and a halving run: run the two searches first.")
    return pd.DataFrame(rows)


def search_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per task and for the average: both validation scores, the regrets, halving's cost in percent."""
    names = ("grid_validation", "halving_validation", *REGRETS, *SHARES)
    columns = {name: over_seeds(rows, name) for name in names}
    lines = []
    for task in columns["validation_regret"]:
        line = {"task": wording.task(task), "grid": wording.cell(columns["grid_validation"][task]),
                "halving": wording.cell(columns["halving_validation"][task])}  # fmt: skip
        for name, where in REGRETS.items():
            line[f"regret {where}".replace("the selection split", "selection")] = wording.cell(columns[name][task])
        for name, what in SHARES.items():
            line[f"{what} (%)"] = f"{columns[name][task].mean:.1f}"
        line["seeds"] = str(columns["validation_regret"][task].n)
        lines.append(line)
    return pd.DataFrame(lines)


def search_statements(rows: pd.DataFrame) -> list[str]:
    """Return halving's regrets and its cost as sentences: of the average, or of the task where there is one."""
    last = list(over_seeds(rows, "validation_regret"))[-1]
    sentences = []
    for name, where in REGRETS.items():
        regret = over_seeds(rows, name)[last]
        low, high = wording.points(regret.low, signed=True), wording.points(regret.high, signed=True)
        bounds = "" if regret.n < 2 else f", 95 % interval {low} to {high}"
        basis = f"{wording.task(last)}, {regret.n} seed{'s' * (regret.n > 1)}{bounds}"
        sentences.append(f"Halving's regret {where} is {wording.points(regret.mean)} points ({basis}).")
    trained, evaluated, seconds = (over_seeds(rows, name)[last].mean for name in SHARES)
    sentences.append(
        f"It trains on {trained:.1f} % of the grid's examples, evaluates {evaluated:.1f} % as many, and takes "
        f"{seconds:.1f} % of its time."
    )
    return sentences


def search_figure(rows: pd.DataFrame, records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw regret and cost, and for the first pair of runs every candidate's best selection score.

    Args:
        rows: of `pair_searches`.
        records: the run records that the rows come from.

    In the maps a frame marks the chosen ratio pair, and a dot a candidate that halving stopped early.
    """
    figure = Figure(figsize=(13, 8.2), layout="constrained")
    (top_left, top_right), (left, right) = figure.subplots(2, 2)
    _draw_regret(top_left, rows)
    _draw_cost(top_right, rows)
    first = rows.iloc[0]
    by_run = {record["run"]: record["details"] for record in records}
    searches = [by_run[first["grid_run"]], by_run[first["run"]]]
    scores = [100 * candidate["selection_score"] for search in searches for candidate in search["candidates"]]
    for axes, search, name in zip((left, right), searches, ("grid", "halving"), strict=True):
        _draw_map(axes, search, (min(scores), max(scores)))
        axes.set_title(f"{name}: {wording.task(first['task'])}, seed {first['seed']}")
    return figure


def _draw_regret(axes: Axes, rows: pd.DataFrame) -> None:
    for place, (name, where) in enumerate(REGRETS.items()):
        marker, colour = "so"[place], sns.color_palette("colorblind")[1 - place]
        for y, (task, regret) in enumerate(over_seeds(rows, name).items()):
            at = y + 0.16 * (2 * place - 1)
            single = rows[rows["task"] == task][name] if task != AVERAGE else rows.groupby("seed")[name].mean()
            axes.scatter(single, np.full(len(single), at + 0.09), s=12, color=colour, alpha=0.4, linewidths=0)
            error = None if regret.n < 2 else [[regret.half], [regret.half]]
            label = where if y == 0 else None
            axes.errorbar(regret.mean, at, xerr=error, fmt=marker, color=colour, capsize=3, label=label)
    tasks = list(over_seeds(rows, "validation_regret"))
    axes.axvline(0, color="0.3", lw=1)
    axes.set_yticks(range(len(tasks)), [wording.task(task) for task in tasks])
    axes.invert_yaxis()
    axes.set_xlabel("regret: grid − halving (points; right of 0 the grid is better)")
    num_seeds = rows["seed"].nunique()
    over = f"mean and 95 % interval over {num_seeds} seeds; dots: single seeds" if num_seeds > 1 else "a single seed"
    axes.set_title(f"Regret, {over}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, frameon=False)


def _draw_cost(axes: Axes, rows: pd.DataFrame) -> None:
    means = [rows[name].mean() for name in SHARES]
    bars = axes.barh(list(SHARES.values()), means, color=method_style("xprompt")[0], height=0.55)
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # the line of the goal passes behind a number
    axes.bar_label(bars, [f"{mean:.1f} %" for mean in means], padding=4, bbox=behind)
    axes.axvline(10, color="0.3", ls="--", lw=1.2, label="goal for training: 10 %")
    axes.legend(loc="lower right")
    axes.set_xlim(0, max(35, 1.25 * max(means)))
    axes.invert_yaxis()
    axes.set_xlabel("halving's examples and time (% of the grid's)")
    axes.set_title("Cost")


def _draw_map(axes: Axes, details: Mapping[str, Any], limits: tuple[float, float]) -> None:
    table = pd.DataFrame(details["candidates"])
    table["points"] = 100 * table["selection_score"]
    grid = table.pivot_table(index="token_ratio", columns="piece_ratio", values="points")
    sns.heatmap(
        grid, ax=axes, cmap="viridis", vmin=limits[0], vmax=limits[1], annot=True, fmt=".0f", annot_kws={"size": 8},
        cbar_kws={"label": "best selection score (points)"},
    )  # fmt: skip
    last = table["last_step"].max()
    for _, row in table.iterrows():
        at = (list(grid.columns).index(row["piece_ratio"]) + 0.5, list(grid.index).index(row["token_ratio"]) + 0.5)
        if row["last_step"] < last:
            axes.plot(at[0] + 0.33, at[1] - 0.3, ".", color="white", ms=4)
        if (row["token_ratio"], row["piece_ratio"]) == (details["token_ratio"], details["piece_ratio"]):
            corner = (at[0] - 0.5, at[1] - 0.5)
            for colour, width in (("white", 6), ("black", 2.5)):
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=colour, lw=width, clip_on=False))
    axes.set_xlabel("piece prune ratio")
    axes.set_ylabel("token prune ratio")
