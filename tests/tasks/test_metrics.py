"""Metrics by hand, against scikit-learn, and at the edges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from xprompt.errors import DataError
from xprompt.tasks.metrics import NO_LABEL, compute, majority, score
from xprompt.tasks.registry import get_task
from xprompt.tasks.superglue import TASKS


def apart(labels: list[int]) -> list[str]:
    return [str(i) for i in range(len(labels))]


def test_accuracy_by_hand():
    assert compute(get_task("rte"), [0, 1, 1, 0], [0, 1, 0, 0], apart([0] * 4)) == {"accuracy": 0.75}


def test_cb_by_hand():
    # entailment: 2 found of 3, 2 of 2 claims right: F1 = 4/5. contradiction: 2 of 2, 2 of 3: 4/5. neutral: 1 of 1.
    got = compute(get_task("cb"), [0, 0, 1, 1, 1, 2], [0, 0, 0, 1, 1, 2], apart([0] * 6))
    assert got == pytest.approx({"accuracy": 5 / 6, "macro_f1": (4 / 5 + 4 / 5 + 1) / 3})
    assert score(got) == pytest.approx((5 / 6 + 13 / 15) / 2)


def test_macro_f1_counts_a_label_that_the_split_lacks():
    got = compute(get_task("cb"), [0, 1], [0, 1], apart([0] * 2))
    assert got == pytest.approx({"accuracy": 1.0, "macro_f1": 2 / 3})


def test_multirc_by_hand():
    # Questions p: right, right. q: one wrong answer of two. r: right. F1a: 2 true found of 3, 2 claims, both right.
    labels, predictions = [1, 0, 1, 0, 1], [1, 0, 0, 0, 1]
    got = compute(get_task("multirc"), predictions, labels, ["p", "p", "q", "q", "r"])
    assert got == pytest.approx({"f1a": 2 * 2 / (2 + 3), "em": 2 / 3})


def test_em_does_not_need_a_questions_answers_side_by_side():
    got = compute(get_task("multirc"), [1, 0, 0, 1], [1, 0, 1, 1], ["p", "q", "p", "q"])
    assert got["em"] == 0.5


def test_a_prediction_that_is_no_label_is_wrong_everywhere():
    assert compute(get_task("rte"), [NO_LABEL, 1], [0, 1], ["a", "b"]) == {"accuracy": 0.5}
    assert compute(get_task("cb"), [NO_LABEL] * 2, [0, 1], ["a", "b"]) == {"accuracy": 0.0, "macro_f1": 0.0}
    assert compute(get_task("multirc"), [NO_LABEL, 1], [0, 1], ["a", "b"]) == {"f1a": 1.0, "em": 0.5}


@given(st.data(), st.sampled_from(list(TASKS)))
def test_every_task_agrees_with_scikit_learn(data, name):
    task = get_task(name)
    label = st.integers(0, len(task.label_words) - 1)
    pairs = data.draw(st.lists(st.tuples(label, label, st.integers(0, 5)), min_size=1, max_size=60))
    predicted, gold, groups = [p for p, _, _ in pairs], [g for _, g, _ in pairs], [str(q) for _, _, q in pairs]
    got = compute(task, predicted, gold, groups)
    right = {q: all(p == g for p, g, other in pairs if str(other) == q) for q in groups}
    expected = {
        "accuracy": sk.accuracy_score(gold, predicted),
        "macro_f1": sk.f1_score(gold, predicted, labels=[0, 1, 2], average="macro", zero_division=0),
        "em": sum(right.values()) / len(right),
    }
    if name == "multirc":
        expected["f1a"] = sk.f1_score(gold, predicted, zero_division=0)
    assert list(got) == list(task.metrics)
    assert got == pytest.approx({metric: expected[metric] for metric in task.metrics})
    assert all(0 <= value <= 1 for value in got.values()) and 0 <= score(got) <= 1


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_order_changes_no_score_and_the_truth_scores_one(labels, rng):
    task, order = get_task("cb"), list(range(len(labels)))
    guesses = [(label + 1) % 3 if i % 3 else label for i, label in enumerate(labels)]
    rng.shuffle(order)
    moved = compute(task, [guesses[i] for i in order], [labels[i] for i in order], apart(labels))
    assert moved == pytest.approx(compute(task, guesses, labels, apart(labels)))
    assert compute(task, labels, labels, apart(labels))["accuracy"] == 1


def test_majority_comes_from_the_training_labels():
    assert majority(get_task("cb"), [1, 1, 0, 2], [0, 0, 1, 2], apart([0] * 4)) == pytest.approx(
        {"accuracy": 1 / 4, "macro_f1": (2 / 5) / 3}
    )
    assert majority(get_task("multirc"), [0, 0, 1], [0, 0, 1], ["p", "p", "q"]) == {"f1a": 0.0, "em": 0.5}


def test_equally_common_labels_go_to_the_first_in_order():
    assert majority(get_task("rte"), [1, 0], [0, 0], ["a", "b"]) == {"accuracy": 1.0}


def test_what_cannot_be_scored_is_refused():
    rte = get_task("rte")
    with pytest.raises(DataError, match="given 1 predictions, 2 labels and 2 groups"):
        compute(rte, [0], [0, 1], ["a", "b"])
    with pytest.raises(DataError, match="at least 1"):
        compute(rte, [], [], [])
    with pytest.raises(DataError, match="given 2 among the predictions; needed -1 to 1"):
        compute(rte, [0, 2], [0, 1], ["a", "b"])
    with pytest.raises(DataError, match="given -1 among the labels; needed 0 to 1"):
        compute(rte, [0, 1], [0, -1], ["a", "b"])
    with pytest.raises(DataError, match="no training labels"):
        majority(rte, [], [0], ["a"])


@pytest.mark.parametrize("wrong", [[0.5], [float("nan")], ["0"], [None], [True], [[0]]])
def test_predictions_are_whole_numbers(wrong):
    with pytest.raises(DataError, match="predictions such as .*needed whole numbers"):
        compute(get_task("rte"), wrong, [0], apart([0]))
    with pytest.raises(DataError, match="labels such as .*needed whole numbers"):
        compute(get_task("rte"), [0], wrong, apart([0]))
