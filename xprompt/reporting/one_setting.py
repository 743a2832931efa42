"""Tab 5, Tab 6: runs that differ in one setting, such as the prompt's length or its initial values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from xprompt.config.run_config import RunConfig
from xprompt.errors import ConfigError, shown
from xprompt.reporting import wording
from xprompt.reporting.by_seed import gap_cell
from xprompt.reporting.figures import method_styles
from xprompt.reporting.panels import legend, line, name_left, panels
from xprompt.reporting.rows import AVERAGE, methods_in, tasks_in, tidy, whole
from xprompt.reporting.statistics import Interval, differences, interval, weakest, with_average
from xprompt.runs.grid import grid

#: Initialiser → how tables and figures name it.
INITIALISERS = {
    "vocab": "sampled words", "common": "common words", "labels": "label words", "uniform": "uniform",
    "first": "first rows",
}  # fmt: skip


def named(value: str) -> str:
    """Return a value of a setting as people read it: an initialiser by its title, any other as it is."""
    return INITIALISERS.get(value, value)


def setting_configs(
    profile: str, tasks: Any, methods: Sequence[str], seeds: Any, name: str, values: Sequence[Any], **choices: Any
) -> list[RunConfig]:
    """Return a grid of runs for every value of one setting.

    Args:
        name: a field of `RunConfig`, such as "length" or "init".
        values: different ones; the profile's own makes the runs of the main results.
        choices: as of `grid`.

    Raises `ConfigError` where there are no values, or one twice, and as `grid`.
    """
    if not values or len(set(values)) < len(values):
        raise ConfigError(f"{name} {shown(list(values))}: give one or more different values.")
    return [config for value in values for config in grid(profile, tasks, methods, seeds, **choices, **{name: value})]


def setting_rows(records: Iterable[Mapping[str, Any]], name: str) -> pd.DataFrame:
    """Return tidy rows with a column `setting`, the value as text, and the average of each value as task "average"."""
    records = list(records)
    values = {record["run"]: str(record["config"][name]) for record in records}
    rows = tidy(records)
    parts = [
        with_average(part).assign(setting=value) for value, part in rows.groupby(rows["run"].map(values), sort=False)
    ]
    return pd.concat(parts, ignore_index=True)


def setting_gaps(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return what every other value is above the reference, paired by seed, per method and task.

    Returns the columns of `differences` with values of the setting as a and b, and the column `method`.
    """
    pairs = [(value, reference) for value in rows["setting"].unique() if value != reference]
    of_tasks = rows[rows["task"] != AVERAGE]
    found = [
        differences(part.assign(method=part["setting"]).drop(columns="setting"), pairs).assign(method=method)
        for method, part in of_tasks.groupby("method", sort=False)
    ]
    return pd.concat(found, ignore_index=True)


def setting_table(rows: pd.DataFrame, reference: str, label: str) -> pd.DataFrame:
    """Return a row per method and value: the score by task and on average, and what it is above the reference's.

    Args:
        rows: as `setting_rows` returns them.
        reference: the value that others are compared with.
        label: the setting's name as people read it.
    """
    gaps, tasks, judged, lines = setting_gaps(rows, reference), tasks_in(rows), whole(rows), []
    for method in methods_in(rows):
        of_method = gaps[gaps["method"] == method]
        for value in rows["setting"].unique():
            part = rows[(rows["method"] == method) & (rows["setting"] == value)]
            line: dict[str, str] = {"method": wording.method(method), label: named(value)}
            for task in tasks:
                scores = part[part["task"] == task]["value"].to_numpy()
                line[wording.task(task)] = wording.cell(interval(scores)) if scores.size else ""
            line[f"{wording.task(judged)} − {named(reference)}"] = gap_cell(of_method, value, reference, judged)
            lines.append({**line, "paper": "", "seeds": str(part["seed"].nunique())})
    return pd.DataFrame(lines)


