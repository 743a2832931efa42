"""Where the paper is silent on pruning: zero or drop, piece scores from one pass or again, and level after level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xprompt.config.run_config import RunConfig
from xprompt.errors import ConfigError
from xprompt.reporting import wording
from xprompt.reporting.by_seed import over_seeds, overall
from xprompt.reporting.figures import method_style
from xprompt.reporting.harm import rank_correlation
from xprompt.reporting.panels import PALETTE, fit, legend, line, name_left, panels
from xprompt.reporting.rows import tasks_in
from xprompt.reporting.statistics import Interval
from xprompt.reporting.variants import by_setting, variant_table
from xprompt.runs.grid import grid

Record = Mapping[str, Any]
#: Value of a setting → how tables and figures name it.
MODES = {"zero": "zero", "drop": "drop"}
READINGS = {False: "one pass", True: "scored again"}
SEARCHES = {"grid": "jointly", "linear": "level after level", "halving": "halving"}
MODE_PAIRS = (("drop", "zero"),)
READING_PAIRS = (("scored again", "one pass"),)
_RUN = ("profile", "backbone", "task", "seed", "protocol")
_COSTS = {
    "candidates": "candidates",
    "trained_examples": "trained",
    "evaluated_examples": "evaluated",
    "seconds": "time",
}


def untrained_rows(records: Iterable[Record]) -> pd.DataFrame:
    """Return a row for each candidate of the XPrompt runs before it was retrained, on the selection split.

    Columns: profile, backbone, task, seed, protocol, mode, token_ratio, piece_ratio, value (points), run.
    """
    return pd.DataFrame(
        {
            **{name: record[name] for name in _RUN}, "mode": record["config"]["prune"]["mode"],
            "token_ratio": candidate["token_ratio"], "piece_ratio": candidate["piece_ratio"],
            "value": 100 * candidate["before_retraining"], "run": record["run"],
        }
        for record in records
        for candidate in record["details"]["candidates"]
        if candidate["before_retraining"] is not None  # which a race dropped before it was scored whole
    )  # fmt: skip


def untrained_gaps(untrained: pd.DataFrame) -> dict[str, Interval]:
    """Return task, and the average → drop − zero before retraining, in points, the mean over the pairs of ratios."""
    keys = ["task", "seed", "token_ratio", "piece_ratio"]
    by_mode = untrained.pivot_table(index=keys, columns="mode", values="value")
    return over_seeds((by_mode["drop"] - by_mode["zero"]).dropna().rename("gap").reset_index(), "gap")


def mode_table(records: Iterable[Record]) -> pd.DataFrame:
    """Return a row a task and the average: the score by mode, drop − zero, and the same before retraining.

    Args:
        records: of XPrompt runs in both modes, over the same ratios.
    """
    records = list(records)
    table = variant_table(by_setting(records, "mode", MODES), MODE_PAIRS)
    gaps = {wording.task(task): gap for task, gap in untrained_gaps(untrained_rows(records)).items()}
    before = [wording.with_span(gaps[task], signed=True) if task in gaps else "" for task in table["task"]]
    table.insert(len(table.columns) - 1, "before retraining", before)
    return table


def mode_statement(untrained: pd.DataFrame) -> str:
    """Say what dropping the position does before anything is retrained."""
    gap = list(untrained_gaps(untrained).values())[-1]
    verdict = {"above": "scores higher", "below": "scores lower", "one seed": "with one seed decides nothing"}.get(
        gap.verdict, "makes no significant difference"
    )
    points = wording.with_span(gap, signed=True)
    return f"Before retraining, dropping pruned positions instead of zeroing them {verdict}: {points} points."


def mode_figure(untrained: pd.DataFrame) -> Figure:
    """Draw the score of pruned prompts that are not retrained against the token ratio, by mode, a panel a task.

    Args:
        untrained: as `untrained_rows` makes them; means over the piece ratios. Bars are 95 % intervals over
            seeds, cut off at the outermost dot; a dot is a seed.
    """
    keys = ["task", "seed", "mode", "token_ratio"]
    means = untrained.groupby(keys, as_index=False).agg(value=("value", "mean"))
    tasks = tasks_in(means)
    figure, axes = panels(len(tasks), 3.6, 2.9)
    for panel, task in zip(axes, tasks, strict=True):
        for place, (mode, marker) in enumerate(zip(MODES, "os", strict=True)):
            part = means[(means["task"] == task) & (means["mode"] == mode)]
            line(panel, part, "token_ratio", "value", PALETTE[place], marker, mode, 9 * place - 4.5,
                 possible=(0, 100))  # fmt: skip
        fit(panel, means[means["task"] == task]["value"])
        panel.margins(x=0.1)  # room for what stands beside the first and the last place
        panel.set(title=wording.task(task), xlabel="token prune ratio", xticks=sorted(means["token_ratio"].unique()))
    name_left(axes, "score before retraining (points)")
    legend(figure, axes[0])
    return figure


def agreement_rows(records: Iterable[Record]) -> pd.DataFrame:
    """Return how far piece scores change when taken again after tokens are pruned, a row a run and piece ratio.

    They are those of the tokens that survive at the run's token ratio. Columns: profile, backbone, task, seed,
    protocol, token_ratio, piece_ratio, correlation (Spearman's, of the two scores), agreement (percent of the pieces
    that both readings prune), chance (percent that random masks would share), run.

    Raises `ConfigError` where no run scored its pieces again.
    """
    lines = []
    for record in records:
        details = record["details"]
        if "rescored_piece_importance" not in details:
            continue
        again = np.asarray(details["rescored_piece_importance"], dtype=float)  # (P, K)
        alive = again.any(axis=1)  # a pruned token scores 0 in every piece
        first = np.asarray(details["importance"]["piece"], dtype=float)[alive].ravel()
        again = again[alive].ravel()
        for ratio in record["config"]["prune"]["piece_ratios"]:
            count = max(1, round(ratio * len(first)))
            pruned, other = (set(np.argsort(scores, kind="stable")[:count]) for scores in (first, again))
            lines.append(
                {
                    **{name: record[name] for name in _RUN}, "token_ratio": details["token_ratio"],
                    "piece_ratio": ratio, "correlation": rank_correlation(first, again),
                    "agreement": 100 * len(pruned & other) / count, "chance": 100 * count / len(first),
                    "run": record["run"],
                }
            )  # fmt: skip
    if not lines:
        raise ConfigError("no run scored pieces again: run XPrompt with prune.rescore_pieces=True first.")
    return pd.DataFrame(lines)


def reading_table(records: Iterable[Record]) -> pd.DataFrame:
    """Return a row a task and the average: the score by reading, their difference, and how far the pieces agree.

    Args:
        records: of XPrompt runs by both readings.
    """
    records = list(records)
    table = variant_table(by_setting(records, "rescore_pieces", READINGS), READING_PAIRS)
    rows = agreement_rows(records)
    for name, title, digits in (("correlation", "rank correlation", 2), ("agreement", "same pieces (%)", 1)):
        cells = [wording.cell(span, digits) for span in over_seeds(rows, name).values()]
        table.insert(len(table.columns) - 1, title, cells)
    chance = [f"{span.mean:.1f}" for span in over_seeds(rows, "chance").values()]
    table.insert(len(table.columns) - 1, "by chance (%)", chance)
    return table


def reading_statement(rows: pd.DataFrame) -> str:
    """Say how far the two readings prune the same pieces.

    Args:
        rows: as `agreement_rows` makes them.
    """
    correlation, same = overall(rows, "correlation").within(-1, 1), overall(rows, "agreement").within(0, 100)
    return (
        f"Scored again after tokens are pruned, pieces keep a rank correlation of {wording.with_span(correlation, 2)} "
        f"with the first scores; of those pruned {wording.with_span(same)} % are the same, "
        f"{rows['chance'].mean():.1f} % by chance."
    )


def agreement_figure(rows: pd.DataFrame) -> Figure:
    """Draw how many of the pruned pieces both readings share, against the piece ratio, a panel a task.

    Args:
        rows: as `agreement_rows` makes them. Bars are 95 % intervals over seeds.
    """
    tasks = tasks_in(rows)
    figure, axes = panels(len(tasks), 3.4, 2.7)
    for panel, task in zip(axes, tasks, strict=True):
        part = rows[rows["task"] == task]
        line(panel, part, "piece_ratio", "agreement", method_style("xprompt")[0], "o", "pruned by both readings",
             possible=(0, 100))  # fmt: skip
        chance = part.groupby("piece_ratio")["chance"].mean()
        panel.plot(chance.index, chance, "--", color="0.35", lw=1.2, label="by chance")
        panel.set(ylim=(0, 104), xlabel="piece prune ratio", title=wording.task(task))
    name_left(axes, "pruned pieces (%)")
    legend(figure, axes[0])
    return figure


def search_configs(
    profile: str,
    tasks: Any,
    seeds: Any,
    ratios: Sequence[float],
    retune: Mapping[str, Any],
    searches: Iterable[str] = tuple(SEARCHES),
    **choices: Any,
) -> list[RunConfig]:
    """Return XPrompt's runs by several searches over the same ratios.

    Args:
        ratios: of tokens and of pieces.
        retune: changes to the profile's retraining, steps in place of its epochs among them; a quick report keeps its
            own.
        searches: values of `prune.search`.
        choices: as of `grid`.
    """
    base = grid(profile, tasks, ["xprompt"], seeds, **choices)[0].prune
    unset: dict[str, Any] = {"epochs": None} if "steps" in retune else {"steps": None} if "epochs" in retune else {}
    retrained = base.retune if choices.get("quick") else base.retune.replace(**(unset | dict(retune)))
    prune = base.replace(token_ratios=ratios, piece_ratios=ratios, retune=retrained)
    return [
        config
        for search in searches
        for config in grid(profile, tasks, ["xprompt"], seeds, **choices, prune=prune.replace(search=search))
    ]


def search_rows(records: Iterable[Record]) -> pd.DataFrame:
    """Return a row for each XPrompt run: its search, what that cost, and what it found.

    Columns: profile, backbone, task, seed, protocol, search, candidates, trained_examples, evaluated_examples, seconds
    (of the run, prompt tuning not included), selection and value (points, of the chosen candidate on selection and as
    reported), run.
    """
    return pd.DataFrame(
        {
            **{name: record[name] for name in _RUN}, "search": record["details"]["search"]["strategy"],
            **{name: value for name, value in record["details"]["search"].items() if name in _COSTS},
            "seconds": record["seconds"]["total"],
            "selection": 100 * record["details"]["best_score"],
            "value": 100 * record["score"], "run": record["run"],
        }
        for record in records
    )  # fmt: skip


def search_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row a search: its score, the difference from the joint grid, and the cost in percent of the grid's.

    Args:
        rows: as `search_rows` makes them, of searches over the same ratios; differences are paired by task and seed.
    """
    joint = rows[rows["search"] == "grid"].set_index(["task", "seed"])
    lines = []
    for search, title in SEARCHES.items():
        part = rows[rows["search"] == search].set_index(["task", "seed"])
        if part.empty:
            continue
        line = {"search": title, "score": wording.cell(overall(part.reset_index(), "value"))}
        for column, where in (("value", "score − jointly"), ("selection", "on selection")):
            gap = (part[column] - joint[column]).dropna().rename("gap").reset_index()
            line[where] = "" if search == "grid" or gap.empty else wording.with_span(overall(gap, "gap"), signed=True)
        line["candidates"] = f"{part['candidates'].mean():.1f}".removesuffix(".0")
        for column in list(_COSTS)[1:]:
            line[f"{_COSTS[column]} (%)"] = f"{100 * (part[column] / joint[column]).mean():.1f}"
        lines.append({**line, "seeds": str(rows[rows["search"] == search]["seed"].nunique())})
    return pd.DataFrame(lines)


def search_statement(rows: pd.DataFrame) -> str:
    """Say what the search level after level costs and loses against the joint grid, with halving's cost beside it."""
    table = search_table(rows).set_index("search")
    level, joint, halving = (table.loc[SEARCHES[name]] for name in ("linear", "grid", "halving"))
    trained = "trained (%)"
    return (
        f"Level after level tries {level['candidates']} different masks in place of {joint['candidates']}, and trains "
        f"on {level[trained]} % of the joint grid's examples (halving: {halving[trained]} %); its score less the joint "
        f"grid's is {level['score − jointly']} points."
    )
