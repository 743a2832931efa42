"""The table of the candidates that a search chose among."""

from __future__ import annotations

from xprompt.reporting import tables


def record(method: str, scores: list[float], untrained: tuple[float, ...] = ()) -> dict:
    candidates = [{"selection_score": score} for score in scores]
    candidates += [{"selection_score": score, "last_step": 0} for score in untrained]
    details = {"candidates": candidates} if candidates else {}
    return {"method": method, "task": "cb", "seed": 1, "protocol": "paper", "details": details}


def test_best_median_and_worst_are_in_points_and_runs_without_candidates_are_left_out():
    table = tables.candidates([record("prompt_tuning", []), record("xprompt", [0.5, 0.8, 0.6, 0.7], (0.1, 0.9))])
    assert table.to_dict("records") == [
        {
            "method": "XPrompt", "task": "CB", "seed": "1", "protocol": "paper", "candidates": "6", "retrained": "4",
            "best": "80.0", "median": "65.0", "worst": "50.0", "best − median": "15.0",
        }
    ]  # fmt: skip


def test_where_none_was_retrained_the_untrained_are_shown():
    (line,) = tables.candidates([record("xprompt", [], (0.1, 0.9))]).to_dict("records") or [None]
    assert (line["candidates"], line["retrained"], line["best"]) == ("2", "0", "90.0")


def test_one_candidate_is_no_choice_and_is_shown_where_there_is_no_other():
    single, several = record("prompt_tuning_matched", [0.5]), record("xprompt", [0.5, 0.8])
    assert list(tables.candidates([single, several])["method"]) == ["XPrompt"]
    assert list(tables.candidates([single])["candidates"]) == ["1"]


def test_no_searches_give_no_rows():
    assert tables.candidates([record("majority", [])]).empty
