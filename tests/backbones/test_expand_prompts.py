"""Copies of C tensors, one a row: the values of indexing, and a gradient that is the same to the bit every time."""

import pytest
import torch

from xprompt.backbones.base import expand_prompts

PROMPT_INDEX = torch.tensor([0, 0, 2, 1, 2, 2])


@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 4), (3, 2, 5, 4)])
def test_values_and_gradients_are_those_of_indexing(shape):
    tensor = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(6, *shape[1:], dtype=torch.float64)
    ours, theirs = expand_prompts(tensor, PROMPT_INDEX), tensor[PROMPT_INDEX]
    assert torch.equal(ours, theirs)
    (a,), (b,) = (torch.autograd.grad(rows, tensor, weights) for rows in (ours, theirs))
    assert torch.allclose(a, b, atol=1e-14)


def test_with_several_threads_the_gradient_is_the_same_every_time():
    """Of nano's size; by indexing, no two of these are alike."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        prompt = torch.randn(1, 20, 128, requires_grad=True)
        weights, prompt_index = torch.randn(64, 20, 128), torch.zeros(64, dtype=torch.long)
        first, *others = (
            torch.autograd.grad(expand_prompts(prompt, prompt_index), prompt, weights)[0] for _ in range(30)
        )
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, other) for other in others)
