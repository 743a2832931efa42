from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import xprompt as xp
from xprompt.pruning.prune import keep_mask
from xprompt.pruning.ratio import num_pruned


def scores(token: list[float], piece: list[list[float]]) -> xp.Importance:
    return xp.Importance(torch.tensor(token), torch.tensor(piece), 1)


@pytest.mark.parametrize(
    ("total", "ratio", "expected"),
    [
        (20, 0.1, 2),
        (20, 0.0, 0),
        (10, 0.15, 2),
        (10, 0.25, 3),
        (3, 0.5, 2),
        (20, 0.99, 19),
        (1, 0.9, 0),
        (320, 0.9, 288),
        (50, 0.29, 15),  # 14.5, which floating point has as 14.499999999999998
    ],
)
def test_ratio_to_count_rounds_half_up_and_leaves_one(total, ratio, expected):
    assert num_pruned(total, ratio) == expected


@given(st.integers(1, 400), st.floats(0, 1, exclude_max=True))
def test_one_always_survives_and_the_count_is_nearest(total, ratio):
    count = num_pruned(total, ratio)
    assert 0 <= count <= total - 1
    assert count == total - 1 or abs(count - ratio * total) <= 0.5 + 1e-6


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5])
def test_a_ratio_is_a_prune_ratio(ratio):
    with pytest.raises(xp.ConfigError, match="removed"):
        num_pruned(20, ratio)


def test_hand_worked_hierarchy():
    prompt = xp.SoftPrompt(torch.ones(4, 4), pieces=2)
    given_scores = scores([3, 1, 2, 4], [[5, 1], [9, 9], [2, 3], [0, 8]])
    pruned = xp.prune(prompt, given_scores, token_ratio=0.25, piece_ratio=0.5)
    assert pruned.token_mask.tolist() == [True, False, True, True]
    # Over the six pieces of the three surviving tokens together, the three lowest are 0, 1 and 2.
    assert pruned.surviving_pieces.tolist() == [[True, False], [False, False], [False, True], [False, True]]
    assert pruned.num_params == 3 * 2


def test_reversed_takes_the_highest_first():
    prompt = xp.SoftPrompt(torch.ones(4, 4), pieces=2)
    given_scores = scores([3, 1, 2, 4], [[5, 1], [9, 9], [2, 3], [0, 8]])
    pruned = xp.prune(prompt, given_scores, 0.25, 0.0, order="highest")
    assert pruned.token_mask.tolist() == [True, True, True, False]


def test_random_keeps_as_many_and_follows_its_seed():
    values = torch.arange(200.0)
    masks = [keep_mask(values, 0.3, order="random", seed=s) for s in (0, 0, 1)]
    assert [int(m.sum()) for m in masks] == [140] * 3
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


def test_random_tokens_and_random_pieces_are_drawn_independently():
    equal = torch.ones(20)
    drawn = [[keep_mask(equal, 0.5, order="random", seed=seed, level=level) for level in (0, 1)] for seed in range(3)]
    assert not any(torch.equal(token, piece) for token, piece in drawn)
    prompt, one_piece = xp.SoftPrompt(torch.ones(20, 4), pieces=1), xp.Importance(equal, equal[:, None], 1)
    by_piece = xp.prune(prompt, one_piece, 0.0, 0.5, order="random", seed=0).surviving_pieces[:, 0]
    assert torch.equal(by_piece, drawn[0][1])


@pytest.mark.parametrize("order", ["lowest", "highest"])
def test_ties_go_to_the_earlier_position(order):
    assert keep_mask(torch.zeros(4), 0.5, order=order).tolist() == [False, False, True, True]


def test_a_token_without_a_piece_is_not_pruned_again():
    prompt = xp.SoftPrompt(torch.ones(4, 4), pieces=2)
    prompt.piece_mask[0] = False
    pruned = xp.prune(prompt, scores([0, 1, 2, 3], [[1, 1]] * 4), 0.34, 0.0)  # of the three that are left
    assert pruned.surviving_tokens.tolist() == [False, False, True, True]


def test_pruning_returns_a_copy_and_keeps_what_was_pruned():
    prompt = xp.SoftPrompt(torch.ones(4, 4), pieces=2)
    prompt.token_mask[3] = False
    pruned = xp.prune(prompt, scores([1, 2, 3, 0], [[1, 1]] * 4), 0.34, 0.0, mode="drop")
    assert pruned.token_mask.tolist() == [False, True, True, False]
    assert pruned.mode == "drop" and prompt.mode == "zero" and prompt.token_mask.tolist() == [True, True, True, False]


def test_rewinding_restores_the_tuned_values_and_keeps_the_masks():
    tuned = xp.SoftPrompt(torch.randn(4, 4), pieces=2)
    pruned = xp.prune(tuned, scores([1, 2, 3, 4], [[1, 2]] * 4), 0.5, 0.25)
    with torch.no_grad():
        pruned.embeddings.add_(7.0)
    back = xp.rewind(pruned, tuned)
    assert torch.equal(back.embeddings, tuned.embeddings)
    assert torch.equal(back.surviving_pieces, pruned.surviving_pieces)
    with pytest.raises(xp.ConfigError, match="pruned from"):
        xp.rewind(pruned, xp.SoftPrompt(torch.randn(5, 4), pieces=2))


def test_scores_of_another_prompt_are_refused():
    with pytest.raises(xp.ConfigError, match="score this prompt"):
        xp.prune(xp.SoftPrompt(torch.ones(3, 4), pieces=2), scores([1, 2], [[1, 1]] * 2), 0.5, 0.5)


def test_a_prompt_with_nothing_left_is_refused():
    prompt = xp.SoftPrompt(torch.ones(2, 4), pieces=2)
    prompt.token_mask[0] = False
    prompt.piece_mask[1] = False
    with pytest.raises(xp.ConfigError, match="keep 0 of 4 pieces; one at least must survive"):
        xp.prune(prompt, scores([1, 2], [[1, 1]] * 2), 0.5, 0.0)
