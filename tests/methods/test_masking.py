"""Masking and leaving out, as runs: the same scores as XPrompt's, the choice of the ratio, what a record holds."""

from __future__ import annotations

import numpy as np
import pytest

import xprompt as xp
from tests.runs.test_run import config, place  # noqa: F401
from xprompt.methods import masking


def test_masking_chooses_its_ratio_on_the_selection_split_and_reports_on_validation(config, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(masking, "DRAWS", 3)
    result = xp.run(config.replace(method="masking"), tmp_path)
    details = result.record["details"]
    assert [(m["split"], m["token_ratio"], m["masked_tokens"]) for m in details["masks"]] == [
        ("selection", 0.2, 1), ("selection", 0.6, 3), ("validation", 0.2, 1), ("validation", 0.6, 3)
    ]  # fmt: skip
    assert all(len(m["score"]["random"]) == len(m["loss"]["random"]) == 3 for m in details["masks"])
    on_selection = {m["token_ratio"]: m["score"]["lowest"] for m in details["masks"][:2]}
    best = details["token_ratio"]
    assert on_selection[best] == max(on_selection.values())
    (reported,) = (m for m in details["masks"] if (m["split"], m["token_ratio"]) == ("validation", best))
    assert result.score == pytest.approx(reported["score"]["lowest"], abs=1e-5)
    pruned = result.load_prompt("pruned_prompt")
    assert int(pruned.token_mask.sum()) == 5 - reported["masked_tokens"]
    assert pruned.piece_mask[pruned.token_mask].all()
    parent = xp.run(config.replace(method="prompt_tuning"), tmp_path)
    assert reported["score"]["all"] == pytest.approx(parent.score, abs=1e-5)


def test_both_score_as_xprompt_does(config, tmp_path):  # noqa: F811
    records = {
        name: xp.run(config.replace(method=name), tmp_path).record["details"]
        for name in ("xprompt", "masking", "leave_one_out")
    }
    scores = records["xprompt"]["importance"]
    left_out = records["leave_one_out"]["leave_one_out"]
    for token in (records["masking"]["importance"]["token"], left_out["token"]["importance"]):
        assert token == pytest.approx(scores["token"], rel=1e-5)
    assert left_out["piece"]["importance"] == pytest.approx(np.ravel(scores["piece"]).tolist(), rel=1e-5)


def test_both_score_in_passes_no_larger_than_xprompts(config, tmp_path, monkeypatch):  # noqa: F811
    sizes = []

    def seen(*args, **options):
        sizes.append(options["batch_size"])
        return xp.importance(*args, **options)

    monkeypatch.setattr("xprompt.methods.xprompt.importance", seen)
    retune = config.prune.retune.replace(accumulation=4, gradient_checkpointing=True)
    for method in ("xprompt", "leave_one_out"):
        xp.run(config.replace(method=method, prune=config.prune.replace(retune=retune)), tmp_path)
    assert sizes == [2, 2]


def test_one_level_alone_is_left_out_where_the_settings_say_so(config, tmp_path):  # noqa: F811
    config = config.replace(method="leave_one_out")  # noqa: F811
    both = xp.run(config, tmp_path).record["details"]["leave_one_out"]
    for level in ("token", "piece"):
        alone = xp.run(config.replace(prune=config.prune.replace(level=level)), tmp_path)
        assert alone.record["details"]["leave_one_out"] == {level: both[level]}


@pytest.mark.parametrize("mode", ["zero", "drop"])
def test_each_one_left_out_is_recorded_by_level(config, tmp_path, mode):  # noqa: F811
    config = config.replace(method="leave_one_out", prune=config.prune.replace(mode=mode))  # noqa: F811
    result = xp.run(config, tmp_path)
    found = result.record["details"]["leave_one_out"]
    for level, size in (("token", 5), ("piece", 20)):
        assert {name: len(values) for name, values in found[level].items()} == dict.fromkeys(
            ("loss_change", "score_change", "importance", "first_order", "magnitude", "random"), size
        )
    tuned = xp.run(config.replace(method="prompt_tuning"), tmp_path)
    assert result.score == tuned.score and result.record["num_params"] == tuned.record["num_params"]
    without = xp.run(config.replace(method="prompt_tuning"), tmp_path).load_prompt("tuned_prompt")
    without = xp.SoftPrompt(without.embeddings, pieces=4, mode=mode)
    without.token_mask[2] = False
    splits = xp.load_splits(config)
    backbone = xp.load_backbone(config.backbone, max_source=config.max_source)
    score = xp.evaluate(backbone, without, splits.validation)["accuracy"]
    assert found["token"]["score_change"][2] == pytest.approx(score - result.score, abs=1e-5)


def test_each_draw_is_another_run_with_other_masks_and_the_first_keeps_its_name(config, tmp_path):  # noqa: F811
    def drawn(draw):
        prune = config.prune.replace(draw=draw)
        return xp.run(config.replace(method="xprompt_random", prune=prune), tmp_path).record

    records = [drawn(draw) for draw in (0, 1, 2)]
    assert len({record["run"] for record in records}) == 3
    assert "draw" not in records[0]["config"]["prune"] and records[1]["config"]["prune"]["draw"] == 1
    masks = {str([r["details"]["token_mask"], r["details"]["piece_mask"]]) for r in records}
    assert len(masks) == 3
    ratios = [[c["num_params"] for c in r["details"]["candidates"]] for r in records]
    assert ratios[0] == ratios[1] == ratios[2], "as much is pruned"


def test_of_a_prompt_of_one_token_the_pieces_alone_are_left_out(config, tmp_path):  # noqa: F811
    result = xp.run(config.replace(method="leave_one_out", length=1), tmp_path)
    assert list(result.record["details"]["leave_one_out"]) == ["piece"]
    alone = config.replace(method="leave_one_out", length=1, prune=config.prune.replace(level="token"))
    result = xp.run(alone, tmp_path)
    assert result.record["details"]["leave_one_out"] == {} and 0 <= result.score <= 1
