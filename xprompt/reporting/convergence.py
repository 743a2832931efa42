"""Whether prompts were tuned until they stopped improving: runs of several budgets, what each doubling adds, a figure.

A budget is converged when doubling it moves the mean over the tasks by less than half a point, with the whole interval
over seeds. And what XPrompt's time gives where it is spent on longer tuning.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.figure import Figure

from xprompt.config.profiles import get_profile
from xprompt.config.run_config import RunConfig
from xprompt.errors import ConfigError
from xprompt.nano.untaught import needs_untaught
from xprompt.reporting import wording
from xprompt.reporting.by_seed import gap_cell, over_seeds, overall
from xprompt.reporting.panels import DISTINCT, beside
from xprompt.reporting.resampling import drawn_scores
from xprompt.reporting.rows import AVERAGE, tasks_in, tidy, whole
from xprompt.reporting.statistics import Interval, differences, interval, with_average
from xprompt.runs.grid import grid, quick_settings

CONVERGED = 0.5
"""Points that the mean over the tasks may move with twice the budget."""


def budget_configs(
    profile: str, tasks: Sequence[str], seeds: Sequence[int], budgets: Sequence[float], **choices: Any
) -> list[RunConfig]:
    """Return a prompt-tuning run for each task, seed and budget; budget 1 is the profile's own run.

    Args:
        budgets: multiples of the profile's tuning steps, each above 0; evaluations come as often in proportion.
        choices: as of `grid`.

    Raises `ConfigError` where a budget is no step at all, or the profile counts in epochs.
    """
    tune = quick_settings(profile)["tune"] if choices.get("quick") else get_profile(profile).tune
    if tune.steps is None:
        raise ConfigError(f"profile {profile} tunes for {tune.epochs} epochs; budgets are multiples of `tune.steps`.")
    if not budgets or min(budgets) * tune.steps < 1:
        raise ConfigError(
            f"budgets {list(budgets)}: they are factors of the profile's {tune.steps} steps of tuning, and each must "
            f"leave one step or more: {1 / tune.steps:.2g} at least."
        )
    return [
        config
        for settings in map(tune.scaled, budgets)
        for config in grid(profile, tasks, ["prompt_tuning"], seeds, ["held_out"], tune=settings, **choices)
    ]


def budget_rows(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return tidy rows in points, with a column `steps`, the optimiser steps each prompt was tuned for."""
    records = list(records)
    steps = {record["run"]: record["config"]["tune"]["steps"] for record in records}
    rows = tidy(records)
    return rows.assign(steps=rows["run"].map(steps))


