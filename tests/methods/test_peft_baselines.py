"""LoRA, P-Tuning and PEFT's prompt tuning, trained by our loop: equal to ours where they are the same method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import xprompt as xp
from tests.conftest import tiny_model
from xprompt.backbones.loading import copy_modules
from xprompt.methods import peft_baselines
from xprompt.methods.base import MethodContext
from xprompt.methods.peft_baselines import lora, p_tuning, p_tuning_mlp, prompt_embedding, prompt_tuning_peft
from xprompt.methods.prompt_encoder import EncodedBackbone
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
    start = xp.SoftPrompt.init(backbone, 4, pieces=4)
    encoded = EncodedBackbone(backbone, prompt_embedding(backbone, start))
    assert torch.equal(encoded.encoder(), start())
    assert xp.evaluate(encoded, None, data) == xp.evaluate(backbone, start, data)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_lora_learns_and_reports_the_chosen_checkpoint_itself(context, kind, dtype):
    config = context.config.replace(method="lora", tune=QUICK.replace(learning_rate=0.01, steps=20, eval_every=10))
    splits = replace(context.splits, validation=context.splits.train)  # memorised, so that a later checkpoint is best
    result = lora(MethodContext(config, tiny_model(kind, dtype), splits))
    losses = [entry["selection_loss"] for entry in result.history]
    assert len(set(losses)) == len(losses) == 3, "it moves at every step"
    assert result.details["best_step"] > 0
    best = next(e for e in result.history if e["step"] == result.details["best_step"])
    assert result.report.loss == best["selection_loss"]  # validation is the selection split


def test_lora_counts_its_own_parameters(splits):
    backbone = tiny_model("decoder")
    config = xp.RunConfig(task="rte", profile="tiny", fine_tune=QUICK.replace(steps=1))
    result = lora(MethodContext(config, backbone, splits))
    # two layers; query 32 → 32 and value 32 → 16 (grouped heads), rank 8: A (8, in), B (out, 8)
    assert result.num_params == 2 * (8 * 32 + 32 * 8 + 8 * 32 + 16 * 8)


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        # two layers of a bidirectional LSTM, 32 → 2 · 16, four gates, two biases; 32 → 32 → 32 by two linear layers
        (p_tuning, 2 * 2 * 4 * 16 * (32 + 16 + 2) + 2 * (32 * 32 + 32)),
        (p_tuning_mlp, 3 * (32 * 32 + 32)),
    ],
)
def test_p_tuning_counts_its_encoder_and_leaves_a_plain_prompt(context, method, weights):
    result = method(context)
    assert result.num_params == 4 * 32 + weights
    assert result.details["prompt_params"] == result.prompts["tuned_prompt"].num_params == 4 * 32
    tuned = result.prompts["tuned_prompt"]
    best = next(e for e in result.history if e["step"] == result.details["best_step"])
    assert result.report.loss == pytest.approx(best["selection_loss"], rel=1e-9)
    assert xp.evaluate(context.backbone, tuned, context.splits.validation) == result.report.metrics


def test_lora_shares_the_weights_and_leaves_the_backbone_as_it_was(context, kind):
    backbone = tiny_model(kind)
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in backbone.model.state_dict().items()}
    copied = copy_modules(backbone.model)
    assert {tensor.data_ptr() for tensor in copied.parameters()} == {t.data_ptr() for t in backbone.model.parameters()}
    lora(MethodContext(context.config.replace(method="lora", tune=QUICK), backbone, context.splits))
    after = backbone.model.state_dict()
    assert after.keys() == before.keys(), "no layer of its own was wrapped"
    assert all(after[n].data_ptr() == place and torch.equal(after[n], value) for n, (place, value) in before.items())
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_an_architecture_that_peft_does_not_know_is_named(context, monkeypatch):
    monkeypatch.setattr(peft_baselines.peft, "get_peft_model", unknown_architecture)
    with pytest.raises(xp.BackboneError, match="LoRA does not know the architecture 't5'.*leave lora out of methods"):
        lora(MethodContext(context.config.replace(method="lora"), tiny_model("seq2seq"), context.splits))


def unknown_architecture(model, config):
    raise ValueError("Please specify `target_modules` or `target_parameters` in `peft_config`")
