"""Adafactor: transformers' own where nothing is pruned, and over what survives where something is."""

from __future__ import annotations

import pytest
import torch
import transformers.optimization
from torch import nn

from xprompt.training.optimizer import Adafactor


def gradients(shape, steps, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype) * 0.1**i for i in range(steps)]


def trained(optimizer, parameter, steps):
    for gradient in steps:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(5, 8), (7,), (2, 3, 4)])
def test_with_nothing_pruned_it_is_transformers_own_to_the_last_bit(shape, dtype, scaled):
    start, steps = torch.randn(shape, dtype=dtype), gradients(shape, 6, dtype)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    reference = transformers.optimization.Adafactor(
        [theirs], lr=0.3, weight_decay=1e-3, scale_parameter=scaled, relative_step=False, warmup_init=False
    )
    surviving = torch.ones(shape, dtype=torch.bool) if len(shape) == 2 else None
    mine = Adafactor([ours], 0.3, 1e-3, surviving, scaled)
    assert torch.equal(trained(mine, ours, steps), trained(reference, theirs, steps))


@pytest.mark.parametrize("scaled", [False, True])
def test_pruned_tokens_leave_the_physically_shorter_prompts_training(scaled):
    tokens = torch.tensor([True, False, True, True, False])
    start, steps = torch.randn(5, 8, dtype=torch.float64), gradients((5, 8), 6)
    pruned, shorter = nn.Parameter(start.clone()), nn.Parameter(start[tokens].clone())
    surviving = tokens[:, None].expand(5, 8)
    masked = [gradient * surviving for gradient in steps]
    kept = trained(Adafactor([pruned], 0.3, 1e-5, surviving, scaled), pruned, masked)[tokens]
    alone = trained(Adafactor([shorter], 0.3, 1e-5, None, scaled), shorter, [gradient[tokens] for gradient in steps])
    assert torch.allclose(kept, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scaled", [False, True])
def test_pruned_columns_leave_the_narrower_prompts_training(scaled):
    columns = torch.tensor([True, True, False, True])
    start, steps = torch.randn(3, 4, dtype=torch.float64), gradients((3, 4), 4)
    pruned, narrower = nn.Parameter(start.clone()), nn.Parameter(start[:, columns].clone())
    surviving = columns.expand(3, 4)
    masked = [gradient * surviving for gradient in steps]
    kept = trained(Adafactor([pruned], 0.3, 0.0, surviving, scaled), pruned, masked)[:, columns]
    alone = trained(Adafactor([narrower], 0.3, 0.0, None, scaled), narrower, [g[:, columns] for g in steps])
    assert torch.allclose(kept, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.9])
def test_one_step_moves_survivors_by_the_rate_however_much_is_pruned(share):
    generator = torch.Generator().manual_seed(1)
    pieces = torch.rand(20, 16, generator=generator) >= share
    surviving = pieces.repeat_interleave(8, dim=1)  # (20, 128)
    parameter = nn.Parameter(torch.zeros(20, 128))
    gradient = torch.randn(20, 128, generator=generator).sign() * surviving
    moved = trained(Adafactor([parameter], 0.3, 0.0, surviving), parameter, [gradient])
    assert moved[~surviving].abs().sum() == 0
    rms = moved[surviving].square().mean().sqrt()
    assert rms == pytest.approx(0.3, rel=1e-4)


def test_a_prompt_whose_row_and_column_are_pruned_stays_finite():
    surviving = torch.ones(3, 4, dtype=torch.bool)
    surviving[1], surviving[:, 2] = False, False
    parameter = nn.Parameter(torch.zeros(3, 4))
    moved = trained(Adafactor([parameter], 0.3, 0.0, surviving), parameter, [torch.ones(3, 4) * surviving] * 3)
    assert moved.isfinite().all() and moved[~surviving].abs().sum() == 0 and (moved[surviving] != 0).all()


@pytest.mark.parametrize("size", [0.0, 1e-12])
def test_a_token_with_hardly_a_gradient_in_columns_of_its_own_stays_finite(size):
    """The product of its row's and its column's second moments is 0 in float32."""
    surviving = torch.block_diag(torch.ones(2, 3), torch.ones(1, 1)).bool()
    parameter, gradient = nn.Parameter(torch.zeros(3, 4)), torch.full((3, 4), 1e-2)
    gradient[2] = size
    moved = trained(Adafactor([parameter], 0.3, 0.0, surviving), parameter, [gradient * surviving])
    assert moved.isfinite().all() and (moved[:2][surviving[:2]] != 0).all()
