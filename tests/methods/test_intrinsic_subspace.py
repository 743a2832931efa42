"""A subspace of prompts: it holds every source, and what is tuned stays in it."""

from __future__ import annotations

import pytest
import torch

import xprompt as xp
from tests.conftest import tiny_model
from tests.methods.test_baselines import context_of
from xprompt.methods.intrinsic_subspace import SubspacePrompt, intrinsic_subspace
from xprompt.methods.prompt_encoder import initial_prompt


def some(number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    origin = torch.randn(3, 8, generator=generator)
    return origin, [origin + torch.randn(3, 8, generator=generator) for _ in range(number)]


def test_every_source_lies_in_it_and_it_starts_at_their_mean():
    origin, sources = some(4)
    space = SubspacePrompt(origin, sources)
    assert torch.allclose(space(), torch.stack(sources).mean(0), atol=1e-5)
    flat = space.directions.flatten(1)  # (D, P · H)
    products = flat @ flat.T
    assert len(flat) == 4 and torch.allclose(products, products.diag().diag(), atol=1e-4)
    coordinates = []
    for source in sources:
        coordinates.append(flat @ (source - origin).flatten() / products.diag())
        assert torch.allclose(origin + (coordinates[-1] @ flat).view(3, 8), source, atol=1e-5)
    assert torch.allclose(torch.stack(coordinates).square().mean(0), torch.ones(4), atol=1e-5)
    assert space.explained.sum() == pytest.approx(1) and (space.explained.diff() <= 0).all()


def test_sources_that_repeat_add_no_dimension():
    origin, sources = some(2)
    assert len(SubspacePrompt(origin, [*sources, sources[0]]).coordinates) == 2


def test_what_makes_no_space_is_refused():
    origin, sources = some(2)
    with pytest.raises(xp.ConfigError, match="no source prompt was moved"):
        SubspacePrompt(origin, [origin, origin])
    with pytest.raises(xp.ConfigError, match=r"shapes \[\(3, 8\), \(2, 8\)\] for a prompt of \(3, 8\)"):
        SubspacePrompt(origin, [sources[0], sources[1][:2]])


def test_sources_that_no_tuning_moved_leave_the_initial_prompt(splits):
    context = context_of("intrinsic_subspace", tiny_model("seq2seq"), splits)
    initial = initial_prompt(context)
    for parent in context.parents:
        parent.load_prompt = lambda name="tuned_prompt": initial.clone()
    with pytest.warns(UserWarning, match="no prompt of cb, wic was moved by its tuning"):
        result = intrinsic_subspace(context)
    assert (result.num_params, result.details["dimensions"], result.seconds_before) == (0, 0, 3.0)
    assert torch.equal(result.prompts["tuned_prompt"].embeddings, initial.embeddings)
    assert result.report.metrics == xp.evaluate(context.backbone, initial, splits.validation)


def test_only_coordinates_are_tuned_and_the_prompt_stays_in_the_space(splits):
    context = context_of("intrinsic_subspace", tiny_model("seq2seq"), splits)
    result = intrinsic_subspace(context)
    assert result.num_params == result.details["dimensions"] == 2 and result.seconds_before == 3.0
    assert result.details["source_tasks"] == ["cb", "wic"] and len(result.details["coordinates"]) == 2
    origin = initial_prompt(context).embeddings
    sources = [parent.load_prompt().embeddings - origin for parent in context.parents]
    offset = result.prompts["tuned_prompt"].embeddings - origin
    stacked = torch.stack([*sources, offset]).detach().flatten(1).double()
    assert torch.linalg.matrix_rank(stacked, rtol=1e-5) == 2
    assert not torch.equal(result.prompts["tuned_prompt"].embeddings, result.prompts["init_prompt"].embeddings)


def test_where_sources_started_apart_each_moved_from_its_own_start(splits, monkeypatch):
    context = context_of("intrinsic_subspace", tiny_model("seq2seq"), splits, init="labels")
    origin, generator = initial_prompt(context).embeddings.detach(), torch.Generator().manual_seed(0)
    moves = [torch.randn(4, 32, generator=generator) for _ in context.parents]
    for parent, move in zip(context.parents, moves, strict=True):
        begun = torch.randn(4, 32, generator=generator)  # at the label words of that task
        kept = {"init_prompt": xp.SoftPrompt(begun, pieces=4), "tuned_prompt": xp.SoftPrompt(begun + move, pieces=4)}
        monkeypatch.setattr(parent, "load_prompt", kept.__getitem__)
    result = intrinsic_subspace(context)
    assert torch.allclose(result.prompts["init_prompt"].embeddings, origin + torch.stack(moves).mean(0), atol=1e-5)
    stacked = torch.stack([*moves, result.prompts["tuned_prompt"].embeddings.detach() - origin]).flatten(1).double()
    assert torch.linalg.matrix_rank(stacked, rtol=1e-5) == 2 == result.details["dimensions"]

    def unkept(stage):
        if stage == "init_prompt":
            raise xp.StoreError("a published report keeps only the prompts that its notebooks read")
        return kept[stage]

    monkeypatch.setattr(context.parents[1], "load_prompt", unkept)
    with pytest.raises(xp.ConfigError, match="the run of wic has no init_prompt: .* or choose init='vocab'"):
        intrinsic_subspace(context)


@pytest.mark.parametrize("sources", [(), ("cb",), ("cb", "cb"), ("cb", "rte")])
def test_it_needs_two_other_tasks(sources):
    with pytest.raises(xp.ConfigError, match="it needs 2 or more different ones, other than its own"):
        xp.RunConfig(task="rte", method="intrinsic_subspace", source_tasks=sources)
