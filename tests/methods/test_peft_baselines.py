"""LoRA and PEFT's prompt tuning, trained by our loop: equal to ours where they are the same method."""

from __future__ import annotations

import pytest
import torch

import xprompt as xp
from tests.conftest import tiny_model
from xprompt.methods.base import MethodContext
from xprompt.methods.peft_baselines import PromptedBackbone, lora, prompt_tuning_peft
from xprompt.methods.prompt_tuning import prompt_tuning

QUICK = xp.TuneSettings(learning_rate=0.1, steps=6, batch_size=8, eval_every=3, optimizer="adamw", weight_decay=0.0)


@pytest.fixture
def context(backbone64, splits):
    config = xp.RunConfig(task="rte", profile="tiny", length=4, pieces=4, tune=QUICK, fine_tune=QUICK)
    return MethodContext(config, backbone64, splits)


def test_peft_prompt_tuning_is_our_prompt_tuning(context):
    ours, theirs = prompt_tuning(context), prompt_tuning_peft(context)
    assert torch.equal(ours.prompts["init_prompt"].embeddings, theirs.prompts["init_prompt"].embeddings)
    losses = [[entry["selection_loss"] for entry in result.history] for result in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    assert len(set(losses[0])) == len(losses[0]) == 3, "it moves at every step"
    difference = ours.prompts["tuned_prompt"].embeddings - theirs.prompts["tuned_prompt"].embeddings
    assert difference.abs().max() < 1e-12
    assert ours.report.predictions == theirs.report.predictions


def test_peft_prompt_is_what_the_backbone_sees(context):
    backbone, data = context.backbone, context.splits.validation
    start = xp.SoftPrompt.init(backbone, 4, pieces=4).to(torch.float64)
    prompted = PromptedBackbone(backbone, start)
    assert torch.equal(prompted.vectors(), start())
    assert xp.evaluate(prompted, None, data) == xp.evaluate(backbone, start, data)


@pytest.mark.parametrize("method", [lora, prompt_tuning_peft])
def test_the_backbone_is_bit_identical_afterwards(context, method):
    before = {name: value.clone() for name, value in context.backbone.model.state_dict().items()}
    result = method(context)
    after = context.backbone.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad for p in context.backbone.model.parameters())
    assert 0 < result.num_params < context.backbone.num_params


def test_lora_learns_and_its_merged_model_gives_the_checkpoints_score(context):
    result = lora(context)
    losses = [entry["selection_loss"] for entry in result.history]
    assert len(set(losses)) == len(losses) == 3, "it moves at every step"
    best = next(e for e in result.history if e["step"] == result.details["best_step"])
    assert result.report.loss == pytest.approx(best["selection_loss"], rel=1e-9)  # validation is the selection split


def test_lora_counts_its_own_parameters(splits):
    backbone = tiny_model("decoder")
    config = xp.RunConfig(task="rte", profile="tiny", fine_tune=QUICK.replace(steps=1))
    result = lora(MethodContext(config, backbone, splits))
    # two layers; query 32 → 32 and value 32 → 16 (grouped heads), rank 8: A (8, in), B (out, 8)
    assert result.num_params == 2 * (8 * 32 + 32 * 8 + 8 * 32 + 16 * 8)
