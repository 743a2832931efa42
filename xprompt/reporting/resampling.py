"""Intervals that also cover the choice of validation examples: the examples drawn again, from stored predictions.

Seeds alone say what another training would change; the examples that every seed is scored on say what another
validation set of the same size would. M: runs; N: examples; B: draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from scipy import stats

from xprompt.errors import ConfigError
from xprompt.reporting.rows import AVERAGE, tidy
from xprompt.reporting.statistics import LEVEL, differences
from xprompt.tasks.task import Task

DRAWS = 1000


class Answers(Protocol):
    """The split that runs report on: its task, and each example's label and group."""

    task: Task

    @property
    def labels(self) -> Sequence[int]:
        """(N,) positions in the label set."""

    @property
    def groups(self) -> Sequence[str]:
        """(N,) groups: the examples of one are scored, and drawn, together."""


def draw_examples(groups: Sequence[str], draws: int, seed: int = 0) -> np.ndarray:
    """Return how often each example is drawn, (B, N): whole groups with replacement, as many as there are."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    return rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)[:, index]


def drawn_scores(answers: Answers, predictions: Sequence[int], counts: np.ndarray) -> np.ndarray:
    """Return the task's score, (B,) in points, with every example counted as often as it was drawn.

    Args:
        predictions: (N,) positions in the label set, or −1 for none of them.
        counts: (B, N), as `draw_examples` returns them.

    Raises `ConfigError` where the run was scored on another number of examples.
    """
    predicted, gold = np.asarray(predictions), np.asarray(answers.labels)
    if predicted.shape != gold.shape:
        raise ConfigError(
            f"{answers.task.name}: {len(predicted)} predictions for {len(gold)} examples; give the split that the "
            "runs report on."
        )
    weights = counts.astype(float)
    last = len(answers.task.label_words) - 1

    def f1(classes: Iterable[int]) -> np.ndarray:
        of_class = []
        for label in classes:
            hits = weights @ ((predicted == label) & (gold == label))
            total = weights @ (predicted == label) + weights @ (gold == label)
            of_class.append(np.divide(2 * hits, total, out=np.zeros_like(hits), where=total > 0))
        return np.mean(of_class, axis=0)

    def exact_match() -> np.ndarray:
        _, first, index = np.unique(np.asarray(answers.groups), return_index=True, return_inverse=True)
        right = np.bincount(index, predicted != gold) == 0
        return weights[:, first] @ right / weights[:, first].sum(axis=1)

    measures = {
        "accuracy": lambda: weights @ (predicted == gold) / weights.sum(axis=1),
        "macro_f1": lambda: f1(range(last + 1)),
        "f1a": lambda: f1([last]),
        "em": exact_match,
    }
    return 100 * np.mean([measures[name]() for name in answers.task.metrics], axis=0)


def with_examples(
    records: Iterable[Mapping[str, Any]],
    answers: Mapping[str, Answers],
    pairs: Sequence[tuple[str, str]],
    draws: int = DRAWS,
) -> pd.DataFrame:
    """Return paired differences with two intervals: over seeds, and over seeds and validation examples.

    The second has as its variance that over seeds plus that of the seeds' mean difference over examples drawn again,
    the same for both methods and all seeds, and Student's t with n − 1 degrees of freedom. It is never the narrower
    one: a percentile bootstrap of three or five seeds would be. What seeds and examples do together counts twice.

    Args:
        records: run records with `predictions`.
        answers: task → the split that its runs report on.
        pairs: (a, b) method names.

    Returns the columns of `differences`, and `low_both`, `high_both`; NaN where predictions are not stored, of one
    seed, or where a task of the average has none.
    """
    records = list(records)
    gaps = differences(tidy(records), pairs)
    counts = {task: draw_examples(split.groups, draws) for task, split in answers.items()}
    scores: dict[tuple[str, str, str, int], np.ndarray] = {}
    for record in records:
        task = record["task"]
        if task in answers and record.get("predictions"):
            key = (record["protocol"], task, record["method"], record["seed"])
            scores[key] = drawn_scores(answers[task], record["predictions"], counts[task])

    def variance(protocol: str, task: str, a: str, b: str) -> float:
        seeds = [key[3] for key in scores if key[:3] == (protocol, task, a)]
        moves = [
            scores[protocol, task, a, seed] - scores[protocol, task, b, seed]
            for seed in seeds
            if (protocol, task, b, seed) in scores
        ]
        return float(np.mean(moves, axis=0).var(ddof=1)) if moves else math.nan

    bounds = []
    for row in gaps.to_dict("records"):
        of_pair = (row["protocol"], row["a"], row["b"])
        same = gaps[(gaps["protocol"] == of_pair[0]) & (gaps["a"] == of_pair[1]) & (gaps["b"] == of_pair[2])]
        tasks = [task for task in same["task"] if task != AVERAGE] if row["task"] == AVERAGE else [row["task"]]
        by_task = [variance(row["protocol"], task, row["a"], row["b"]) for task in tasks]
        examples = sum(by_task) / len(tasks) ** 2  # the tasks' examples are independent of each other
        t = stats.t.ppf((1 + LEVEL) / 2, row["n"] - 1) if row["n"] > 1 else math.nan
        half = t * math.sqrt(((row["high"] - row["low"]) / 2 / t) ** 2 + examples)
        bounds.append((row["mean"] - half, row["mean"] + half))
    return gaps.assign(low_both=[low for low, _ in bounds], high_both=[high for _, high in bounds])
