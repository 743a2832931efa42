"""A prompt with parts masked: Fig 2's rows, one entry left out at a time, and what predicts it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import xprompt as xp
from tests.conftest import tiny_data, tiny_model
from xprompt.pruning import ablation
from xprompt.pruning.ablation import leave_one_out, masked_scores, predictors
from xprompt.training.evaluation import evaluate_many


@pytest.fixture
def tuned(backbone64):
    return xp.SoftPrompt.init(backbone64, 5, pieces=4, seed=1).double()


DATA = tiny_data(12, "validation")


def alone(backbone, prompt):
    (evaluation,) = evaluate_many(backbone, [prompt], DATA)
    return evaluation


@pytest.mark.parametrize("ratios", [(0.4, 0.0), (0.4, 0.25), (0.0, 0.5)])
def test_all_lowest_highest_and_as_many_at_random(backbone64, tuned, ratios):
    scores = xp.importance(backbone64, tuned, DATA)
    before = tuned.surviving_pieces.clone()
    rows = masked_scores(backbone64, tuned, scores, DATA, *ratios, draws=20)
    assert [row["mask"] for row in rows] == ["all", "lowest", "highest"] + ["random"] * 20
    assert [row["draw"] for row in rows[3:]] == list(range(20))
    whole = alone(backbone64, tuned)
    assert (rows[0]["masked_tokens"], rows[0]["masked_pieces"]) == (0, 0)
    assert rows[0]["loss"] == pytest.approx(whole.loss, abs=1e-10) and rows[0]["accuracy"] == whole.metrics["accuracy"]
    left = 5 - round(ratios[0] * 5)
    assert {(row["masked_tokens"], row["masked_pieces"]) for row in rows[1:]} == {
        (5 - left, int(ratios[1] * left * 4 + 0.5))
    }
    for row, order in zip(rows[1:3], ("lowest", "highest"), strict=True):
        expected = alone(backbone64, xp.prune(tuned, scores, *ratios, order=order))
        assert row["loss"] == pytest.approx(expected.loss, abs=1e-10) and row["score"] == expected.score
    assert len({round(row["loss"], 9) for row in rows[3:]}) > 5, "draws differ"
    assert torch.equal(tuned.surviving_pieces, before)
    again = masked_scores(backbone64, tuned, scores, DATA, *ratios, draws=3)
    other = masked_scores(backbone64, tuned, scores, DATA, *ratios, draws=3, seed=1)
    assert [r["loss"] for r in again[3:]] == pytest.approx([r["loss"] for r in rows[3:6]], abs=1e-10)
    assert [r["loss"] for r in again[3:]] != pytest.approx([r["loss"] for r in other[3:]], abs=1e-6)


@pytest.mark.parametrize("mode", ["zero", "drop"])
@pytest.mark.parametrize("level", ["token", "piece"])
def test_each_one_left_out_is_the_prompt_without_it(backbone64, tuned, level, mode, monkeypatch):
    monkeypatch.setattr(ablation, "WIDTH", 4)  # several passes
    prompt = xp.SoftPrompt(tuned.embeddings, pieces=4, mode=mode)
    prompt.token_mask[1] = False
    prompt.piece_mask[2, 3] = False
    prompt.piece_mask[4] = False  # a token without a piece is gone as well
    found = leave_one_out(backbone64, prompt, DATA, level)
    whole = alone(backbone64, prompt)
    assert found.whole.loss == pytest.approx(whole.loss, abs=1e-10)
    assert found.loss.shape == found.score.shape == ((5,) if level == "token" else (5, 4))
    pruned_before = ~(prompt.surviving_tokens if level == "token" else prompt.surviving_pieces)
    assert torch.equal(found.loss.isnan(), pruned_before) and torch.equal(found.score.isnan(), pruned_before)
    for place in (~pruned_before).nonzero().tolist():
        without = prompt.clone()
        (without.token_mask if level == "token" else without.piece_mask)[tuple(place)] = False
        expected = alone(backbone64, without)
        assert float(found.loss[tuple(place)]) == pytest.approx(expected.loss - whole.loss, abs=1e-6)
        assert float(found.score[tuple(place)]) == pytest.approx(expected.score - whole.score, abs=1e-6)
    assert found.loss[~pruned_before].abs().min() > 0 and prompt.token_mask.tolist() == [True, False, True, True, True]


def test_first_order_is_the_slope_of_the_mean_loss_and_importance_its_size_by_example(backbone64, tuned):
    scores = xp.importance(backbone64, tuned, DATA)
    step = 1e-5
    for level in ("token", "piece"):
        slope = predictors(tuned, scores, level)["first_order"]
        for place in ((0,), (3,)) if level == "token" else ((0, 1), (3, 2)):
            nudged = []
            for scale in (1 - step, 1 + step):
                values = tuned.embeddings.detach().clone().unflatten(1, (4, -1))
                values[place] *= scale
                nudged.append(alone(backbone64, xp.SoftPrompt(values.flatten(1), pieces=4)).loss)
            assert float(slope[place]) == pytest.approx((nudged[0] - nudged[1]) / (2 * step), rel=1e-3, abs=1e-5)
    one = xp.importance(backbone64, tuned, DATA[:1])
    assert torch.allclose(one.signed.abs(), one.piece) and torch.allclose(one.signed.sum(1).abs(), one.token, atol=1e-6)
    assert (scores.piece >= scores.signed.abs() - 1e-6).all()


def test_predictors_are_named_and_shaped_alike(backbone64, tuned):
    scores = xp.importance(backbone64, tuned, DATA)
    for level, shape in (("token", (5,)), ("piece", (5, 4))):
        found = predictors(tuned, scores, level)
        assert list(found) == ["importance", "first_order", "magnitude", "random"]
        assert {tuple(values.shape) for values in found.values()} == {shape}
        assert torch.equal(found["random"], predictors(tuned, scores, level)["random"])
        assert not torch.equal(found["random"], predictors(tuned, scores, level, seed=1)["random"])
    values = tuned.embeddings.detach().float()
    assert torch.allclose(predictors(tuned, scores)["magnitude"], values.norm(dim=1))
    assert torch.allclose(predictors(tuned, scores, "piece")["magnitude"][2, 1], values[2, 8:16].norm())
    pruned = tuned.clone()
    pruned.piece_mask[2, 1] = False
    assert float(predictors(pruned, scores, "piece")["magnitude"][2, 1]) == 0, "what is pruned has no size"


def test_errors_name_the_fix():
    backbone = tiny_model("seq2seq")
    prompt = xp.SoftPrompt.init(backbone, 2, pieces=4)
    scores = xp.importance(backbone, prompt, DATA)
    with pytest.raises(xp.ConfigError, match="choose 'token' or 'piece'"):
        leave_one_out(backbone, prompt, DATA, "both")
    with pytest.raises(xp.ConfigError, match="draws of 1 or more"):
        masked_scores(backbone, prompt, scores, DATA, 0.5, draws=0)
    with pytest.raises(xp.ConfigError, match="without signs: .*importance"):
        predictors(prompt, replace(scores, signed=None))
    with pytest.raises(xp.ConfigError, match="level 'both'"):
        predictors(prompt, scores, "both")
    prompt.token_mask[0] = False
    with pytest.raises(xp.ConfigError, match="has 1 token that survives: .* two or more"):
        leave_one_out(backbone, prompt, DATA)


def test_a_grid_of_masks_scores_each_pair_as_evaluate_does(backbone64, tuned):
    scores = xp.importance(backbone64, tuned, DATA)
    grid = xp.masked_grid(backbone64, tuned, scores, DATA, [0.4, 0.0], [0.0, 0.25], "drop")
    assert grid.token_ratios == (0.0, 0.4) and grid.piece_ratios == (0.0, 0.25)
    for row, token_ratio in enumerate(grid.token_ratios):
        for column, piece_ratio in enumerate(grid.piece_ratios):
            masked = xp.prune(tuned, scores, token_ratio, piece_ratio, "drop")
            assert torch.equal(grid.surviving[row, column], masked.surviving_pieces)
            expected = alone(backbone64, masked)
            assert float(grid.score[row, column]) == pytest.approx(expected.score)
            assert float(grid.loss[row, column]) == pytest.approx(expected.loss)
    assert float(grid.score[0, 0]) == pytest.approx(grid.whole.score) and grid.whole.loss == pytest.approx(
        float(grid.loss[0, 0])
    )
    with pytest.raises(xp.ConfigError, match="one token ratio and one piece ratio"):
        xp.masked_grid(backbone64, tuned, scores, DATA, [], [0.0])
    with pytest.raises(xp.ConfigError, match="masked_grid: backbone takes Backbone .* was given SoftPrompt"):
        xp.masked_grid(tuned, backbone64, scores, DATA, [0.0], [0.0])
