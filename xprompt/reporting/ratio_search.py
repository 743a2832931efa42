"""What the cheaper searches over the prune ratios cost and lose, compared with the full grid: rows, table, figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from xprompt.errors import ConfigError
from xprompt.reporting import wording
from xprompt.reporting.by_seed import over_seeds
from xprompt.reporting.figures import method_style
from xprompt.reporting.rows import AVERAGE

REGRETS = {"selection_regret": "on the selection split", "validation_regret": "on validation"}
SHARES = {"trained_share": "trained", "evaluated_share": "evaluated", "seconds_share": "time"}
#: The searches that are compared with the grid, and how a sentence names them.
SEARCHES = {"halving": "Halving", "race": "The race"}


def pair_searches(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row for each cheaper search of a task and seed that has a grid run over the same ratio pairs too.

    Columns: profile, backbone, task, seed, search ("halving" or "race"), candidates (different masks), the grid's and
    the search's selection and validation score in points, the regrets (grid − search: positive where the grid is
    better), the search's shares of the grid's cost in percent, its time in percent of that of the prompt tuning which
    both start from, the seconds of grid and search (importance and the last evaluation included, prompt tuning not),
    and the names of the runs.

    Raises `ConfigError` where no task and seed has both.
    """
    by_key: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for record in records:
        search = record["details"].get("search", {})
        if record["method"] == "xprompt" and search:
            ratios = tuple((c["token_ratio"], c["piece_ratio"]) for c in record["details"]["candidates"])
            key = (record["profile"], record["backbone"], record["task"], record["seed"], ratios)
            by_key.setdefault(key, {})[search["strategy"]] = record
    rows = [
        {"profile": profile, "backbone": backbone, "task": task, "seed": seed, "search": name}
        | _compare(by_strategy["grid"], by_strategy[name])
        for name in SEARCHES
        for (profile, backbone, task, seed, _), by_strategy in by_key.items()
        if {"grid", name} <= set(by_strategy)
    ]
    if not rows:
        raise ConfigError("no task and seed has both a grid run and a cheaper search: run the searches first.")
    return pd.DataFrame(rows)


def _compare(grid: Mapping[str, Any], search: Mapping[str, Any]) -> dict[str, Any]:
    """Return what one search found and cost beside the grid's run, as columns of `pair_searches`."""
    best_of_grid, best = (float(np.nanmax(_scores(run["details"]))) for run in (grid, search))
    costs, of_grid = (run["details"]["search"] | {"seconds": run["seconds"]["total"]} for run in (search, grid))
    tuning = search["seconds"]["with_prompt_tuning"] - search["seconds"]["total"]
    return {
        "candidates": of_grid["candidates"],
        "grid_selection": best_of_grid, "selection": best, "selection_regret": best_of_grid - best,
        "grid_validation": 100 * grid["score"], "validation": 100 * search["score"],
        "validation_regret": 100 * (grid["score"] - search["score"]),
        "trained_share": 100 * costs["trained_examples"] / of_grid["trained_examples"],
        "evaluated_share": 100 * costs["evaluated_examples"] / of_grid["evaluated_examples"],
        "seconds_share": 100 * costs["seconds"] / of_grid["seconds"],
        "tuning_share": 100 * costs["seconds"] / tuning if tuning else float("nan"),
        "grid_seconds": of_grid["seconds"], "seconds": costs["seconds"],
        "run": search["run"], "grid_run": grid["run"],
    }  # fmt: skip


