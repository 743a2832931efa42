"""Halving and the race, each compared with the grid: against numbers worked by hand."""

from __future__ import annotations

import math

import pytest

from xprompt.errors import ConfigError
from xprompt.reporting import ratio_search


def record(strategy, task, seed, score, selection, trained, seconds, method="xprompt"):
    costs = {"strategy": strategy, "candidates": 4, "trained_examples": trained, "evaluated_examples": 4 * trained}
    candidates = [
        {
            "token_ratio": t,
            "piece_ratio": p,
            "selection_score": selection - (t + p) / 10,
            "last_step": 9 if t < 0.5 else 3,
        }
        if strategy != "race" or not t
        else {"token_ratio": t, "piece_ratio": p, "selection_score": None, "last_step": 0}
        for t in (0.0, 0.5)
        for p in (0.0, 0.5)
    ]
    return {
        "run": f"{strategy}-{task}-{seed}", "profile": "nano", "backbone": "nano", "task": task, "seed": seed,
        "method": method, "score": score,
        "seconds": {"total": seconds, "with_prompt_tuning": seconds + 25.0},
        "details": {"search": costs, "candidates": candidates, "token_ratio": 0.0, "piece_ratio": 0.0},
    }  # fmt: skip


RECORDS = [
    record("grid", "cb", 0, 0.80, 0.90, 1000, 50.0), record("halving", "cb", 0, 0.79, 0.88, 90, 10.0),
    record("grid", "cb", 1, 0.70, 0.80, 1000, 50.0), record("halving", "cb", 1, 0.72, 0.80, 90, 15.0),
    record("grid", "rte", 0, 0.60, 0.70, 1000, 50.0), record("halving", "rte", 0, 0.60, 0.70, 70, 10.0),
    record("grid", "rte", 1, 0.50, 0.60, 1000, 50.0), record("halving", "rte", 1, 0.466, 0.60, 70, 10.0),
    record("grid", "wic", 0, 0.50, 0.60, 1000, 50.0),  # its halving run is missing
]  # fmt: skip
RACES = [record("race", "cb", 0, 0.805, 0.89, 20, 2.0), record("race", "cb", 1, 0.70, 0.80, 20, 4.0)]


@pytest.fixture(scope="module")
def rows():
    return ratio_search.pair_searches(RECORDS)


def test_only_whole_pairs_are_compared(rows):
    assert list(zip(rows["task"], rows["seed"], strict=True)) == [("cb", 0), ("cb", 1), ("rte", 0), ("rte", 1)]
    assert list(rows["grid_run"]) == ["grid-cb-0", "grid-cb-1", "grid-rte-0", "grid-rte-1"]
    with pytest.raises(ConfigError, match="run the searches first"):
        ratio_search.pair_searches(RECORDS[-1:])


def test_regret_is_positive_where_the_grid_was_better(rows):
    assert list(rows["validation_regret"].round(6)) == [1.0, -2.0, 0.0, 3.4]
    assert list(rows["selection_regret"].round(6)) == [2.0, 0.0, 0.0, 0.0]
    assert list(rows["trained_share"].round(6)) == [9.0, 9.0, 7.0, 7.0]
    assert list(rows["seconds_share"].round(6)) == [20.0, 30.0, 20.0, 20.0]


def test_a_race_is_compared_with_the_same_grid():
    rows = ratio_search.pair_searches([*RECORDS, *RACES])
    assert list(rows["search"]) == ["halving"] * 4 + ["race"] * 2
    raced = rows[rows["search"] == "race"]
    assert list(raced["validation_regret"].round(6)) == [-0.5, 0.0]
    assert list(raced["selection_regret"].round(6)) == [1.0, 0.0], "a candidate without a score is not the best"
    assert list(raced["trained_share"]) == [2.0, 2.0] and list(raced["seconds_share"]) == [4.0, 8.0]
    assert list(raced["tuning_share"].round(6)) == [8.0, 16.0]  # 2 and 4 of the 25 seconds of prompt tuning
    table = ratio_search.search_table(rows)
    assert list(zip(table["search"], table["task"], strict=True))[2:] == [("halving", "average"), ("race", "CB")]
    assert table["of tuning's time (%)"].tolist()[-1] == "12"
    said = ratio_search.search_statements(rows)
    assert said[3].startswith("The race's regret on the selection split is 0.5 points (CB, 2 seeds")
    assert said[5].endswith("takes 6.0 % of its time, 12 % of that of the prompt tuning it starts from.")


def test_the_average_is_over_each_seeds_mean_of_the_tasks(rows):
    found = ratio_search.over_seeds(rows, "validation_regret")
    assert list(found) == ["cb", "rte", "average"]
    assert found["cb"].mean == pytest.approx(-0.5) and found["average"].n == 2
    assert found["average"].mean == pytest.approx(0.6)  # of 0.5 and 0.7
    half = 12.706204736 * math.sqrt(0.02) / math.sqrt(2)
    assert found["average"].high == pytest.approx(0.6 + half)


def test_table_and_sentences_say_the_numbers(rows):
    table = ratio_search.search_table(rows)
    assert list(table["task"]) == ["CB", "RTE", "average"]
    assert table["trained (%)"].tolist() == ["9.0", "7.0", "8.0"]
    said = ratio_search.search_statements(rows)
    assert "on validation is 0.6 points (average, 2 seeds" in said[1] and "8.0 % of the grid's examples" in said[2]


def test_the_figure_marks_the_chosen_pair_and_those_that_stopped(rows):
    figure = ratio_search.search_figure(rows, RECORDS)
    regret, cost, grid, halving = figure.axes[:4]
    assert len(figure.axes) == 5, "two maps, and the scale of both"
    assert "points" in regret.get_xlabel() and "%" in cost.get_xlabel()
    for axes in (grid, halving):
        markers = [line.get_marker() for line in axes.lines]
        assert markers.count("o") == 2
        assert {patch.get_xy() for patch in axes.patches if not patch.get_fill()} == {(0.0, 0.0)}


def test_the_figure_leaves_out_what_a_race_dropped():
    records = [*RECORDS, *RACES]
    figure = ratio_search.search_figure(ratio_search.pair_searches(records), records)
    by_title = {axes.get_title(): axes for axes in figure.axes}
    raced = by_title["race: CB, seed 0"]
    assert [text.get_text() for text in raced.texts] == ["89", "84"] and not raced.lines
    assert len(by_title["grid: CB, seed 0"].texts) == 4 and len(by_title["halving: CB, seed 0"].lines) == 2
    labels = figure.axes[1].get_legend_handles_labels()[1]
    assert labels == ["goal: 10 %", "halving", "race"]
