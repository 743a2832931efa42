"""Prompts made by a hypernetwork: prompt tuning is one of them, and each has the form and the size it says."""

from __future__ import annotations

import pytest
import torch

import xprompt as xp
from tests.conftest import tiny_model
from tests.methods.test_baselines import context_of
from tests.runs.test_run import config, place  # noqa: F401
from xprompt.methods import structured_prompt
from xprompt.methods.base import load_method
from xprompt.methods.prompt_encoder import initial_prompt, tune_encoder
from xprompt.methods.prompt_tuning import prompt_tuning

FORMS = {
    # latent; P = 4, H = 32
    "structured_linear": 16 + 16 * 128,
    "structured_low_rank": 16 + 16 * 4 * 4 + 16 * 4 * 32,
    "structured_layered": 16 + 17 * 32 + 32 * 128,
}


@pytest.mark.parametrize("name", FORMS)
def test_it_starts_as_prompt_tuning_does_and_counts_its_own_values(name, splits):
    context = context_of(name, tiny_model("seq2seq"), splits)
    result = load_method(name)(context)
    start = initial_prompt(context)
    assert torch.equal(result.prompts["init_prompt"].embeddings, start.embeddings)
    assert result.num_params == FORMS[name] and result.details["prompt_params"] == 4 * 32
    assert not torch.equal(result.prompts["tuned_prompt"].embeddings, start.embeddings)


def test_the_low_rank_forms_offset_has_that_rank():
    torch.manual_seed(0)
    form = structured_prompt.LowRankPrompt(torch.zeros(10, 32), latent=5, rank=3)
    torch.nn.init.normal_(form.last.weight)
    assert torch.linalg.matrix_rank(form.double()()) == 3
    linear = structured_prompt.LinearPrompt(torch.zeros(10, 32), latent=5)
    torch.nn.init.normal_(linear.last.weight)
    assert torch.linalg.matrix_rank(linear.double()()) == 10


def test_prompt_tuning_is_the_linear_form_with_a_latent_of_one_fixed_number(splits):
    context = context_of("prompt_tuning_peft", tiny_model("seq2seq"), splits)
    form = structured_prompt.LinearPrompt(initial_prompt(context).embeddings, latent=1)
    torch.nn.init.ones_(form.latent).requires_grad_(False)
    made, plain = tune_encoder(context, form, "linear"), prompt_tuning(context)
    assert made.num_params == plain.num_params == 4 * 32
    losses = [[entry["selection_loss"] for entry in result.history] for result in (made, plain)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4) and len(set(losses[0])) == 4


@pytest.mark.parametrize("method", ["xprompt_structured", "xprompt_subspace"])
def test_xprompt_prunes_the_prompt_that_it_ends_with(config, tmp_path, method):  # noqa: F811
    sources = ("cb", "wic") if method == "xprompt_subspace" else ()
    child = config.replace(method=method, source_tasks=sources, learning_rates={"structured_linear": 0.01})
    result, (parent,) = xp.run(child, tmp_path, watch=False), child.parents
    before = xp.run(parent, tmp_path, watch=False).load_prompt("tuned_prompt")
    pruned = result.load_prompt("pruned_prompt")
    assert torch.equal(pruned.masked()[pruned.surviving_entries], before.embeddings[pruned.surviving_entries])
    assert result.record["num_params"] < 5 * 32
    slower = child.replace(learning_rates={})
    differs = slower.identity() != child.identity()
    assert differs == (method == "xprompt_structured"), "the parent's rate is part of what the child is made of"
