"""Short trials of learning rates, optimisers and patterns: their runs, rows, table and figure.

Trials are compared on the selection split alone. The score on the split that is reported appears nowhere.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from xprompt.config.methods import get_method
from xprompt.config.pattern import Pattern
from xprompt.config.profiles import get_profile
from xprompt.config.run_config import RunConfig
from xprompt.config.settings import TuneSettings
from xprompt.errors import ConfigError
from xprompt.reporting import wording
from xprompt.reporting.figures import method_styles
from xprompt.reporting.panels import legend
from xprompt.runs.grid import choose_seeds, grid

TASK_PATTERN = "the task's own"
VALIDATION_EXAMPLES = 16
"""A run needs some examples to report on; trials keep these few and choose nothing by them."""


def free_seed(seed: int, seeds: Any, profile: str) -> int:
    """Return a seed for trials: this one, or the next that is not among the reported `seeds` (as of `choose_seeds`)."""
    reported = set(choose_seeds(seeds, profile))
    return next(number for number in itertools.count(seed) if number not in reported)


def trial_configs(
    profile: str,
    trials: Sequence[Sequence[Any]],
    patterns: Mapping[str, Sequence[Any]],
    *,
    seed: int,
    steps: int,
    selection: int,
    data_dir: str = "",
    quick: bool = False,
    sources: Sequence[str] = (),
) -> list[RunConfig]:
    """Return the run of each trial.

    Args:
        profile: where all other settings come from.
        trials: (task, method, optimiser, learning rate, pattern), each with a number of steps behind it where that is
            not `steps`. The pattern is "paper" or a name of `patterns`.
        patterns: name → (template, label words).
        seed: the seed of every trial; take one that no reported run has.
        steps: training steps, >= 2. Every trial is evaluated after each half of these.
        selection: examples of train that are held out to compare the trials on.
        data_dir, quick: as `grid` takes them; quick trials all have `steps` steps.
        sources: source tasks of the methods that start from other tasks' prompts, which are tuned for as many steps at
            the profile's rate; a task is never its own source.

    Raises `ConfigError` or `DataError` before anything is run.
    """
    defaults = get_profile(profile)
    known = {name: Pattern(template=template, label_words=words) for name, (template, words) in patterns.items()}
    configs = []
    for number, trial in enumerate(trials, 1):
        if len(trial) not in (5, 6) or trial[4] not in ("paper", *known):
            raise ConfigError(
                f"trial {number}, {list(trial)}: give task, method, optimiser, learning rate and pattern, which is "
                f"one of {', '.join(['paper', *known])}, and steps where they are not {steps}."
            )
        task, method, optimizer, learning_rate, pattern, *longer = trial
        length = longer[0] if longer and not quick else steps
        declaration = get_method(method)
        changes = {"optimizer": optimizer, "steps": length, "eval_every": steps // 2}
        if not declaration.takes_learning_rate:
            changes["learning_rate"] = learning_rate
        tune, fine_tune = (_trial_settings(settings, changes) for settings in (defaults.tune, defaults.fine_tune))
        configs += grid(
            profile, [task], [method], [seed], data_dir=data_dir, quick=quick, tune=tune, fine_tune=fine_tune,
            pattern=known.get(pattern, "paper"), selection_limit=selection, limit_validation=VALIDATION_EXAMPLES,
            learning_rates={method: learning_rate} if declaration.takes_learning_rate else {},
            source_tasks=tuple(source for source in sources if source != task) if declaration.num_sources else (),
        )  # fmt: skip
    return configs


def best_rates(rows: pd.DataFrame) -> dict[str, float]:
    """Return each method's learning rate with the highest mean score over the tasks on held-out examples of train.

    Of equal scores the rate with the lower mean loss is taken. The result is `RunConfig.learning_rates`, but for
    methods that have their rate in `tune` or `fine_tune`.

    Args:
        rows: of `trial_rows`; every method must have been tried at the same rates on the same tasks.

    Raises `ConfigError` where a trial is missing or there are several of one kind.
    """
    best = {}
    for method, of_method in rows.groupby("method", sort=False):
        counts = of_method.groupby(["task", "learning_rate"]).size().unstack(fill_value=0)
        if not (counts == 1).all(axis=None):
            raise ConfigError(
                f"the trials of {method} by task and learning rate are {counts.to_dict()}: compare rates by one trial "
                "of each on every task, with one optimiser and one pattern."
            )
        means = of_method.groupby("learning_rate")[["score", "loss"]].mean().reset_index()
        best[str(method)] = float(
            means.sort_values(["score", "loss"], ascending=[False, True])["learning_rate"].iloc[0]
        )
    return best


def _trial_settings(settings: TuneSettings, changes: Mapping[str, Any]) -> TuneSettings:
    # Adafactor limits its steps without a clipped gradient.
    max_grad_norm = None if changes["optimizer"] == "adafactor" else settings.max_grad_norm
    return settings.replace(**changes, epochs=None, patience=None, max_grad_norm=max_grad_norm)


def trial_rows(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row per trial, those of a task and method together, the best first.

    Columns: task, method, optimizer, learning_rate, pattern (template and label words, or `TASK_PATTERN`), steps,
    score (the best on the selection split, points), loss (the lowest there, nats), step (of that score), start (the
    score before training, points), examples (of the selection split), seconds, run.
    """
    rows = []
    for record in records:
        method, history, config = record["method"], record["history"], record["config"]
        settings = config["fine_tune" if "fine_tune" in get_method(method).settings else "tune"]
        pattern = config.get("pattern")
        best = max(history, key=lambda entry: entry["selection_score"])
        rows.append(
            {
                "task": record["task"],
                "method": method,
                "optimizer": settings["optimizer"],
                "learning_rate": settings["learning_rate"],
                "pattern": f"{pattern['template']} → {' / '.join(pattern['label_words'])}" if pattern else TASK_PATTERN,
                "steps": history[-1]["step"],
                "score": 100 * best["selection_score"],
                "loss": min(entry["selection_loss"] for entry in history),
                "step": best["step"],
                "start": 100 * history[0]["selection_score"],
                "examples": record["counts"]["selection"],
                "seconds": record["seconds"]["total"],
                "run": record["run"],
            }
        )
    return pd.DataFrame(rows).sort_values(
        ["task", "method", "score", "loss"], ascending=[True, True, False, True], ignore_index=True
    )


