"""Rounding's share of the variance over seeds: by hand, by simulation, and from runs that differ in their last bits."""

import numpy as np
import pytest
import torch

import xprompt as xp
from xprompt.methods.prompt_tuning import move_last_bits
from xprompt.reporting import rounding


def record(seed: int, draw: int, points: float, task: str = "rte") -> dict:
    config = {"rounding": draw} if draw else {}
    return {
        "profile": "nano", "backbone": "nano", "task": task, "method": "prompt_tuning", "seed": seed,
        "protocol": "held_out", "metrics": {}, "score": points / 100, "num_params": 1, "run": f"{task}{seed}/{draw}",
        "config": config,
    }  # fmt: skip


def test_shares_by_hand():
    # Seed 0: 80, 82; seed 1: 84, 90. Within: (2 + 18) / 2 = 10. Group means 81 and 87, so between: 2 × 18 = 36.
    # Of the seed: (36 − 10) / 2 = 13. In all 23, of which rounding is 10.
    found = rounding.shares([record(0, 0, 80), record(0, 1, 82), record(1, 0, 84), record(1, 1, 90)])
    row = found.iloc[0]
    assert (row["task"], row["seeds"], row["draws"]) == ("rte", 2, 2) and len(found) == 1
    assert row["rounding"] == pytest.approx(10**0.5) and row["spread"] == pytest.approx(23**0.5)
    assert row["share"] == pytest.approx(10 / 23)
    assert row["low"] < row["share"] < row["high"]
    assert "rounding makes 43%" in rounding.rounding_statement(found)


def test_the_average_is_over_the_tasks_of_one_draw():
    records = [
        record(seed, draw, points, task)
        for task, shift in (("rte", 0), ("cb", 4))
        for (seed, draw), points in {(0, 0): 80, (0, 1): 82, (1, 0): 84, (1, 1): 90}.items()
        for points in [points + shift]
    ]
    found = rounding.shares(records).set_index("task")
    assert list(found.index) == ["cb", "rte", "average"]
    assert found.loc["average", "rounding"] == pytest.approx(found.loc["rte", "rounding"])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_interval_holds_the_true_share_as_often_as_it_says(share):
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        seeds = rng.normal(0, (1 - share) ** 0.5, size=(6, 1))
        values = seeds + rng.normal(0, share**0.5, size=(6, 3))
        found = rounding._one_way(values, 0.95)
        inside += found["low"] <= share <= found["high"]
    assert 0.92 <= inside / 400 <= 0.98


def test_no_spread_has_no_share_and_equal_draws_have_none_of_it():
    same = rounding.shares([record(s, d, 80) for s in (0, 1) for d in (0, 1)])
    assert rounding.rounding_statement(same) == "On RTE all runs have one score: neither seeds nor rounding move it."
    assert np.isnan(same["share"].iloc[0]) and rounding.rounding_table(same).iloc[0, 3] == ""
    seeds_alone = rounding.shares([record(s, d, 80 + s) for s in (0, 1) for d in (0, 1)])
    assert seeds_alone["share"].iloc[0] == 0


def test_one_seed_or_a_missing_draw_says_what_is_needed():
    assert "Two seeds" in rounding.rounding_statement(rounding.shares([record(0, 0, 80), record(0, 1, 82)]))
    assert rounding.shares([record(0, 0, 80), record(0, 1, 82), record(1, 0, 84)]).empty
    with pytest.raises(xp.ConfigError, match="1 or more"):
        rounding.rounding_configs("nano", ["rte"], [0], 0)


def test_configs_are_the_main_results_run_and_its_draws():
    plain, one, two = rounding.rounding_configs("nano", ["rte"], [3], 2)
    assert "rounding" not in plain.identity() and plain == xp.RunConfig(task="rte", method="prompt_tuning", seed=3)
    assert [c.identity()["rounding"] for c in (one, two)] == [1, 2]
    child = one.replace(method="xprompt")
    assert [parent.rounding for parent in child.parents] == [1]
    with pytest.raises(xp.ConfigError, match="fine_tuning does not start"):
        plain.replace(method="fine_tuning", rounding=1)


def test_last_bits_move_to_a_neighbour_by_the_draw():
    prompt = xp.SoftPrompt.init(xp.load_backbone("nano"), length=4)
    moved, again = prompt.clone(), prompt.clone()
    move_last_bits(moved, 1)
    move_last_bits(again, 1)
    before, after = prompt.embeddings.detach(), moved.embeddings.detach()
    above, below = (torch.nextafter(before, torch.full_like(before, x)) for x in (torch.inf, -torch.inf))
    assert torch.equal(after, again.embeddings.detach())
    assert ((after == above) | (after == below)).all() and (after == above).any() and (after == below).any()


def test_a_run_of_another_rounding_is_another_run_of_the_same_data(tmp_path):
    tune = xp.PROFILES["tiny"].tune
    config = xp.RunConfig(task="rte", method="prompt_tuning", profile="tiny", tune=tune)
    plain, moved = (xp.run(c, tmp_path, watch=False) for c in (config, config.replace(rounding=1)))
    assert plain.record["run"] != moved.record["run"]
    assert plain.record["provenance"]["data_fingerprint"] == moved.record["provenance"]["data_fingerprint"]
    gap = plain.load_prompt("init_prompt").embeddings - moved.load_prompt("init_prompt").embeddings
    assert 0 < gap.abs().max() < 1e-5
