"""The race of untrained masks: who is dropped, on how many examples, and what XPrompt does with those left."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

import xprompt as xp
from tests.methods.test_ratio_search import SETTINGS, tuned_and_scored
from tests.training.test_resume import Stopping
from xprompt.methods import race as racing
from xprompt.methods import ratio_search as search
from xprompt.streams import stream_seed
from xprompt.training.callbacks import Callbacks
from xprompt.training.evaluation import evaluate_many

#: One mask after another, on four examples: mean losses 2, 3, 2.5, 9, 4, 2 and paired differences to the first.
LOSSES = np.array(
    [
        [1.0, 2.0, 3.0, 2.0],
        [2.0, 3.0, 4.0, 3.0],  # +1 on each example: no spread, a clear loser
        [5.0, 0.0, 4.0, 1.0],  # +0.5 on average, 4, −2, 1, −1: standard error 1.32, no loser
        [8.0, 9.0, 10.0, 9.0],
        [3.0, 3.0, 6.0, 4.0],  # +2 on average, 2, 1, 3, 2: standard error 0.41, a clear loser
        [1.0, 2.0, 3.0, 2.0],  # the first once more
    ]
)


@pytest.mark.parametrize(
    ("fewest", "mildest", "last", "expected"),
    [
        (1, 0, False, [0, 2, 5]),  # three of six are no losers, and half may go on
        (2, 0, True, [0, 5]),  # nothing more to see: as many as are wanted
        (4, 0, False, [0, 1, 2, 5]),  # as many as are wanted go on, of the losers the one with the lowest loss
        (4, 3, False, [0, 2, 3, 5]),  # the mildest in the last one's place
        (3, 5, False, [0, 2, 5]),
        (6, 0, False, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_the_clear_losers_are_dropped(fewest, mildest, last, expected):
    assert racing.survivors(LOSSES, fewest, mildest, last) == expected


def test_no_more_than_half_go_on_and_of_equals_the_first():
    assert racing.survivors(np.ones((5, 3)), 1, 0) == [0, 1, 2]
    assert racing.survivors(np.ones((5, 3)), 2, 0, last=True) == [0, 1]


def test_one_example_is_enough():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert racing.survivors(np.array([[1.0], [3.0], [2.0], [1.0]]), 3, 0, last=True) == [0, 2, 3]


def test_all_but_the_mildest_mask_have_to_race():
    assert racing.survivors(np.ones((5, 3)), 2, 4, last=True) == [0, 4]


def pruned_prompts(backbone, splits):
    tuned, scores = tuned_and_scored(backbone, splits)
    ratios = [(i / 10, j / 4) for i in range(0, 10, 2) for j in range(3)]
    return search.distinct_masks([xp.prune(tuned, scores, *pair) for pair in ratios])[0]


def test_every_mask_sees_an_example_once_and_the_losses_are_an_evaluations_own(backbone64, splits, monkeypatch):
    monkeypatch.setattr(racing, "FIRST_HEAT", 4)
    monkeypatch.setattr(racing, "NUM_LEFT", 2)
    prompts, data, calls = pruned_prompts(backbone64, splits), splits.validation, []

    def count(backbone, prompts, part, **options):
        calls.append((len(prompts), [example.uid for example in part]))
        return evaluate_many(backbone, prompts, part, **options)

    monkeypatch.setattr(racing, "evaluate_many", count)
    raced = racing.race(backbone64, prompts, data, SETTINGS.retune, seed=3)
    seen = [uid for _, uids in calls for uid in uids]
    assert len(seen) == len(set(seen)) and len(raced.left) == 2
    assert [len(uids) for _, uids in calls][:3] == [4, 4, 8]
    assert [count for count, _ in calls] == sorted({len(prompts), *(count for count, _ in calls)}, reverse=True)
    assert sum(len(losses) for losses in raced.losses) == sum(count * len(uids) for count, uids in calls)
    order = np.random.default_rng(stream_seed(3, "race")).permutation(len(data))
    assert set(seen[:4]) == {data[i].uid for i in order[:4]}
    whole = evaluate_many(backbone64, prompts, data, batch_size=7)
    positions = {example.uid: i for i, example in enumerate(data)}
    for losses, evaluation in zip(raced.losses, whole, strict=True):
        expected = [evaluation.losses[positions[uid]] for uid in seen[: len(losses)]]
        assert losses == pytest.approx(expected, abs=1e-9)
        assert np.mean(evaluation.losses) == pytest.approx(evaluation.loss, abs=1e-12)


def test_a_race_is_the_same_each_time_and_another_with_another_seed(backbone64, splits, monkeypatch):
    monkeypatch.setattr(racing, "FIRST_HEAT", 4)
    monkeypatch.setattr(racing, "NUM_LEFT", 2)
    prompts = pruned_prompts(backbone64, splits)
    first, again, other = (
        racing.race(backbone64, prompts, splits.validation, SETTINGS.retune, seed=seed) for seed in (0, 0, 1)
    )
    assert first.left == again.left and all(map(np.array_equal, first.losses, again.losses))
    assert not np.array_equal(first.losses[0][:4], other.losses[0][:4])


def test_few_masks_do_not_race(backbone64, splits):
    raced = racing.race(backbone64, pruned_prompts(backbone64, splits)[:3], splits.validation, SETTINGS.retune)
    assert raced.left == [0, 1, 2] and not any(map(len, raced.losses))


def search_of(backbone, splits, kind):
    tuned, _ = tuned_and_scored(backbone, splits)
    return xp.xprompt(backbone, splits, tuned, SETTINGS.replace(search=kind))


def test_nine_masks_are_searched_as_by_halving(backbone64, splits):
    raced, halved = search_of(backbone64, splits, "race"), search_of(backbone64, splits, "halving")
    assert torch.equal(raced.prompt(), halved.prompt())
    assert [one.describe() for one in raced.candidates] == [one.describe() for one in halved.candidates]


def test_those_left_are_retrained_and_those_dropped_have_no_score(backbone64, splits, monkeypatch):
    monkeypatch.setattr(racing, "FIRST_HEAT", 4)
    monkeypatch.setattr(racing, "NUM_LEFT", 3)
    result, grid = search_of(backbone64, splits, "race"), search_of(backbone64, splits, "grid")
    left = [one for one in result.candidates if one.history.entries]
    assert 3 == len({id(one.history) for one in left}) < len(result.candidates) == 9
    described = [one.describe() for one in result.candidates]
    for one, values, of_grid in zip(result.candidates, described, grid.candidates, strict=True):
        assert (values["selection_score"] is None) == (values["before_retraining"] is None) == (one not in left)
        assert values["raced_examples"] == len(one.raced) >= 4 and values["raced_loss"] == one.raced.mean()
        if one in left:
            assert values["before_retraining"] == of_grid.describe()["before_retraining"]
        else:
            assert (one.score, values["last_step"], values["best_step"]) == (-float("inf"), 0, 0)
            assert "dropped by the race" in repr(one)
    assert result.best in left and result.best.score == max(one.score for one in left)
    json.dumps(described, allow_nan=False)
    cost = search.search_cost(result.candidates, SETTINGS, splits)
    # One of three is retrained: 9 steps of 4 examples. All three are evaluated at step 0, it at 1, 3, 6 and 9 too.
    assert cost["trained_examples"] == 9 * 4
    raced = {id(one.history): len(one.raced) for one in result.candidates}
    assert cost["evaluated_examples"] == (3 + 4) * 16 + sum(raced.values())
    assert cost["evaluated_examples"] < search.search_cost(grid.candidates, SETTINGS, splits)["evaluated_examples"] / 2


def test_pairs_of_one_mask_race_once(backbone64, splits, monkeypatch):
    monkeypatch.setattr(racing, "FIRST_HEAT", 4)
    monkeypatch.setattr(racing, "NUM_LEFT", 2)
    tuned, _ = tuned_and_scored(backbone64, splits)
    twice = SETTINGS.replace(search="race", token_ratios=(0.2, 0.21, 0.5, 0.8), piece_ratios=(0.25,))
    first, second, *others = xp.xprompt(backbone64, splits, tuned, twice).candidates
    assert first.history is second.history and first.raced is second.raced
    assert search.search_cost([first, second, *others], twice, splits)["candidates"] == 3


def test_an_interrupted_search_races_again_and_resumes_to_the_same_numbers(backbone64, splits, monkeypatch, tmp_path):
    monkeypatch.setattr(racing, "FIRST_HEAT", 4)
    monkeypatch.setattr(racing, "NUM_LEFT", 3)
    tuned, _ = tuned_and_scored(backbone64, splits)
    settings = SETTINGS.replace(search="race")
    whole = xp.xprompt(backbone64, splits, tuned, settings)
    with pytest.raises(KeyboardInterrupt):
        xp.xprompt(backbone64, splits, tuned, settings, callbacks=Callbacks([Stopping(3)], tmp_path, every=0))
    resumed = Callbacks([], tmp_path)
    result = xp.xprompt(backbone64, splits, tuned, settings, callbacks=resumed)
    assert resumed.resumed_seconds > 0 and torch.equal(result.prompt(), whole.prompt())
    assert [one.describe() for one in result.candidates] == [one.describe() for one in whole.candidates]


@pytest.mark.parametrize(
    ("masks", "examples", "expected"),
    [
        (9, 300, 0),
        (81, 300, 81 * 32 + 41 * 32 + 21 * 64 + 11 * 128),  # 41, 21, 11 and 9 go on
        (81, 40, 81 * 32 + 41 * 8),
    ],
)
def test_a_race_scores_no_more_than_planned(masks, examples, expected):
    assert racing.most_raced(masks, examples) == expected
