"""What pruning gives prompts that were tuned and retrained for less or more: runs, rows, table, verdict, figure.

Differs: the paper has one budget. Here each level may also prune nothing, so that pruning is a choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xprompt.config.run_config import RunConfig
from xprompt.errors import ConfigError, shown
from xprompt.reporting import wording
from xprompt.reporting.by_seed import overall
from xprompt.reporting.convergence import budget_configs
from xprompt.reporting.harm import rank_correlation
from xprompt.reporting.panels import line

METHODS = ("prompt_tuning", "leave_one_out", "xprompt", "prompt_tuning_matched")
_KEY = ["task", "seed", "steps"]


def study_configs(
    profile: str,
    tasks: Sequence[str],
    seeds: Sequence[int],
    budgets: Sequence[float],
    retrain_budgets: Sequence[float],
    **choices: Any,
) -> list[RunConfig]:
    """Return the runs of `METHODS` for each task, seed, tuning budget and, of the last two, retraining budget.

    Args:
        budgets: multiples of the profile's tuning steps, as of `convergence.budget_configs`.
        retrain_budgets: multiples of the profile's retraining steps, each above 0.
        choices: as of `grid`.

    Raises `ConfigError` as `budget_configs`, and where a retraining budget is no step at all.
    """
    tuned = budget_configs(profile, tasks, seeds, budgets, **choices)
    pruning, retune = tuned[0].prune, tuned[0].prune.retune
    if retune.steps is None:
        raise ConfigError(f"profile {profile} retrains for {retune.epochs} epochs; budgets are multiples of steps.")
    if not retrain_budgets or min(retrain_budgets) * retune.steps < 1:
        raise ConfigError(
            f"retrain_budgets {shown(list(retrain_budgets))}: they are factors of the profile's {retune.steps} steps "
            f"of retraining, and each must leave one step or more: {1 / retune.steps:.2g} at least."
        )
    prunings = [
        pruning.replace(
            token_ratios=_with_none(pruning.token_ratios), piece_ratios=_with_none(pruning.piece_ratios),
            retune=retune.scaled(times),
        )
        for times in retrain_budgets
    ]  # fmt: skip
    return [
        *tuned,
        *(config.replace(method="leave_one_out", prune=pruning.replace(level="token")) for config in tuned),
        *(
            config.replace(method=method, prune=prune)
            for method in METHODS[2:] for prune in prunings for config in tuned
        ),
    ]  # fmt: skip


def _with_none(ratios: Sequence[float]) -> tuple[float, ...]:
    return (0.0, *(ratio for ratio in ratios if ratio))


def study_rows(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row for each task, seed, tuning budget and retraining budget of which every method is there.

    Columns: task, seed, steps and retrain_steps; tuned, xprompt and matched (scores in points); over_tuned and
    over_matched (XPrompt's score less theirs); matched_over_tuned (the matched budget's less the tuned prompt's);
    pruned_nothing (percent: 100 where both chosen ratios are 0, else 0);
    negative and negative_by_score (prompt tokens without which the loss on validation is lower, and the score higher)
    and correlation (Spearman's, of importance with the change in loss without a token), all of the tuned prompt; runs.
    """
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for record in records:
        config = record["config"]
        retrained = record["method"] in METHODS[2:]
        retrain_steps = config["prune"]["retune"]["steps"] if retrained else None
        of = (record["method"], record["task"], record["seed"], config["tune"]["steps"], retrain_steps)
        found[of] = record
    lines = []
    for (method, task, seed, steps, retrain_steps), xprompt in found.items():
        if method != "xprompt":
            continue
        key = (task, seed, steps)
        tuned, left_out = found.get(("prompt_tuning", *key, None)), found.get(("leave_one_out", *key, None))
        matched = found.get(("prompt_tuning_matched", *key, retrain_steps))
        if tuned is None or left_out is None or matched is None:
            continue
        tokens = left_out["details"]["leave_one_out"]["token"]
        scores = {
            name: 100 * record["score"]
            for name, record in (("tuned", tuned), ("xprompt", xprompt), ("matched", matched))
        }
        nothing = xprompt["details"]["token_ratio"] == xprompt["details"]["piece_ratio"] == 0
        lines.append(
            {
                **dict(zip(_KEY, key, strict=True)), "retrain_steps": retrain_steps, **scores,
                "over_tuned": scores["xprompt"] - scores["tuned"],
                "over_matched": scores["xprompt"] - scores["matched"],
                "matched_over_tuned": scores["matched"] - scores["tuned"],
                "pruned_nothing": 100.0 * nothing,
                "negative": int((np.asarray(tokens["loss_change"]) < 0).sum()),
                "negative_by_score": int((np.asarray(tokens["score_change"]) > 0).sum()),
                "correlation": rank_correlation(tokens["importance"], tokens["loss_change"]),
                "runs": [record["run"] for record in (tuned, left_out, xprompt, matched)],
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


#: Column of `study_rows` → how the table names it, and its decimals.
_COLUMNS = {
    "tuned": ("prompt tuning", 1), "negative": ("tokens without which the loss is lower", 1),
    "negative_by_score": ("tokens without which the score is higher", 1),
    "correlation": ("rank correlation of importance and the loss without the token", 2), "xprompt": ("XPrompt", 1),
    "matched": ("matched budget", 1), "over_tuned": ("XPrompt − prompt tuning", 1),
    "over_matched": ("XPrompt − matched budget", 1), "matched_over_tuned": ("matched budget − prompt tuning", 1),
}  # fmt: skip


_GAPS = [name for name in _COLUMNS if "over_" in name]


def study_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each tuning and retraining budget: means over tasks with 95 % intervals over seeds."""
    lines = []
    for (steps, retrain_steps), part in rows.groupby(["steps", "retrain_steps"]):
        spans = {name: overall(part, name) for name in _COLUMNS}
        cells = {
            title: (
                wording.with_span(spans[name], digits, signed=True)
                if name in _GAPS
                else wording.cell(spans[name], digits)
            )
            for name, (title, digits) in _COLUMNS.items()
        }
        nothing = f"{(part['pruned_nothing'] > 0).sum()} of {len(part)} runs"
        lines.append({"tuned for": str(steps), "retrained for": str(retrain_steps), **cells,
                      "chose to prune nothing": nothing, "seeds": str(part["seed"].nunique())})  # fmt: skip
    return pd.DataFrame(lines)


def verdict(rows: pd.DataFrame) -> list[str]:
    """Say in three sentences what the longest tuning leaves of negative tokens, and of XPrompt's gain.

    With one tuning budget they say what it leaves, and nothing of a change.
    """
    shortest, longest = rows["steps"].min(), rows["steps"].max()
    after = rows["retrain_steps"].max()
    ends = [rows[(rows["steps"] == steps) & (rows["retrain_steps"] == after)] for steps in (shortest, longest)]
    by_loss, by_score = (
        [wording.with_span(overall(part, name).within(0, math.inf)) for part in ends]
        for name in ("negative", "negative_by_score")
    )
    first, last = (wording.with_span(overall(part, "over_tuned"), signed=True) for part in ends)
    fair = [overall(part, "over_matched") for part in ends]
    gains = [wording.with_span(span, signed=True) for span in fair]
    decided = {"above": "pruning helps", "below": "pruning harms", "one seed": "one seed does not decide"}
    said = [decided.get(span.verdict, "no significant difference") for span in fair]
    if shortest == longest:
        return [
            f"Without {by_loss[1]} tokens of a prompt tuned for {longest} steps the loss is lower, each left out "
            f"alone; without {by_score[1]} the score is higher.",
            f"Tuned for {longest} steps and retrained for {after}, XPrompt − prompt tuning is {last} points.",
            f"XPrompt − the matched budget, which prunes nothing, is {gains[1]} points ({said[1]}).",
        ]
    both = ends[0].merge(ends[1], on=["task", "seed"], suffixes=("_short", "_long"))

    def change(name: str) -> str:
        gap = both.assign(change=both[f"{name}_long"] - both[f"{name}_short"])
        return wording.with_span(overall(gap, "change"), signed=True)

    return [
        f"Without {by_loss[0]} tokens of a prompt tuned for {shortest} steps the loss is lower, each left out alone, "
        f"and without {by_loss[1]} of one tuned for {longest}, a change of {change('negative')}; by the score it is "
        f"{by_score[0]} and {by_score[1]}, {change('negative_by_score')}.",
        f"Retrained for {after} steps, XPrompt − prompt tuning is {first} points after {shortest} steps of tuning and "
        f"{last} after {longest}, a change of {change('over_tuned')}.",
        f"XPrompt − the matched budget, which prunes nothing, is {gains[0]} points after {shortest} steps of "
        f"tuning ({said[0]}) and {gains[1]} after {longest} ({said[1]}).",
    ]


def study_figure(rows: pd.DataFrame) -> Figure:
    """Draw score, negative tokens, rank correlation and differences of methods against the tuning budget on a log axis.

    Lines are means over tasks with 95 % intervals over seeds; dots are a task and seed each; colours are retraining
    budgets.
    """
    figure = Figure(figsize=(11, 7.2), layout="constrained")
    (score, negative, correlation), gaps = figure.subplots(2, 3)
    for axes in (score, negative, correlation, *gaps):
        _log_steps(axes, rows["steps"])
    for axes in gaps[1:]:
        axes.sharey(gaps[0])
    once, retrained = rows.drop_duplicates(_KEY), sorted(rows["retrain_steps"].unique())
    shifts = [9 * (place - len(retrained) / 2) for place in range(len(retrained) + 1)]  # points: no bar on another
    line(score, once, "steps", "tuned", "black", "o", "prompt tuning", shifts[0], possible=(0, 100))
    line(negative, once, "steps", "negative", "black", "o", "by the loss", -3, possible=(0, math.inf))
    line(negative, once, "steps", "negative_by_score", "0.55", "s", "by the score", 6, possible=(0, math.inf))
    negative.set_ylabel("negative tokens of a prompt")
    negative.legend(frameon=False)
    line(correlation, once, "steps", "correlation", "black", "o", "", possible=(-1, 1))
    correlation.set_ylabel("rank correlation of importance\nand the loss without the token")
    correlation.axhline(0, color="0.3", lw=1)
    colours = sns.color_palette("crest", len(retrained))
    for retrain_steps, colour, shift in zip(retrained, colours, shifts[1:], strict=True):
        part = rows[rows["retrain_steps"] == retrain_steps]
        name = f"XPrompt,\nretrained for {retrain_steps} steps"
        line(score, part, "steps", "xprompt", colour, "^", name, shift, possible=(0, 100))
        for axes, gap in zip(gaps, _GAPS, strict=True):
            line(axes, part, "steps", gap, colour, "^", "", shift - 4.5)
    for axes, gap in zip(gaps, _GAPS, strict=True):
        axes.axhline(0, color="0.3", lw=1)
        axes.set_ylabel(f"{_COLUMNS[gap][0]} (points)")
    score.set_ylabel("score (points)")
    score.legend(loc="lower right", frameon=False)
    return figure


def _log_steps(axes: Axes, steps: pd.Series) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlim(steps.min() / 1.3, steps.max() * 1.3)  # a bar that stands beside the last budget has room
    axes.xaxis.set_major_locator(ticker.FixedLocator(sorted(steps.unique())))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("steps of prompt tuning")
