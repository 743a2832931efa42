"""Whether importance predicts harm: the loss without each token and piece, and what ranks it; rows, table, figure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from xprompt.config.profiles import get_profile
from xprompt.config.run_config import RunConfig
from xprompt.reporting import wording
from xprompt.reporting.by_seed import over_seeds, overall
from xprompt.reporting.convergence import budget_configs
from xprompt.reporting.panels import DISTINCT, legend
from xprompt.reporting.rows import tasks_in
from xprompt.reporting.saliency import LEVELS
from xprompt.runs.grid import grid, quick_settings

Record = Mapping[str, Any]
#: Predictor → how tables and figures name it.
PREDICTORS = {
    "importance": "importance", "first_order": "signed first order", "magnitude": "magnitude", "random": "random"
}  # fmt: skip


def harm_configs(
    profile: str, tasks: Any, seeds: Any, budgets: Sequence[float], *, quick: bool = False, **choices: Any
) -> list[RunConfig]:
    """Return a run of method `leave_one_out` for each task, seed and tuning budget.

    Args:
        budgets: multiples of the profile's tuning; the prompts are those of the report on convergence.
        choices: as of `grid`.

    Raises `ConfigError` as `grid`, and where a budget is not above 0.
    """
    settings = quick_settings(profile)["tune"] if quick else get_profile(profile).tune
    if settings.epochs is None:
        tuned = budget_configs(profile, tasks, seeds, budgets, quick=quick, **choices)
        return [config.replace(method="leave_one_out") for config in tuned]
    return [
        config
        for tune in map(settings.scaled, budgets)
        for config in grid(profile, tasks, ["leave_one_out"], seeds, quick=quick, **choices, tune=tune)
    ]


def harm_rows(records: Iterable[Record]) -> pd.DataFrame:
    """Return a row for each run of method `leave_one_out`, level and predictor.

    Columns: profile, backbone, task, seed, protocol, steps (of tuning, or epochs: unit), level, predictor, correlation
    (Spearman's, of the predictor with the loss without the entry less the whole prompt's; 1: it ranks what the prompt
    needs perfectly), harmful (percent of all entries without which the loss is lower), harmful_lowest (the same of the
    quarter that the predictor would prune first), run.
    """
    lines = []
    for record in records:
        tune = record["config"]["tune"]
        for level, values in record["details"]["leave_one_out"].items():
            change = np.asarray(values["loss_change"], dtype=float)
            quarter = max(1, round(len(change) / 4))
            for predictor in PREDICTORS:
                predicted = np.asarray(values[predictor], dtype=float)
                lowest = np.argsort(predicted, kind="stable")[:quarter]
                lines.append(
                    {
                        **{name: record[name] for name in ("profile", "backbone", "task", "seed", "protocol")},
                        "steps": tune["steps"] or tune["epochs"], "unit": "steps" if tune["steps"] else "epochs",
                        "level": level, "predictor": predictor, "correlation": rank_correlation(predicted, change),
                        "harmful": 100 * float((change < 0).mean()),
                        "harmful_lowest": 100 * float((change[lowest] < 0).mean()), "run": record["run"],
                    }
                )  # fmt: skip
    return pd.DataFrame(lines)


def rank_correlation(a: Any, b: Any) -> float:
    """Return Spearman's rank correlation, in [−1, 1]; 0 where one of the two is constant, and there is none."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return float(stats.spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else 0.0


