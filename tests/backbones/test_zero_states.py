"""Prompts that start with pruned tokens, in front of a decoder-only LM: their gradients are finite, and right."""

from __future__ import annotations

import functools

import pytest
import torch
import transformers

import xprompt as xp
from tests.backbones.test_architectures import CONFIGS, LLAMA, SMALL, make, whole_batch
from xprompt.backbones.gradient_checkpointing import recomputing
from xprompt.methods.base import MethodContext, load_method
from xprompt.prompts.stacking import stack

DEEP = {**SMALL, **LLAMA, "num_hidden_layers": 20, "rms_norm_eps": 1e-6}


def prompt_without(tokens, dtype):
    torch.manual_seed(1)
    prompt = xp.SoftPrompt(torch.randn(5, LLAMA["hidden_size"], dtype=torch.float64).to(dtype))
    prompt.token_mask[tokens] = False
    return prompt


def gradient(backbone, prompt, shared=True):
    batch, verbalizer = whole_batch(backbone)
    vectors = prompt()  # (P, H)
    loss = backbone.loss(vectors if shared else vectors.expand(len(batch), -1, -1), batch, verbalizer).sum()
    return torch.autograd.grad(loss, prompt.embeddings)[0]  # (P, H)


@functools.cache
def llama(dtype):
    return make(transformers.LlamaConfig(**DEEP), scale=5.0, dtype=dtype)


@functools.cache
def unstopped(dtype):
    """The same model with nothing stopped: in float64 the gradients that explode are still finite."""
    backbone = make(transformers.LlamaConfig(**DEEP), scale=5.0, dtype=dtype)
    for module in backbone.model.modules():
        module._forward_hooks.clear()
    return backbone


@pytest.mark.parametrize("shared", [True, False], ids=["run once", "a copy a row"])
@pytest.mark.parametrize("pruned", [[0], [0, 1], [0, 2], [3]], ids=str)
def test_where_pruned_tokens_come_first_the_others_get_the_exact_gradient(pruned, shared):
    exact = gradient(unstopped(torch.float64), prompt_without(pruned, torch.float64), shared)
    assert exact.isfinite().all() and exact.abs().max() > 0
    wide = gradient(llama(torch.float64), prompt_without(pruned, torch.float64), shared)
    assert torch.allclose(wide, exact, rtol=1e-9, atol=1e-12)
    narrow = gradient(llama(torch.float32), prompt_without(pruned, torch.float32), shared)
    assert (narrow.double() - exact).norm() < 1e-3 * exact.norm()


def test_without_the_stop_they_are_not_numbers():
    """What the module is for: should a later version of torch not need it, this test says so."""
    assert gradient(unstopped(torch.float32), prompt_without([0], torch.float32)).isnan().any()


def test_recomputed_blocks_stop_the_same_gradients():
    backbone = llama(torch.float32)
    plain = gradient(backbone, prompt_without([0], torch.float32), shared=False)
    with recomputing(backbone.model, True):
        assert torch.equal(gradient(backbone, prompt_without([0], torch.float32), shared=False), plain)


def test_candidates_of_one_pass_keep_their_own_gradient():
    """One candidate starts with a pruned token, its neighbour does not."""
    backbone = llama(torch.float32)
    batch, verbalizer = whole_batch(backbone)
    prompts = [prompt_without([0], torch.float32), prompt_without([], torch.float32)]
    vectors, mask = stack(prompts)  # (2, P, H), (2, P)
    index = torch.arange(len(batch)) % 2  # (B,)
    loss = backbone.loss(vectors, batch, verbalizer, mask, prompt_index=index)  # (B,)
    for i, prompt in enumerate(prompts):
        together = torch.autograd.grad(loss[index == i].sum(), prompt.embeddings, retain_graph=True)[0]
        own = backbone.loss(prompt(), batch, verbalizer)[index == i].sum()
        assert torch.allclose(together, torch.autograd.grad(own, prompt.embeddings)[0], rtol=1e-3, atol=1e-6)


def test_importance_of_a_prompt_whose_first_token_is_pruned_is_finite(splits):
    backbone = llama(torch.float32)
    scores = xp.importance(backbone, prompt_without([0], torch.float32), splits.train)
    assert scores.token.isfinite().all() and scores.token[0] == 0 and scores.token[1:].min() > 0


@pytest.mark.parametrize("with_prompt", [True, False], ids=["a prompt", "no prompt"])
def test_states_that_are_not_zero_are_left_as_they_are(with_prompt):
    backbone = llama(torch.float32)
    bare = unstopped(torch.float32)
    batch, verbalizer = whole_batch(backbone)
    prompt = prompt_without([], torch.float32)() if with_prompt else None
    assert torch.equal(backbone.loss(prompt, batch, verbalizer), bare.loss(prompt, batch, verbalizer))


@pytest.mark.parametrize(("name", "kept"), [("llama", True), ("opt", False), ("gpt2", False), ("t5", False)])
def test_a_surviving_token_of_zeros_is_tuned_only_where_its_gradient_arrives(name, kept, splits):
    backbone = make(CONFIGS[name](), dtype=torch.float32)
    settings = xp.TuneSettings(optimizer="adamw", learning_rate=0.01, steps=1, batch_size=4)
    prompt = xp.SoftPrompt.init(backbone, 4, pieces=4)
    with torch.no_grad():
        prompt.embeddings[2] = 0
    xp.tune(backbone, prompt, splits, settings)  # it sees the two before it
    prompt.token_mask[:2] = False
    assert backbone.keeps_zeros() == kept
    if kept:
        with pytest.raises(xp.ConfigError, match=r"zero throughout, \[2\]: .* passes no gradient to them\. Start from"):
            xp.tune(backbone, prompt, splits, settings)
        prompt.token_mask[2] = False
        xp.tune(backbone, prompt, splits, settings)
    else:
        batch, verbalizer = whole_batch(backbone)
        loss = backbone.loss(prompt(), batch, verbalizer).sum()
        assert torch.autograd.grad(loss, prompt.embeddings)[0][2].any()


def test_a_module_that_makes_zeros_is_refused_too(splits):
    backbone = make(CONFIGS["llama"](), dtype=torch.float32)
    with torch.no_grad():
        backbone.model.get_input_embeddings().weight[0] = 0  # as padding often is
    config = xp.RunConfig(task="rte", profile="tiny", method="structured_linear", length=4, pieces=4, init="first")
    with pytest.raises(xp.ConfigError, match=r"zero throughout, \[0\]"):
        load_method(config.method)(MethodContext(config, backbone, splits))
