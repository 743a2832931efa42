"""The ratio search: what halving keeps and costs, that its candidates are the grid's, and how wide a pass is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import xprompt as xp
from tests.conftest import tiny_data
from xprompt.config.settings import PAPER_RATIOS
from xprompt.data.batching import batches, infinite_batches
from xprompt.methods import ratio_search as search
from xprompt.training import loop, memory

RETUNE = xp.TuneSettings(learning_rate=0.3, steps=9, batch_size=4, eval_every=3)
SETTINGS = xp.PruneSettings(token_ratios=(0.2, 0.5, 0.8), piece_ratios=(0.25, 0.5, 0.75), retune=RETUNE)


def tuned_and_scored(backbone, splits):
    tuned = xp.SoftPrompt.init(backbone, 5, pieces=4, seed=1).to(backbone.dtype)
    return tuned, xp.importance(backbone, tuned, splits.train)


def tried(backbone, splits, **changes):
    tuned, _ = tuned_and_scored(backbone, splits)
    return xp.xprompt(backbone, splits, tuned, SETTINGS.replace(**changes)).candidates


@pytest.mark.parametrize(
    ("candidates", "steps", "expected"),
    [
        (81, 27, {0: 27, 3: 9, 9: 3}),
        (16, 27, {0: 6, 3: 2, 9: 1}),
        (1, 9, {0: 1, 1: 1, 3: 1}),
        (4, 20, {0: 2, 3: 1, 7: 1}),
    ],
)
def test_a_third_goes_on_at_each_rung(candidates, steps, expected):
    assert search.halving_schedule(candidates, steps) == expected


def test_of_the_papers_grid_halving_trains_less_than_a_tenth():
    left, spent, before = 81, 0, 0
    for step, kept in [*search.halving_schedule(81, 27).items(), (27, 0)]:
        spent, before, left = spent + left * (step - before), step, kept
    assert spent / (81 * 27) == pytest.approx(7 / 81)
    assert len(PAPER_RATIOS) ** 2 == 81


@pytest.mark.parametrize("kind", ["halving", "race"])
def test_what_halving_trains_to_the_end_is_the_grids_own_candidate(backbone64, splits, kind):
    everything, halved = tried(backbone64, splits, search="grid"), tried(backbone64, splits, search=kind)
    assert [(t.token_ratio, t.piece_ratio) for t in everything] == [(t.token_ratio, t.piece_ratio) for t in halved]
    finished = [i for i, one in enumerate(halved) if one.history.last_step == 9]
    assert finished and len(finished) < len(everything)
    for i in finished:
        full = {e["step"]: e["selection_loss"] for e in everything[i].history.entries}
        assert [entry["step"] for entry in halved[i].history.entries] == list(full)
        for entry in halved[i].history.entries:
            assert entry["selection_loss"] == pytest.approx(full[entry["step"]], abs=1e-12)


@pytest.mark.parametrize("kind", ["grid", "halving", "race"])
@pytest.mark.parametrize("ratios", [(0.1, 0.4, 0.7), tuple(i / 10 for i in range(1, 10))])
def test_the_matched_control_looks_as_often_as_xprompt(kind, ratios):
    settings = SETTINGS.replace(search=kind, token_ratios=ratios, piece_ratios=ratios)
    steps = 90

    def looks(count: int, schedule: dict[int, int]) -> int:
        """Count distinct checkpoints seen at the rungs; untrained copies of one prompt count as one."""
        seen = 0
        for left in schedule.values():
            seen, count = seen + count, count if kind == "grid" else left
        return seen

    # Of equal masks one is tried; what a race drops has no score that it could be chosen by.
    candidates = 9 if kind == "race" else search.num_masks(settings, 20, 16)
    xprompt = looks(candidates, search.halving_schedule(candidates, steps))
    count, schedule = search.matched_schedule(settings, steps, 20, 16)
    assert looks(count, schedule) == xprompt
    assert min(schedule) > 0 and max(schedule) < steps


@pytest.mark.parametrize("tokens, masks", [(20, 81), (8, 63), (5, 36), (4, 36), (1, 9)])
def test_ratios_that_round_to_the_same_numbers_make_one_mask(tokens, masks):
    settings = xp.PruneSettings()  # the paper's 81 pairs
    assert search.num_masks(settings, tokens, 16) == masks
    prompt = xp.SoftPrompt(torch.randn(tokens, 32), pieces=16)
    scores = xp.Importance(torch.rand(tokens), torch.rand(tokens, 16), 1)
    made, _ = search.distinct_masks([xp.prune(prompt, scores, *pair) for pair in settings.grid()])
    assert len(made) <= masks, "fewer where a token loses its last piece"
    assert search.num_masks(settings.replace(search="linear"), tokens, 16) <= 18


def test_the_matched_control_trains_no_more_candidates_than_there_are_masks():
    settings = xp.PruneSettings().replace(search="halving")
    trained = search.matched_schedule(settings, 90, 4, 16)[0]
    assert trained == search.halving_schedule(search.num_masks(settings, 4, 16), 90)[0] == 12  # of 36, not of 81


def test_the_better_go_on_at_every_rung(backbone64, splits):
    halved = {id(one.history): one.history for one in tried(backbone64, splits, search="halving")}.values()
    by_step: dict[int, list] = {}
    for history in halved:
        for place, entry in enumerate(history.entries):
            so_far = max(e["selection_score"] for e in history.entries[: place + 1])
            goes_on = place + 1 < len(history.entries)
            by_step.setdefault(entry["step"], []).append((goes_on, (so_far, -entry["selection_loss"])))
    for step, kept in search.halving_schedule(len(halved), 9).items():
        stopped = [standing for on, standing in by_step[step] if not on]
        going = [standing for on, standing in by_step[step] if on]
        assert len(going) == kept
        assert not stopped or min(going) >= max(stopped), step


def test_linear_tries_the_token_ratios_then_the_piece_ratios_at_the_best_of_them(backbone64, splits):
    found = tried(backbone64, splits, search="linear")
    grid = {(t.token_ratio, t.piece_ratio): t for t in tried(backbone64, splits, search="grid")}
    tokens, pieces = found[:3], found[3:]
    assert [(t.token_ratio, t.piece_ratio) for t in tokens] == [(0.2, 0.0), (0.5, 0.0), (0.8, 0.0)]
    best = search.choose_best(tokens).token_ratio
    assert [(t.token_ratio, t.piece_ratio) for t in pieces] == [(best, 0.25), (best, 0.5), (best, 0.75)]
    assert all(t.pruned.piece_mask[t.pruned.token_mask].all() for t in tokens)
    for candidate in pieces:
        same = grid[candidate.token_ratio, candidate.piece_ratio]
        assert torch.equal(candidate.pruned.surviving_pieces, same.pruned.surviving_pieces)
        assert candidate.score == same.score
    tuned, _ = tuned_and_scored(backbone64, splits)
    result = xp.xprompt(backbone64, splits, tuned, SETTINGS.replace(search="linear"))
    assert result.best.piece_ratio > 0 and result.best.score == max(t.score for t in pieces), "both levels are pruned"
    assert len(result.candidates) == SETTINGS.replace(search="linear").num_candidates == 6
    assert repr(result) == f"XPromptResult(6 tried, chosen: {result.best!r})", "it need not be the best of the six"


@pytest.mark.parametrize(("level", "number"), [("both", 18), ("token", 9), ("piece", 9)])
def test_of_the_papers_ratios_linear_tries_nine_a_level(level, number):
    settings = xp.PruneSettings(search="linear", level=level)
    assert settings.num_candidates == number and xp.PruneSettings().num_candidates == 81
    if level != "both":
        assert search.next_ratios(settings, []) == settings.grid()


def test_the_cost_counts_every_candidate_once(backbone64, splits):
    found = tried(backbone64, splits, search="grid")
    counted = search.search_cost(found, SETTINGS, splits)
    assert counted["trained_examples"] == counted["candidates"] * 9 * 4
    assert counted["evaluated_examples"] == counted["candidates"] * 5 * len(splits.validation)  # steps 0, 1, 3, 6, 9


@pytest.mark.parametrize("size", [3, 21, 24])
def test_short_batches_count_by_their_examples(backbone64, splits, size):
    splits = replace(splits, train=tiny_data(size, "train"))
    found = tried(backbone64, splits, search="grid", token_ratios=(0.2,), piece_ratios=(0.25,))
    drawn = infinite_batches(backbone64.encode(splits.train), 4, seed=0)
    assert search.search_cost(found, SETTINGS, splits)["trained_examples"] == sum(len(next(drawn)) for _ in range(9))


def test_equal_masks_are_one_candidate(backbone64, splits):
    found = tried(backbone64, splits, search="grid", token_ratios=(0.0, 0.01), piece_ratios=(0.25,))
    assert found[0].history is found[1].history


def test_the_paper_protocol_means_the_grid():
    assert xp.RunConfig(task="rte", method="xprompt").pruning.search == "halving"
    config = xp.RunConfig(task="rte", method="xprompt", protocol="paper")
    assert config.pruning.search == config.identity()["prune"]["search"] == "grid"
    assert config.replace(protocol="held_out").pruning.search == "halving", "the profile's search comes back"
    assert xp.RunConfig(task="rte", protocol="paper", prune=SETTINGS.replace(search="race")).pruning.search == "grid"
    linear = config.replace(prune=config.prune.replace(search="linear"))
    assert linear.pruning.search == "linear", "a reading of the paper, and no shortcut"
    assert len(config.prune.grid()) == len(xp.PROFILES["nano"].prune.grid())


@pytest.mark.parametrize("width", [1, 2, 3, None])
def test_the_width_of_a_pass_changes_no_number(backbone64, splits, width):
    prompts = [xp.SoftPrompt.init(backbone64, 5, pieces=4, seed=i).double() for i in range(4)]
    alone = [xp.tune(backbone64, p, splits, RETUNE, seed=i) for i, p in enumerate(prompts)]
    together = xp.tune_many(backbone64, prompts, splits, [RETUNE] * 4, seeds=range(4), width=width)
    for a, b in zip(alone, together, strict=True):
        assert torch.allclose(a.prompt(), b.prompt(), atol=1e-9, rtol=0)
        assert a.history.best_step == b.history.best_step


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_where_memory_runs_out_the_pass_is_made_narrower_and_nothing_is_lost(backbone64, splits, monkeypatch, error):
    prompts = [xp.SoftPrompt.init(backbone64, 5, pieces=4, seed=i).double() for i in range(4)]
    expected = xp.tune_many(backbone64, prompts, splits, [RETUNE] * 4, width=1)
    real, widths = loop.Loop._pass, []

    def short_of_memory(self, group, drawn, part):
        widths.append(len(group))
        result = real(self, group, drawn, part) if len(group) < 3 else None
        if result is None:
            raise error
        return result

    monkeypatch.setattr(loop.Loop, "_pass", short_of_memory)
    found = xp.tune_many(backbone64, prompts, splits, [RETUNE] * 4, width=4)
    assert widths[:3] == [4, 2, 2] and 4 not in widths[1:]
    for a, b in zip(expected, found, strict=True):
        assert torch.allclose(a.prompt(), b.prompt(), atol=1e-9, rtol=0)


def test_where_one_candidate_alone_does_not_fit_it_says_so(backbone64, splits, monkeypatch):
    def never(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop.Loop, "_pass", never)
    with pytest.raises(torch.OutOfMemoryError):
        xp.tune_many(backbone64, [xp.SoftPrompt.init(backbone64, 5, pieces=4).double()] * 2, splits, [RETUNE] * 2)


def test_predicted_memory_grows_with_the_examples_and_decides_the_width(backbone, monkeypatch):
    data = tiny_data(16, "train")
    verbalizer = backbone.verbalizer(data.task)
    (whole,) = batches(backbone.encode(data), 16, seed=None)
    half = type(whole)(*(t[:8] for t in (whole.input_ids, whole.attention_mask, whole.labels, whole.index)))
    small, large = (memory.predict_bytes(backbone, 5, batch, verbalizer) for batch in (half, whole))
    assert 1.8 * small < large < 2.2 * small
    monkeypatch.setattr(memory, "CPU_ROWS", 10**6)
    for room, expected in ((0.1, 1), (3.5, 3), (100.0, 8)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, room=room: int(room * large / memory.SHARE["cpu"]))
        assert memory.choose_width(backbone, 5, whole, verbalizer, at_most=8) == expected
    assert backbone.model.get_input_embeddings().weight.grad is None


def test_on_a_cpu_a_pass_stays_small(backbone):
    data = tiny_data(16, "train")
    (batch,) = batches(backbone.encode(data), 16, seed=None)
    assert memory.choose_width(backbone, 5, batch, backbone.verbalizer(data.task), at_most=50) == 4
