"""Short trials of a backbone's settings, compared on the selection split alone: rates, optimisers, patterns.

Owns which runs the trials are, their rows, table and figure. Never looks at a score of the split that is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from xprompt.config.pattern import Pattern
from xprompt.config.profiles import get_profile
from xprompt.config.run_config import RunConfig
from xprompt.config.settings import TuneSettings
from xprompt.errors import ConfigError
from xprompt.reporting import wording
from xprompt.reporting.figures import COLOUR, MARKER
from xprompt.runs.grid import grid

OWN = "the task's own"
REPORTED = 16
"""Examples kept of the split that is reported: a run needs some, and nothing is chosen by them."""


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
) -> list[RunConfig]:
    """Return the run of each trial, one thing changed in each.

    Args:
        profile: whose other settings hold.
        trials: (task, method, optimiser, learning rate, pattern) each, and its own steps where it has others; the
            pattern "paper", or a name of `patterns`.
        patterns: name → (template, label words).
        seed: of every trial; not one that is reported.
        steps: of a trial that names none, >= 2; all are evaluated each time that half of these have gone by.
        selection: examples of train set apart to judge by.
        data_dir, quick: as `grid` takes them; quick trials all have `steps` steps.

    Raises `ConfigError` or `DataError` before anything is run.
    """
    own, known = get_profile(profile), {name: Pattern(template=t, label_words=w) for name, (t, w) in patterns.items()}
    configs = []
    for number, trial in enumerate(trials, 1):
        if len(trial) not in (5, 6) or trial[4] not in ("paper", *known):
            raise ConfigError(
                f"trial {number}, {list(trial)}: give task, method, optimiser, learning rate and pattern, which is "
                f"one of {', '.join(['paper', *known])}, and steps where they are not {steps}."
            )
        task, method, optimizer, learning_rate, pattern, *others = trial
        length = others[0] if others and not quick else steps
        changed = {"optimizer": optimizer, "learning_rate": learning_rate, "steps": length, "eval_every": steps // 2}
        tuned, fine_tuned = (_short(one, changed) for one in (own.tune, own.fine_tune))
        configs += grid(
            profile, [task], [method], [seed], data_dir=data_dir, quick=quick, tune=tuned, fine_tune=fine_tuned,
            pattern=known.get(pattern, "paper"), selection_limit=selection, limit_validation=REPORTED,
        )  # fmt: skip
    return configs


def _short(settings: TuneSettings, changed: Mapping[str, Any]) -> TuneSettings:
    itself = changed["optimizer"] == "adafactor"  # which limits its steps without a clipped gradient
    return settings.replace(
        **changed, epochs=None, patience=None, max_grad_norm=None if itself else settings.max_grad_norm
    )  # fmt: skip


def trials(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row a trial, the best first, methods apart.

    Columns: task, method, optimizer, learning_rate, pattern (the template and label words, or that they are the task's
    own), steps, score (best on the selection split, in points), loss (the lowest there, nats), step (of that score),
    start (the score before training), examples (of the selection split), seconds, run.
    """
    rows = []
    for record in records:
        method, history, config = record["method"], record["history"], record["config"]
        settings = config["fine_tune" if method == "fine_tuning" else "tune"]
        pattern = config.get("pattern")
        best = max(history, key=lambda entry: entry["selection_score"])
        rows.append(
            {
                "task": record["task"],
                "method": method,
                "optimizer": settings["optimizer"],
                "learning_rate": settings["learning_rate"],
                "pattern": f"{pattern['template']} → {' / '.join(pattern['label_words'])}" if pattern else OWN,
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
    """Return the trials as they are read: what was chosen, and how far it came on the selection split."""
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
    """Say which trial came furthest for each task and method, and on how many examples that rests."""
    return [
        f"{wording.task(row['task'])}, {wording.method(row['method'])}: {row['optimizer']} at {row['learning_rate']:g} "
        f"with {_pattern(row['pattern'])} comes furthest, {wording.points(row['score'])} points after {row['step']} "
        f"steps on {row['examples']} examples of train that were set apart; one seed."
        for row in rows.groupby(["task", "method"], sort=False).head(1).to_dict("records")
    ]


def trials_figure(rows: pd.DataFrame) -> Figure:
    """Draw each trial's score on the selection split before training and at its best."""
    figure = Figure(figsize=(10, 1.4 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = []
    for y, row in enumerate(rows.to_dict("records")):
        colour, marker = COLOUR[row["method"]], MARKER[row["method"]]
        axes.plot([row["start"], row["score"]], [y, y], color=colour, lw=1.5, alpha=0.6)
        axes.plot(row["start"], y, marker, mfc="white", mec=colour, ms=7)
        first = row["method"] not in rows["method"][:y].to_numpy()
        axes.plot(row["score"], y, marker, color=colour, ms=9, label=wording.method(row["method"]) if first else None)
        names.append(
            f"{wording.task(row['task'])}, {row['optimizer']} {row['learning_rate']:g}, "
            f"{row['steps']} steps, {_pattern(row['pattern'])}"
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("selection score (points); hollow: before training, filled: at its best")
    axes.legend(loc="best")
    return figure


def _pattern(pattern: str) -> str:
    return "its own pattern" if pattern == OWN else f"“{pattern.partition(' → ')[2]}”"