def search_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per search and task, and for the average: validation scores, regrets, and the cost in percent."""
    names = ("grid_validation", "validation", *REGRETS, *SHARES, "tuning_share")
    lines = []
    for search, part in rows.groupby("search", sort=False):
        columns = {name: over_seeds(part, name) for name in names}
        for task in columns["validation_regret"]:
            line = {"search": search, "task": wording.task(task),
                    "grid's score": wording.cell(columns["grid_validation"][task]),
                    "its score": wording.cell(columns["validation"][task])}  # fmt: skip
            low, high = _range(part, task)
            line["regret on selection (lowest to highest)"] = (
                f"{wording.points(columns['selection_regret'][task].mean)} "
                f"({wording.points(low)} to {wording.points(high)})"
            )
            line["regret on validation"] = wording.cell(columns["validation_regret"][task])
            for name, what in SHARES.items():
                line[f"{what} (%)"] = f"{columns[name][task].mean:.1f}"
            line["of tuning's time (%)"] = f"{columns['tuning_share'][task].mean:.0f}"
            lines.append({**line, "seeds": str(columns["validation_regret"][task].n)})
    return pd.DataFrame(lines)


def _range(rows: pd.DataFrame, task: str) -> tuple[float, float]:
    """Return the lowest and the highest regret on the selection split of a task, or of each seed's mean over the tasks.

    That regret is 0 where a search finds the grid's pair, and above where not: an interval around its mean would reach
    below 0, where it cannot be.
    """
    part = rows if task == AVERAGE else rows[rows["task"] == task]
    by_seed = part.groupby("seed")["selection_regret"].mean()
    return by_seed.min(), by_seed.max()


def search_statements(rows: pd.DataFrame) -> list[str]:
    """Return each search's regrets and its cost as sentences: of the average, or of the task where there is one."""
    sentences = []
    for search, part in rows.groupby("search", sort=False):
        title = SEARCHES[str(search)]
        last = list(over_seeds(part, "validation_regret"))[-1]
        for name, where in REGRETS.items():
            regret = over_seeds(part, name)[last]
            low, high = _range(part, last) if name == "selection_regret" else (regret.low, regret.high)
            spread = f"95 % interval {wording.span(low, high)}"
            if name == "selection_regret":
                spread = f"{wording.points(low)} to {wording.points(high)} by seed"
            basis = f"{wording.task(last)}, {wording.seeds(regret.n)}{f', {spread}' * (regret.n > 1)}"
            sentences.append(f"{title}'s regret {where} is {wording.points(regret.mean)} points ({basis}).")
        trained, evaluated, seconds, tuning = (over_seeds(part, name)[last].mean for name in (*SHARES, "tuning_share"))
        sentences.append(
            f"{title} trains on {trained:.1f} % of the grid's examples, evaluates {evaluated:.1f} % as many, and takes "
            f"{seconds:.1f} % of its time, {tuning:.0f} % of that of the prompt tuning it starts from."
        )
    return sentences


