"""What pruning does, from records whose numbers can be worked out by hand."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from xprompt import reporting as rp
from xprompt.errors import ConfigError
from xprompt.reporting import (
    by_seed,
    harm,
    hierarchy,
    masking,
    panels,
    parameters,
    pictures,
    saliency,
    variants,
    wording,
)
from xprompt.reporting.harm import rank_correlation

TASKS = ("cb", "rte")


def record(method, task="cb", seed=0, score=0.5, details=None, prune=None, **more) -> dict:
    run = f"{method}-{task}-{seed}-{'-'.join(map(str, (prune or {}).values()))}-{score}"
    return {
        "run": run, "profile": "nano", "backbone": "nano", "task": task, "method": method, "seed": seed,
        "protocol": "held_out", "metrics": {"accuracy": score}, "score": score, "num_params": 64,
        "config": {"prune": prune or {}, "tune": {"steps": 100, "epochs": None}}, "report_split": "validation",
        "details": details or {}, "provenance": {"backbone_params": 6400}, "seconds": {"total": 10.0}, **more,
    }  # fmt: skip


# Any column over seeds ------------------------------------------------------------------------------------------------


def test_rows_of_one_task_and_seed_count_once_and_the_average_is_of_the_seeds_that_every_task_has():
    rows = pd.DataFrame(
        [("cb", 0, 10.0), ("cb", 0, 30.0), ("cb", 1, 40.0), ("rte", 0, 60.0), ("rte", 1, 80.0), ("rte", 2, 0.0)],
        columns=["task", "seed", "x"],
    )
    found = by_seed.over_seeds(rows, "x")
    assert list(found) == ["cb", "rte", "average"]
    assert (found["cb"].mean, found["cb"].n) == (30.0, 2)  # (20 + 40) / 2
    assert (found["average"].mean, found["average"].n) == (50.0, 2)  # ((20 + 60) / 2 + (40 + 80) / 2) / 2
    assert by_seed.overall(rows, "x") == found["average"]
    one = by_seed.over_seeds(rows[rows["task"] == "cb"], "x")
    assert list(one) == ["cb"], "with one task the average would say nothing new"


def test_numbers_as_text_have_a_true_minus_and_no_interval_of_one_seed():
    assert wording.cell(rp.Interval(-0.25, -0.5, 0.0, 3), 2) == "−0.25 ± 0.25"
    assert wording.cell(rp.Interval(1234.0, np.nan, np.nan, 1), 0) == "1,234"
    assert wording.with_span(rp.Interval(1.0, -2.0, 4.0, 3), signed=True) == "+1.0 [−2.0, +4.0]"
    assert wording.with_span(rp.Interval(-0.04, -2.0, 0.0, 3), signed=True) == "0.0 [−2.0, 0.0]"
    # a bound keeps the side of 0 that it is on, with signs or without, at any number of decimals
    assert wording.with_span(rp.Interval(-0.6, -1.2, -0.034, 3), signed=True) == "−0.6 [−1.2, −0.03]"
    assert wording.with_span(rp.Interval(0.4, 0.0021, 0.8, 3), 2) == "0.40 [0.002, 0.80]"


# Fig 2 ----------------------------------------------------------------------------------------------------------------


def masked(task, seed, lowest, random, split="validation"):
    """The whole prompt scores 0.5; ratio 0.5 is chosen."""
    entries = [
        {"split": of, "token_ratio": ratio, "masked_tokens": tokens,
         "score": {"all": 0.5, "lowest": lowest if (of, ratio) == (split, 0.5) else 0.9, "highest": 0.1,
                   "random": random},
         "loss": {"all": 1.0, "lowest": 1.1, "highest": 2.0, "random": [1.0] * len(random)}}
        for of in ("selection", "validation") for ratio, tokens in ((0.25, 2), (0.5, 4))
    ]  # fmt: skip
    return record("masking", task, seed, lowest, {"token_ratio": 0.5, "masks": entries})


MASKED = [
    masked("cb", 0, 0.60, [0.4, 0.7]), masked("cb", 1, 0.64, [0.4, 0.5]),
    masked("rte", 0, 0.50, [0.5, 0.3]), masked("rte", 1, 0.46, [0.2, 0.3]),
]  # fmt: skip


def test_masks_are_compared_at_the_chosen_ratio_on_the_reported_split_and_draws_are_averaged():
    rows = masking.mask_rows(MASKED)
    assert len(rows) == 4 * 2 * (3 + 2), "runs, ratios, masks; none of the selection split"
    gaps = rp.differences(masking.at_chosen_ratio(rows), masking.PAIRS).set_index(["task", "a", "b"])["mean"]
    assert gaps["cb", "lowest masked", "all tokens"] == pytest.approx(12.0)  # (10 + 14) / 2
    assert gaps["average", "lowest masked", "all tokens"] == pytest.approx(5.0)  # ((10 + 0) / 2 + (14 − 4) / 2) / 2
    assert gaps["cb", "lowest masked", "random masked"] == pytest.approx(12.0)  # (60 − 55 + 64 − 45) / 2
    assert gaps["rte", "random masked", "all tokens"] == pytest.approx(-17.5)  # (40 + 25) / 2 − 50
    table = masking.mask_table(rows)
    assert list(table["task"]) == ["CB", "RTE", "average"] and list(table["masked"]) == ["4.0"] * 3
    assert table["lowest masked − all tokens"][0].startswith("+12.0 [")
    sentences = masking.mask_statements(rows)
    assert sentences[-1] == (
        "Of 8 random masks 1 score above the mask of the lowest importance, 1 the same and 6 below."
    )


# Fig 5, Tab 4 ---------------------------------------------------------------------------------------------------------


def controls():
    scores = {"prompt_tuning": 0.6, "xprompt": 0.7, "xprompt_reversed": 0.4}
    records = [
        record(
            method,
            task,
            seed,
            score + 0.01 * seed + 1e-5 * place * (0, 1, -1)[seed],
            {"candidates": [{}] * (1 if method == "prompt_tuning" else 9)},
        )
        for (place, (method, score)), task, seed in itertools.product(enumerate(scores.items()), TASKS, (0, 1, 2))
    ]
    for task, seed, draw in itertools.product(TASKS, (0, 1, 2), (0, 1)):
        prune = {"draw": draw}
        records.append(record("xprompt_random", task, seed, 0.5 + 0.2 * draw + 0.01 * seed, prune=prune))
    return records


def test_draws_of_one_seed_count_by_their_mean_and_not_as_seeds():
    rows = rp.tidy(controls())
    gaps = rp.differences(variants.over_draws(rows), variants.CONTROL_PAIRS).set_index(["task", "b"])
    assert gaps.loc[("cb", "xprompt_random"), "mean"] == pytest.approx(10.0)  # 70 − (50 + 70) / 2
    assert gaps.loc[("cb", "xprompt_random"), "n"] == 3
    table = variants.variant_table(rows, (("xprompt", "xprompt_reversed"),))
    assert table["XPrompt (random mask)"][0].startswith("61.0 ±")
    assert table["XPrompt − XPrompt (reversed)"][2].startswith("+30.0 [")
    assert variants.order_statement(rows) == (
        "From the best to the worst, by means over 3 seeds: XPrompt 71.0, prompt tuning 61.0, XPrompt (random mask) "
        "61.0, XPrompt (reversed) 41.0."
    )
    assert "prompt tuning 1, XPrompt 9" in variants.candidate_statement(controls())


def test_the_figure_shows_every_draw_and_fills_what_is_significant():
    rows = rp.tidy(controls())
    figure = variants.variant_figure(rows, "prompt_tuning")
    panel = figure.axes[0]
    names = [text.get_text() for text in panel.get_yticklabels()]
    assert names == ["XPrompt", "XPrompt (reversed)", "XPrompt (random mask)"]
    dots = panel.collections[names.index("XPrompt (random mask)")].get_offsets()[:, 0]
    assert sorted(dots) == pytest.approx([-10, -10, -10, 10, 10, 10])
    drawn = rp.tidy([*controls(), record("xprompt_piece", "cb", 0, 0.9)])
    marks = [
        line for line in variants.variant_figure(drawn, "prompt_tuning").axes[0].lines if len(line.get_xdata()) == 1
    ]
    assert [mark.get_markerfacecolor() == "white" for mark in marks] == [False, False, True, True], (
        "away from 0: filled; a mean of 0, or one seed: open"
    )


def test_a_figure_without_its_reference_says_so():
    rows = rp.tidy(controls())
    with pytest.raises(ConfigError, match="no task and seed with prompt tuning and another method"):
        variants.variant_figure(rows[rows["method"] != "prompt_tuning"], "prompt_tuning")


def test_a_mark_is_filled_by_holms_verdict_over_its_panel():
    runs = [record("prompt_tuning", "cb", seed, 0.6 + 0.01 * seed) for seed in (0, 1, 2)]
    for place, method in enumerate(("xprompt", "xprompt_reversed", "xprompt_random")):  # p of 0.02 to 0.03 each
        runs += [record(method, "cb", seed, 0.7 + 0.01 * seed + (0.027 + 1e-4 * place) * (0, 1, -1)[seed])
                 for seed in (0, 1, 2)]  # fmt: skip
    filled = []
    for shown in ("xprompt",), ("xprompt", "xprompt_reversed", "xprompt_random"):
        drawn = [run for run in runs if run["method"] in ("prompt_tuning", *shown)]
        panel = variants.variant_figure(rp.tidy(drawn), "prompt_tuning").axes[0]
        marks = [line for line in panel.lines if len(line.get_xdata()) == 1]
        filled.append([mark.get_markerfacecolor() != "white" for mark in marks])
    assert filled == [[True], [False] * 3], "each by itself excludes 0, and three at once do not"


def test_other_draws_are_further_runs_and_no_draw_is_refused():
    methods = ["prompt_tuning", "xprompt", "xprompt_random"]
    configs = variants.draw_configs("tiny", ["rte"], methods, [0, 1], 3)
    assert [(c.method, c.prune.draw) for c in configs[6:]] == [("xprompt_random", 1)] * 2 + [("xprompt_random", 2)] * 2
    assert configs[:6] == rp.grid("tiny", ["rte"], methods, [0, 1])
    assert len(variants.draw_configs("tiny", ["rte"], ["xprompt"], [0], 3)) == 1
    for wrong in (0, True, 1.5):
        with pytest.raises(ConfigError, match="draws"):
            variants.draw_configs("tiny", ["rte"], methods, [0], wrong)


def test_runs_are_named_by_a_setting_and_others_left_out():
    records = [record("xprompt", prune={"mode": mode}) for mode in ("zero", "drop", "other")]
    rows = variants.by_setting(records, "mode", hierarchy.MODES)
    assert set(rows["method"]) == {"zero", "drop"}
    rows = variants.by_setting([record("xprompt"), record("xprompt", prune={"rescore_pieces": True})],
                               "rescore_pieces", hierarchy.READINGS)  # fmt: skip
    assert set(rows["method"]) == {"one pass", "scored again"}


# Tab 3 ----------------------------------------------------------------------------------------------------------------


def pruned(task, seed, token_mask, piece_mask, score=0.7):
    return record("xprompt", task, seed, score, {"token_mask": token_mask, "piece_mask": piece_mask})


def test_parameters_are_counted_from_the_masks():
    masks = [[1, 1, 0, 0], [1, 1, 1, 1]]  # of two tokens with four pieces of eight values each
    records = [
        record("prompt_tuning", "cb", 0, 0.6), pruned("cb", 0, [1, 0], masks),
        record("prompt_tuning", "wsc", 0, 0.6), pruned("wsc", 0, [1, 1], masks),
        pruned("rte", 0, [1, 1], masks),
    ]  # fmt: skip
    rows = parameters.parameter_rows(records)
    assert list(rows["task"]) == ["cb", "wsc"], "rte lacks its prompt tuning"
    assert list(rows["params"]) == [16, 48] and list(rows["share"]) == [25.0, 75.0]
    assert list(rows["tokens"]) == [1, 2] and list(rows["pieces"]) == [2, 6]
    table = parameters.parameter_table(rows).set_index("task")
    assert list(table["paper (%)"]) == ["", "15", "15 and 37.18"] and list(table["paper, gain"]) == ["", "+4.8", ""]
    assert table.loc["average", "% of prompt tuning"] == "50.0" and table.loc["CB", "gain"] == "10.0"
    assert table.loc["CB", "% of the model"] == "1"
    assert parameters.parameter_statements(rows)[0].startswith("XPrompt keeps 50.0 % of the prompt's parameters")
    with pytest.raises(ConfigError, match="run the two first"):
        parameters.parameter_rows(records[-1:])


# Fig 6, 7, 9, 10 ------------------------------------------------------------------------------------------------------


def scored(task="cb", seed=0, token=(1.0,) + (0.05,) * 9, piece=None):
    piece = [[value, value] for value in token] if piece is None else piece
    ones = np.ones_like(piece, dtype=int)
    ones[0, 0] = 0
    details = {"importance": {"token": list(token), "piece": piece}, "token_mask": [1] * len(token),
               "piece_mask": ones.tolist(), "token_ratio": 0.0, "piece_ratio": 0.05}  # fmt: skip
    return record("xprompt", task, seed, details=details)


def test_how_unequal_importance_is():
    rows = saliency.distribution_rows([scored(), record("prompt_tuning")], "token")
    (row,) = rows.to_dict("records")
    assert (row["entries"], row["near_zero"]) == (10, 90.0)
    assert row["top_tenth"] == pytest.approx(100 / 1.45)
    assert "most, as in the paper" in saliency.distribution_statement(rows)
    equal = saliency.distribution_rows([scored(token=[0.3] * 10)], "piece")
    assert equal["near_zero"][0] == 0 and equal["top_tenth"][0] == pytest.approx(10.0)
    assert "less than half (where little ends is our choice)" in saliency.distribution_statement(equal)
    both = saliency.distribution_rows([scored(), scored(seed=1, token=[0.3] * 10)], "token")
    assert "may be more or less than half" in saliency.distribution_statement(both)
    assert list(saliency.distribution_table(both)["seeds"]) == ["2"]


def test_the_gallery_has_a_map_for_each_run_with_pruned_pieces_masked_and_the_books_is_the_same():
    records = [scored(task, seed) for task in TASKS for seed in (0, 1)][:3]
    figure = saliency.gallery(records)
    images = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(images) == 3 and all(image.mask[0, 0] and image.mask.sum() == 1 for image in images)
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["CB", "RTE"]
    svg = pictures.importance_gallery(records, lambda run: f"runs/{run}.html")
    assert svg.count('xlink:href="runs/') == 3 and "pruning for CB, RTE" in svg
    assert saliency.gallery([record("prompt_tuning")]) is None


def test_a_token_that_lost_all_its_pieces_was_not_pruned_as_a_token():
    run = scored(token=[1.0, 0.2, 0.1, 0.3])
    pieces = np.ones((4, 2), dtype=int)
    pieces[[1, 2]] = 0  # the record's masks are of what survives
    run["details"] |= {"token_mask": [1, 0, 0, 1], "piece_mask": pieces.tolist(), "token_ratio": 0.25}
    figure = saliency.before_and_after(run)
    token, after = figure.axes[2], figure.axes[3]
    assert np.ma.getmaskarray(token.collections[0].get_array()).ravel().tolist() == [False, False, True, False]
    assert after.get_title() == "after (grey: pruned): 4 pieces, in 2 tokens,\n1 more lost all pieces"


# Importance and harm --------------------------------------------------------------------------------------------------


def left_out(task="cb", seed=0, steps=100, change=(0.4, 0.3, -0.1, 0.2)):
    values = {"loss_change": list(change), "score_change": [0.0] * 4, "importance": [4.0, 3.0, 1.0, 2.0],
              "first_order": [1.0, 2.0, 4.0, 3.0], "magnitude": [1.0, 1.0, 1.0, 1.0],
              "random": [2.0, 1.0, 3.0, 0.0]}  # fmt: skip
    made = record("leave_one_out", task, seed, details={"leave_one_out": {"token": values, "piece": values}})
    made["config"] = {"tune": {"steps": steps, "epochs": None}}
    return {**made, "run": f"{task}{seed}{steps}"}


def test_a_predictor_that_ranks_what_the_prompt_needs_has_rank_correlation_one():
    rows = harm.harm_rows([left_out()])
    found = rows[rows["level"] == "token"].set_index("predictor")
    assert found.loc["importance", "correlation"] == pytest.approx(1.0)
    assert found.loc["first_order", "correlation"] == pytest.approx(-1.0)
    assert found.loc["magnitude", "correlation"] == 0.0, "a constant ranks nothing"
    assert set(found["harmful"]) == {25.0}
    assert found.loc["importance", "harmful_lowest"] == 100.0 and found.loc["first_order", "harmful_lowest"] == 0.0
    assert rank_correlation([1, 2, 3], [1, 9, 4]) == pytest.approx(0.5)


def test_the_statements_speak_of_every_tuning_and_of_the_seeds():
    short = [
        left_out(seed=0, steps=10, change=(-4, -3, 1, -2)),
        left_out(seed=1, steps=10, change=(-4, -3, 1, -2)),
        left_out(seed=2, steps=10, change=(-3, -4, 1, -2)),
    ]  # correlations −1, −1 and −0.8
    records = [*short, left_out(seed=0), left_out(seed=1), left_out(seed=2, change=(0.3, 0.4, -0.1, 0.2))]
    sentences = harm.harm_statements(harm.harm_rows(records))
    assert len(sentences) == 4 and sentences[0].startswith("After 10 steps on CB: importance ranks in reverse tokens")
    assert sentences[2].startswith(
        "After 100 steps on CB: importance ranks tokens by the loss without them, with a rank correlation of 0.93 "
        "[0.65, 1.00]. Of"
    )
    assert "first 100.0 [100.0, 100.0] % lower the loss when each goes alone; of all, 25.0" in sentences[2]
    assert "; signed first order has the higher mean, 0.93 [0.65, 1.00], by +1.87 [" in sentences[0]
    assert "one seed" in harm.harm_statements(harm.harm_rows(records[3:4]))[0]
    assert harm.harm_statements(harm.harm_rows(records[::-1])) == sentences, "the longest tuning is the last"
    table = harm.harm_table(harm.harm_rows(records))
    assert len(table) == 2 * 2 * 4 and set(table["tuned for"]) == {"10 steps", "100 steps"}


def test_budgets_are_those_of_convergence_and_epochs_are_scaled_too():
    quarter, whole = harm.harm_configs("nano", ["rte"], [0], [0.25, 1])
    tuned = rp.convergence.budget_configs("nano", ["rte"], [0], [0.25, 1])
    assert [quarter.replace(method="prompt_tuning"), whole.replace(method="prompt_tuning")] == tuned
    (half,) = harm.harm_configs("t5-small", ["rte"], [0], [0.5])
    assert (half.method, half.tune.epochs) == ("leave_one_out", 50.0)


# Where the paper is silent --------------------------------------------------------------------------------------------


def in_mode(mode, seed, before, task="cb"):
    candidates = [{"token_ratio": ratio, "piece_ratio": 0.1, "before_retraining": score, "selection_score": 0.5}
                  for ratio, score in zip((0.1, 0.5), before, strict=True)]  # fmt: skip
    return record("xprompt", task, seed, 0.5, {"candidates": candidates}, {"mode": mode})


def test_modes_are_paired_by_seed_and_ratio_before_retraining():
    records = [in_mode("zero", 0, (0.5, 0.3)), in_mode("drop", 0, (0.6, 0.5)),
               in_mode("zero", 1, (0.5, 0.5)), in_mode("drop", 1, (0.5, 0.6))]  # fmt: skip
    gaps = hierarchy.untrained_gaps(hierarchy.untrained_rows(records))
    assert list(gaps) == ["cb"] and gaps["cb"].mean == pytest.approx(10.0)  # ((10 + 20) / 2 + (0 + 10) / 2) / 2
    (row,) = hierarchy.mode_table(records).to_dict("records")
    assert row["drop − zero"].startswith("0.0") and row["before retraining"].startswith("+10.0 [")
    assert "no significant difference" in hierarchy.mode_statement(hierarchy.untrained_rows(records))


def test_a_pair_that_a_race_dropped_was_never_scored_before_retraining():
    records = [in_mode("zero", 0, (0.5, 0.3)), in_mode("drop", 0, (0.6, None)), in_mode("zero", 0, (0.5, 0.3), "rte"),
               in_mode("drop", 0, (None, None), "rte")]  # fmt: skip
    assert hierarchy.untrained_gaps(hierarchy.untrained_rows(records))["cb"].mean == pytest.approx(10.0)
    table = hierarchy.mode_table(records).set_index("task")["before retraining"]
    assert table["CB"] == "+10.0" and table["RTE"] == table["average"] == ""


def test_two_readings_agree_where_they_prune_the_same_of_the_tokens_that_are_left():
    first, again = [[1.0, 2.0, 3.0, 4.0], [9.0, 9.0, 9.0, 9.0]], [[2.0, 1.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]]
    details = {"importance": {"piece": first}, "rescored_piece_importance": again, "token_ratio": 0.5}
    prune = {"rescore_pieces": True, "piece_ratios": [0.25, 0.5]}
    rows = hierarchy.agreement_rows([record("xprompt", details=details, prune=prune), record("xprompt")])
    assert list(rows["agreement"]) == [0.0, 100.0] and list(rows["chance"]) == [25.0, 50.0]
    assert list(rows["correlation"]) == pytest.approx([0.8, 0.8])  # 1 − 6 · 2 / (4 · 15)
    assert "0.80 with the first scores; of those pruned 50.0 % are the same" in hierarchy.reading_statement(rows)
    apart = hierarchy.reading_statement(rows.assign(seed=[0, 1]))  # 50 ± 635 %, and no correlation is above 1
    assert "0.80 [0.80, 0.80]" in apart and "50.0 [0.0, 100.0] % are the same" in apart
    table = hierarchy.reading_table(
        [record("xprompt", details=details, prune=prune), record("xprompt", prune={"piece_ratios": [0.25]}, score=0.6)]
    )
    assert table["scored again − one pass"][0] == "−10.0" and table["same pieces (%)"][0] == "50.0"
    with pytest.raises(ConfigError, match="rescore_pieces=True"):
        hierarchy.agreement_rows([record("xprompt")])


def searched(strategy, score, candidates, trained, seconds):
    details = {"search": {"strategy": strategy, "candidates": candidates, "trained_examples": trained,
                          "evaluated_examples": 2 * trained},
               "best_score": score + 0.1,  # in a search by levels, another may have scored higher on the first
               "candidates": [{"selection_score": 0.9}, {"selection_score": score + 0.1}]}  # fmt: skip
    return record("xprompt", score=score, details=details, prune={"search": strategy}, seconds={"total": seconds})


def test_searches_are_paired_with_the_joint_grid_and_cost_a_share_of_it():
    rows = hierarchy.search_rows(
        [searched("grid", 0.6, 81, 8100, 100.0), searched("linear", 0.55, 18, 1800, 30.0),
         searched("halving", 0.5, 81, 700, 20.0)]
    )  # fmt: skip
    table = hierarchy.search_table(rows).set_index("search")
    assert list(table.index) == ["jointly", "level after level", "halving"]
    level = table.loc["level after level"]
    assert (level["score − jointly"], level["on selection"], level["candidates"]) == ("−5.0", "−5.0", "18")
    assert (level["trained (%)"], level["evaluated (%)"], level["time (%)"]) == ("22.2", "22.2", "30.0")
    assert table.loc["jointly", "score − jointly"] == ""
    assert hierarchy.search_statement(rows).startswith(
        "Level after level tries 18 different masks in place of 81, and trains on 22.2 % of the joint grid's examples "
        "(halving: 8.6 %)"
    )


def test_the_searches_are_the_runs_of_the_report_on_the_ratio_search():
    configs = hierarchy.search_configs("nano", ["cb"], [0], [0.1, 0.4], {"eval_every": 27})
    assert [config.prune.search for config in configs] == ["grid", "linear", "halving"]
    assert {config.prune.retune.eval_every for config in configs} == {27}
    assert configs[0].prune.grid() == [(0.1, 0.1), (0.1, 0.4), (0.4, 0.1), (0.4, 0.4)]
    two = hierarchy.search_configs("nano", ["cb"], [0], [0.1], {}, ["halving", "race"])
    assert [config.prune.search for config in two] == ["halving", "race"]
    quick = hierarchy.search_configs("nano", ["cb"], [0], [0.1], {"eval_every": 27}, quick=True)
    assert {config.prune.retune.eval_every for config in quick} == {2}
    for by_steps in ({"steps": 100, "eval_every": 25}, {"epochs": 2}):  # the profile counts in epochs, the notebook not
        retune = hierarchy.search_configs("t5-small", ["cb"], [0], [0.1], by_steps)[0].prune.retune
        assert (retune.steps, retune.epochs) == (by_steps.get("steps"), by_steps.get("epochs"))


# All figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # a kernel of an earlier test may be collected here
def test_every_figure_is_drawn_of_one_seed_and_of_several_without_a_warning(tmp_path):
    rp.figures.style()
    agreed = hierarchy.agreement_rows(
        [record("xprompt", prune={"piece_ratios": [0.25]}, details={
            "importance": {"piece": [[1.0, 2.0]]}, "rescored_piece_importance": [[1.0, 2.0]], "token_ratio": 0.5})]
    )  # fmt: skip
    modes = [in_mode(mode, seed, (0.5, 0.3), task) for mode in ("zero", "drop") for seed in (0, 1) for task in TASKS]
    harmed = [left_out(task, seed) for task in TASKS for seed in (0, 1)]
    drawn = SimpleNamespace(
        masks=masking.mask_figure(masking.mask_rows(MASKED)), one=masking.mask_figure(masking.mask_rows(MASKED[:1])),
        variants=variants.variant_figure(rp.tidy(controls()), "prompt_tuning"),
        tokens=saliency.distribution_figure([scored()], "token"), map=saliency.before_and_after(scored()),
        harm=harm.harm_figure(harmed, harm.harm_rows(harmed)),
        harm_one=harm.harm_figure(harmed[:1], harm.harm_rows(harmed[:1])),
        modes=hierarchy.mode_figure(hierarchy.untrained_rows(modes)), agreement=hierarchy.agreement_figure(agreed),
    )  # fmt: skip
    report = rp.Report(tmp_path)
    for name, figure in vars(drawn).items():
        report.save_figure(f"beyond-{name}", figure, name)
        assert matplotlib.image.imread(tmp_path / "figures" / f"beyond-{name}.png").std() > 0


def test_the_axis_spans_the_values_and_not_their_interval():
    figure, (panel,) = panels.panels(1, 3, 3)
    rows = pd.DataFrame({"task": "cb", "seed": [0, 1], "x": [1, 1], "y": [0.0, 10.0]})
    panels.line(panel, rows, "x", "y", "k", "o", "label")
    panels.fit(panel, rows["y"])
    assert panel.get_ylim() == pytest.approx((-1.5, 11.5))


def test_an_interval_is_drawn_as_far_as_values_can_be():
    figure, (panel,) = panels.panels(1, 3, 3)
    rows = pd.DataFrame({"task": "cb", "seed": [0, 1], "x": [1, 1], "y": [90.0, 100.0]})  # 95 ± 63.5
    panels.line(panel, rows, "x", "y", "k", "o", "label", possible=(0, 100))
    (bar,) = panel.containers[0].lines[2][0].get_segments()
    assert bar[:, 1] == pytest.approx([95 - 12.7062 * 5, 100], abs=1e-3)
