"""Reporting: numbers against hand-worked ones, what tables and figures show, and what the facts admit."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import subprocess
import sys
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from tests.conftest import empty_release
from xprompt import reporting as rp
from xprompt.config.methods import METHODS, Method
from xprompt.config.profiles import PROFILES
from xprompt.errors import ConfigError, DataError, StoreError
from xprompt.reporting import facts, layout, paper, tables, wording
from xprompt.runs.store import Store
from xprompt.tasks.example import Example
from xprompt.tasks.superglue import TASKS

BASE = {"majority": 0.5, "fine_tuning": 0.9, "prompt_tuning": 0.75, "prompt_tuning_matched": 0.78, "xprompt": 0.8}


def made_up(scores=BASE, tasks=("boolq", "rte"), seeds=3, step=0.01, protocol="held_out", dirty=False) -> list[dict]:
    """Records with scores that can be worked out by hand: base + seed · step, the same on every task.

    Hundredths of a point that differ by method, and whose mean over three seeds is 0, give differences a spread.
    """
    records = []
    for seed, task, (place, (method, base)) in itertools.product(range(seeds), tasks, enumerate(scores.items())):
        score = base + (0.0 if method == "majority" else seed * step + 1e-5 * place * (0, 1, -1)[seed % 3])
        records.append(
            {
                "run": hashlib.sha256(f"{seed}{task}{method}{protocol}".encode()).hexdigest()[:16],
                "profile": "nano", "backbone": "nano", "task": task, "method": method, "seed": seed,
                "protocol": protocol, "config": {}, "source": "nano", "metrics": {"accuracy": score}, "score": score,
                "num_params": 0 if method == "majority" else 2560, "seconds": {"total": 2.0},
                "counts": {"train": 10, "selection": 2, "validation": 5, "cut": 1},
                "provenance": {"python": "3.11", "hardware": "a machine", "device": "cpu", "dtype": "float32",
                               "threads": 1, "backbone_params": 1200000, "git_revision": "abc", "git_dirty": dirty,
                               "started": "2026-01-01T00:00:00+00:00", "random_streams": {"dropout": 1}},
            }
        )  # fmt: skip
    return records


# Statistics -----------------------------------------------------------------------------------------------------------


def test_an_interval_by_hand():
    # mean 2, standard deviation 1, standard error 1/√3, t at 97.5 % with 2 degrees of freedom 4.302653
    of = rp.interval([1.0, 2.0, 3.0])
    assert of.within(0, 4) == rp.Interval(of.mean, 0, 4, 3) and of.within(-9, 9) == of, "a share is never below 0 %"
    assert (of.mean, of.n) == (2.0, 3)
    assert of.half == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)
    assert of.low == pytest.approx(2 - of.half) and of.high == pytest.approx(2 + of.half)
    # mean 5, deviation √10, standard error √2, t with 4 degrees of freedom 2.776445
    assert rp.interval([1, 3, 5, 7, 9]).half == pytest.approx(2.776445 * math.sqrt(2), abs=1e-5)


def test_a_single_seed_has_no_interval_and_decides_nothing():
    of = rp.interval([3.0])
    assert of.mean == 3.0 and math.isnan(of.low) and math.isnan(of.half)
    assert of.verdict == "one seed"


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_an_interval_needs_finite_values(values):
    with pytest.raises(ValueError, match="finite"):
        rp.interval(values)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([1, 1.1, 1.2], "above"), ([-1, -1.1, -1.2], "below"), ([-1, 0, 1.2], "no significant difference"),
        ([0, 0], "no significant difference"), ([-0.3, 0.2 - 0.5, 0.7 - 1.0], "no spread"),
    ],
)  # fmt: skip
def test_a_verdict_needs_the_whole_interval_on_one_side(values, verdict):
    assert rp.interval(values).verdict == verdict


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8), st.floats(-50, 50))
def test_an_interval_moves_with_its_values_and_holds_its_mean(values, shift):
    of, moved = rp.interval(values), rp.interval(np.asarray(values) + shift)
    assert of.low <= of.mean <= of.high
    assert moved.low == pytest.approx(of.low + shift, abs=1e-6)


def test_paired_differences_by_hand():
    # per seed: x − p on boolq 5, 6, 7; on rte 5, 5, 8. Averages 5, 5.5, 7.5: mean 6, deviation √1.75
    scores = {"prompt_tuning": {"boolq": (70, 72, 74), "rte": (60, 61, 60)},
              "xprompt": {"boolq": (75, 78, 81), "rte": (65, 66, 68)}}  # fmt: skip
    rows = pd.DataFrame(
        [("nano", "nano", task, method, seed, "held_out", "score", float(value), 1, f"{task}{method}{seed}")
         for method, of_tasks in scores.items() for task, values in of_tasks.items()
         for seed, value in enumerate(values)],
        columns=list(rp.COLUMNS),
    )  # fmt: skip
    found = rp.differences(rows, [("xprompt", "prompt_tuning"), ("xprompt", "fine_tuning")]).set_index("task")
    assert list(found.index) == ["boolq", "rte", "average"]
    assert found.loc["boolq", "mean"] == pytest.approx(6) and found.loc["rte", "mean"] == pytest.approx(6)
    assert found.loc["average", "mean"] == pytest.approx(6)
    half = 4.302653 * math.sqrt(1.75) / math.sqrt(3)
    assert found.loc["average", "low"] == pytest.approx(6 - half, abs=1e-5)
    assert found.loc["average", "n"] == 3 and found.loc["average", "verdict"] == "above"


def test_only_common_seeds_are_paired():
    records = made_up(tasks=("rte",))
    rows = rp.tidy([r for r in records if not (r["method"] == "prompt_tuning" and r["seed"] == 1)])
    found = rp.differences(rows, [("xprompt", "prompt_tuning")])
    assert found["n"].tolist() == [2] and found["mean"].tolist() == pytest.approx([5.0], abs=0.01)


def test_protocols_are_paired_seed_by_seed_by_hand():
    held_out = made_up({"prompt_tuning": 0.70, "xprompt": 0.80}, tasks=("rte",), step=0.01)
    paper = made_up({"prompt_tuning": 0.75}, tasks=("rte",), step=0.03, protocol="paper")
    found = rp.protocol_differences(rp.tidy([*held_out, *paper]))
    # prompt tuning: 75, 78, 81 less 70, 71, 72 = 5, 7, 9: mean 7, deviation 2, standard error 2/√3, t 4.302653
    (row,) = found.to_dict("records")
    assert (row["method"], row["task"], row["a"], row["b"], row["n"]) == (
        "prompt_tuning",
        "rte",
        "paper",
        "held_out",
        3,
    )
    assert row["mean"] == pytest.approx(7)
    assert row["low"] == pytest.approx(7 - 4.302653 * 2 / math.sqrt(3), abs=1e-4)
    (line,) = tables.protocols(rp.tidy([*held_out, *paper])).to_dict("records")
    assert (
        line["method"] == "prompt tuning" and line["paper"].startswith("78.0") and line["held_out"].startswith("71.0")
    )
    assert line["paper − held_out"] == "+7.0" and line["seeds"] == "3"
    assert tables.protocols(rp.tidy(held_out)).empty


def test_trials_change_one_thing_each_and_share_the_rest():
    patterns = {"asked": ["{premise} So {hypothesis}", ["Yes", "No"]]}
    given = [
        ["rte", "prompt_tuning", "adamw", 0.1, "paper"],
        ["rte", "prompt_tuning", "adafactor", 0.3, "asked"],
        ["rte", "fine_tuning", "adamw", 0.001, "paper", 120],
    ]
    same = {"seed": 7, "steps": 40, "selection": 48}
    first, second, third = rp.trials.trial_configs("smollm2", given, patterns, **same)
    assert (first.tune.optimizer, first.tune.learning_rate, first.tune.steps, first.tune.eval_every) == (
        "adamw",
        0.1,
        40,
        20,
    )
    assert first.pattern == "paper" and second.pattern.label_words == ("Yes", "No")
    assert first.tune.max_grad_norm == 1.0 and second.tune.max_grad_norm is None
    assert third.method == "fine_tuning" and third.fine_tune.learning_rate == 0.001
    assert (third.fine_tune.steps, third.fine_tune.eval_every) == (120, 20), "longer, and evaluated as often"
    quick = rp.trials.trial_configs("smollm2", given, patterns, **{**same, "steps": 4, "quick": True})
    assert [one.fine_tune.steps for one in quick] == [4, 4, 4]
    assert {(one.seed, one.selection_limit, one.limit_validation) for one in (first, second, third)} == {(7, 48, 16)}
    for wrong in (given[0][:4], [*given[0][:4], "question"], [*given[2], 2]):
        with pytest.raises(ConfigError, match="trial 1, .*one of paper, asked, and steps where they are not 40"):
            rp.trials.trial_configs("smollm2", [wrong], patterns, **same)


def made_up_trial(method, rate, scores, losses, pattern=None):
    settings = {"optimizer": "adamw", "learning_rate": rate}
    history = [
        {"step": 20 * i, "selection_score": score, "selection_loss": loss}
        for i, (score, loss) in enumerate(zip(scores, losses, strict=True))
    ]
    config = {"tune": settings, "fine_tune": settings} | ({"pattern": pattern} if pattern else {})
    return {
        "run": f"{method}{rate}", "task": "rte", "method": method, "config": config, "history": history,
        "counts": {"selection": 48}, "seconds": {"total": 1.0}, "score": 0.99,
    }  # fmt: skip


def test_trials_are_ordered_by_what_the_selection_split_says_and_show_nothing_else():
    asked = {"template": "{premise}\nSo {hypothesis}", "label_words": ["Yes", "No"]}
    rows = rp.trials.trial_rows(
        [
            made_up_trial("prompt_tuning", 0.3, [0.50, 0.60, 0.55], [0.9, 0.8, 0.7]),
            made_up_trial("prompt_tuning", 0.1, [0.50, 0.55, 0.60], [0.9, 0.8, 0.6]),
            made_up_trial("prompt_tuning", 0.2, [0.40, 0.70, 0.65], [0.9, 0.5, 0.8], asked),
            made_up_trial("fine_tuning", 0.1, [0.50, 0.45, 0.40], [0.9, 0.8, 0.7]),
        ]
    )
    assert list(rows["learning_rate"]) == [0.1, 0.2, 0.1, 0.3], "by score, then by the lower loss; methods apart"
    assert list(rows["step"]) == [0, 20, 40, 20] and set(rows["steps"]) == {40}
    assert list(rows["score"].round(6)) == [50, 70, 60, 60]
    assert "99" not in rp.trials.trials_table(rows).to_string(), "the reported split's score is not shown"
    assert rp.trials.trials_table(rows)["template and label words"][1] == "{premise} ⏎ So {hypothesis} → Yes / No"
    said = rp.trials.trials_statements(rows)
    assert (
        len(said) == 2
        and "adamw at 0.2 with “{premise} ⏎ So {hypothesis}” → Yes / No is best, 70.0 points after 20 steps on 48"
        in said[1]
    )
    labels = [text.get_text() for text in rp.trials.trials_figure(rows).axes[0].get_yticklabels()]
    assert labels[0] == "RTE, adamw 0.1, 40 steps, the task's own pattern" and len(labels) == 4


def test_one_search_of_the_learning_rate_serves_every_method_and_a_trial_has_its_own_rate(monkeypatch):
    given = [
        (task, method, "adafactor", rate, "paper")
        for task in ("rte", "cb") for method in ("lora", "p_tuning_v2", "prompt_tuning") for rate in (0.3, 0.01)
    ]  # fmt: skip
    assert len(given) == len(set(given)) == 12
    profile = PROFILES["tiny"].replace(learning_rates={"lora": 0.5})
    monkeypatch.setitem(PROFILES, "tiny", profile)
    configs = rp.trials.trial_configs("tiny", given, {}, seed=7, steps=4, selection=8)
    assert [config.training.learning_rate for config in configs] == [0.3, 0.01] * 6
    assert {config.training.steps for config in configs} == {4} and {c.training.optimizer for c in configs} == {
        "adafactor"
    }


def test_the_best_rate_has_the_highest_mean_score_over_tasks_then_the_lower_loss():
    def trial(method, task, rate, score, loss):
        return made_up_trial(method, rate, [0.5, score], [0.9, loss]) | {"task": task, "run": f"{method}{task}{rate}"}

    rows = rp.trials.trial_rows(
        [
            trial("lora", "rte", 0.1, 0.9, 0.2), trial("lora", "cb", 0.1, 0.5, 0.2),
            trial("lora", "rte", 0.01, 0.8, 0.3), trial("lora", "cb", 0.01, 0.8, 0.3),
            trial("p_tuning", "rte", 0.1, 0.6, 0.4), trial("p_tuning", "cb", 0.1, 0.8, 0.4),
            trial("p_tuning", "rte", 0.3, 0.7, 0.3), trial("p_tuning", "cb", 0.3, 0.7, 0.4),
        ]
    )  # fmt: skip
    assert rp.trials.best_rates(rows) == {"lora": 0.01, "p_tuning": 0.3}
    with pytest.raises(ConfigError, match="the trials of lora by task and learning rate are"):
        rp.trials.best_rates(rows[1:] if rows["method"][0] == "lora" else rows[:-1])
    with pytest.raises(ConfigError, match="by one trial of each on every task"):
        rp.trials.best_rates(pd.concat([rows, rows[:1]]))


def test_a_trials_settings_are_those_that_its_method_is_declared_to_use():
    record = made_up_trial("fine_tuning", 0.1, [0.5, 0.6], [0.9, 0.8])
    record["config"]["fine_tune"] = {"optimizer": "adafactor", "learning_rate": 0.002}
    (row,) = rp.trials.trial_rows([record]).to_dict("records")
    assert (row["optimizer"], row["learning_rate"]) == ("adafactor", 0.002)


def test_an_average_has_only_the_seeds_that_every_task_has():
    records = [r for r in made_up() if not (r["task"] == "rte" and r["seed"] == 2 and r["method"] == "xprompt")]
    average = rp.with_average(rp.tidy(records)).query("task == 'average' and method == 'xprompt'")
    assert average["seed"].tolist() == [0, 1]
    assert average["value"].tolist() == pytest.approx([80.0, 81.0], abs=0.01)


def test_an_average_has_no_seed_of_which_a_task_has_no_number():
    rows = rp.tidy(made_up({"xprompt": 0.8}))
    missing = (rows["task"] == "rte") & (rows["seed"] == 1)
    average = rp.with_average(rows.assign(value=rows["value"].mask(missing))).query("task == 'average'")
    assert sorted(average["seed"]) == [0, 2]


def test_a_two_metric_task_counts_once_in_the_average():
    records = made_up({"xprompt": 0.8}, tasks=("rte", "cb"), seeds=1)
    for record in records:
        if record["task"] == "cb":
            record["metrics"], record["score"] = {"accuracy": 0.5, "macro_f1": 0.1}, 0.3
    average = rp.with_average(rp.tidy(records)).query("task == 'average'")
    assert average["value"].tolist() == pytest.approx([(80 + 30) / 2])


# Rows and tables ------------------------------------------------------------------------------------------------------


def test_tidy_rows_are_in_points_with_the_contracts_columns():
    rows = rp.tidy(made_up({"xprompt": 0.8}, tasks=("rte",), seeds=1))
    assert tuple(rows.columns) == (
        "profile", "backbone", "task", "method", "seed", "protocol", "metric", "value", "num_params", "run",
    )  # fmt: skip
    assert rows["metric"].tolist() == ["accuracy", "score"] and rows["value"].tolist() == pytest.approx([80.0, 80.0])


def test_the_same_run_twice_is_one():
    records = made_up()
    assert len(rp.tidy(records + records)) == len(rp.tidy(records))


def test_tab1_shows_mean_interval_and_seeds():
    table = tables.main_results(rp.tidy(made_up())).set_index("task")
    assert list(table.index) == ["BoolQ", "RTE", "average"]
    assert list(table.columns)[:-1] == [wording.method(method) for method in BASE]
    # 80, 81, 82: mean 81, t · 1/√3 = 2.48
    assert table.loc["RTE", "XPrompt"] == "81.0 ± 2.5"
    assert table.loc["RTE", "majority class"] == "50.0 ± 0.0"
    assert set(table["seeds"]) == {"3"}


def test_tab1_of_one_seed_has_no_interval():
    table = tables.main_results(rp.tidy(made_up(seeds=1, tasks=("rte",))))
    assert table["XPrompt"].tolist() == ["80.0"] and table["seeds"].tolist() == ["1"]


def test_tab1_says_where_not_even_fine_tuning_helps():
    able = made_up({"majority": 0.5, "fine_tuning": 0.9}, tasks=("rte",))
    unable = made_up({"majority": 0.6, "fine_tuning": 0.59}, tasks=("wsc",))  # 59, 60, 61 against 60
    rows = rp.tidy([*able, *unable])
    assert tables.unsolved_tasks(rows) == ["wsc"]
    assert list(tables.main_results(rows)["task"]) == ["RTE", "WSC *", "average"]
    (said,) = wording.unsolved_tasks(["wsc"])
    assert said.startswith("* WSC: even full fine-tuning is not significantly above the majority")
    assert wording.unsolved_tasks([]) == []
    assert tables.unsolved_tasks(rp.tidy(made_up(seeds=1))) == [], "one seed decides nothing"


def test_tab1_keeps_the_protocols_apart():
    rows = rp.tidy(made_up() + made_up({"xprompt": 0.95}, protocol="paper"))
    assert tables.main_results(rows, "paper")["XPrompt"].tolist()[0] == "96.0 ± 2.5"
    assert tables.main_results(rows, "held_out")["XPrompt"].tolist()[0] == "81.0 ± 2.5"


def test_cells_the_paper_does_not_give_stay_empty():
    table = tables.against_paper(rp.tidy(made_up())).set_index(["method", "task"])
    assert table.loc[("XPrompt", "RTE"), "paper (T5-XXL)"] == "94.94"
    assert table.loc[("XPrompt", "RTE"), "difference"] == "−13.9"
    assert table.loc[("prompt tuning", "RTE"), "paper (T5-XXL)"] == ""
    assert table.loc[("XPrompt", "average"), "difference"] == ""


def test_a_pair_without_an_average_is_told_task_by_task():
    rows = rp.tidy([r for r in made_up() if (r["method"], r["task"]) != ("xprompt", "rte")])
    said = wording.statements(rp.differences(rows, [("fine_tuning", "prompt_tuning"), ("xprompt", "prompt_tuning")]))
    assert len(said) == 2
    assert "XPrompt" in said[0] and "on BoolQ" in said[0] and "on average over BoolQ and RTE" in said[1]


def test_multirc_is_compared_by_the_papers_metric():
    records = made_up({"xprompt": 0.75}, ("multirc", "rte"))
    for record in records:
        if record["task"] == "multirc":
            record["metrics"] = {"f1a": record["score"] + 0.1, "em": record["score"] - 0.1}
    table = tables.against_paper(rp.tidy(records)).set_index("task")
    assert set(table.index) == {"RTE", "average", "MultiRC (F1a)"}
    assert table.loc["MultiRC (F1a)", "ours"].startswith("86.0 ±") and table.loc["average", "ours"].startswith("76.0 ±")
    assert table.loc["MultiRC (F1a)", "difference"] == "−2.9"


def test_the_papers_numbers_are_those_of_the_paper_and_no_more():
    known = {"wsc": 97.11, "cb": 100.0, "rte": 94.94, "boolq": 90.87, "multirc": 88.9}
    assert paper.numbers()["tab1"]["t5-xxl"]["xprompt"] == known
    assert paper.tab1("xprompt", "wic") is None and paper.tab1("fine_tuning", "rte") is None
    assert {scale: gain for scale, (_, gain) in paper.gains().items()} == {
        "t5-large": 3.26, "t5-xl": 2.96, "t5-xxl": 1.88,
    }  # fmt: skip


def test_markdown_and_latex_escape_what_would_break_them():
    table = pd.DataFrame({"a_b": ["x | y", "50 %"], "v": ["−1.0 ± 2.0", "1–3"]})
    lines = tables.to_markdown(table).splitlines()
    assert lines[0] == "| a_b | v |" and lines[2].startswith("| x \\| y |")
    latex = tables.to_latex(table, "100 % of a_b")
    assert r"a\_b" in latex and r"50 \%" in latex and r"100 \% of a\_b" in latex
    assert r"$-$1.0 $\pm$ 2.0" in latex and r"\toprule" in latex and "−" not in latex


def test_tab9_and_tab10_come_from_the_declarations():
    counts = tables.task_statistics({"rte": (2490, 277), "multirc": (1, 2)})
    assert counts.loc[0, ["paper train", "train", "metrics"]].tolist() == ["2490", "2490", "accuracy"]
    assert counts.loc[1, "metrics"] == "F1a, EM"
    shown = tables.templates(["rte"]).iloc[0]
    assert shown["template"] == "hypothesis: {hypothesis} premise: {premise}"
    assert shown["label words"] == "entailment / not_entailment"


# Words ----------------------------------------------------------------------------------------------------------------


def test_sentences_say_no_more_than_their_interval():
    rows = rp.tidy(made_up())
    rng = np.random.default_rng(0)
    noisy = rows.assign(value=rows["value"] + np.where(rows["method"] == "xprompt", rng.normal(-3, 6, len(rows)), 0.0))
    clear, unclear, below = (
        wording.statements(rp.differences(rows, [("xprompt", "majority")])),
        wording.statements(rp.differences(noisy, [("xprompt", "prompt_tuning_matched")])),
        wording.statements(rp.differences(rows, [("majority", "fine_tuning")])),
    )
    assert len(clear) == 1 and re.search(r"^XPrompt is 31\.0 points above majority class on average", clear[0])
    assert unclear[0].startswith("No significant difference between XPrompt and prompt tuning (matched budget) on ")
    assert "above" not in unclear[0] and "below" not in unclear[0]
    assert re.search(r"^Majority class is 41\.0 points below full fine-tuning", below[0])
    single = wording.statements(rp.differences(rp.tidy(made_up(seeds=1)), [("xprompt", "majority")]))
    assert "decides nothing" in single[0]


def test_a_sentence_says_where_a_difference_is_not_left_after_holms_correction():
    row = {"protocol": "held_out", "task": "rte", "a": "xprompt", "b": "lora", "mean": 1.0, "low": 0.1, "high": 1.9,
           "n": 3, "verdict": "above"}  # fmt: skip
    said = wording.statement({**row, "verdict_holm": "no significant difference"})
    assert said.startswith("XPrompt is 1.0 points above LoRA on RTE (")
    assert said.endswith("seeds; not after Holm's correction).")
    assert wording.statement(row) == wording.statement({**row, "verdict_holm": "above"})
    assert "Holm" not in wording.statement(row)


@pytest.mark.parametrize(
    ("value", "text"), [(1.26, "1.3"), (-1.26, "−1.3"), (-0.01, "0.0"), (None, ""), (float("nan"), "")]
)
def test_points_have_one_decimal_and_a_true_minus(value, text):
    assert wording.points(value) == text


def test_a_bound_shows_on_which_side_of_0_it_is():
    assert wording.span(-0.006, 0.04) == "[−0.01, +0.04]" and wording.span(-0.0004, 0.0) == "[0.0, 0.0]"
    assert wording.span(-1.04, 0.002) == "[−1.0, +0.002]" and wording.span(float("nan"), float("nan")) == ""


def test_an_average_names_its_tasks():
    rows = rp.tidy(made_up())
    (said,) = wording.statements(rp.differences(rows, [("xprompt", "prompt_tuning")]))
    assert said.startswith("XPrompt is 5.0 points above prompt tuning on average over BoolQ and RTE (")
    rows = rp.tidy(made_up(tasks=("boolq", "cb", "rte")))
    gaps = rp.differences(rows, [("xprompt", "prompt_tuning")])
    assert "on average over the 3 tasks" in wording.statements(gaps)[0]
    assert "on average over the 3 pairs" in wording.statements(gaps, "pairs")[0]
    assert wording.named(["boolq", "rte"]) == "BoolQ, RTE" and wording.named(["boolq", "rte"], 1) == "2 tasks"


def test_the_smallest_selection_split_is_that_of_the_main_results():
    records = {r["run"]: r for r in made_up()}
    few = {**made_up()[0], "run": "few", "counts": {"train": 30, "selection": 1, "validation": 5, "cut": 0}}
    assert facts.summarize_runs({**records, "few": few}, list(records))["fewest_selected_on"] == 2
    assert facts.summarize_runs({**records, "few": few})["fewest_selected_on"] == 1


# Figures and files ----------------------------------------------------------------------------------------------------


def test_figures_are_saved_as_png_and_svg_with_their_labels(tmp_path):
    rp.figures.style()
    report, rows = rp.Report(tmp_path, "a notebook"), rp.tidy(made_up())
    shown = report.save_figure("tab1", rp.figures.task_scores(rows), "caption", rows=rows)
    assert shown._repr_png_()[0] == (tmp_path / "figures" / "tab1.png").read_bytes()
    report.save_figure("fig1", rp.figures.scale(rows, {"nano": 1_200_000}), "caption", rows=rows)
    svg = (tmp_path / "figures" / "tab1.svg").read_text()
    for text in (
        "score on validation (points)",
        "XPrompt",
        "prompt tuning (matched budget)",
        "average",
        "over 3 seeds",
    ):
        assert text in svg
    svg = (tmp_path / "figures" / "fig1.svg").read_text()
    for text in ("backbone parameters", "average score on validation (points)", "XPrompt minus prompt tuning (points)"):
        assert text in svg
    assert matplotlib.image.imread(tmp_path / "figures" / "fig1.png").shape[1] > 1000


def test_a_figures_files_say_what_it_shows_and_of_how_many_seeds(tmp_path):
    rp.figures.style()
    report, rows = rp.Report(tmp_path, "a notebook"), rp.tidy(made_up())
    figure = rp.figures.task_scores(rows)
    report.save_figure(
        "tab1", figure, "A caption with $1 and 5 %.", rows=rows, finding="A finding " + 20 * "that is long "
    )
    svg = (tmp_path / "figures" / "tab1.svg").read_text()
    assert "A caption with $1 and 5 %.<" in svg and "3 seeds." not in svg, "its title says the seeds"
    assert svg.count("that is long that is long") > 1, "in lines"
    assert not figure.texts, "the figure itself is left as it was"
    silent = Figure(figsize=(5, 3))
    for caption, part, written in (
        ("Dots are single seeds.", rows, "Dots are single seeds. 3 seeds."), ("Of 3 seeds.", rows, "Of 3 seeds."),
        ("A caption.", rows[rows["seed"] == 0], "A caption. One seed: no intervals."),
    ):  # fmt: skip
        report.save_figure("tab1", silent, caption, rows=part)
        svg = (tmp_path / "figures" / "tab1.svg").read_text()
        assert f">{written}<" in svg and "finding" not in svg


@pytest.mark.parametrize("width", [2.5, 5, 11])
def test_no_line_of_a_caption_is_wider_than_the_figure(width):
    figure = Figure(figsize=(width, 2))
    for text in layout._write_around(figure, "WWW and iii, " * 30, "A finding of MMM, " * 20):
        words, box = text.get_text().split("\n"), text.get_window_extent()
        assert len(words) > 1 and 0.75 * figure.bbox.width < box.width < figure.bbox.width


@pytest.mark.parametrize("loc", ["outside lower center", "outside right center"])
def test_a_legend_stands_clear_of_the_caption_and_of_the_axes(tmp_path, loc):
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.set(xticks=[], yticks=[], facecolor="blue")
    axes.plot([], color="red", label="a line")
    figure.legend(loc=loc, frameon=False, labelcolor="red")
    report = rp.Report(tmp_path)
    for _ in range(2):  # a figure may be saved again
        report.save_figure("tab1", figure, "A caption of two lines. " * 6)
    pixels = matplotlib.image.imread(tmp_path / "figures" / "tab1.png")[..., :3]  # (height, width, 3)
    legend, plot = (np.argwhere((np.abs(pixels - c) < 0.2).all(axis=-1)) for c in ([1, 0, 0], [0, 0, 1]))
    caption = np.flatnonzero((pixels[legend[:, 0].max() + 1 :] < 0.3).all(axis=-1).any(axis=1))
    assert len(caption) > 10, "both of its lines lie below the legend"
    below, beside = legend[:, 0].min() > plot[:, 0].max(), legend[:, 1].min() > plot[:, 1].max()
    assert below if "lower" in loc else beside


def every_method() -> list[dict]:
    return made_up({name: 0.5 + 0.03 * place for place, name in enumerate(METHODS)}, tasks=TASKS)


def test_every_declared_method_has_a_look_of_its_own_in_tables_and_figures():
    titles, looks = [method.title for method in METHODS.values()], [rp.figures.method_style(name) for name in METHODS]
    for of_each in (titles, looks, *(part[:16] for part in zip(*looks, strict=True))):
        assert len(set(of_each)) == len(of_each), (
            "titles differ, looks do, and colours and markers while there are some"
        )
    records = every_method()
    table = tables.main_results(rp.tidy(records))
    assert list(table.columns) == ["task", *titles, "seeds"] and (table[titles] != "").all(axis=None)
    figure = rp.figures.task_scores(rp.tidy(records))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == titles
    assert len(figure.axes) > 1, "too wide for one panel"


@pytest.mark.parametrize("names", [
    ["prompt_tuning", "xprompt", "xprompt_transfer"],
    ["xprompt", "structured_linear", "structured_low_rank", "structured_layered", "xprompt_structured",
     "intrinsic_subspace", "xprompt_subspace"],
    ["fine_tuning", "lora", "p_tuning", "p_tuning_mlp", "prefix_tuning", "p_tuning_v2", "prompt_tuning"],
    ["one pass", "scored again", "jointly"],
])  # fmt: skip
def test_methods_of_one_figure_differ_in_hue_and_the_main_ones_keep_theirs(names):
    looks = rp.figures.method_styles(names)
    assert list(looks) == names
    assert len({rp.figures._hue(colour) for colour, _ in looks.values()}) == len(names)
    for name in {"fine_tuning", "prompt_tuning", "xprompt"} & set(names):
        assert looks[name] == rp.figures.method_style(name)


def test_a_score_is_drawn_no_higher_than_scores_can_be():
    rows = rp.tidy(made_up({"prompt_tuning": 0.9, "xprompt": 0.9}, step=0.05))  # 95 ± 12
    for figure in (rp.figures.task_scores(rows), rp.figures.scale(rows, {"nano": 1_200_000})):
        bars = [bar for box in figure.axes[0].containers for lines in box.lines[2] for bar in lines.get_segments()]
        assert bars and max(bar[:, 1].max() for bar in bars) == 100


def test_methods_of_one_size_stand_beside_each_other_at_that_size():
    axes = rp.figures.scale(rp.tidy(made_up()), {"nano": 1_200_000}).axes[0]
    drawn = [box.lines[0] for box in axes.containers]
    assert len(drawn) > 1 and {float(line.get_xdata()[0]) for line in drawn} == {1_200_000}
    places = {round(float(line.get_transform().transform((1_200_000, 80))[0]), 3) for line in drawn}
    assert len(places) == len(drawn)
    low, high = axes.get_ylim()
    assert all(low < line.get_ydata()[0] < high for line in drawn)


@pytest.mark.parametrize("done", [True, False])
def test_the_forests_lines_say_what_the_rows_below_them_are_of(done):
    rows = rp.tidy(made_up({"prompt_tuning": 0.6, "xprompt": 0.7, "prompt_tuning_matched": 0.65}))
    if not done:  # then XPrompt has an average less the matched budget, and none less prompt tuning
        rows = rows[(rows["method"] != "prompt_tuning") | (rows["task"] == rows["task"].iloc[0])]
    figure = rp.forest.forest(rows)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    heads = [name for name in names if name.endswith(":")]
    assert heads == ["average over 2 tasks:", "XPrompt − prompt tuning:"] and names[0] == heads[0]
    below = names[names.index(heads[1]) + 1 :]
    assert len(below) == (2 if done else 1) and all(name.startswith("on ") for name in below)
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert len(marks) == len(names) - 2


def test_a_mark_is_filled_by_holms_verdict_where_its_row_has_one():
    row = {"mean": 1.0, "low": 0.1, "high": 1.9, "n": 3, "verdict": "above"}
    for more, filled in (({}, True), ({"verdict_holm": "above"}, True),
                         ({"verdict_holm": "no significant difference"}, False)):  # fmt: skip
        axes = Figure().subplots()
        rp.forest.draw_difference(axes, {**row, **more}, 0, ("C0", "o"))
        assert (axes.lines[-1].get_markerfacecolor() == "C0") is filled


def test_a_method_that_is_added_appears_with_its_title_a_colour_and_a_marker(monkeypatch):
    before = {name: rp.figures.method_style(name) for name in METHODS}
    monkeypatch.setitem(METHODS, "new", Method("new", "a new method", "new:run", "prompt_tuning", frozenset({"tune"})))
    colour, marker = rp.figures.method_style("new")
    assert (colour, marker) not in before.values()
    assert {name: rp.figures.method_style(name) for name in before} == before, "the others keep theirs"
    rows = rp.tidy(every_method())
    assert tables.main_results(rows).columns[-2] == "a new method"
    legend = rp.figures.task_scores(rows).legends[0]
    assert [text.get_text() for text in legend.get_texts()][-1] == "a new method"
    assert wording.statements(rp.differences(rows, [("new", "xprompt")]))[0].startswith("A new method is ")


@pytest.mark.parametrize(("majority", "written"), [(0.75, False), (0.2, True)])
def test_a_majority_class_far_below_is_written_and_squeezes_no_axis(majority, written):
    figure = rp.figures.task_scores(rp.tidy(made_up({"majority": majority, "prompt_tuning": 0.8, "xprompt": 0.85})))
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert texts == 3 * ["majority class 20.0"] * written, "of two tasks and their average"
    assert (axes.get_ylim()[0] > 60) and (len(axes.collections) > 0)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert ("majority class" in legend) is not written


def test_a_method_that_is_declared_nowhere_comes_last():
    rows = rp.tidy(made_up({"unknown": 0.7, "xprompt": 0.8, "majority": 0.5}))
    assert list(tables.main_results(rows).columns) == ["task", "majority class", "XPrompt", "unknown", "seeds"]
    assert [text.get_text() for text in rp.figures.task_scores(rows).legends[0].get_texts()][-1] == "unknown"


def test_every_method_that_trains_is_compared():
    compared = {name for pair in rp.PAIRS for name in pair}
    assert compared == {name for name, method in METHODS.items() if method.settings} | {"majority"}
    assert ("lora", "prompt_tuning") in rp.PAIRS and rp.PAIRS[0] == ("xprompt", "prompt_tuning")
    assert len(set(rp.PAIRS)) == len(rp.PAIRS)


def test_an_svg_is_the_same_each_time(tmp_path):
    rp.figures.style()
    rows = rp.tidy(made_up())
    for name in "ab":
        rp.Report(tmp_path / name).save_figure("tab1", rp.figures.task_scores(rows), "caption")
    first, second = ((tmp_path / name / "figures" / "tab1.svg").read_bytes() for name in "ab")
    assert first == second


def test_pruned_cells_are_grey_in_the_map_after_and_not_before():
    rng = np.random.default_rng(0)
    token, piece = rng.random(6) + 0.1, rng.random((6, 4)) + 0.1
    token_mask, piece_mask = np.arange(6) > 1, piece > 0.4
    figure = rp.figures.importance_map(token, piece, token_mask, piece_mask, "title")
    before_token, before, after_token, after = (axes.collections[0].get_array() for axes in figure.axes[:4])
    assert not np.ma.getmaskarray(before).any() and not np.ma.getmaskarray(before_token).any()
    assert (np.ma.getmaskarray(after).reshape(6, 4) == ~(token_mask[:, None] & piece_mask)).all()
    assert (np.ma.getmaskarray(after_token).ravel() == ~token_mask).all()
    colours = figure.axes[3].collections[0].to_rgba(after).reshape(-1, 4)
    np.testing.assert_allclose(colours[np.ma.getmaskarray(after).ravel()][:, :3], 0.72, atol=0.01)
    labels = " ".join(axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes)
    assert "nats" in labels and "prompt token" in labels and "piece of the token" in labels
    assert "lost" not in figure.axes[3].get_title()
    piece_mask[2] = False
    title = rp.figures.importance_map(token, piece, token_mask, piece_mask).axes[3].get_title()
    assert title == f"after (grey: pruned): {piece_mask[3:].sum()} pieces, in 3 tokens,\n1 more lost all pieces"


def test_a_map_of_parts_that_do_not_fit_is_refused():
    with pytest.raises(ConfigError, match="one prompt"):
        rp.figures.importance_map(np.ones(3), np.ones((4, 2)), np.ones(4), np.ones((4, 2)))


def test_a_figure_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="paper"):
        rp.figures.task_scores(rp.tidy(made_up()), "paper")


def make_report(tmp_path, records) -> rp.Report:
    report = rp.Report(tmp_path, "01_main_results")
    for record in records:
        report.store.put(record)
    rows = rp.tidy(records)
    found = rp.differences(rows, rp.PAIRS)
    report.save_table("tab1", tables.main_results(rows, records[0]["protocol"]), "Tab 1 <title>", rows=rows,
                      statements=wording.statements(found))  # fmt: skip
    report.save_figure("tab1", rp.figures.task_scores(rows, records[0]["protocol"]), "caption", rows=rows)
    state = {
        "file": "notebooks/a.ipynb",
        "status": "done",
        "seconds": 1.0,
        "parameters": {},
    }
    report.note_notebook("01_main_results", state)
    return report


def test_a_table_is_written_in_its_three_forms(tmp_path):
    records = made_up()
    make_report(tmp_path, records)
    csv = pd.read_csv(tmp_path / "tables" / "tab1.csv")
    assert list(csv.columns) == list(rp.COLUMNS)
    assert len(csv) == 2 * len(records)
    assert "| RTE | 50.0 ± 0.0 |" in (tmp_path / "tables" / "tab1.md").read_text()
    assert "\\begin{tabular}" in (tmp_path / "tables" / "tab1.tex").read_text()


def test_the_manifest_leads_from_item_to_notebook_files_runs_and_seconds(tmp_path):
    records = made_up(dirty=True)
    manifest = facts.complete(make_report(tmp_path, records), profile="nano", quick=False)
    item = manifest["items"]["tab1"]
    assert item["notebook"] == "01_main_results"
    assert sorted(item["files"]) == sorted([*(f"tables/tab1.{s}" for s in ("csv", "md", "tex")),
                                            "figures/tab1.png", "figures/tab1.svg"])  # fmt: skip
    assert all((tmp_path / file).exists() for file in item["files"])
    assert item["runs"] == sorted(record["run"] for record in records)
    assert item["seconds"] == pytest.approx(2.0 * len(records))
    runs = manifest["runs"]
    assert runs["versions"] == {"python": ["3.11"]} and runs["hardware"] == ["a machine"]
    assert runs["git"] == [{"revision": "abc", "dirty": True, "runs": len(records)}]


def test_an_item_made_again_by_another_notebook_forgets_the_first(tmp_path):
    report = make_report(tmp_path, made_up())
    rp.Report(tmp_path, "other").save_table("tab1", pd.DataFrame({"a": ["1"]}), "new")
    entry = report.manifest()["items"]["tab1"]
    assert entry["notebook"] == "other" and entry["runs"] == [] and "figure" not in entry


def test_unknown_items_and_a_damaged_manifest_are_errors(tmp_path):
    report = rp.Report(tmp_path)
    with pytest.raises(ConfigError, match="beyond-"):
        report.save_table("tab11", pd.DataFrame({"a": ["1"]}), "title")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="delete it"):
        report.manifest()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": 1}, "One seed: there is no interval"),
        ({"seeds": 2}, "2 seeds: the interval of XPrompt − prompt tuning reaches 0.0 points"),
        ({"dirty": True}, "not committed"),
        ({"protocol": "paper"}, "optimistic"),
        ({}, "generated"),
        ({}, "were cut"),
    ],
)
def test_the_page_admits_what_weakens_the_numbers(tmp_path, change, words):
    manifest = facts.complete(make_report(tmp_path, made_up(**change)), profile="nano", quick=False)
    assert any(words in caveat for caveat in facts.caveats(manifest))


def test_the_page_counts_a_tasks_examples_where_most_are_reported_on_and_admits_a_small_selection_split(tmp_path):
    records = made_up()
    records[0]["counts"] = {"train": 8, "selection": 6, "validation": 500, "cut": 0}  # the others: 2 and 5
    task = records[0]["task"]
    manifest = facts.complete(make_report(tmp_path, records), profile="nano", quick=False)
    assert manifest["runs"]["examples"][task] == {"train": 8, "selection": 6, "validation": 500}
    assert any("as few as 2 examples" in caveat for caveat in facts.caveats(manifest))


def test_trials_with_a_seed_of_their_own_are_no_seed_of_the_main_results(tmp_path):
    report = make_report(tmp_path, made_up(seeds=3))
    trial = {**made_up()[0], "run": "f" * 16, "seed": 7}
    report.store.put(trial)
    report.save_table("beyond-choices", pd.DataFrame({"a": ["1"]}), "trials", runs=["f" * 16])
    manifest = facts.complete(report, profile="nano", quick=False)
    assert manifest["runs"]["seeds"] == [0, 1, 2] and manifest["runs"]["count"] == len(made_up(seeds=3)) + 1


@pytest.mark.parametrize(
    ("best_steps", "ratios", "said"),
    [
        ((40, 40, 20), (0.1, 0.1, 0.1), ["2 of 3 prompt-tuning runs", "In 3 of 3 XPrompt runs"]),
        ((40, 20, 0), (0.1, 0.5, 0.1), ["In 2 of 3 XPrompt runs"]),
        ((20, 20, 20), (0.5, 0.5, 0.1), []),
    ],
)
def test_the_page_counts_the_runs_that_could_go_no_further(tmp_path, best_steps, ratios, said):
    records = made_up(tasks=("rte",))
    for record in records:
        number = record["seed"]
        if record["method"] == "prompt_tuning":
            record |= {"history": [{"step": 0}, {"step": 40}], "details": {"best_step": best_steps[number]}}
        if record["method"] == "xprompt":
            record["config"] = {"prune": {"token_ratios": [0.5, 0.1], "piece_ratios": [0.2]}}
            record["details"] = {"token_ratio": ratios[number], "piece_ratio": 0.2, "best_step": 0}
    found = facts.caveats(facts.complete(make_report(tmp_path, records), profile="nano", quick=False))
    assert [words for words in ("2 of 3 prompt-tuning runs", "In 3 of 3 XPrompt runs", "In 2 of 3 XPrompt runs")
            if any(words in caveat for caveat in found)] == said  # fmt: skip
    assert any(caveat.startswith("In 3 of 3 runs of XPrompt the prompt that is reported") for caveat in found)


BOTH_LEFT = (
    "In 2 of 3 runs of XPrompt the prompt that is reported is pruned and never retrained, and in 1 of 3 runs of prompt "
    "tuning (matched budget) the prompt that is reported is the tuned prompt itself: no later checkpoint"
)


@pytest.mark.parametrize(
    ("pruned", "matched", "said"),
    [
        ((0, 8, 0), (8, 8, 0), BOTH_LEFT),
        ((8, 8, 8), (0, 0, 0), "In 3 of 3 runs of prompt tuning (matched budget) the prompt"),
        ((8, 8, 8), (8, 8, 8), ""),
    ],
)
def test_the_page_counts_the_prompts_that_retraining_left_alone(pruned, matched, said):
    records = [
        {"method": method, "details": {"best_step": step}}
        for method, steps in (("prompt_tuning", (0, 0)), ("xprompt", pruned), ("prompt_tuning_matched", matched))
        for step in steps
    ]
    found = facts.not_retrained_sentence(facts.not_retrained(records))
    assert found.startswith(said) and bool(found) == bool(said)


def test_a_quick_or_failed_report_says_so(tmp_path):
    report = make_report(tmp_path, made_up())
    state = report.manifest()["notebooks"]["01_main_results"]
    report.note_notebook("01_main_results", {**state, "status": "failed: ValueError: no"})
    found = facts.caveats(facts.complete(report, profile="nano", quick=True))
    assert any("mean nothing" in caveat for caveat in found) and any("01_main_results" in caveat for caveat in found)


def test_runs_that_are_gone_or_damaged_do_not_stop_the_facts(tmp_path):
    report = make_report(tmp_path, made_up())
    (report.store.path(made_up()[0]["run"]) / "record.json").write_text("{")
    with pytest.warns(RuntimeWarning, match="damaged"):
        manifest = facts.complete(report, profile="nano", quick=False)
    assert manifest["runs"]["count"] == len(made_up()) - 1


# The grid -------------------------------------------------------------------------------------------------------------


def test_the_grid_is_every_task_method_seed_and_protocol():
    configs = rp.grid("nano", ["rte", "cb"], ["majority", "xprompt"], 2, ["held_out", "paper"])
    assert len(configs) == len(set(map(str, configs))) == 2 * 2 * 2 * 2
    assert {config.seed for config in configs} == {0, 1}
    assert {config.source for config in configs} == {"nano"}


def test_left_out_choices_are_the_profiles_own():
    configs = rp.grid("tiny")
    assert {config.task for config in configs} == {"rte"} and {config.seed for config in configs} == {0}
    assert rp.choose_tasks("all", "nano") == ["boolq", "cb", "copa", "multirc", "rte", "wic", "wsc"]
    assert rp.choose_seeds([0], "nano") == [0]


@pytest.mark.parametrize(
    "choice",
    [
        {"tasks": "sst2"}, {"tasks": ["rte", "rte"]}, {"seeds": 0}, {"seeds": [-1]}, {"seeds": [1, 1]},
        {"methods": ["magic"]}, {"protocols": ["test"]}, {"profile": "huge"},
        {"length": 0.5}, {"colour": "red"},
    ],
    ids=str,
)  # fmt: skip
def test_a_choice_that_cannot_be_run_fails_at_once(choice):
    with pytest.raises(ConfigError):
        rp.grid(**{"profile": "nano", **choice})


@pytest.mark.parametrize("seeds", [10**9, 10**30, True, 1.5, "2", [1.5], ["0"], [[0]], [None], {}])
def test_seeds_are_a_number_in_range_or_a_list_of_whole_numbers(seeds):
    with pytest.raises(ConfigError, match=r"seeds .*: give how many \(1 to 10,000\), or a list"):
        rp.choose_seeds(seeds, "tiny")


def test_a_missing_folder_or_task_folder_fails_at_once(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        rp.grid("nano", "rte", data_dir=str(tmp_path / "nowhere"))
    empty_release(tmp_path, "CB")
    with pytest.raises(DataError, match="lacks RTE/train.jsonl, RTE/val.jsonl: add"):
        rp.grid("nano", "cb,rte", data_dir=str(tmp_path))
    assert rp.grid("nano", "cb", data_dir=str(tmp_path))[0].source == str(tmp_path)


@pytest.mark.parametrize("profile", ["nano", "smollm2", "t5-base"])
def test_quick_is_one_task_one_seed_and_few_steps(profile):
    configs = rp.grid(profile, "rte,cb", seeds=4, quick=True)
    assert {config.task for config in configs} == {"rte"} and {config.seed for config in configs} == {0}
    for config in configs:
        assert config.limit_train <= 256 and config.tune.steps <= 10 and config.fine_tune.steps <= 10
        assert len(config.prune.grid()) == 1 and config.prune.retune.steps <= 10


def test_collect_says_what_it_does_and_returns_the_records(capsys):
    configs = rp.grid("nano", "rte", ["majority", "xprompt"], 2)
    records = rp.collect(configs, lambda config: SimpleNamespace(record={"seed": config.seed, "score": 0.5}))
    assert [record["seed"] for record in records] == [0, 0, 1, 1]
    text = capsys.readouterr().out
    assert "[1/4] rte majority seed 0 held_out" in text and text.count("50.0 points in 0 s") == 4
    assert ", 0 s left" in text


def test_runs_that_differ_in_settings_alone_say_in_which(capsys):
    tune = PROFILES["nano"].tune
    configs = [
        *rp.grid("nano", "rte", ["majority"], 1),
        *(c for budget in (0.5, 1) for c in rp.grid("nano", "rte", ["xprompt"], 1, tune=tune.scaled(budget))),
        *rp.grid("nano", "rte", ["xprompt"], 1, tune=tune, backbone="nano-2x"),
    ]
    rp.collect(configs, lambda config: SimpleNamespace(record={"seed": config.seed, "score": 0.5}))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert lines == [
        "[1/4] rte majority seed 0 held_out …",
        "[2/4] rte xprompt seed 0 held_out backbone=nano tune.steps=800 …",
        "[3/4] rte xprompt seed 0 held_out backbone=nano tune.steps=1600 …",
        "[4/4] rte xprompt seed 0 held_out backbone=nano-2x tune.steps=1600 …",
    ]


def test_the_table_so_far_is_printed_as_it_fills(capsys):
    configs = rp.grid("nano", "cb,rte", ["majority", "xprompt"], 2)

    def run(config, started="2000-01-01T00:00:00+00:00"):
        score = 0.5 + config.seed / 10 + (config.task == "rte") / 5
        facts = config.model_dump(include={"profile", "backbone", "task", "method", "seed", "protocol"})
        return SimpleNamespace(record={**facts, "metrics": {}, "score": score, "num_params": 1, "run": "",
                                       "provenance": {"started": started} if started else {}})  # fmt: skip

    rp.collect(configs, lambda config: run(config, ""), interim=rp.tables.so_far)
    lines = capsys.readouterr().out.splitlines()
    heads = [place for place, line in enumerate(lines) if line == "Tab 1 so far:"]
    assert len(heads) == 3, "after each seed of each task but the last, whose table the notebook shows"
    assert lines[heads[0] + 2].split() == ["CB", "50.0", "50.0", "1", "of", "2"]
    assert lines[heads[0] + 3].startswith("Seeds done: CB 1 of 2, RTE 0 of 2, ") and "s left" in lines[heads[0] + 3]
    assert lines[heads[1] + 4].split() == ["average", "60.0", "60.0", "1", "of", "2"]
    # The mean of 50 and 60 and its t interval: 12.706 · 7.071 / √2 = 63.5.
    assert lines[heads[2] + 2].split()[-3:] == ["2", "of", "2"] and "55.0 ± 63.5" in lines[heads[2] + 2]
    rp.collect(configs, run, interim=rp.tables.so_far)
    assert "so far" not in capsys.readouterr().out, "runs that are read make no interim table"


def test_reporting_needs_no_torch():
    code = """
import sys
import xprompt, xprompt.reporting.book, xprompt.runs.store, xprompt.reproduce
import xprompt.config.run_config, xprompt.tasks.superglue
print([name for name in ("torch", "transformers", "datasets") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_a_store_is_where_the_report_is(tmp_path):
    assert rp.Report(tmp_path).store.runs == Store(tmp_path).runs == tmp_path / "runs"


def test_examples_of_other_peoples_data_are_not_shown():
    task = TASKS["rte"]
    record = Example("1", "1", {"premise": "Ann sings.", "hypothesis": "Ann sings loudly."}, 1)
    assert "Ann sings loudly." in wording.example(task, record, "nano")
    for source in ("hub", "somewhere/superglue"):
        shown = wording.example(task, record, source)
        assert "Ann" not in shown and task.template in shown