def search_figure(rows: pd.DataFrame, records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw regret and cost of each search, and of the first task and seed every candidate's best selection score.

    Args:
        rows: of `pair_searches`.
        records: the run records that the rows come from.

    In the maps a frame marks the chosen ratio pair, a dot a candidate that was stopped early, and an empty field one
    that a race dropped before it was trained. They share one scale.
    """
    searches = list(dict.fromkeys(rows["search"]))
    maps = ["grid", *searches]
    figure = Figure(figsize=(4.8 * len(maps) + 3.4 * (len(maps) < 3), 8.2), layout="constrained")
    wide = [["regret"] * len(maps) + ["cost"] * len(maps), [name for name in maps for _ in range(2)]]
    panels = figure.subplot_mosaic(wide)
    _draw_regret(panels["regret"], rows)
    _draw_cost(panels["cost"], rows)
    by_run = {record["run"]: record["details"] for record in records}
    first = rows[(rows["task"] == rows.iloc[0]["task"]) & (rows["seed"] == rows.iloc[0]["seed"])].set_index("search")
    details = {"grid": by_run[first.iloc[0]["grid_run"]]} | {
        name: by_run[first.loc[name, "run"]] for name in first.index
    }
    scores = [score for found in details.values() for score in _scores(found)]
    for name, found in details.items():
        _draw_map(panels[name], found, Normalize(np.nanmin(scores), np.nanmax(scores)))
        panels[name].set_title(f"{name}: {wording.task(rows.iloc[0]['task'])}, seed {rows.iloc[0]['seed']}")
    colours = ScalarMappable(panels["grid"].collections[0].norm, panels["grid"].collections[0].cmap)
    figure.colorbar(colours, ax=[panels[name] for name in details], label="best selection score (points)", pad=0.01)
    return figure


def _scores(details: Mapping[str, Any]) -> list[float]:
    """Return every candidate's selection score in points; NaN where a race dropped it."""
    scores = [candidate["selection_score"] for candidate in details["candidates"]]
    return [float("nan") if score is None else 100 * score for score in scores]


def _draw_regret(axes: Axes, rows: pd.DataFrame) -> None:
    drawn = [(search, name) for search in dict.fromkeys(rows["search"]) for name in REGRETS]
    tasks = list(over_seeds(rows, "validation_regret"))
    for place, (search, name) in enumerate(drawn):
        part = rows[rows["search"] == search]
        colour, marker = _colour(search), "so"[name == "validation_regret"]
        for task, regret in over_seeds(part, name).items():
            y = tasks.index(task) + 0.7 * ((place + 0.5) / len(drawn) - 0.5)
            single = part[part["task"] == task][name] if task != AVERAGE else part.groupby("seed")[name].mean()
            axes.scatter(single, np.full(len(single), y + 0.06), s=12, color=colour, alpha=0.4, linewidths=0)
            low, high = _range(part, task) if name == "selection_regret" else (regret.low, regret.high)
            error = None if regret.n < 2 else [[regret.mean - low], [high - regret.mean]]
            label = f"{search}, {REGRETS[name]}" if task == tasks[0] else None
            filled = colour if name == "validation_regret" else "white"
            axes.errorbar(regret.mean, y, xerr=error, fmt=marker, color=colour, mfc=filled, capsize=3, label=label)
    axes.axvline(0, color="0.3", lw=1)
    axes.set_yticks(range(len(tasks)), [wording.task(task) for task in tasks])
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlabel("regret: grid − search (points; right of 0 the grid is better)")
    num_seeds = rows["seed"].nunique()
    over = f"means over {num_seeds} seeds; dots: single seeds" if num_seeds > 1 else "a single seed"
    axes.set_title(f"Regret, {over}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, frameon=False)


def _draw_cost(axes: Axes, rows: pd.DataFrame) -> None:
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # the line of the goal passes behind a number
    by_search = rows.groupby("search", sort=False)[list(SHARES)].mean()
    height = 0.75 / len(by_search)
    for place, search in enumerate(map(str, by_search.index)):
        means = by_search.loc[search]
        at = np.arange(len(SHARES)) + height * (place + 0.5 - len(by_search) / 2)
        bars = axes.barh(at, means, color=_colour(search), height=0.92 * height, label=search)
        axes.bar_label(bars, [f"{mean:.1f} %" for mean in means], padding=4, bbox=behind)
    axes.axvline(10, color="0.3", ls="--", lw=1.2, label="goal: 10 %")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, frameon=False)
    axes.set_yticks(range(len(SHARES)), list(SHARES.values()))
    axes.set_xlim(0, max(35, 1.25 * by_search.to_numpy().max()))
    axes.invert_yaxis()
    axes.set_xlabel("examples and time (% of the grid's)")
    axes.set_title("Cost")


def _colour(search: str) -> Any:
    """Return a search's colour: the last of them has XPrompt's."""
    return method_style("xprompt")[0] if search == "race" else sns.color_palette("colorblind")[1]


def _draw_map(axes: Axes, details: Mapping[str, Any], norm: Normalize) -> None:
    table = pd.DataFrame(details["candidates"])
    table["points"] = _scores(details)
    grid = table.pivot_table(index="token_ratio", columns="piece_ratio", values="points", dropna=False)
    many = max(grid.shape) > 5
    sns.heatmap(grid, ax=axes, cmap="viridis", norm=norm, annot=True, fmt=".0f", annot_kws={"size": 7 if many else 8},
                cbar=False)  # fmt: skip
    last = table["last_step"].max()
    for _, row in table.iterrows():
        at = (list(grid.columns).index(row["piece_ratio"]) + 0.5, list(grid.index).index(row["token_ratio"]) + 0.5)
        if row["last_step"] < last and not np.isnan(row["points"]):
            axes.plot(at[0] + 0.34, at[1] - 0.33, "o", mfc="white", mec="black", mew=0.6, ms=2.5 if many else 4)
        if (row["token_ratio"], row["piece_ratio"]) == (details["token_ratio"], details["piece_ratio"]):
            corner = (at[0] - 0.5, at[1] - 0.5)
            for colour, width in (("white", 4 if many else 6), ("black", 1.8 if many else 2.5)):
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=colour, lw=width, clip_on=False))
    axes.grid(visible=False)  # its lines would cross the empty fields
    axes.set_xlabel("piece prune ratio")
    axes.set_ylabel("token prune ratio")
