"""Examples drawn again: the weighted metrics against the library's own, the intervals by hand and by simulation."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xprompt.errors import ConfigError
from xprompt.reporting import resampling, statistics
from xprompt.reporting.rows import tidy
from xprompt.tasks import metrics
from xprompt.tasks.registry import get_task


def split(task: str, labels, groups=None):
    names = range(len(labels)) if groups is None else groups
    return SimpleNamespace(task=get_task(task), labels=list(labels), groups=[str(name) for name in names])


def record(task, method, seed, predictions, labels, **changes):
    score = float(np.mean(np.asarray(predictions) == np.asarray(labels)))
    return {"profile": "nano", "backbone": "nano", "task": task, "method": method, "seed": seed, "score": score,
            "protocol": "held_out", "metrics": {"accuracy": score}, "num_params": 1, "run": f"{task}{method}{seed}",
            "predictions": [int(p) for p in predictions], **changes}  # fmt: skip


@pytest.mark.parametrize("task", ["rte", "cb", "multirc"])
def test_a_score_of_drawn_examples_is_that_of_the_examples_written_out(task):
    rng = np.random.default_rng(1)
    classes = len(get_task(task).label_words)
    answers = split(task, rng.integers(0, classes, 24), np.repeat(range(8), 3))
    predictions = rng.integers(-1, classes, 24)  # −1: none of the labels
    counts = resampling.draw_examples(answers.groups, 5, seed=3)
    found = resampling.drawn_scores(answers, predictions, counts)
    group_of = np.repeat(range(8), 3)
    for row, score in zip(counts, found, strict=True):
        assert all(len(set(row[group_of == group])) == 1 for group in range(8)) and row[::3].sum() == 8
        # A group that was drawn twice is two groups with the same answers.
        drawn = [(i, copy) for i in range(24) for copy in range(row[i])]
        of = metrics.compute(
            answers.task, predictions[[i for i, _ in drawn]].tolist(), [answers.labels[i] for i, _ in drawn],
            [f"{group_of[i]}/{copy}" for i, copy in drawn],
        )  # fmt: skip
        assert score == pytest.approx(100 * metrics.score(of))


def test_the_interval_over_both_by_hand():
    # Four examples, all of label 0. a is right on all of them, b on two, whatever the seed: a − b = 50 points,
    # and seeds add nothing. Of four drawn examples the mean of (0, 0, 100, 100) has variance 50² / 4 = 625.
    labels = [0] * 4
    records = [
        record("rte", method, seed, predicted, labels)
        for seed in range(3)
        for method, predicted in (("xprompt", [0] * 4), ("prompt_tuning", [0, 0, 1, 1]))
    ]
    gaps = resampling.with_examples(
        records, {"rte": split("rte", labels)}, [("xprompt", "prompt_tuning")], draws=20_000
    )
    (row,) = gaps.to_dict("records")
    assert (row["mean"], row["low"], row["high"]) == (50.0, 50.0, 50.0)
    assert row["high_both"] - 50 == pytest.approx(4.302653 * 25, rel=0.02) and row["low_both"] < 0


def test_the_average_divides_by_the_number_of_tasks_and_what_is_not_stored_stays_empty():
    labels = [0] * 4
    answers = {"rte": split("rte", labels), "wic": split("wic", labels)}
    records = [
        record(task, method, seed, predicted, labels)
        for task in answers
        for seed in range(3)
        for method, predicted in (("xprompt", [0] * 4), ("prompt_tuning", [0, 0, 1, 1]))
    ]
    pairs = [("xprompt", "prompt_tuning")]
    rows = resampling.with_examples(records, answers, pairs, draws=20_000).set_index("task")
    assert rows.loc["average", "high_both"] - 50 == pytest.approx(4.302653 * 25 / math.sqrt(2), rel=0.02)
    for old in records:
        if old["task"] == "wic":
            del old["predictions"]
    rows = resampling.with_examples(records, answers, pairs).set_index("task")
    assert math.isnan(rows.loc["wic", "low_both"]) and math.isnan(rows.loc["average", "low_both"])
    assert math.isfinite(rows.loc["rte", "low_both"])
    with pytest.raises(ConfigError, match="4 predictions for 3 examples"):
        resampling.with_examples(records, {"rte": split("rte", labels[:3])}, pairs)


def test_only_the_interval_over_both_covers_a_difference_in_the_population():
    # Every example is harder or easier for one method whatever the seed: a validation set is a sample of examples.
    rng = np.random.default_rng(0)
    inside = {"low": 0, "low_both": 0}
    trials, seeds, examples, true = 60, 10, 60, 10.0
    for _ in range(trials):
        liking = rng.uniform(-0.35, 0.35, examples)
        records = []
        for seed in range(seeds):
            luck = rng.uniform(-0.04, 0.04)
            for method, level in (("xprompt", 0.6 + liking), ("prompt_tuning", 0.5 - liking)):
                right = rng.random(examples) < level + luck
                records.append(record("rte", method, seed, 1 - right, [0] * examples))
        answers = {"rte": split("rte", [0] * examples)}
        row = resampling.with_examples(records, answers, [("xprompt", "prompt_tuning")], draws=200).iloc[0]
        for low in inside:
            inside[low] += row[low] <= true <= row[low.replace("low", "high")]
    assert inside["low"] / trials < 0.8 < 0.9 < inside["low_both"] / trials


def test_holm_is_statsmodels():
    # statsmodels.stats.multitest.multipletests(…, method="holm")[1]
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.6]) == pytest.approx([1.0, 1.0])
    assert statistics.holm([0.02, math.nan, 0.03])[[0, 2]] == pytest.approx([0.04, 0.04])
    assert math.isnan(statistics.holm([math.nan])[0]) and statistics.holm([]).shape == (0,)


def test_p_values_are_those_of_the_paired_test_and_verdicts_need_the_family():
    a, b = np.array([70.0, 72, 75]), np.array([66.0, 69, 69])
    rows = []
    for method, scores in (("xprompt", a), ("prompt_tuning", b), ("lora", b - [30, 30, 31])):
        rows += [record("rte", method, seed, [0], [0]) | {"score": s / 100} for seed, s in enumerate(scores)]
    gaps = statistics.differences(tidy(rows), [("xprompt", "prompt_tuning"), ("xprompt", "lora")])
    found = statistics.corrected(gaps)
    p = [stats.ttest_rel(a, b).pvalue, stats.ttest_rel(a, b - [30, 30, 31]).pvalue]
    assert found["p"].tolist() == pytest.approx(p)
    assert p[0] < 0.05 and found["p_holm"].tolist() == pytest.approx([p[0], 2 * p[1]])
    assert found["verdict_holm"].tolist() == ["above", "above"]
    tasks = pd.concat([gaps.assign(task=task) for task in ("a", "b")], ignore_index=True)
    assert statistics.corrected(tasks, by="task")["p_holm"].tolist() == found["p_holm"].tolist() * 2
    many = statistics.corrected(pd.concat([gaps] * 3, ignore_index=True))
    assert many["verdict_holm"].tolist()[0] == statistics.NO_DIFFERENCE, "of six at once it is no finding"


def test_equal_scores_are_no_finding_and_one_seed_no_test():
    gaps = pd.DataFrame(
        {"mean": [0.0, 2.0, 1.0], "low": [0.0, 2.0, math.nan], "high": [0.0, 2.0, math.nan], "n": [3, 3, 1],
         "verdict": [statistics.NO_DIFFERENCE, "no spread", "one seed"]}
    )  # fmt: skip
    found = statistics.corrected(gaps)
    assert found["verdict_holm"].tolist() == [statistics.NO_DIFFERENCE, "no spread", "one seed"]
    assert found["p"][0] == 1.0 and found["p"][1:].isna().all()


@pytest.mark.parametrize(("spread", "seeds"), [(1.0, 34), (0.625, 15), (2.5, 199), (0.0, 2)])
def test_seeds_needed_are_those_of_power_tables(spread, seeds):
    # Effect 0.5, power 0.8, α 0.05, two-sided and paired: effect sizes 0.5, 0.8 and 0.2 in G*Power and statsmodels.
    assert statistics.seeds_needed(spread) == seeds


def test_a_standard_deviation_has_the_bounds_of_the_chi_square_tables():
    # 95 % quantiles with 4 degrees of freedom: 0.4844 and 11.143.
    assert statistics.spread_bounds(2.0, 5) == pytest.approx(
        (2 * (4 / 11.143) ** 0.5, 2 * (4 / 0.4844) ** 0.5), rel=1e-3
    )


def test_a_larger_effect_never_needs_more_seeds():
    """Where scipy's noncentral t is NaN, as with 4 seeds and an effect of 1, it once did: 4, 6 and 3."""
    for spread in np.linspace(0.05, 1, 20):
        needed = [statistics.seeds_needed(spread, effect) for effect in (0.25, 0.5, 1, 2, 4)]
        assert needed == sorted(needed, reverse=True) and needed[-1] >= 2
    assert [statistics.seeds_needed(0.21, effect) for effect in (0.5, 1, 2)] == [4, 3, 3]