def trials_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table of trials: what each changes, and how far it gets on the selection split."""
    return pd.DataFrame(
        {
            "task": wording.task(row["task"]),
            "method": wording.method(row["method"]),
            "optimiser": f"{row['optimizer']}, {row['learning_rate']:g}",
            "template and label words": row["pattern"].replace("\n", " ⏎ "),
            "score before": wording.points(row["start"]),
            "best score": wording.points(row["score"]),
            "at step": f"{row['step']} of {row['steps']}",
            "lowest loss": f"{row['loss']:.3f}",
        }
        for row in rows.to_dict("records")
    )


def trials_statements(rows: pd.DataFrame) -> list[str]:
    """Say which trial is best for each task and method, and on how many examples that rests."""
    return [
        f"{wording.task(row['task'])}, {wording.method(row['method'])}: {row['optimizer']} at {row['learning_rate']:g} "
        f"with {_pattern(row['pattern'])} is best, {wording.points(row['score'])} points after {row['step']} steps "
        f"on {row['examples']} held-out examples of train; one seed."
        for row in rows.groupby(["task", "method"], sort=False).head(1).to_dict("records")
    ]


def trials_figure(rows: pd.DataFrame) -> Figure:
    """Draw each trial's score on the selection split before training and at its best."""
    names = [textwrap.fill(_trial(row), 50) for row in rows.to_dict("records")]
    lines = max(name.count("\n") + 1 for name in names)
    figure = Figure(figsize=(10, 1.4 + (0.24 + 0.18 * lines) * len(rows)), layout="constrained")
    axes, styles = figure.subplots(), method_styles(rows["method"].unique())
    for y, row in enumerate(rows.to_dict("records")):
        colour, marker = styles[row["method"]]
        axes.plot([row["start"], row["score"]], [y, y], color=colour, lw=1.5, alpha=0.6)
        axes.plot(row["start"], y, marker, mfc="white", mec=colour, ms=7)
        first = row["method"] not in rows["method"][:y].to_numpy()
        axes.plot(row["score"], y, marker, color=colour, ms=9, label=wording.method(row["method"]) if first else None)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("selection score (points)\nhollow: before training, filled: at its best")
    axes.grid(False, axis="y")
    legend(figure, axes)
    return figure


def _trial(row: Mapping[Any, Any]) -> str:
    """What a trial changes, in few words."""
    return (
        f"{wording.task(row['task'])}, {row['optimizer']} {row['learning_rate']:g}, {row['steps']} steps, "
        f"{_pattern(row['pattern'])}"
    )


def _pattern(pattern: str) -> str:
    if pattern == TASK_PATTERN:
        return "the task's own pattern"
    template, _, words = pattern.replace("\n", " ⏎ ").partition(" → ")
    return f"“{template if len(template) < 30 else template[:28] + '…'}” → {words}"
