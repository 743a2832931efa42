"""Fig 5, Tab 4: variants of one method compared: controls, levels, or runs that differ in one setting of pruning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xprompt.config.run_config import RunConfig
from xprompt.errors import ConfigError, shown
from xprompt.reporting import tables, wording
from xprompt.reporting.by_seed import gap_cell
from xprompt.reporting.figures import method_styles
from xprompt.reporting.forest import draw_difference, seed_gaps
from xprompt.reporting.panels import panels
from xprompt.reporting.rows import AVERAGE, methods_in, tasks_in, tidy
from xprompt.reporting.statistics import corrected, differences, with_average
from xprompt.runs.grid import grid

#: Fig 5's comparisons (a, b), each the difference a − b, and Tab 4's.
CONTROL_PAIRS = tuple(
    ("xprompt", other)
    for other in (
        "prompt_tuning", "prompt_tuning_matched", "xprompt_random", "prompt_tuning_length", "xprompt_reversed"
    )
)  # fmt: skip
LEVEL_PAIRS = (
    ("xprompt", "xprompt_token"), ("xprompt", "xprompt_piece"), ("xprompt_token", "prompt_tuning"),
    ("xprompt_piece", "prompt_tuning"), ("xprompt", "prompt_tuning"),
)  # fmt: skip


def draw_configs(
    profile: str, tasks: Any, methods: Sequence[str], seeds: Any, draws: int, **choices: Any
) -> list[RunConfig]:
    """Return a grid of runs in which the random mask has `draws` runs for each task and seed.

    Args:
        draws: ≥ 1; the first is the run of any other report.
        choices: as of `grid`.

    Raises `ConfigError` where there is no draw, and as `grid`.
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise ConfigError(f"draws {shown(draws)}: give how many random masks for each task and seed, 1 or more.")
    configs = grid(profile, tasks, methods, seeds, **choices)
    for draw in range(1, draws) if "xprompt_random" in methods else ():
        prune = configs[0].prune.replace(draw=draw)
        configs += grid(profile, tasks, ["xprompt_random"], seeds, **{**choices, "prune": prune})
    return configs


def over_draws(rows: pd.DataFrame) -> pd.DataFrame:
    """Return tidy rows with one for each task, method, seed and metric: the mean where there were several draws."""
    keys = [name for name in rows.columns if name not in ("value", "num_params", "run")]
    means = rows.groupby(keys, as_index=False, sort=False).agg(
        value=("value", "mean"), num_params=("num_params", "mean"), run=("run", "first")
    )
    return means[list(rows.columns)]


def by_setting(records: Iterable[Mapping[str, Any]], name: str, titles: Mapping[Any, str]) -> pd.DataFrame:
    """Return tidy rows whose column `method` is the value of one setting of pruning, by its title.

    Args:
        name: a field of `PruneSettings`.
        titles: value → title; records with another value are left out.
    """
    records = list(records)
    values = {record["run"]: record["config"]["prune"].get(name, False) for record in records}
    rows = tidy(record for record in records if values[record["run"]] in titles)
    return rows.assign(method=[titles[values[run]] for run in rows["run"]])


def variant_table(rows: pd.DataFrame, pairs: Sequence[tuple[str, str]] = ()) -> pd.DataFrame:
    """Return a row a task and the average, a column a variant, then the difference of each pair with its interval.

    Args:
        rows: tidy rows of one profile and protocol; several draws count by their mean.
    """
    means = over_draws(rows)
    gaps = differences(means, pairs)
    table = tables.main_results(means, means["protocol"].iloc[0])
    tasks = tasks_in(with_average(means))
    for a, b in pairs:
        cells = [gap_cell(gaps, a, b, task) for task in tasks]
        table.insert(len(table.columns) - 1, f"{wording.method(a)} − {wording.method(b)}", cells)
    return table


def order_statement(rows: pd.DataFrame) -> str:
    """Name the variants from the best to the worst by their mean over the tasks."""
    scores = with_average(over_draws(rows))
    scores = scores[scores["task"] == tasks_in(scores)[-1]]
    means = scores.groupby("method")["value"].mean().sort_values(ascending=False)
    order = [f"{wording.method(str(name))} {wording.points(value)}" for name, value in means.items()]
    return f"From the best to the worst, by means over {wording.seeds(scores['seed'].nunique())}: {', '.join(order)}."


def candidate_statement(records: Iterable[Mapping[str, Any]]) -> str:
    """Say how many candidates each method chose among: the best of more looks better on the split that chooses."""
    counts: dict[str, set[int]] = {}
    for record in records:
        counts.setdefault(record["method"], set()).add(max(1, len(record["details"].get("candidates", []))))
    texts = [f"{wording.method(name)} {'/'.join(map(str, sorted(found)))}" for name, found in counts.items()]
    return f"Candidates that each choice was among, retrained or only scored: {', '.join(texts)}."


def variant_figure(rows: pd.DataFrame, reference: str) -> Figure:
    """Draw every variant's difference from one of them, a panel for each task and the average.

    Args:
        rows: tidy rows of one profile and protocol; of several draws each is a dot, and their mean counts.
        reference: a value of the column `method`.

    A mark is filled where the difference is left after Holm's correction over its panel; with one seed none is.
    """
    means = over_draws(rows)
    compared = [name for name in methods_in(rows) if name != reference]
    gaps = differences(means, [(name, reference) for name in compared])
    if gaps.empty:
        raise ConfigError(
            f"there is no task and seed with {wording.method(reference)} and another method: give both among the "
            "methods, with the same tasks and seeds."
        )
    gaps = corrected(gaps, "task")
    tasks, styles = tasks_in(gaps), method_styles(compared)
    names = [wording.method(name) for name in compared]
    figure, axes = panels(len(tasks), 2.4, 1.0 + 0.42 * len(compared), sharey=True, names=names)
    for panel, task in zip(axes, tasks, strict=True):
        panel.axvline(0, color="0.3", lw=1)
        for row in gaps[gaps["task"] == task].to_dict("records"):
            dots = seed_gaps(with_average(means) if task == AVERAGE else rows, row)
            draw_difference(panel, row, compared.index(row["a"]), styles[row["a"]], dots=dots)
        panel.set(title=wording.task(task))
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.grid(False, axis="y")
    axes[0].set_yticks(range(len(compared)), names)
    axes[0].set_ylim(len(compared) - 0.4, -0.6)
    figure.supxlabel(f"points over {wording.method(reference)}", fontsize="medium")
    return figure
