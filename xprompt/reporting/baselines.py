"""Tab 1 with every baseline, Tab 8: one search of the learning rate for all of them, then XPrompt against each.

A rate is chosen on a part of train alone, by runs whose seed no reported run has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from xprompt.config.methods import get_method
from xprompt.config.profiles import get_profile
from xprompt.config.run_config import RunConfig
from xprompt.config.settings import TuneSettings
from xprompt.errors import ConfigError, shown
from xprompt.reporting import wording
from xprompt.reporting.by_seed import overall
from xprompt.reporting.claims import CLAIMS
from xprompt.reporting.rows import AVERAGE, methods_in, tasks_in, whole
from xprompt.reporting.statistics import corrected, differences
from xprompt.reporting.trials import best_rates, trial_configs

#: Every method that trains and that XPrompt is compared with in Tab 1 and Tab 8, and LoRA.
BASELINES = ["fine_tuning", "lora", "p_tuning", "p_tuning_mlp", "prefix_tuning", "p_tuning_v2", "prompt_tuning"]


def search_configs(
    profile: str,
    tasks: Sequence[str],
    methods: Sequence[str],
    factors: Sequence[float],
    *,
    seed: int,
    budget: float,
    selection: int,
    data_dir: str = "",
    quick: bool = False,
    sources: Sequence[str] = (),
) -> list[RunConfig]:
    """Return the trials of one search that is the same for every method: multiples of the rate it has by default.

    Args:
        factors: of the profile's rate for prompts, or for weights, by which the method is trained.
        seed: of the trials; one that no reported run has.
        budget: share of the profile's steps that a trial has.
        selection: examples of train that are held out to compare the trials on.
        data_dir: as `grid` takes it.
        quick: a few steps, and the two ends of the factors alone.
        sources: as `trial_configs` takes them.

    Raises `ConfigError` where a number is out of its range, a method has no rate, or the profile counts in epochs.
    """
    if not factors or min(factors) <= 0 or budget <= 0:
        raise ConfigError(f"factors {shown(factors)} and budget {shown(budget)}: give numbers above 0.")
    defaults = get_profile(profile)
    trials = []
    for method in methods:
        settings = _settings(profile, method)
        if settings.steps is None or defaults.tune.steps is None:
            raise ConfigError(f"profile {profile} counts in epochs; a trial's budget is a share of steps.")
        steps = max(2, round(budget * settings.steps))
        trials += [
            (task, method, settings.optimizer, _rate(settings, factor), "paper", steps)
            for task in tasks
            for factor in ((factors[0], factors[-1])[: len(factors)] if quick else factors)
        ]
    most = 4 if quick else max((trial[5] for trial in trials), default=2)
    return trial_configs(
        profile, trials, {}, seed=seed, steps=most, selection=selection, data_dir=data_dir, quick=quick,
        sources=sources,
    )  # fmt: skip


def chosen_rates(rows: pd.DataFrame) -> dict[str, float]:
    """Return `RunConfig.learning_rates`: the best rate of each method that takes its own.

    Args:
        rows: as `xprompt.reporting.trials.trial_rows` returns them.
    """
    return {method: rate for method, rate in best_rates(rows).items() if get_method(method).takes_learning_rate}


def rate_table(rows: pd.DataFrame, profile: str) -> pd.DataFrame:
    """Return a row per method: the mean selection score over the tasks at every rate, and the best rate.

    Args:
        rows: as `trial_rows` returns them; every method tried at the same multiples.
    """
    best, lines = best_rates(rows), []
    for method in methods_in(rows):
        part, settings = rows[rows["method"] == method], _settings(profile, method)
        means = part.groupby(part["learning_rate"] / settings.learning_rate)["score"].mean()
        line = {"method": wording.method(method), "× 1 is": f"{settings.learning_rate:g}"}
        line |= {f"× {factor:.3g}": wording.points(score) for factor, score in means.items()}
        lines.append({**line, "best rate": f"{best[method]:g}"})
    return pd.DataFrame(lines).fillna("")


def rate_statements(rows: pd.DataFrame) -> list[str]:
    """Name the methods that are best at the end of the range, where a wider one may find more, and whose rate stands.

    Args:
        rows: as `trial_rows` returns them.
    """
    best, at_end, fixed = best_rates(rows), [], []
    for method, rate in best.items():
        tried = rows[rows["method"] == method]["learning_rate"]
        if rate in (tried.min(), tried.max()) and tried.nunique() > 1:
            at_end.append(f"{wording.method(method)} ({rate:g})")
        if not get_method(method).takes_learning_rate:
            fixed.append(f"{wording.method(method)} ({rate:g})")
    trials = rows.groupby("method").size().max()
    sentences = [
        f"Search of the learning rate: {len(best)} methods, {trials} trials each, judged on {rows['examples'].max()} "
        f"examples of train, {wording.counted(rows['task'].nunique(), 'task')}, one seed."
    ]
    if at_end:
        sentences.append(f"Best at an end of the range, so that a wider one may find more: {', '.join(at_end)}.")
    if fixed:
        sentences.append(
            "Best in the search, while the compared runs have the profile's own rate, as all reports: "
            f"{', '.join(fixed)}."
        )
    return sentences


def baseline_table(rows: pd.DataFrame, rates: Mapping[str, float], reference: str = "xprompt") -> pd.DataFrame:
    """Return a row per method: trained parameters, score, and what the reference is above it.

    Verdicts are Holm's over the whole table. The paper's number is there where we have it.

    Args:
        rows: tidy rows of one profile and protocol.
        rates: the learning rates that were searched for, as `chosen_rates` returns them.
    """
    others = [method for method in methods_in(rows) if method != reference]
    gaps = differences(rows, [(reference, method) for method in others])
    judged = whole(gaps)
    tested = {row["b"]: row for row in corrected(gaps[gaps["task"] == judged]).to_dict("records")}
    known = {claim.pair: claim.paper for claim in CLAIMS.values() if claim.pair and not claim.few_shot}
    scores, lines = rows[rows["metric"] == "score"], []
    for method in [*others, reference]:
        part = scores[scores["method"] == method]
        line = {
            "method": wording.method(method),
            "trained parameters": wording.cell(overall(part, "num_params"), 0).partition(" ±")[0],
            "searched rate": f"{rates[method]:g}" if method in rates else "the profile's",
            wording.task(judged): wording.cell(overall(part, "value")),
        }
        if gap := tested.get(method):
            line[f"{wording.method(reference)} − it"] = wording.points(gap["mean"], signed=True)
            line["95 % interval"] = wording.span(gap["low"], gap["high"])
            line["verdict (Holm)"] = gap["verdict_holm"]
        lines.append({**line, "paper": known.get((reference, method), ""), "seeds": str(part["seed"].nunique())})
    return pd.DataFrame(lines).fillna("")


def verdict_statement(gaps: pd.DataFrame) -> str:
    """Name the methods that XPrompt is above and below on average, by Holm's verdicts over all of them.

    Args:
        gaps: XPrompt less each method, as `differences` returns them; of one task where there is no average.
    """
    tasks = [name for name in tasks_in(gaps) if name != AVERAGE]
    tested = corrected(gaps[gaps["task"] == whole(gaps)])
    if (tested["n"] < 2).all():
        return f"One seed does not decide between XPrompt and {len(tested)} other methods."
    named = {
        verdict: ", ".join(map(wording.method, tested[tested["verdict_holm"] == verdict]["b"])) or "none"
        for verdict in ("above", "below")
    }
    return (
        f"Of {len(tested)} methods XPrompt is significantly above {named['above']}, and below {named['below']} "
        f"({wording.average_over(tasks) if len(tasks) > 1 else f'on {wording.task(tasks[0])}'}, Holm's correction, "
        f"{tested['n'].max()} seeds)."
    )


def _settings(profile: str, method: str) -> TuneSettings:
    """How a method trains, at the rate whose multiples are tried: the profile's for prompts or, of weights, its own.

    Not the rate that the profile gives a baseline that makes a prompt: those were found by this search.
    """
    defaults, declared = get_profile(profile), get_method(method)
    settings = defaults.fine_tune if "fine_tune" in declared.settings else defaults.tune
    own = defaults.learning_rates.get(method) if declared.work == "adapter" else None
    return settings if own is None else settings.replace(learning_rate=own)


def _rate(settings: TuneSettings, factor: float) -> float:
    return float(f"{settings.learning_rate * factor:.6g}")  # 0.03, not 0.030000000000000002
