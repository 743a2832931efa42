"""Importance against the slow, obvious ways of computing it. Source: paper §3.2."""

from __future__ import annotations

import pytest
import torch

import xprompt as xp
from tests.conftest import tiny_data
from xprompt.data.batching import batches
from xprompt.data.splits import stratified_sample


def a_prompt(backbone, mode="zero"):
    prompt = xp.SoftPrompt.init(backbone, length=5, pieces=4, seed=3).double()
    prompt.mode = mode
    return prompt


def loop_oracle(backbone, prompt, data, objective="label_scores"):
    """One example at a time, one real mask variable, plain autograd."""
    encoded, verbalizer = backbone.encode(data), backbone.verbalizer(data.task)
    token, piece = torch.zeros(5, dtype=torch.float64), torch.zeros(5, 4, dtype=torch.float64)
    for batch in batches(encoded, 1, seed=None):
        gamma = torch.ones(5, dtype=torch.float64, requires_grad=True)
        zeta = torch.ones(5, 4, dtype=torch.float64, requires_grad=True)
        whole = prompt.masked().detach() * gamma[:, None] * zeta.repeat_interleave(8, dim=1)
        backbone.loss(whole, batch, verbalizer, objective=objective).sum().backward()
        token += gamma.grad.abs()
        piece += zeta.grad.abs()
    return token / len(data), piece / len(data)


def test_equals_a_loop_of_single_examples(backbone64):
    data = tiny_data(11, "train")
    prompt = a_prompt(backbone64)
    token, piece = loop_oracle(backbone64, prompt, data)
    found = xp.importance(backbone64, prompt, data, batch_size=4)
    assert found.num_examples == 11
    assert torch.allclose(found.token.double(), token, rtol=1e-5, atol=0)
    assert torch.allclose(found.piece.double(), piece, rtol=1e-5, atol=0)
    # Signed gradients cancel between examples; taking the absolute value after averaging would score lower.
    assert found.token.min() > 0


def test_the_loss_is_that_of_the_objective(backbone64):
    data, prompt = tiny_data(7, "train"), a_prompt(backbone64)
    token, piece = loop_oracle(backbone64, prompt, data, "generation")
    found = xp.importance(backbone64, prompt, data, objective="generation")
    assert torch.allclose(found.token.double(), token, rtol=1e-5, atol=0)
    assert torch.allclose(found.piece.double(), piece, rtol=1e-5, atol=0)
    assert not torch.allclose(token, loop_oracle(backbone64, prompt, data)[0], rtol=1e-3)


def test_the_seed_draws_the_examples_that_are_scored(backbone64):
    data, prompt = tiny_data(24, "train"), a_prompt(backbone64)
    drawn = {seed: xp.importance(backbone64, prompt, data, limit=6, seed=seed) for seed in (0, 1)}
    for seed, found in drawn.items():
        alone = xp.importance(backbone64, prompt, stratified_sample(data, 6, seed))
        assert torch.allclose(found.token, alone.token) and torch.allclose(found.piece, alone.piece)
    assert not torch.allclose(drawn[0].token, drawn[1].token, rtol=1e-3)


def test_absolute_value_is_taken_per_example(backbone64):
    data, prompt = tiny_data(11, "train"), a_prompt(backbone64)
    alone = [xp.importance(backbone64, prompt, data[i : i + 1]).token for i in range(len(data))]
    assert torch.allclose(xp.importance(backbone64, prompt, data).token, torch.stack(alone).mean(0), rtol=1e-5)


def test_equals_a_finite_difference(backbone64):
    data, prompt, step = tiny_data(1, "train"), a_prompt(backbone64), 1e-5
    encoded, verbalizer = backbone64.encode(data), backbone64.verbalizer(data.task)
    (batch,) = batches(encoded, 1, seed=None)
    found = xp.importance(backbone64, prompt, data)

    def loss(values):
        return float(backbone64.loss(values, batch, verbalizer))

    for i in range(5):
        scale = torch.zeros(5, 1, dtype=torch.float64)
        scale[i] = step
        values = prompt.masked().detach()
        slope = (loss(values * (1 + scale)) - loss(values * (1 - scale))) / (2 * step)
        assert abs(abs(slope) - float(found.token[i])) <= 1e-4 * float(found.token[i]) + 1e-9
        for j in range(4):
            bump = torch.zeros(5, 32, dtype=torch.float64)
            bump[i, 8 * j : 8 * j + 8] = step
            slope = (loss(values * (1 + bump)) - loss(values * (1 - bump))) / (2 * step)
            assert abs(abs(slope) - float(found.piece[i, j])) <= 1e-4 * float(found.piece[i, j]) + 1e-9


def test_batch_size_and_padding_change_nothing(backbone64):
    data, prompt = tiny_data(13, "train"), a_prompt(backbone64)
    one, many = (xp.importance(backbone64, prompt, data, batch_size=b) for b in (1, 13))
    assert torch.allclose(one.token, many.token, rtol=1e-5) and torch.allclose(one.piece, many.piece, rtol=1e-5)


def test_pruned_entries_score_zero_in_both_modes(backbone64):
    data = tiny_data(6, "train")
    for mode in ("zero", "drop"):
        prompt = a_prompt(backbone64, mode)
        prompt.token_mask[2] = False
        prompt.piece_mask[0, 1] = False
        found = xp.importance(backbone64, prompt, data)
        assert found.token[2] == 0 and found.piece[2].abs().sum() == 0 and found.piece[0, 1] == 0
        assert (found.token[[0, 1, 3, 4]] > 0).all()


def test_the_limit_is_respected_and_nothing_is_changed(backbone64):
    prompt = a_prompt(backbone64)
    before = prompt.embeddings.detach().clone()
    assert xp.importance(backbone64, prompt, tiny_data(9, "train"), limit=4).num_examples == 4
    assert torch.equal(prompt.embeddings, before) and prompt.embeddings.grad is None
    assert all(p.grad is None for p in backbone64.model.parameters())


def test_a_prompt_in_half_precision_scores_as_its_values_in_float32(backbone):
    data, prompt = tiny_data(9, "train"), xp.SoftPrompt.init(backbone, 4, pieces=4).to(torch.bfloat16)
    half, full = (xp.importance(backbone, given, data) for given in (prompt, prompt.clone().float()))
    assert torch.equal(half.token, full.token) and torch.equal(half.piece, full.piece)


def test_no_examples_and_a_limit_that_cannot_be_are_errors(backbone):
    data, prompt = tiny_data(9, "train"), xp.SoftPrompt.init(backbone, 2, pieces=4)
    with pytest.raises(xp.DataError, match="no examples of .*'s train split; needed at least 1"):
        xp.importance(backbone, prompt, data[:0])
    for limit in (0, -3, 2.5, True, "4"):
        with pytest.raises(xp.DataError, match=f"limit: given {limit!r}; needed at least 1, a whole number"):
            xp.importance(backbone, prompt, data, limit=limit)
