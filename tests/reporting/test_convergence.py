"""Convergence: what a doubling adds, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import xprompt as xp
from xprompt import reporting as rp
from xprompt.errors import ConfigError
from xprompt.reporting import convergence


def records(scores: dict[tuple[str, int, int], float]) -> list[dict]:
    """Records of (task, seed, steps) → score in [0, 1]."""
    return [
        {
            "profile": "nano", "backbone": "nano", "task": task, "method": "prompt_tuning", "seed": seed,
            "protocol": "held_out", "metrics": {"accuracy": score}, "score": score, "num_params": 1,
            "run": f"{task}{seed}{steps}", "config": {"tune": {"steps": steps}},
        }
        for (task, seed, steps), score in scores.items()
    ]  # fmt: skip


ROWS = convergence.budget_rows(
    records(
        {
            ("rte", 0, 100): 0.70, ("rte", 1, 100): 0.72, ("cb", 0, 100): 0.60, ("cb", 1, 100): 0.62,
            ("rte", 0, 200): 0.80, ("rte", 1, 200): 0.84, ("cb", 0, 200): 0.66, ("cb", 1, 200): 0.70,
            ("rte", 0, 400): 0.802, ("rte", 1, 400): 0.8422, ("cb", 0, 400): 0.664, ("cb", 1, 400): 0.704,
        }
    )
)  # fmt: skip


def test_a_doubling_is_paired_by_seed_and_averaged_over_tasks():
    gaps = convergence.doublings(ROWS).set_index(["task", "before", "after"]).sort_index()
    assert gaps.loc[("rte", 100, 200), "mean"] == pytest.approx(11.0)  # (10 + 12) / 2
    assert gaps.loc[("average", 100, 200), "mean"] == pytest.approx(9.0)  # ((10 + 6) / 2 + (12 + 8) / 2) / 2
    assert gaps.loc[("average", 200, 400), "mean"] == pytest.approx(0.305)
    assert list(gaps.loc["average", "converged"]) == ["not shown", "yes"]
    assert gaps.loc[("rte", 200, 400), "converged"] == "", "one task says nothing about the profile"


@pytest.mark.parametrize(
    ("gains", "converged"),
    [
        ((0.001, 0.0012, 0.0014), "yes"),
        ((0.02, 0.021, 0.022), "no"),
        ((-0.02, -0.021, -0.022), "no"),
        ((0.001, 0.002, 0.012), "not shown"),  # the mean is 0.5, the interval reaches far beyond
        ((0.004, 0.0062, 0.0084), "not shown"),
        ((0.001,), "not shown"),  # one seed
        ((0.02, 0.02, 0.02), "not shown"),  # no spread
    ],
)
def test_a_budget_is_converged_where_the_whole_interval_says_so(gains, converged):
    scores = {("rte", seed, 100): 0.5 for seed in range(len(gains))}
    rows = convergence.budget_rows(
        records(scores | {("rte", seed, 200): 0.5 + gain for seed, gain in enumerate(gains)})
    )
    assert list(convergence.doublings(rows)["converged"]) == [converged]
    shown = "Converged from 100 steps on" if converged == "yes" else "No budget is shown to be converged"
    assert convergence.statement(rows).startswith(shown)


def test_doublings_are_read_by_title_and_interval():
    table = convergence.doublings_table(convergence.doublings(ROWS)).set_index(["task", "steps"])
    assert table.loc[("RTE", "100 → 200"), "adds"] == "+11.0 [−1.7, +23.7]"  # 11 ± 12.706 · 1
    assert table.loc[("RTE", "200 → 400"), "converged"] == ""
    assert list(table.loc["average"]["converged"]) == ["not shown", "yes"]


def test_the_statement_names_the_first_converged_budget_or_says_that_none_is():
    assert convergence.statement(ROWS).startswith("Converged from 200 steps on: from there to 400 the mean")
    short = convergence.statement(ROWS[ROWS["steps"] < 400])
    assert short.startswith("No budget is shown to be converged: from 100 to 200 steps")
    assert "the mean over the tasks moves by +9.0 [−3.7, +21.7] points (2 seeds)" in short
    assert "nothing can be said" in convergence.statement(ROWS[ROWS["steps"] == 400])


def test_a_budget_is_not_converged_where_a_later_doubling_moves_the_mean():
    """A plateau that tuning leaves again, budgets that are no doubling apart, and one budget alone."""
    means = {100: 0.50, 200: 0.501, 400: 0.55, 800: 0.551}
    plateau = records({("rte", s, n): mean + s * 1e-4 * n / 100 for n, mean in means.items() for s in (0, 1, 2)})
    rows = convergence.budget_rows(plateau)
    assert list(convergence.doublings(rows)["converged"]) == ["yes", "no", "yes"]
    assert convergence.statement(rows).startswith("Converged from 400 steps on: from there to 800 RTE moves by")
    assert convergence.statement(rows[rows["steps"] < 800]).startswith("No budget is shown to be converged")
    apart = rows.assign(steps=rows["steps"].map({100: 800, 200: 1200, 400: 1600, 800: 2000}))
    assert "nothing can be said" in convergence.statement(apart)
    one = rows[rows["steps"] == 800].assign(examples="taught")
    assert "give two or more" in convergence.taught_statement(one)


def test_one_task_alone_is_judged_by_itself():
    alone = ROWS[ROWS["task"] == "rte"]
    assert convergence.statement(alone[alone["steps"] < 400]) == (
        "No budget is shown to be converged: from 100 to 200 steps RTE moves by +11.0 [−1.7, +23.7] points (2 seeds); "
        "scores speak of a budget."
    )
    assert convergence.convergence_table(alone)["the next budget adds"][0] == "+11.0 [−1.7, +23.7]"
    assert list(convergence.doublings_table(convergence.doublings(alone))["converged"])[0] == "not shown"


def test_the_table_has_a_row_a_budget_and_a_column_a_task():
    table = convergence.convergence_table(ROWS)
    assert list(table["steps"]) == ["100", "200", "400"]
    assert table["RTE"][0].startswith("71.0 ±") and table["the next budget adds"][2] == ""


def test_budget_one_is_the_run_of_the_main_results():
    one, two = convergence.budget_configs("nano", ["rte"], [0], [1, 2])
    (main,) = rp.grid("nano", ["rte"], ["prompt_tuning"], [0])
    assert one == main and two.tune.steps == 2 * main.tune.steps
    (quick,) = convergence.budget_configs("nano", ["rte"], [0], [1], quick=True)
    assert quick.tune.steps < main.tune.steps / 10
    with pytest.raises(ConfigError, match="epochs"):
        convergence.budget_configs("t5-small", ["rte"], [0], [1])
    with pytest.raises(ConfigError, match="budgets"):
        convergence.budget_configs("nano", ["rte"], [0], [0])


def test_the_figure_draws_every_task():
    figure = convergence.budget_curves(ROWS)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["CB", "RTE", "average", "95 % interval of the average"]
    one = convergence.budget_curves(ROWS[ROWS["task"] == "cb"])
    assert [text.get_text() for text in one.legends[0].get_texts()] == ["CB", "95 % interval over seeds"]
    single = convergence.budget_curves(ROWS[ROWS["seed"] == 0])
    assert [text.get_text() for text in single.legends[0].get_texts()] == ["CB", "RTE", "average"]


def test_xprompt_is_compared_with_tuning_that_takes_as_long():
    def timed(found, seconds):
        return [
            {**record, "seconds": {"with_prompt_tuning": seconds[record["config"]["tune"]["steps"]]}}
            for record in found
        ]

    scores = {("rte", 0, 100): 0.70, ("rte", 1, 100): 0.72, ("rte", 0, 200): 0.80, ("rte", 1, 200): 0.84}
    tuned = timed(records(scores), {100: 10.0, 200: 20.0})
    pruned = timed(records({("rte", 0, 100): 0.78, ("rte", 1, 100): 0.80, ("cb", 0, 100): 0.5}), {100: 18.0})
    rows = convergence.longer_rows(tuned, [{**record, "run": record["run"] + "x"} for record in pruned])
    assert list(rows["difference"].round(6)) == [8.0, 8.0, -2.0, -4.0]
    assert set(rows["task"]) == {"rte"} and rows["xprompt_run"].str.endswith("x").all()
    table = convergence.longer_table(rows)
    assert list(table["seconds"]) == ["10", "20"] and list(table["seconds of XPrompt"]) == ["18", "18"]
    assert table["RTE"][0].startswith("+8.0") and table["RTE"][1].startswith("−3.0 [")
    assert "of 200 steps 20 s: XPrompt minus that is −3.0 [" in convergence.longer_statement(rows)


class TestTaught:
    """Six examples of RTE, two of them with a word that pretraining left out; the scores by hand."""

    WORDS = ("forest", "forest", "woods", "forest", "dale", "forest")
    LABELS = (0, 1, 0, 1, 1, 0)

    @pytest.fixture
    def splits(self):
        fields = [{"premise": f"Anna lives in the {word}.", "hypothesis": "Anna has a cat."} for word in self.WORDS]
        examples = [SimpleNamespace(fields=each) for each in fields]
        answers = {"labels": self.LABELS, "groups": [str(i) for i in range(6)], "task": xp.get_task("rte")}
        return {"rte": SimpleNamespace(examples=examples, **answers)}

    def parts(self, splits, source="nano"):
        found = records({("rte", 0, 100): 4 / 6, ("rte", 0, 200): 5 / 6})
        for record, predictions in zip(found, ([0, 1, 1, 1, 0, 0], [0, 1, 0, 1, 0, 0]), strict=True):
            record.update(source=source, predictions=predictions)
        return convergence.taught_rows(found, splits)

    def test_each_part_is_scored_on_its_own_examples(self, splits):
        parts = self.parts(splits)
        assert parts[["examples", "steps", "value"]].to_numpy().tolist() == [
            ["taught", 100, 100.0], ["taught", 200, 100.0], ["not taught", 100, 0.0], ["not taught", 200, 50.0]
        ]  # fmt: skip
        table = convergence.taught_table(parts)
        assert table[["examples", "steps", "RTE"]].to_numpy().tolist() == [
            ["taught", "100", "100.0"], ["taught", "200", "100.0"],
            ["not taught", "100", "0.0"], ["not taught", "200", "50.0"],
        ]  # fmt: skip
        said = convergence.taught_statement(parts)
        assert said == (
            "From 100 to 200 steps prompts gain 0.0 points on what was taught in pretraining, and +50.0 points on "
            "what was not taught in pretraining."
        )

    def test_a_question_is_not_taught_where_one_of_its_answers_is_not(self, splits):
        splits["rte"].groups = ["a", "a", "b", "b", "c", "c"]  # "woods" is in b, "dale" in c
        parts = self.parts(splits)
        assert parts[["examples", "steps", "value"]].to_numpy().tolist() == [
            ["taught", 100, 100.0], ["taught", 200, 100.0], ["not taught", 100, 50.0], ["not taught", 200, 75.0]
        ]  # fmt: skip

    def test_only_generated_examples_have_parts(self, splits):
        assert self.parts(splits, source="folder").empty and convergence.taught_rows([], splits).empty
