"""The reports that compare settings: rows, tables and sentences against hand-worked numbers; every figure is drawn."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from tests.conftest import NO_SUPERGLUE, SUPERGLUE, empty_release
from xprompt import reporting as rp
from xprompt.config.profiles import PROFILES
from xprompt.errors import ConfigError

SEEDS = (0, 1)


def record(task: str, method: str, seed: int, score: float, protocol: str = "held_out", **changes) -> dict:
    """A record whose run ID says all that distinguishes it."""
    config = changes.pop("config", {})
    return {
        "profile": "nano", "backbone": "nano", "task": task, "method": method, "seed": seed, "protocol": protocol,
        "metrics": {"accuracy": score}, "score": score, "num_params": 2560, "config": config, "details": {},
        "counts": {"selection": 5}, "run": f"{task}{method}{seed}{protocol}{config}", **changes,
    }  # fmt: skip


def records(scores: dict[str, float], tasks=("rte", "cb"), step: float = 0.02, **changes) -> list[dict]:
    """Each method's score, higher by `step` with the second seed and by 0.1 on the second task.

    A ten thousandth of a point, up with one seed and down with the other, gives differences a spread.
    """
    return [
        record(task, method, seed, score + step * seed + 0.1 * place + 1e-6 * method_place * (1 - 2 * seed), **changes)
        for (place, task), seed, (method_place, (method, score)) in itertools.product(
            enumerate(tasks), SEEDS, enumerate(scores.items())
        )
    ]


# Rates and baselines --------------------------------------------------------------------------------------------------


def trial(method: str, rate: float, score: float, task: str = "rte") -> dict:
    return {"task": task, "method": method, "learning_rate": rate, "score": score, "loss": 1.0, "examples": 48}


def test_the_search_is_the_same_multiples_for_every_method():
    methods = ["prompt_tuning", "lora", "fine_tuning"]
    configs = rp.baselines.search_configs("nano", ["rte"], methods, [0.1, 1], seed=7, budget=0.5, selection=48)
    tune, fine_tune = PROFILES["nano"].tune, PROFILES["nano"].fine_tune
    found = [(config.method, config.training) for config in configs]
    defaults = {"prompt_tuning": tune.learning_rate, "lora": 0.001, "fine_tuning": fine_tune.learning_rate}
    assert [(name, settings.learning_rate) for name, settings in found] == [
        (name, pytest.approx(factor * defaults[name])) for name in methods for factor in (0.1, 1)
    ]
    assert {settings.steps for name, settings in found if name != "fine_tuning"} == {tune.steps // 2}
    assert {s.optimizer for name, s in found if name == "fine_tuning"} == {"scaled_adafactor"}
    assert {config.seed for config in configs} == {7}


def test_a_rate_is_searched_for_in_a_subspace_of_prompts_that_are_tuned_at_the_profiles_own():
    given = {"seed": 7, "budget": 0.5, "selection": 48, "sources": ["boolq", "rte", "cb"]}
    first, second = rp.baselines.search_configs("nano", ["rte"], ["intrinsic_subspace"], [0.1, 1], **given)
    own = PROFILES["nano"].tune
    assert first.training.learning_rate == pytest.approx(0.1 * own.learning_rate)
    assert [parent.identity() for parent in first.parents] == [parent.identity() for parent in second.parents]
    assert [(parent.task, parent.training.learning_rate, parent.training.steps) for parent in first.parents] == [
        ("boolq", own.learning_rate, own.steps // 2), ("cb", own.learning_rate, own.steps // 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"), [({"factors": []}, "above 0"), ({"factors": [0]}, "above 0"), ({"budget": 0}, "above 0"),
                          ({"profile": "t5-small"}, "counts in epochs")],
)  # fmt: skip
def test_a_search_that_cannot_be_is_refused(change, words):
    given = {"profile": "nano", "tasks": ["rte"], "methods": ["lora"], "factors": [1], "seed": 7, "budget": 0.5,
             "selection": 48} | change  # fmt: skip
    with pytest.raises(ConfigError, match=words):
        rp.baselines.search_configs(**given)


def test_the_best_rate_is_named_and_so_is_one_at_an_end():
    own = PROFILES["nano"].tune.learning_rate
    trials = pd.DataFrame(
        [trial("prompt_tuning", factor * own, score) for factor, score in ((0.1, 60), (1, 70), (10, 50))]
        + [trial("lora", rate, score) for rate, score in ((0.0001, 60), (0.001, 70), (0.01, 80))]
    )
    assert rp.baselines.chosen_rates(trials) == {"lora": 0.01}, "prompt tuning's rate is the profile's"
    table = rp.baselines.rate_table(trials, "nano").set_index("method")
    assert list(table.columns) == ["× 1 is", "× 0.1", "× 1", "× 10", "best rate"]
    assert table.loc["LoRA"].tolist() == ["0.001", "60.0", "70.0", "80.0", "0.01"]
    text = " ".join(rp.baselines.rate_statements(trials))
    assert (
        "wider one may find more: LoRA (0.01)." in text and "profile's own rate, as all reports: prompt tuning" in text
    )
    assert "on 48 examples of train, 1 task, one seed" in text


def test_baselines_are_compared_with_xprompt_on_the_average():
    rows = rp.tidy(records({"p_tuning": 0.6, "lora": 0.7, "xprompt": 0.75}, step=0.02))
    table = rp.baselines.baseline_table(rows, {"p_tuning": 0.03}).set_index("method")
    assert list(table.index) == ["LoRA", "P-Tuning", "XPrompt"]
    assert table.loc["P-Tuning", ["searched rate", "average", "XPrompt − it"]].tolist() == [
        "0.03",
        "66.0 ± 12.7",
        "+15.0",
    ]
    assert table.loc["XPrompt", "XPrompt − it"] == "" and table.loc["LoRA", "trained parameters"] == "2,560"
    assert table.loc["LoRA", "verdict (Holm)"] == "above", "seeds move both alike"
    gaps = rp.differences(rows, [("xprompt", "p_tuning"), ("xprompt", "lora")])
    assert rp.baselines.verdict_statement(gaps) == (
        "Of 2 methods XPrompt is significantly above P-Tuning, LoRA, and below none (on average over CB and RTE, "
        "Holm's correction, 2 seeds)."
    )
    alone = rp.baselines.baseline_table(rows[rows["task"] == "rte"], {})
    assert "RTE" in alone and "average" not in alone
    assert rp.baselines.verdict_statement(gaps.assign(n=1)).startswith("One seed does not decide between XPrompt and 2")


# One setting ----------------------------------------------------------------------------------------------------------


def by_length() -> list[dict]:
    scores = {10: 0.60, 20: 0.70, 100: 0.72}
    runs = [
        run
        for length, score in scores.items()
        for run in records({"prompt_tuning": score, "xprompt": score + 0.01}, config={"length": length})
    ]
    for run in runs:  # a spread over seeds that leaves the means
        run["score"] += 1e-7 * run["config"]["length"] * (1 - 2 * run["seed"])
    return runs


def test_lengths_are_paired_with_the_reference_and_averaged_over_tasks():
    rows = rp.one_setting.setting_rows(by_length(), "length")
    gaps = rp.one_setting.setting_gaps(rows, "20").set_index(["method", "task", "a"])["mean"]
    assert gaps["prompt_tuning", "average", "10"] == pytest.approx(-10)
    assert gaps["xprompt", "cb", "100"] == pytest.approx(2)
    table = rp.one_setting.setting_table(rows, "20", "tokens").set_index(["method", "tokens"])
    assert table.loc[("prompt tuning", "10"), "average"].startswith("66.0 ±")  # (60 + 62 + 70 + 72) / 4
    assert table.loc[("prompt tuning", "20"), "average − 20"] == ""
    assert table.loc[("prompt tuning", "100"), "average − 20"] == "+2.0 [+2.0, +2.0]"
    first, second = rp.one_setting.setting_statements(rows, "20", "tokens")
    assert first.startswith("Prompt tuning: best with 100 tokens, 78.0 points (average, 2 seeds)")
    assert "against 20 tokens, below with 10 tokens (−10.0" in first and "XPrompt" in second


def test_lengths_stand_at_their_distance_on_a_log_axis_and_words_one_after_another():
    rows = rp.one_setting.setting_rows(by_length(), "length")
    axes = rp.one_setting.setting_figure(rows, "tokens").axes[0]
    assert axes.get_xscale() == "log" and axes.get_xticks().tolist() == [10, 20, 100]
    assert axes.containers[0].lines[0].get_xdata().tolist() == [10, 20, 100]
    words = rows.assign(setting=rows["setting"].map({"10": "first", "20": "vocab", "100": "common"}))
    axes = rp.one_setting.setting_figure(words, "start").axes[0]
    assert axes.get_xscale() == "linear" and axes.containers[0].lines[0].get_linestyle() == "None"


def test_a_start_is_compared_with_the_best_of_the_others_that_differ():
    scores = {"vocab": 0.70, "same": 0.70, "common": 0.69, "uniform": 0.60}
    runs = [r for init, score in scores.items() for r in records({"prompt_tuning": score}, config={"init": init})]
    rows = rp.one_setting.setting_rows(runs, "init")
    best = rp.one_setting.above_all(rows, "vocab")
    assert (best.mean, best.n) == (pytest.approx(1.0), 2)
    assert rp.one_setting.above_all(rows, "common").mean == pytest.approx(-1.0)
    assert rp.one_setting.above_all(rows[rows["setting"] == "vocab"], "vocab") is None


def test_the_profiles_own_value_is_the_run_of_the_main_results():
    configs = rp.one_setting.setting_configs("nano", ["rte"], ["prompt_tuning"], [0], "length", [10, 20])
    assert configs[1] == rp.grid("nano", ["rte"], ["prompt_tuning"], [0])[0] != configs[0]
    with pytest.raises(ConfigError, match="different values"):
        rp.one_setting.setting_configs("nano", ["rte"], ["prompt_tuning"], [0], "length", [10, 10])


# Few shots ------------------------------------------------------------------------------------------------------------


def test_official_samples_are_asked_for_only_where_they_are(tmp_path):
    empty_release(tmp_path, "RTE", "CB", "fewglue/RTE")
    configs = rp.few_shot.few_shot_configs(
        "nano", ["rte", "cb"], ["prompt_tuning"], [0], [32, "official"], data_dir=str(tmp_path)
    )
    assert [(c.task, c.few_shot) for c in configs] == [("rte", 32), ("cb", 32), ("rte", "official")]
    with pytest.raises(ConfigError, match="no run is left; .* such as 32"):
        rp.few_shot.few_shot_configs("nano", ["cb"], ["prompt_tuning"], [0], ["official"], data_dir=str(tmp_path))


@pytest.mark.skipif(not (SUPERGLUE / "fewglue").is_dir(), reason=NO_SUPERGLUE)
def test_the_release_folder_has_the_official_samples_of_tab2():
    assert all(rp.few_shot.has_official(task, str(SUPERGLUE)) for task in ("boolq", "wic", "rte"))


def test_few_shot_rows_stand_beside_the_papers_two_numbers():
    runs = [
        *records({"prompt_tuning": 0.55, "xprompt": 0.60}, ("wic", "rte"), config={"few_shot": 32}),
        *records({"prompt_tuning": 0.50, "xprompt": 0.50}, ("wic",), step=0, config={"few_shot": "official"}),
    ]
    rows = rp.few_shot.sample_rows(runs)
    assert rp.few_shot.sizes(rows["sample"]) == "32" and rp.few_shot.sizes(["32 by seed", "8 by seed"]) == "8 and 32"
    table = rp.few_shot.few_shot_table(rows).set_index(["training examples", "task"])
    assert table.loc[("32 by seed", "WiC"), ["paper, XPrompt", "paper, gain"]].tolist() == ["62.85", "+2.04"]
    assert table.loc[("32 by seed", "RTE"), "paper, XPrompt"] == ""
    assert table.loc[("32 by seed", "average"), "XPrompt − prompt tuning"] == "+5.0 [+5.0, +5.0]"
    assert table.loc[("official 32", "WiC"), "XPrompt"] == "50.0 ± 0.0"
    # Over seeds 0 and 1 scores differ by 2 points: a standard deviation of √2.
    assert rp.few_shot.spreads(rows) == pytest.approx({"32 by seed": 2**0.5, "official 32": 0.0})
    text = " ".join(rp.few_shot.few_shot_statements(rows, runs))
    assert "standard deviation of 1.4 points" in text and "as few as 5 examples" in text


# Transfer -------------------------------------------------------------------------------------------------------------


def test_pairs_share_the_targets_own_runs_and_keep_their_sources_apart():
    sources = {"boolq": "abc"}
    runs = [
        *records({"prompt_tuning": 0.60, "xprompt": 0.61}, ("rte",)),
        *records({"task_transfer": 0.62, "xprompt_transfer": 0.66}, ("rte",), config={"source_tasks": sources}),
        *records({"task_transfer": 0.70, "xprompt_transfer": 0.68}, ("rte",), config={"source_tasks": {"cb": "d"}}),
    ]
    rows = rp.transfer.pair_rows(runs, [["boolq", "rte"], ["cb", "rte"]])
    assert list(rows["task"].unique()) == ["BoolQ → RTE", "CB → RTE"]
    gaps = rp.differences(rows, rp.transfer.TRANSFER_PAIRS)
    by = gaps.set_index(["task", "a", "b"])["mean"]
    assert by["BoolQ → RTE", "xprompt_transfer", "task_transfer"] == pytest.approx(4)
    assert by["CB → RTE", "xprompt_transfer", "task_transfer"] == pytest.approx(-2)
    assert by["average", "xprompt_transfer", "task_transfer"] == pytest.approx(1)
    assert by["CB → RTE", "task_transfer", "prompt_tuning"] == pytest.approx(10)
    assert "ahead of task transfer on 1 of 2 pairs" in rp.transfer.transfer_statements(gaps)[-1]
    three = pd.concat([gaps, gaps[gaps["task"] == "CB → RTE"].assign(task="WiC → RTE")], ignore_index=True)
    assert "on average over the 3 pairs" in rp.transfer.transfer_statements(three)[0]


def test_transfer_runs_are_the_main_results_and_one_pair_each():
    configs = rp.transfer.transfer_configs("nano", [["boolq", "rte"], ["cb", "rte"]], [0])
    assert [(c.method, c.source_tasks) for c in configs] == [
        ("prompt_tuning", ()), ("xprompt", ()), ("task_transfer", ("boolq",)), ("xprompt_transfer", ("boolq",)),
        ("task_transfer", ("cb",)), ("xprompt_transfer", ("cb",)),
    ]  # fmt: skip
    assert configs[:2] == rp.grid("nano", ["rte"], ["prompt_tuning", "xprompt"], [0])
    for wrong in ([["rte", "rte"]], [["rte"]], [], ["rte"]):
        with pytest.raises(ConfigError, match="source task"):
            rp.transfer.transfer_configs("nano", wrong, [0])


# Neighbours -----------------------------------------------------------------------------------------------------------


def test_a_method_depends_on_its_rate_as_far_as_its_scores_scatter():
    trials = pd.DataFrame(
        [trial("prompt_tuning", rate, score) for rate, score in ((0.1, 50), (0.3, 60), (1, 70))]
        + [trial("structured_linear", rate, score) for rate, score in ((0.1, 58), (0.3, 60), (1, 62))]
    )
    spread = rp.neighbours.sensitivity(trials).set_index("method")
    assert spread.loc["prompt_tuning"].tolist() == [3, 70, 50, 10] and spread.loc["structured_linear", "spread"] == 2
    rows = rp.tidy(
        records({"prompt_tuning": 0.7, "structured_linear": 0.71, "xprompt": 0.72, "xprompt_structured": 0.69})
    )
    table = rp.neighbours.structured_table(rows, spread.reset_index()).set_index("prompt")
    assert list(table.index) == ["prompt tuning", "structured prompt (linear)"]
    row = table.loc["structured prompt (linear)"]
    assert row["− prompt tuning"] == "+1.0 [+1.0, +1.0]" and row["pruned by XPrompt − it"] == "−2.0 [−2.0, −2.0]"
    assert row["best to worst rate"] == "62.0 to 58.0"
    text = rp.neighbours.structured_statements(rows, spread.reset_index())[-1]
    assert "10.0 points with prompt tuning; less with structured prompt (linear)." in text
    one_rate = rp.neighbours.sensitivity(trials[trials["learning_rate"] == 0.3])
    assert "scatter" not in " ".join(rp.neighbours.structured_statements(rows, one_rate))


def test_what_a_subspace_recovers_is_in_percent_of_prompt_tunings_score():
    sources = {"boolq": "a", "wic": "b"}
    in_it = records({"intrinsic_subspace": 0.30, "xprompt_subspace": 0.31}, ("rte",), step=0, num_params=2,
                    config={"source_tasks": sources})  # fmt: skip
    runs = [*records({"prompt_tuning": 0.60}, ("rte",), step=0), *in_it]
    found = rp.neighbours.recovered_rows(runs)
    assert found["recovered"].tolist() == pytest.approx([50, 50]) and set(found["coordinates"]) == {2}
    (row,) = rp.neighbours.subspace_table(runs).to_dict("records")
    assert (row["sources"], row["recovered (%)"], row["in the subspace"]) == ("BoolQ, WiC", "50.0 ± 0.0", "30.0 ± 0.0")
    assert rp.neighbours.subspace_statements(runs)[0].startswith(
        "Tuning coordinates alone, 2 at most, recovers 50.0 [50.0, 50.0] %"
    )
    with pytest.raises(ConfigError, match="run the two first"):
        rp.neighbours.recovered_rows(in_it)


def test_a_target_is_never_its_own_source():
    configs = rp.neighbours.subspace_configs("nano", ["rte", "copa"], ["boolq", "rte", "cb"], [0])
    assert {c.task: c.source_tasks for c in configs} == {"rte": ("boolq", "cb"), "copa": ("boolq", "rte", "cb")}
    with pytest.raises(ConfigError, match="rte needs two or more"):
        rp.neighbours.subspace_configs("nano", ["rte"], ["cb", "rte"], [0])


# Controls, scale, evidence --------------------------------------------------------------------------------------------


def controls() -> list[dict]:
    many, one = ({"candidates": [{}] * n} for n in (16, 1))
    return [
        run
        for protocol, luck in (("held_out", 0.0), ("paper", 0.03))
        for run in (
            *records({"prompt_tuning": 0.60, "xprompt": 0.66 + luck}, protocol=protocol),
            *records({"prompt_tuning_matched": 0.65 + luck}, protocol=protocol, details=many, config={"c": 16}),
            *records({"prompt_tuning_matched": 0.62}, protocol=protocol, details=one, config={"c": 1}),
        )
    ]


def test_each_step_from_prompt_tuning_to_xprompt_adds_its_part_under_both_protocols():
    gaps = rp.controls.control_gaps(rp.controls.control_rows(controls()))
    average = gaps[gaps["task"] == "average"].set_index(["protocol", "a", "b"])["mean"]
    steps = [("prompt tuning (same steps)", "prompt_tuning"), ("prompt_tuning_matched", "prompt tuning (same steps)"),
             ("xprompt", "prompt_tuning_matched")]  # fmt: skip
    for protocol, parts in (("held_out", [2, 3, 1]), ("paper", [2, 6, 1])):
        assert [average[(protocol, *step)] for step in steps] == pytest.approx(parts)
        assert average[protocol, "xprompt", "prompt_tuning"] == pytest.approx(sum(parts))
        assert average[protocol, "prompt_tuning_matched", "prompt_tuning"] == pytest.approx(sum(parts[:2]))


def test_the_same_steps_are_one_candidate_of_the_same_retraining():
    configs = rp.controls.control_configs("nano", ["rte"], [0])
    matched = [config for config in configs if config.method == "prompt_tuning_matched"]
    assert [(c.protocol, c.prune.num_candidates) for c in matched] == [
        ("paper", 16), ("held_out", 16), ("paper", 1), ("held_out", 1),
    ]  # fmt: skip
    assert len({config.prune.retune.steps for config in matched}) == 1
    assert len(rp.controls.control_configs("tiny", ["rte"], [0])) == 6, "one pair of ratios is one candidate already"


def test_gains_at_every_scale_are_as_good_as_the_least():
    rows = rp.tidy(
        [
            run
            for backbone, gain in (("nano", 0.03), ("nano-2x", -0.01))
            for run in records({"prompt_tuning": 0.6, "xprompt": 0.6 + gain}, config={"b": backbone}, backbone=backbone)
        ]
    )
    gains = rp.scale.scale_gains(rows)
    assert dict(zip(gains["backbone"], gains["mean"], strict=True)) == pytest.approx({"nano": 3, "nano-2x": -1})
    assert rp.weakest(gains).mean == pytest.approx(-1)
    table = rp.scale.scale_table(rows, {"nano": 2_000_000, "nano-2x": 1_000_000}).set_index("backbone")
    assert table.index.tolist() == ["nano-2x", "nano"] and table["parameters"].tolist() == ["1,000,000", "2,000,000"]
    assert table["XPrompt − prompt tuning"].tolist() == ["−1.0 [−1.0, −1.0]", "+3.0 [+3.0, +3.0]"]
    assert table["full fine-tuning − prompt tuning"].tolist() == table["full fine-tuning"].tolist() == ["", ""]
    assert rp.scale.scale_table(rows, {"nano": 2, "nano-2x": 1}, "paper").empty
    first, second = rp.scale.scale_statements(gains, {"nano": 2_000_000, "nano-2x": 1_000_000})
    assert first.startswith("nano-2x (1,000,000 parameters): XPrompt is 1.0 points below") and "3.0 points" in second
    assert "on average over CB and RTE" in first
    assert rp.scale.scale_statements(gains[:1], {"nano": 1}) == [] and rp.scale.scale_gains(rows[:0]).empty


@pytest.mark.parametrize(
    ("gaps", "decides"),
    [
        ([(-1, -5, 3, 5), (-1, -1.5, -0.5, 5)], 1),  # one that is below refutes it, however wide another is
        ([(0.5, 0.25, 0.75, 3), (4, -21.8, 29.8, 3)], 1),  # the nearest is above, another is not shown
        ([(-0.6, -2.8, 1.6, 3), (6.3, -23.7, 36.4, 3)], 0),  # of those not shown the lowest, not the widest
        ([(0.5, 0.25, 0.75, 3), (4, 3, 5, 3)], 0),
        ([(-1, -2, -0.1, 3), (-3, -5, -1, 3)], 1),
        ([(2, 1, 3, 3), (9, float("nan"), float("nan"), 1)], 1),  # one seed is not above
    ],
)
def test_all_are_above_0_as_far_as_the_one_that_decides(gaps, decides):
    table = pd.DataFrame(gaps, columns=["mean", "low", "high", "n"], index=range(7, 7 + len(gaps)))
    assert rp.weakest(table).mean == gaps[decides][0]


def test_a_start_that_is_near_the_best_and_far_from_a_wide_one_is_not_shown():
    scores = {"vocab": (0.70, 0.71), "first": (0.695, 0.7051), "uniform": (0.70, 0.63)}
    runs = [
        record("rte", "prompt_tuning", seed, score, config={"init": init})
        for init, values in scores.items()
        for seed, score in enumerate(values)
    ]
    decides = rp.one_setting.above_all(rp.one_setting.setting_rows(runs, "init"), "vocab")
    assert decides.low < 0 < decides.high and decides.mean == pytest.approx(4)


def test_evidence_says_what_is_left_and_how_many_seeds_half_a_point_needs():
    gaps = pd.DataFrame(
        {"profile": "nano", "protocol": "held_out", "task": ["rte", "average"], "a": "xprompt", "b": "prompt_tuning",
         "mean": [1.0, 1.2], "low": [0.2, 0.579171], "high": [1.8, 1.820829], "n": [5, 5], "verdict": "above",
         "low_both": [-1.0, -0.041658], "high_both": [3.0, 2.441658]}
    )  # fmt: skip
    gaps = rp.corrected(gaps)
    text = " ".join(rp.evidence.evidence_statements(gaps))
    # Half width 0.620829 = t(0.975, 4) · s / √5 with t = 2.776445: s = 0.5; effect 0.5 is one standard deviation.
    assert "takes 10 seeds (80% power, standard deviation of the paired difference 0.50 points" in text
    assert (
        "of that deviation over the 5 seeds here" in text
        and "2.2 times as wide" in text
        and "2 of 2 that exclude 0" in text
    )
    (row,) = rp.evidence.seeds_table(gaps).to_dict("records")
    assert row["standard deviation"] == "0.50" and row["seeds for 0.5 points"] == "10"
    table = rp.evidence.evidence_table(gaps)
    assert table["seeds and examples"][1] == "[−0.04, +2.4]" and table["verdict (Holm)"].tolist() == ["above", "above"]
    assert "nothing to test" in rp.evidence.evidence_statements(gaps.assign(n=1))[0]


def test_every_figure_is_drawn(tmp_path):
    rows = rp.one_setting.setting_rows(by_length(), "length")
    steps = rp.controls.control_gaps(rp.controls.control_rows(controls()))
    both = steps[steps["protocol"] == "paper"].assign(low_both=-1.0, high_both=9.0)
    figures = {
        "length": rp.one_setting.setting_figure(rows, "tokens"),
        "controls": rp.controls.control_figure(steps),
        "evidence": rp.evidence.evidence_figure(both),
    }
    panels = {"length": 3, "controls": 3, "evidence": 1}
    for name, figure in figures.items():
        assert sum(axes.get_visible() and axes.axison for axes in figure.axes) == panels[name]
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_the_papers_32_shots_stand_beside_32_examples_alone():
    runs = [
        run
        for shots in (32, 64)
        for run in records({"prompt_tuning": 0.5, "xprompt": 0.6}, ("wic",), config={"few_shot": shots})
    ]
    table = rp.few_shot.few_shot_table(rp.few_shot.sample_rows(runs)).set_index("training examples")
    assert table["paper, gain"].to_dict() == {"32 by seed": "+2.04", "64 by seed": ""}


def test_a_setting_is_not_compared_with_itself():
    ten, twenty = (
        rp.tidy(records({"xprompt": score}, ("rte",), config={"length": length})).iloc[:1].assign(setting=length)
        for length, score in (("10", 0.5), ("20", 0.7))
    )
    (said,) = rp.one_setting.setting_statements(pd.concat([ten, twenty]), "20", "tokens")
    assert said.endswith(
        "best with 20 tokens, 70.0 points (RTE, 1 seed); against the others, one seed decides nothing."
    )
    (alone,) = rp.one_setting.setting_statements(twenty, "20", "tokens")
    assert alone == "XPrompt: 70.0 points with 20 tokens (RTE, 1 seed), compared with no other."


def test_trials_have_a_seed_that_no_reported_run_has():
    assert rp.trials.free_seed(7, [0, 1], "nano") == 7 == rp.trials.free_seed(7, [], "nano")
    assert rp.trials.free_seed(7, 10, "nano") == 10 and rp.trials.free_seed(7, [6, 7, 9], "nano") == 8