def harm_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each level, tuning budget and predictor: its rank correlation by task, and harmful shares."""
    lines = []
    ascending = rows.sort_values("steps", kind="stable")
    for (level, steps, predictor), part in ascending.groupby(["level", "steps", "predictor"], sort=False):
        correlations = over_seeds(part, "correlation")
        lines.append(
            {
                "level": LEVELS[str(level)], "tuned for": f"{steps:g} {part['unit'].iloc[0]}",
                "predictor": PREDICTORS[str(predictor)],
                **{wording.task(task): wording.cell(span, 2) for task, span in correlations.items()},
                "harmful of its lowest quarter (%)": wording.cell(overall(part, "harmful_lowest")),
                "harmful of all (%)": wording.cell(overall(part, "harmful")), "seeds": str(part["seed"].nunique()),
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


def harm_statements(rows: pd.DataFrame) -> list[str]:
    """Say whether importance ranks what the prompt needs, what ranks it best, and what harms.

    A sentence for each tuning, shortest first, and level.
    """
    sentences = []
    tasks = tasks_in(rows)
    where = wording.named(tasks, 1)
    ascending = rows.sort_values("steps", kind="stable")
    for (steps, level), part in ascending.groupby(["steps", "level"], sort=False):
        by_predictor = part.groupby("predictor", sort=False)
        spans = {str(name): overall(group, "correlation").within(-1, 1) for name, group in by_predictor}
        best = max(spans, key=lambda name: spans[name].mean)
        own, of = part[part["predictor"] == "importance"], spans["importance"]
        verdict = {"above": "importance ranks", "below": "importance ranks in reverse",
                   "one seed": "one seed does not decide whether importance ranks"}.get(
            of.verdict, "importance does not significantly rank"
        )  # fmt: skip
        shares = {name: wording.with_span(overall(own, name).within(0, 100)) for name in ("harmful_lowest", "harmful")}
        higher = "" if best == "importance" else f"; {PREDICTORS[best]} has the higher mean, {_over(part, best, own)}"
        sentences += [
            f"After {steps:g} {part['unit'].iloc[0]} on {where}: {verdict} {LEVELS[str(level)]} by the loss without "
            f"them, with a rank correlation of {wording.with_span(of, 2)}{higher}. Of the quarter that it prunes first "
            f"{shares['harmful_lowest']} % lower the loss when each goes alone; of all, {shares['harmful']} %."
        ]
    return sentences


def _over(part: pd.DataFrame, predictor: str, own: pd.DataFrame) -> str:
    """Write a predictor's rank correlation, and by how much it is above importance's, paired by task and seed."""
    of = part[part["predictor"] == predictor]
    gaps = of.set_index(["task", "seed"])["correlation"] - own.set_index(["task", "seed"])["correlation"]
    above = wording.with_span(overall(gaps.reset_index(), "correlation"), 2, signed=True)
    return f"{wording.with_span(overall(of, 'correlation').within(-1, 1), 2)}, by {above}"


def harm_figure(records: Sequence[Record], rows: pd.DataFrame) -> Figure:
    """Draw importance against the loss without each entry, and every predictor's rank correlation.

    Args:
        records: of method `leave_one_out`.
        rows: as `harm_rows` makes them of these.

    Above: every token and every piece at the longest tuning; what lies below 0 does harm. Below: rank correlations of
    the average over the tasks, with 95 % intervals over seeds, by tuning budget; dots are single runs.
    """
    longest = rows["steps"].max()
    chosen = [r for r in records if r["run"] in set(rows[rows["steps"] == longest]["run"])]
    colours = dict(zip(tasks_in(rows), itertools.cycle(DISTINCT)))
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    grid = figure.subplots(2, 2, height_ratios=[1.15, 1])
    for (above, below), level in zip(grid.T, LEVELS, strict=True):
        _draw_entries(above, chosen, level, colours)
        _draw_correlations(below, rows[rows["level"] == level])
        where = f" on {wording.task(next(iter(colours)))}" * (len(colours) == 1)  # a legend of one entry costs a row
        above.set_title(f"{LEVELS[level]}{where}, tuned for {longest:g} {rows['unit'].iloc[0]}")
    grid[0, 0].set_ylabel("change in loss without it (nats)")
    if len(colours) > 1:
        legend(figure, grid[0, 0], "upper")
    if rows["steps"].nunique() > 1:
        legend(figure, grid[1, 0])
    return figure


def _draw_entries(axes: Axes, records: Sequence[Record], level: str, colours: Mapping[str, Any]) -> None:
    points = []
    for record in records:
        values = record["details"]["leave_one_out"][level]
        share = np.asarray(values["importance"]) / (max(values["importance"]) or 1.0)
        points += [(*at, *colours[record["task"]]) for at in zip(share, values["loss_change"], strict=True)]
    mixed = np.random.default_rng(0).permutation(np.array(points))  # so that no task hides another
    axes.scatter(mixed[:, 0], mixed[:, 1], s=18 if level == "token" else 7, alpha=0.5, linewidths=0, c=mixed[:, 2:],
                 rasterized=True)  # fmt: skip
    for task, colour in colours.items():  # once a task, and dark enough for a legend
        axes.scatter([], [], s=24, color=[colour], label=wording.task(task))
    changes = np.abs(np.concatenate([r["details"]["leave_one_out"][level]["loss_change"] for r in records]))
    near = float(changes.max()) / 100 or 1.0
    decades = 10.0 ** np.arange(np.ceil(np.log10(3 * near)), np.ceil(np.log10(100 * near)))
    axes.axhline(0, color="0.3", lw=1)
    axes.margins(y=0.1)
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=near, linscale=0.5)
    axes.yaxis.set_major_locator(ticker.FixedLocator([*-decades[::-1], 0, *decades]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:.1g}".replace("-", "−")))
        axis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel("importance (share of the prompt's largest)")


def _draw_correlations(axes: Axes, rows: pd.DataFrame) -> None:
    budgets = sorted(rows["steps"].unique())
    axes.axvline(0, color="0.3", lw=1)
    for place, (steps, colour) in enumerate(zip(budgets, sns.color_palette("crest", len(budgets)), strict=True)):
        for y, predictor in enumerate(PREDICTORS):
            part = rows[(rows["steps"] == steps) & (rows["predictor"] == predictor)]
            at = y + 0.22 * (place - (len(budgets) - 1) / 2)
            axes.scatter(part["correlation"], np.full(len(part), at + 0.08), s=9, color=[colour], alpha=0.45, lw=0)
            span = overall(part, "correlation").within(-1, 1)
            error = None if span.n < 2 else [[span.mean - span.low], [span.high - span.mean]]
            label = f"tuned for {steps:g} {part['unit'].iloc[0]}" if y == 0 else None
            axes.errorbar(span.mean, at, xerr=error, fmt="o", ms=6, capsize=3, color=colour, label=label)
    axes.set_yticks(range(len(PREDICTORS)), list(PREDICTORS.values()))
    axes.set(ylim=(len(PREDICTORS) - 0.5, -0.5), xlim=(-1.05, 1.05), xlabel="rank correlation with the change in loss")
    axes.grid(False, axis="y")
