"""Memory: the count of what is alive against hand-worked cases, and a pass's prediction against a real peak."""

import platform

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import xprompt as xp
from tests.conftest import tiny_data
from xprompt.backbones.gradient_checkpointing import recomputing
from xprompt.bench.memory import peak_of
from xprompt.data.batching import Batch, batches
from xprompt.training.memory import LiveBytes, predict_bytes


class TestLiveBytes:
    def test_a_storage_counts_from_its_making_to_its_end(self):
        with LiveBytes() as live:
            first = torch.ones(250)  # 1,000 bytes
            second = first * 2
            assert live.now == 2000
            del second
            assert live.now == 1000
            third = torch.cat([first, first])
            assert (live.now, live.peak) == (3000, 3000)
            del first, third
        assert (live.now, live.peak) == (0, 3000)

    def test_views_and_changes_in_place_and_what_was_there_before_count_nothing(self):
        before = torch.ones(250)
        with LiveBytes(except_for=[before]) as live:
            before.view(10, 25).t().add_(1)
            before[:100].relu_()
            assert live.peak == 0

    def test_what_backward_keeps_and_what_it_holds_for_a_moment(self):
        leaf = torch.ones(250, requires_grad=True)
        with LiveBytes(except_for=[leaf]) as live:
            out = leaf.exp()  # keeps its result
            loss = out.sum()  # 4 bytes
            assert live.now == 1004
            torch.autograd.grad(loss, leaf)  # a 1 of 4 bytes, spread as a view, times the result
        assert live.peak == 1000 + 4 + 4 + 1000

    def test_a_block_that_is_computed_again_keeps_less(self):
        def peak(forward):
            leaf = torch.ones(1000, requires_grad=True)
            with LiveBytes(except_for=[leaf]) as live:
                hidden = leaf
                for _ in range(4):
                    hidden = forward(hidden)
                torch.autograd.grad(hidden.sum(), leaf)
            return live.peak

        def block(values):
            return values.exp().sin().cos().tanh()

        assert peak(lambda v: checkpoint(block, v, use_reentrant=False)) < 0.7 * peak(block)


def rows_of(count: int) -> Batch:
    ids = torch.randint(3, 800, (count, 35))
    return Batch(ids, torch.ones_like(ids), torch.zeros(count, dtype=torch.long), torch.arange(count))


def one_pass(backbone, count):
    """A job: a forward and backward pass of that many candidates with 32 rows each."""
    batch, verbalizer = rows_of(32 * count), backbone.verbalizer(xp.TASKS["rte"])
    prompts = torch.zeros(count, 20, backbone.hidden_size, requires_grad=True)
    prompt_index = torch.arange(count).repeat_interleave(32)
    return lambda: torch.autograd.grad(
        backbone.loss(prompts, batch, verbalizer, prompt_index=prompt_index).sum(), prompts
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to map every block on its own")
def test_a_real_pass_takes_what_was_predicted():
    backbone = xp.load_backbone("nano")
    each = predict_bytes(backbone, 20, rows_of(32), backbone.verbalizer(xp.TASKS["rte"]))
    assert peak_of("tests.training.test_memory:one_pass", backbone, {"count": 5}) == pytest.approx(5 * each, rel=0.1)


def test_a_prediction_leaves_no_gradient_and_knows_of_recomputing(backbone):
    data = tiny_data(16, "train")
    (batch,) = batches(backbone.encode(data), 16, seed=None)
    arguments = (backbone, 5, batch, backbone.verbalizer(data.task))
    plain = predict_bytes(*arguments)
    with recomputing(backbone.model, True):
        assert predict_bytes(*arguments) < plain
    assert predict_bytes(*arguments) == plain
    assert all(parameter.grad is None for parameter in backbone.model.parameters())