def doublings(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what the larger of two neighbouring budgets adds, paired by seed, per task and for the average.

    Args:
        rows: as `budget_rows` makes them.

    Returns columns task, before, after (steps), mean, low, high (points), n (seeds), and `converged`: of the average,
    or of the one task there is, whether a doubling moves it by less than `CONVERGED` points, "yes" or "no" where the
    whole interval says so, else "not shown". One seed, and the same difference at every seed, show nothing.
    """
    budgets = sorted(rows["steps"].unique())
    as_methods = _by_steps(rows)
    pairs = [(str(after), str(before)) for before, after in zip(budgets, budgets[1:], strict=False)]
    gaps = differences(as_methods, pairs)
    table = gaps.assign(before=gaps["b"].astype(int), after=gaps["a"].astype(int))
    low, high = table["low"], table["high"]
    within = (low > -CONVERGED) & (high < CONVERGED)
    outside = (low > CONVERGED) | (high < -CONVERGED)
    doubled = (table["task"] == whole(table)) & (table["after"] >= 2 * table["before"])
    table["converged"] = np.select(
        [~doubled, ~(low < high), within, outside], ["", "not shown", "yes", "no"], "not shown"
    )  # fmt: skip
    return table[["task", "before", "after", "mean", "low", "high", "n", "converged"]]


def doublings_table(gaps: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `doublings` as they are read: task by task, and for all together whether they converged."""
    return pd.DataFrame(
        {
            "task": wording.task(gap["task"]),
            "steps": f"{gap['before']} → {gap['after']}",
            "adds": _moved(gap),
            "seeds": gap["n"],
            "converged": gap["converged"],
        }
        for gap in gaps.to_dict("records")
    )


def _by_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """Put the budget in the place of the method, which is the same in all rows."""
    return rows.assign(method=rows["steps"].astype(str)).drop(columns="steps")


def _moved(gap: Mapping[Any, Any]) -> str:
    """What a row of `doublings` adds, with its interval."""
    return wording.with_span(Interval(gap["mean"], gap["low"], gap["high"], gap["n"]), signed=True)


def convergence_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per budget: each task's mean ± half the 95 % interval, the average, what the next budget adds."""
    scores = with_average(_by_steps(rows))
    gaps = doublings(rows)
    lines = []
    for steps in sorted(rows["steps"].unique()):
        line = {"steps": str(steps)}
        for task in tasks_in(scores):
            values = scores[(scores["method"] == str(steps)) & (scores["task"] == task)]["value"].to_numpy()
            line[wording.task(task)] = wording.cell(interval(values)) if values.size else ""
        gap = gaps[(gaps["before"] == steps) & (gaps["task"] == whole(gaps))].to_dict("records")
        seeds = str(rows[rows["steps"] == steps]["seed"].nunique())
        lines.append({**line, "the next budget adds": _moved(gap[0]) if gap else "", "seeds": seeds})
    return pd.DataFrame(lines)


def taught_rows(records: Iterable[Mapping[str, Any]], splits: Mapping[str, Any]) -> pd.DataFrame:
    """Return the scores of `budget_rows` on two parts of validation: what needs nothing that pretraining left out.

    Args:
        records: of prompt tuning, as for `budget_rows`, with predictions.
        splits: task → the split that its runs report on.

    Returns a column `examples` besides, "taught" or "not taught"; no row where the examples are not those of nano.
    """
    records = [record for record in records if record["source"] == "nano" and record["task"] in splits]
    weights = {}
    for task in {record["task"] for record in records}:
        needs = pd.Series([needs_untaught(task, example.fields) for example in splits[task].examples])
        whole_question = needs.groupby(list(splits[task].groups)).transform("any").to_numpy()
        weights[task] = np.stack([~whole_question, whole_question])  # (2, N)
    scores = {r["run"]: drawn_scores(splits[r["task"]], r["predictions"], weights[r["task"]]) for r in records}
    rows = budget_rows(records)
    rows = rows[rows["metric"] == "score"]
    parts = [
        rows.assign(value=[scores[run][part] for run in rows["run"]], examples=name)
        for part, name in enumerate(("taught", "not taught"))
    ]
    return pd.concat(parts, ignore_index=True)


def taught_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `convergence_table` for each part of `taught_rows`."""
    tables = []
    for name, part in rows.groupby("examples", sort=False):
        tables.append(convergence_table(part.drop(columns="examples")))
        tables[-1].insert(0, "examples", name)
    return pd.concat(tables, ignore_index=True)


def taught_statement(rows: pd.DataFrame) -> str:
    """Say what the last budget adds to each part of `taught_rows`, on average or on the one task there is."""
    budgets = [str(steps) for steps in sorted(rows["steps"].unique())]
    if len(budgets) < 2:
        return "With one budget nothing is said of what more steps add: give two or more."
    before, after = budgets[-2:]
    said = []
    for name, part in rows.groupby("examples", sort=False):
        gaps = differences(_by_steps(part.drop(columns="examples")), [(after, before)])
        said.append(f"{gap_cell(gaps, after, before, whole(gaps))} points on what was {name} in pretraining")
    return f"From {before} to {after} steps prompts gain {', and '.join(said)}."


def statement(rows: pd.DataFrame) -> str:
    """Say in one sentence from which budget on no doubling moves the mean, or that none is shown to be converged."""
    gaps = doublings(rows)
    judged = gaps[gaps["converged"] != ""]
    if judged.empty:
        return "No budget is twice the one before it: nothing can be said about convergence."
    what = "the mean over the tasks" if whole(gaps) == AVERAGE else wording.task(whole(gaps))
    still_moved = judged.loc[judged["converged"] == "no", "after"].max()  # NaN, below which nothing is, where none
    good = judged[(judged["converged"] == "yes") & ~(judged["before"] < still_moved)]
    if good.empty:
        last: Any = judged.to_dict("records")[-1]
        return (
            f"No budget is shown to be converged: from {last['before']} to {last['after']} steps {what} moves by "
            f"{_moved(last)} points ({wording.seeds(last['n'])}); scores speak of a budget."
        )
    first: Any = good.to_dict("records")[0]
    return (
        f"Converged from {first['before']} steps on: from there to {first['after']} {what} moves by {_moved(first)} "
        f"points ({wording.seeds(first['n'])})."
    )


def budget_curves(rows: pd.DataFrame) -> Figure:
    """Draw the score against the tuning budget on a log axis: each task, its seeds as dots, the average.

    The band is the 95 % interval over seeds of the average, or of the one task there is; the legend says so.
    """
    scores = with_average(_by_steps(rows))
    scores["steps"] = scores["method"].astype(int)
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    tasks = tasks_in(scores)
    budgets = sorted(scores["steps"].unique())
    axes.set_xscale("log", base=2)
    axes.set_xlim(budgets[0] / 1.12, budgets[-1] * 1.12)  # room for dots that stand beside the first and the last
    for place, (task, colour) in enumerate(zip(tasks, itertools.cycle(DISTINCT))):
        part = scores[scores["task"] == task]
        means = part.groupby("steps")["value"].mean()
        judged = task == AVERAGE or len(tasks) == 1
        colour = "black" if task == AVERAGE else colour
        axes.plot(means.index, means, "-o", color=colour, ms=4, lw=2.4 if judged else 1.3, label=wording.task(task))
        if task != AVERAGE:
            side = (1, -1)[place % 2] * (5 + 4 * (place // 2))  # each task's dots by themselves
            axes.scatter(part["steps"], part["value"], s=10, color=[colour], alpha=0.5, linewidths=0,
                         transform=beside(axes, side))  # fmt: skip
        spans = [interval(part[part["steps"] == steps]["value"].to_numpy()).within(0, 100) for steps in means.index]
        if judged and all(span.n > 1 for span in spans):
            label = "95 % interval" + (" of the average" if task == AVERAGE else " over seeds")
            axes.fill_between(means.index, [s.low for s in spans], [s.high for s in spans], color=colour, alpha=0.18,
                              lw=0, label=label)  # fmt: skip
    axes.set_xticks(budgets)
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.set(xlabel="tuning steps", ylabel="score on validation (points)")
    figure.legend(loc="outside right center", frameon=False, fontsize=10)
    return figure


def longer_rows(records: Iterable[Mapping[str, Any]], pruned: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row for each task, seed and tuning budget: what XPrompt has over prompt tuning of that budget.

    Args:
        records: of prompt tuning, as for `budget_rows`.
        pruned: of XPrompt, which starts from prompts of one budget.

    Columns: task, seed, steps, difference (XPrompt minus prompt tuning, points), seconds of the prompt tuning, and
    xprompt_seconds, its own prompt tuning included; run and xprompt_run.
    """
    found = {(record["task"], record["seed"]): record for record in pruned}
    lines = []
    for record in records:
        if other := found.get((record["task"], record["seed"])):
            lines.append(
                {
                    "task": record["task"], "seed": record["seed"], "steps": record["config"]["tune"]["steps"],
                    "difference": 100 * (other["score"] - record["score"]),
                    "seconds": record["seconds"]["with_prompt_tuning"],
                    "xprompt_seconds": other["seconds"]["with_prompt_tuning"],
                    "run": record["run"], "xprompt_run": other["run"],
                }
            )  # fmt: skip
    return pd.DataFrame(lines)


def longer_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each budget of `longer_rows`: seconds of a run, and XPrompt's differences by task."""
    lines = []
    for steps, part in rows.groupby("steps"):
        gaps = {
            wording.task(task): wording.with_span(gap, signed=True)
            for task, gap in over_seeds(part, "difference").items()
        }
        times = {
            "seconds": f"{part['seconds'].mean():.0f}",
            "seconds of XPrompt": f"{part['xprompt_seconds'].mean():.0f}",
        }
        lines.append({"steps": str(steps), **times, **gaps, "seeds": str(part["seed"].nunique())})
    return pd.DataFrame(lines)


def longer_statement(rows: pd.DataFrame) -> str:
    """Say what XPrompt has over prompt tuning of the budget that takes most nearly as long."""
    apart = rows.assign(apart=(rows["seconds"] / rows["xprompt_seconds"]).map(math.log).abs())
    steps = apart.groupby("steps")["apart"].mean().idxmin()
    part = rows[rows["steps"] == steps]
    return (
        f"XPrompt takes {part['xprompt_seconds'].mean():.0f} s a run with the prompt tuning it starts from, prompt "
        f"tuning of {steps} steps {part['seconds'].mean():.0f} s: XPrompt minus that is "
        f"{wording.with_span(overall(part, 'difference'), signed=True)} points "
        f"({wording.seeds(part['seed'].nunique())})."
    )
