"""The method without a store: equal to what a run records, pruned entries stay zero, the best candidate is chosen."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

import xprompt as xp
from tests.conftest import tiny_model
from tests.runs.test_run import config, place  # noqa: F401
from xprompt.backbones.gradient_checkpointing import is_recomputed
from xprompt.methods.ratio_search import RetrainedPrompt, choose_best
from xprompt.training.candidate import History

RETUNE = xp.TuneSettings(learning_rate=0.3, steps=6, batch_size=8, eval_every=3, weight_decay=0.1)
SETTINGS = xp.PruneSettings(token_ratios=(0.2, 0.6), piece_ratios=(0.5,), retune=RETUNE)


def test_the_method_alone_equals_what_a_run_records(config, tmp_path):  # noqa: F811
    run = xp.run(config.replace(method="xprompt"), tmp_path, watch=False)
    tuned = xp.run(config.replace(method="prompt_tuning"), tmp_path, watch=False).load_prompt("tuned_prompt")
    backbone = xp.load_backbone(config.backbone, dtype=config.dtype, max_source=config.max_source)
    before = torch.get_num_threads()
    torch.set_num_threads(xp.PROFILES[config.profile].threads)  # as a run does
    try:
        result = xp.xprompt(backbone, xp.load_splits(config), tuned, config.prune, seed=config.seed)
    finally:
        torch.set_num_threads(before)
    details = run.record["details"]
    assert (result.best.token_ratio, result.best.piece_ratio) == (details["token_ratio"], details["piece_ratio"])
    assert [candidate.describe() for candidate in result.candidates] == details["candidates"]
    assert result.scores.piece.tolist() == details["importance"]["piece"]
    for stage, prompt in (("pruned_prompt", result.best.pruned), ("rewound_prompt", result.prompt)):
        recorded = run.load_prompt(stage).state_dict()
        assert all(torch.equal(value, recorded[name]) for name, value in prompt.state_dict().items()), stage
    assert xp.evaluate(backbone, result.prompt, xp.load_splits(config).validation) == run.metrics


@pytest.mark.parametrize(("mode", "order"), [("zero", "lowest"), ("drop", "lowest"), ("drop", "random")])
def test_pruned_entries_are_zero_after_retraining_and_the_tuned_prompt_is_unchanged(splits, mode, order):
    backbone = tiny_model("seq2seq")
    tuned = xp.SoftPrompt.init(backbone, 5, pieces=4, seed=1)
    before = {name: value.clone() for name, value in tuned.state_dict().items()}
    result = xp.xprompt(backbone, splits, tuned, SETTINGS.replace(mode=mode), order=order)
    assert [(c.token_ratio, c.piece_ratio) for c in result.candidates] == SETTINGS.grid()
    for candidate in result.candidates:
        keep = candidate.pruned.surviving_pieces.repeat_interleave(8, dim=1)
        values = candidate.prompt.masked()
        assert 0 < int(keep.sum()) == candidate.prompt.num_params < tuned.num_params
        assert bool((values[~keep] == 0).all()) and torch.equal(candidate.prompt.surviving_pieces.cpu(), keep[:, ::8])
        assert torch.equal(candidate.pruned.masked()[keep], tuned.embeddings[keep]), "rewound"
        assert candidate.prompt().shape[0] == (5 if mode == "zero" else int(keep.any(1).sum()))
        moved = candidate.history.best_step > 0
        assert moved != torch.equal(values[keep], tuned.embeddings[keep])
    assert all(torch.equal(value, before[name]) for name, value in tuned.state_dict().items())
    assert tuned.mode == "zero" and tuned.embeddings.grad is None


def test_the_scoring_pass_needs_no_more_memory_than_a_step_of_retraining(splits, monkeypatch):
    backbone = tiny_model("seq2seq")
    tuned, passes = xp.SoftPrompt.init(backbone, 5, pieces=4, seed=1), []
    block = next(module for module in backbone.model.modules() if isinstance(module, GradientCheckpointingLayer))

    def seen(*args, **options):
        passes.append((options["batch_size"], is_recomputed(block)))
        return xp.importance(*args, **options)

    monkeypatch.setattr("xprompt.methods.xprompt.importance", seen)
    plain = RETUNE.replace(steps=0, eval_every=None)
    small = plain.replace(accumulation=4, gradient_checkpointing=True)
    results = [xp.xprompt(backbone, splits, tuned, SETTINGS.replace(retune=retune)) for retune in (plain, small)]
    for batch_size in (2, 32):  # no more than what retraining steps on
        xp.xprompt(backbone, splits, tuned, SETTINGS.replace(retune=small), batch_size=batch_size)
    assert passes == [(8, False), (2, True), (1, True), (2, True)] and not is_recomputed(block)
    assert torch.allclose(results[0].scores.piece, results[1].scores.piece, rtol=1e-4, atol=1e-7)


def test_the_three_orders_prune_as_much_and_differ(splits):
    backbone = tiny_model("seq2seq")
    tuned = xp.SoftPrompt.init(backbone, 5, pieces=4, seed=1)
    settings = SETTINGS.replace(retune=RETUNE.replace(steps=1))
    results = [xp.xprompt(backbone, splits, tuned, settings, order=o) for o in ("lowest", "highest", "random")]
    for a, b in itertools.combinations(results, 2):
        masks = [[c.pruned.surviving_pieces for c in r.candidates] for r in (a, b)]
        assert [int(m.sum()) for m in masks[0]] == [int(m.sum()) for m in masks[1]]
        assert not all(torch.equal(m, n) for m, n in zip(*masks, strict=True))


@pytest.mark.parametrize("level", ["token", "piece"])
def test_one_level_alone_leaves_the_other_whole(config, tmp_path, level):  # noqa: F811
    one = config.replace(method=f"xprompt_{level}")
    result = xp.run(one, tmp_path, watch=False)
    details, prompt = result.record["details"], result.load_prompt()
    assert {(c["token_ratio"], c["piece_ratio"]) for c in details["candidates"]} == {
        (r, 0.0) if level == "token" else (0.0, r) for r in getattr(config.prune, f"{level}_ratios")
    }
    whole = prompt.piece_mask[prompt.token_mask].all() if level == "token" else prompt.token_mask.all()
    assert whole and not prompt.surviving_pieces.all()
    assert (
        result.record["config"]["prune"]["level"] == level and len(details["candidates"]) == one.pruning.num_candidates
    )
    assert one.replace(prune=one.prune.replace(level="both")).identity() == one.identity()
    by_settings = config.replace(method="xprompt", prune=config.prune.replace(level=level))
    assert xp.run(by_settings, tmp_path, watch=False).metrics == result.metrics


def test_pieces_scored_again_are_the_pruned_prompts_own(splits):
    """The other reading of the hierarchy: the same tokens go, the pieces by scores of what is left."""
    backbone = tiny_model("seq2seq")
    tuned = xp.SoftPrompt.init(backbone, 5, pieces=4, seed=1)
    settings = SETTINGS.replace(rescore_pieces=True, retune=RETUNE.replace(steps=1))
    again, once = (xp.xprompt(backbone, splits, tuned, s) for s in (settings, settings.replace(rescore_pieces=False)))
    differ = 0
    for a, b in zip(again.candidates, once.candidates, strict=True):
        left = xp.prune(tuned, again.scores, a.token_ratio, 0.0, "zero")
        scores = xp.importance(backbone, left, splits.train, batch_size=RETUNE.batch_size)
        expected = xp.prune(left, scores, 0.0, a.piece_ratio, "zero")
        assert torch.equal(a.pruned.surviving_pieces, expected.surviving_pieces)
        assert torch.equal(a.pruned.token_mask, b.pruned.token_mask)
        differ += not torch.equal(a.pruned.piece_mask, b.pruned.piece_mask)
    assert differ and torch.equal(again.scores.piece, once.scores.piece) and once.rescored is None
    assert not torch.equal(again.rescored.piece, again.scores.piece)
    assert torch.equal(again.rescored.token, again.scores.token)
    assert bool((again.rescored.signed.abs() <= again.rescored.piece + 1e-6).all()), "signs are of the same pass"


def test_the_readings_have_identities_of_their_own_and_the_first_keeps_its(config):  # noqa: F811
    one = config.replace(method="xprompt")
    assert "rescore_pieces" not in one.identity()["prune"]
    other = one.replace(prune=one.prune.replace(rescore_pieces=True))
    assert other.identity()["prune"].pop("rescore_pieces") is True and other.identity() != one.identity()


def candidate(name: float, score: float, pieces: int) -> RetrainedPrompt:
    prompt = xp.SoftPrompt(torch.ones(1, 8), pieces=8)
    prompt.piece_mask[0, pieces:] = False
    return RetrainedPrompt(name, 0.0, prompt, prompt, History("selection", best_score=score))


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([(0.5, 4), (0.7, 8), (0.6, 1)], 1),  # the score decides
        ([(0.7, 8), (0.7, 2), (0.7, 4)], 1),  # of equal scores, the fewest parameters
        ([(0.5, 1), (0.7, 2), (0.7, 2)], 1),  # of equal ones, the first
    ],
)
def test_the_best_has_the_highest_score_then_fewest_parameters_then_comes_first(candidates, chosen):
    made = [candidate(i / 10, score, pieces) for i, (score, pieces) in enumerate(candidates)]
    assert choose_best(made) is made[chosen]
