"""What pruning gives by tuning and retraining budget, from records whose numbers can be worked out by hand."""

from __future__ import annotations

import pytest

import xprompt as xp
from xprompt.reporting import budgets

TOKENS = {"score_change": [0.1, 0.0, -0.2], "loss_change": [-1.0, -0.5, 2.0], "importance": [1.0, 2.0, 3.0]}


def record(method, seed, steps, score, retrain=None, ratios=(0.4, 0.1)):
    details = {"token_ratio": ratios[0], "piece_ratio": ratios[1], "leave_one_out": {"token": TOKENS}}
    prune = {"retune": {"steps": retrain}} if retrain else {}
    return {
        "run": f"{method}-{seed}-{steps}-{retrain}", "task": "cb", "method": method, "seed": seed, "score": score,
        "config": {"tune": {"steps": steps}, "prune": prune}, "details": details,
    }  # fmt: skip


def study(gain_at_10=0.04, gain_at_40=0.0):
    """Two seeds, tuned for 10 and 40 steps, retrained for 5; XPrompt's gain over the matched budget is given."""
    records = []
    for seed in (0, 1):
        for steps, gain, ratios in ((10, gain_at_10, (0.4, 0.1)), (40, gain_at_40, (0.0, 0.0))):
            records += [
                record("prompt_tuning", seed, steps, 0.5 + seed / 10),
                record("leave_one_out", seed, steps, 0.5 + seed / 10),
                record("prompt_tuning_matched", seed, steps, 0.6, 5),
                record("xprompt", seed, steps, 0.6 + gain * (1 + seed / 100), 5, ratios),
            ]  # fmt: skip
    return records


def test_rows_pair_the_four_methods_of_a_task_a_seed_and_two_budgets():
    rows = budgets.study_rows(study())
    assert len(rows) == 4
    first = rows[(rows["seed"] == 0) & (rows["steps"] == 10)].iloc[0]
    assert first[["tuned", "xprompt", "matched"]].tolist() == pytest.approx([50, 64, 60])
    assert first[["over_tuned", "over_matched"]].tolist() == pytest.approx([14, 4])
    assert (first["negative"], first["negative_by_score"]) == (2, 1)
    assert (first["correlation"], first["pruned_nothing"]) == (pytest.approx(1.0), 0)
    assert rows[rows["steps"] == 40]["pruned_nothing"].tolist() == [100, 100]
    assert len(first["runs"]) == 4
    assert len(budgets.study_rows(study()[1:])) == 3, "without its prompt tuning a row is left out"


def test_the_table_has_a_row_for_each_pair_of_budgets():
    table = budgets.study_table(budgets.study_rows(study()))
    assert table["tuned for"].tolist() == ["10", "40"] and table["retrained for"].tolist() == ["5", "5"]
    assert table["chose to prune nothing"].tolist() == ["0 of 2 runs", "2 of 2 runs"]
    assert table["tokens without which the score is higher"].tolist() == ["1.0 ± 0.0"] * 2
    assert table["tokens without which the loss is lower"].tolist() == ["2.0 ± 0.0"] * 2
    assert table["XPrompt − matched budget"][1] == "0.0 [0.0, 0.0]"


@pytest.mark.parametrize("gain, words", [(0.0, "no significant difference"), (0.1, "pruning helps"), (-0.1, "harms")])
def test_the_verdict_is_of_the_longest_tuning(gain, words):
    first, change, second = budgets.verdict(budgets.study_rows(study(gain_at_40=gain)))
    assert first.startswith("Without 2.0 [2.0, 2.0] tokens of a prompt tuned for 10 steps the loss is lower")
    assert "tuned for 40, a change of 0.0 [0.0, 0.0]; by the score it is 1.0 [1.0, 1.0]" in first
    assert words in second and "+4.0 [" in second
    # After 10 steps 64.0 − 50 and 64.04 − 60; gains are 1 % larger with the second seed, so that their mean is by half.
    assert "is +9.0 [" in change and f"a change of {100.5 * (gain - 0.04):+.1f}".replace("-", "−") in change
    alone = [r for r in study() if r["seed"] == 0]
    assert "one seed does not decide" in budgets.verdict(budgets.study_rows(alone))[2]


def test_one_tuning_budget_is_not_compared_with_itself():
    rows = budgets.study_rows(study())
    said = budgets.verdict(rows[rows["steps"] == 40])
    assert len(said) == 3 and not any("change" in sentence or "10 steps" in sentence for sentence in said)
    assert "Tuned for 40 steps and retrained for 5, XPrompt − prompt tuning is" in said[1]


def test_configs_scale_both_budgets_and_let_each_level_prune_nothing():
    configs = budgets.study_configs("nano", ["cb"], [0], [0.5, 2], [0.5, 1])
    assert len(configs) == 2 * (1 + 1 + 2 + 2)
    own = xp.PROFILES["nano"]
    assert {c.tune.steps for c in configs} == {own.tune.steps // 2, own.tune.steps * 2}
    retrained = [c for c in configs if c.method == "xprompt"]
    assert {c.prune.retune.steps for c in retrained} == {own.prune.retune.steps // 2, own.prune.retune.steps}
    assert all(c.prune.token_ratios[0] == c.prune.piece_ratios[0] == 0 for c in retrained)
    with pytest.raises(xp.ConfigError, match=r"retrain_budgets.*factors of the profile's 500 steps.*0.002 at least"):
        budgets.study_configs("nano", ["cb"], [0], [1], [])


def test_the_figure_has_a_panel_for_score_tokens_and_both_gains():
    figure = budgets.study_figure(budgets.study_rows(study()))
    labels = [axes.get_ylabel() for axes in figure.axes]
    gaps = ["XPrompt − prompt tuning", "XPrompt − matched budget", "matched budget − prompt tuning"]
    assert labels[0] == "score (points)" and labels[3:] == [f"{gap} (points)" for gap in gaps]
    assert all(axes.get_xscale() == "log" for axes in figure.axes[:4])
    figure.savefig("/dev/null", format="png")