def setting_statements(rows: pd.DataFrame, reference: str, label: str) -> list[str]:
    """Say for each method which value is best on average, and which differ significantly from the reference.

    Args:
        rows, reference: as of `setting_table`.
        label: what a number counts, such as "tokens"; what is no number stands alone.
    """
    gaps, judged, sentences = setting_gaps(rows, reference), whole(rows), []
    for method in methods_in(rows):
        part = rows[(rows["method"] == method) & (rows["task"] == judged)]
        means = part.groupby("setting", sort=False)["value"].mean()
        of_method = gaps[(gaps["method"] == method) & (gaps["task"] == judged)]
        differ = [
            f"{row['verdict']} with {_counted(row['a'], label)} ({wording.points(row['mean'], signed=True)}, "
            f"95 % interval {wording.span(row['low'], row['high'])})"
            for row in of_method.to_dict("records")
            if row["verdict"] in ("above", "below")
        ]
        seeds, name = part["seed"].nunique(), wording.method(method)
        winner = str(means.idxmax())
        if len(means) < 2:
            sentences.append(
                f"{name[0].upper()}{name[1:]}: {wording.points(means.max())} points with {_counted(winner, label)} "
                f"({wording.task(judged)}, {wording.seeds(seeds)}), compared with no other."
            )
            continue
        other = "the others" if winner == reference and not differ else _counted(reference, label)
        against = f"against {other}, " + (
            "one seed decides nothing" if seeds < 2 else "; ".join(differ) or "no significant difference"
        )
        best = f"{_counted(winner, label)}, {wording.points(means.max())} points"
        sentences.append(
            f"{name[0].upper()}{name[1:]}: best with {best} ({wording.task(judged)}, {wording.seeds(seeds)}); "
            f"{against}."
        )
    return sentences


def _counted(value: str, label: str) -> str:
    return f"{value} {label}" if value.isdecimal() else named(value)


def setting_figure(rows: pd.DataFrame, label: str) -> Figure:
    """Draw the score at every value, a panel for each task and the average, each method in its colour.

    Dots are runs, bars 95 % intervals over seeds. Numbers stand on a log axis and are joined by a line; words are not.

    Args:
        rows: as `setting_rows` returns them; values as they come.
        label: the setting's name as people read it.
    """
    values = list(rows["setting"].unique())
    numbers = all(value.isdecimal() for value in values)
    placed = rows.assign(place=rows["setting"].map(int if numbers else values.index))
    tasks, styles = tasks_in(rows), method_styles(methods_in(rows))
    figure, axes = panels(len(tasks), max(2.9, 0.75 * len(values)), 3.0)
    for panel, task in zip(axes, tasks, strict=True):
        if numbers:
            panel.set_xscale("log")
        for number, (method, (colour, marker)) in enumerate(styles.items()):
            part = placed[(placed["task"] == task) & (placed["method"] == method)]
            shift = 9 * (number - (len(styles) - 1) / 2)
            line(panel, part, "place", "value", colour, marker, wording.method(method), shift, numbers, (0, 100))
        places = sorted(placed["place"].unique())
        panel.set_xticks(places, places if numbers else [named(value).replace(" ", "\n") for value in values])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlim(*((places[0] / 1.4, places[-1] * 1.4) if numbers else (-0.4, len(values) - 0.6)))
        panel.set(title=wording.task(task), xlabel=label)
        panel.grid(False, axis="x")
    name_left(axes, "score on validation (points)")
    legend(figure, axes[0])
    return figure


def above_all(rows: pd.DataFrame, value: str) -> Interval | None:
    """Return the difference that decides whether a value is above every other on average; None where there is no other.

    Args:
        rows: of one method, as `setting_rows` returns them. A value that gives the same runs is no other: "common" of a
            vocabulary that has no more than 5,000 words is "vocab".
    """
    gaps = setting_gaps(rows, value)
    others = gaps[(gaps["task"] == whole(rows)) & ((gaps["low"] != 0) | (gaps["high"] != 0))]
    if others.empty:
        return None
    return weakest(others.assign(mean=-others["mean"], low=-others["high"], high=-others["low"]))
