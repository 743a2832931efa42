"""Score predictions against labels, as fractions in [0, 1], by scikit-learn (imported when first needed)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from xprompt.errors import DataError, shown
from xprompt.tasks.task import Task

NO_LABEL = -1
"""A prediction that is none of the labels (a generated text that matches no label word): always wrong."""


def _accuracy(task: Task, predictions: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> float:
    """Return the share of examples that are right."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


def _macro_f1(task: Task, predictions: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> float:
    """Return F1 per label, averaged over *all* the task's labels, those that a small split lacks included (as 0)."""
    return _mean_f1(predictions, labels, list(range(len(task.label_words))))


def _f1a(task: Task, predictions: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> float:
    """Return F1 of the positive label (the last: True) over all answers. Source: paper §Tasks (MultiRC)."""
    return _mean_f1(predictions, labels, [len(task.label_words) - 1])


def _mean_f1(predictions: np.ndarray, labels: np.ndarray, classes: list[int]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, labels=classes, average="macro", zero_division=0))


def _em(task: Task, predictions: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> float:
    """Return the share of questions of which every answer is right. Source: paper §Tasks (MultiRC)."""
    wrong = {group for group, right in zip(groups, predictions == labels, strict=True) if not right}
    questions = set(groups)
    return len(questions - wrong) / len(questions)


METRICS: dict[str, Callable[[Task, np.ndarray, np.ndarray, Sequence[str]], float]] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "f1a": _f1a,
    "em": _em,
}


def compute(task: Task, predictions: Sequence[int], labels: Sequence[int], groups: Sequence[str]) -> dict[str, float]:
    """Score predictions with the task's metrics.

    Args:
        task: whose metrics.
        predictions: (N,), positions in the label set, or `NO_LABEL`.
        labels: (N,), positions in the label set.
        groups: (N,), the name of the group that an example is scored in (MultiRC: its question).

    Returns:
        Metric name -> fraction in [0, 1], in the task's order.

    Raises:
        DataError: nothing to score, lengths that differ, or a value outside the label set.
    """
    if not len(predictions) == len(labels) == len(groups) > 0:
        raise DataError(
            f"Cannot score {task.name}: given {len(predictions)} predictions, {len(labels)} labels and "
            f"{len(groups)} groups; needed the same number of each, at least 1. "
            "Fix: score one prediction per example of a split that is not empty."
        )
    predicted, gold = np.asarray(predictions), np.asarray(labels)  # (N,), (N,)
    classes = len(task.label_words)
    for name, values, lowest in (("predictions", predicted, NO_LABEL), ("labels", gold, 0)):
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise DataError(
                f"Cannot score {task.name}: given {name} such as {shown(next(iter(values)))}; needed whole numbers. "
                "Fix: pass positions in the task's label set."
            )
        outside = values[(values < lowest) | (values >= classes)]
        if outside.size:
            raise DataError(
                f"Cannot score {task.name}: given {outside[0]} among the {name}; "
                f"needed {lowest} to {classes - 1}. Fix: pass positions in the task's label set."
            )
    return {name: METRICS[name](task, predicted, gold, groups) for name in task.metrics}


def score(metrics: Mapping[str, float]) -> float:
    """Return a task's one number: the mean of its metrics. Source: Lester et al. 2021."""
    return float(np.mean(list(metrics.values())))


def commonest(task: Task, train_labels: Sequence[int]) -> int:
    """Return the commonest training label (of equals, the first in order)."""
    if not len(train_labels):
        raise DataError(
            f"No majority for {task.name}: given no training labels; needed at least 1. "
            "Fix: load a source that has a training split, or take few-shot examples."
        )
    counts = Counter(train_labels)
    return min(counts, key=lambda label: (-counts[label], label))


def majority(task: Task, train_labels: Sequence[int], labels: Sequence[int], groups: Sequence[str]) -> dict[str, float]:
    """Score the baseline that always answers the commonest training label."""
    return compute(task, [commonest(task, train_labels)] * len(labels), labels, groups)
