"""The book: what its pages say, what a second build reads again, and how a browser shows it from disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import xprompt
from tests.reporting.test_reporting import made_up, make_report
from xprompt.__main__ import main
from xprompt.errors import ConfigError, StoreError
from xprompt.reporting import (
    Interval,
    Report,
    book,
    book_chapters,
    book_pages,
    claims,
    differences,
    facts,
    figures,
    pictures,
    tidy,
)  # fmt: skip
from xprompt.reporting.book_extension import to_mathml

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "reports" / "published" / "nano"
MASKS = {
    "token_ratio": 0.5, "piece_ratio": 0.5, "surviving_tokens": 1, "surviving_pieces": 1, "token_mask": [1, 0],
    "piece_mask": [[1, 0], [1, 1]], "importance": {"token": [2.0, 1.0], "piece": [[2.0, 0.0], [0.5, 0.4]]},
    "candidates": [{"token_ratio": t, "piece_ratio": p, "selection_score": 0.7 + t - p} for t in (0, 0.5)
                   for p in (0, 0.5)],
}  # fmt: skip


def records(**changes) -> list[dict]:
    """Records as real runs have them: histories, masks, candidates."""
    found = made_up(**changes)
    for record in found:
        record["config"] = {"task": record["task"], "seed": record["seed"], "tune": {"steps": 40}, "few_shot": None,
                            "prune": {"token_ratios": [0.1], "piece_ratios": [0.1]}}  # fmt: skip
        record["history"] = [{"step": s, "selection_score": 0.5 + s / 100} for s in (0, 20, 40)]
        record["details"] = MASKS if record["method"] == "xprompt" else {"best_score": 0.7, "best_step": 20}
    return found


def make_book_report(folder: Path, found: list[dict], quick: bool = False) -> Report:
    report = make_report(folder, found)
    long = "\n".join(f"line {i}" for i in range(80)) + "x" * 1_000_000 + "the end"
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# A notebook of mine\n\nIt says $x^2$ and $\\frac{1}$ and\n\n$$\\sum_i \\gamma_i$$"),
            new_code_cell("print(1)", outputs=[new_output("stream", text=long),
                          new_output("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "a"},
                                                      "text/plain": "a widget"})]),
        ]
    )  # fmt: skip
    report.notebooks.mkdir(exist_ok=True)
    nbformat.write(notebook, report.notebooks / "99_mine.ipynb")
    (report.notebooks / "damaged.ipynb").write_text("{")
    facts.complete(report, profile="nano", quick=quick)
    return report


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """The folder of a small report with its book."""
    report = make_book_report(tmp_path_factory.mktemp("small"), records())
    book.build(report)
    return report.root


def page(folder: Path, name: str = "index.html") -> str:
    return (folder / name).read_text(encoding="utf-8")


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


# Claims ---------------------------------------------------------------------------------------------------------------


def verdicts(found, noted=None, few_shot=False) -> dict[str, claims.Verdict]:
    return {verdict.claim.name: verdict for verdict in claims.judge(tidy(found), noted or {}, few_shot)}


def test_a_claim_holds_where_its_whole_interval_does():
    # seed by seed 80, 81, 82 − 75, 76, 77 = 5, 5, 5; against full fine-tuning −10; as many parameters
    found = verdicts(made_up())
    assert (found["main"].judgement, found["main"].number, found["main"].span) == ("holds", "+5.0", "[+5.0, +5.0]")
    assert (found["fine-tuning"].judgement, found["fine-tuning"].number) == ("does not hold", "−10.0")
    assert (found["parameters"].judgement, found["parameters"].number) == ("does not hold", "100.0 %")
    assert found["random"].judgement == "not measured" and found["random"].number == ""


def test_prune_ratios_are_written_whole():
    assert pictures._ratios([0.0, 0.05, 0.1, 0.125, 0.25]) == ["0", ".05", ".1", ".125", ".25"]


def test_one_task_of_several_does_not_speak_for_all():
    """As while a grid goes on, or where a run failed: XPrompt is done on one task, the others on two."""
    found = [r for r in made_up() if (r["method"], r["task"]) != ("xprompt", "rte")]
    assert verdicts(found)["main"].judgement == "not measured"
    assert verdicts([r for r in found if r["task"] == "boolq"])["main"].judgement == "holds"
    right = figures.scale(tidy(found), {"nano": 1_200_000}).axes[1]
    assert "ours, 95 % interval" not in right.get_legend_handles_labels()[1]


def test_a_claim_is_not_shown_by_one_seed_or_an_interval_on_both_sides():
    one = verdicts(made_up(seeds=1))["main"]
    assert (one.judgement, one.number, one.span) == ("not shown", "+5.0", "one seed")
    mixed = made_up({"xprompt": 0.75, "prompt_tuning": 0.75})
    for record in mixed:
        record["score"] += 0.04 * (record["method"] == "xprompt") * (record["seed"] - 1)
    assert verdicts(mixed)["main"].judgement == "not shown"


def test_few_shot_runs_say_nothing_about_whole_training_sets():
    found = verdicts(made_up(), few_shot=True)
    assert found["few-shot"].judgement == "holds"
    assert found["main"].judgement == found["parameters"].judgement == "not measured"


def test_a_notebook_hands_over_what_it_measured(tmp_path):
    report = Report(tmp_path, "fig2")
    report.save_claim("negative", Interval(-1.0, -2.0, -0.5, 5), runs=["b", "a"])
    report.save_claim("prompt-length", Interval(0.4, float("nan"), float("nan"), 1))
    lines = report.save_claims(["main", "transfer"], differences(tidy(made_up()), [("xprompt", "prompt_tuning")]))
    assert lines == ["Claim 'XPrompt is above prompt tuning': holds, +5.0 [+5.0, +5.0] points"]
    noted = report.manifest()["claims"]
    assert noted.pop("main")["n"] == 3 and "transfer" not in noted
    assert noted["negative"]["runs"] == ["a", "b"] and noted["prompt-length"]["low"] is None
    found = verdicts([], noted)
    assert found["negative"].judgement == "does not hold" and found["negative"].span == "[−2.0, −0.5]"
    assert found["prompt-length"].judgement == "not shown" and found["main"].judgement == "not measured"
    with pytest.raises(ConfigError, match="Did you mean 'negative'"):
        report.save_claim("negativ", Interval(0, 0, 0, 2))


def test_a_noted_claim_of_fewer_seeds_leaves_what_the_main_results_say():
    for seeds, judged in ((1, "holds"), (2, "holds"), (3, "does not hold"), (5, "does not hold")):
        noted = {"main": {"mean": -1.0, "low": -1.5 if seeds > 1 else None, "high": -0.5 if seeds > 1 else None,
                          "n": seeds}}  # fmt: skip
        found = verdicts(made_up(), noted)["main"]
        assert (found.judgement, found.noted) == (judged, seeds >= 3), seeds
    assert verdicts([], noted)["main"].judgement == "does not hold"


def test_the_papers_numbers_beside_the_claims_are_those_of_its_file():
    shown = {name: claim.paper for name, claim in claims.CLAIMS.items() if claim.paper}
    assert shown == {
        "main": "1.9 to 3.3",
        "fine-tuning": "0.0 to 2.8",
        "parameters": "15 to 37 %",
        "scale": "1.9 to 3.3",
    }
    assert claims.CLAIMS["parameters"].high == 37.18


def test_every_claim_names_its_place_and_fits_its_line():
    assert {claim.where for claim in claims.CLAIMS.values()} >= {"Tab 1", "Fig 1, least", "Fig 2", "Tab 8"}
    for claim in claims.CLAIMS.values():
        assert len(claim.text) <= 40 and claim.low < claim.high


# Pages ----------------------------------------------------------------------------------------------------------------


def test_a_claim_that_was_measured_on_fewer_tasks_or_other_seeds_names_them():
    found = {record["run"]: record for record in records()}
    runs = [run for run, record in found.items() if record["task"] == "rte"]
    claim = {"mean": 1.0, "low": 0.5, "high": 1.5, "n": 3, "quick": False}
    claims = {
        "negative": {**claim, "runs": runs}, "scale": {**claim, "runs": list(found)},
        "main": {**claim, "runs": runs, "n": 2}, "transfer": {**claim, "runs": runs, "n": 2},
        "token-level": {**claim, "runs": list(found), "n": 5},
    }  # fmt: skip
    contents = book_pages.Contents(Path(), {"items": {}, "claims": claims}, found)
    basis = {verdict.claim.name: verdict.basis for verdict in contents.verdicts}
    assert (basis["negative"], basis["scale"], basis["main"]) == ("RTE", "", "")
    assert (basis["transfer"], basis["token-level"]) == ("RTE, 2 seeds", "5 seeds")


def test_the_table_of_runs_says_how_long_each_trains():
    tune, retune = {"steps": 40, "epochs": None}, {"steps": None, "epochs": 2.0}
    config = {"tune": tune, "fine_tune": {"steps": 7}, "prune": {"retune": retune}}
    steps = {
        name: book_pages._steps({"method": name, "config": config, "history": history})
        for name, history in (
            ("xprompt", [{}]), ("prompt_tuning_length", [{}]), ("fine_tuning", [{}]), ("majority", [])
        )
    }  # fmt: skip
    assert steps == {"xprompt": "40 + 2 epochs", "prompt_tuning_length": "40", "fine_tuning": "7", "majority": ""}


def test_runs_that_differ_in_a_setting_are_not_alike_in_the_table(tmp_path):
    found = records()
    odd = next(r for r in found if r["method"] == "xprompt")
    odd["config"] = {**odd["config"], "few_shot": 32, "source_tasks": {"cb": "f" * 64}}
    contents = book_pages.Contents(tmp_path, {"items": {}}, {r["run"]: r for r in found})
    own = {run: text for run, text in contents.differing.items() if text}
    assert own == {odd["run"]: "source task cb, few_shot 32"}, "task and seed have columns of their own"
    (body,) = (context["body"] for name, context, _ in book_pages.run_pages(contents) if odd["run"] in name)
    assert "Not as in the method's main runs: source task cb, few_shot 32" in body


def test_the_main_results_settings_are_the_usual_ones_however_many_others_there_are(tmp_path):
    found = records()
    main = [r["run"] for r in found]
    longer = [
        {**r, "run": f"{place}{r['run']}", "config": {**r["config"], "length": 100}}
        for place in range(3)
        for r in found
    ]
    manifest = {"items": {"tab1": {"runs": main}}}
    contents = book_pages.Contents(tmp_path, manifest, {r["run"]: r for r in [*found, *longer]})
    assert {contents.differing[run] for run in main} == {""}
    assert {contents.differing[r["run"]] for r in longer} == {"length 100"}


def test_a_guides_links_to_tables_lead_to_them_in_a_published_report_and_are_its_words_elsewhere():
    text = "[Tab 1](../../reports/published/nano/tables/tab1.md), [code](../../xprompt/cli), [one](running.md)"
    given = {"reports/published/nano/tables/tab1.md": "tab1"}
    rest = ", code (`xprompt/cli`), [one](running.md)"
    assert book_chapters._relink(text, set(), given) == '<a href="../tables.html#tab1">Tab 1</a>' + rest
    assert book_chapters._relink(text, set(), {}) == "Tab 1" + rest


def test_the_map_of_ratios_is_of_the_main_results_alone(tmp_path):
    """Runs with other settings, such as 32 examples, would move its means."""
    found = records()
    few = [{**r, "run": f"few{i}", "config": {**r["config"], "few_shot": 32}} for i, r in enumerate(found)]
    for record in few:
        if record["method"] == "xprompt":
            record["details"] = {**MASKS, "candidates": [{**c, "selection_score": 0.0} for c in MASKS["candidates"]]}

    def drawn(records):
        manifest = {"items": {"tab1": {"runs": [r["run"] for r in found]}}}
        contents = book_pages.Contents(tmp_path, manifest, {r["run"]: r for r in records})
        return book_pages._draw(contents)["Prune ratios"][1]

    assert drawn([*found, *few]) == drawn(found)


def test_the_front_page_has_verdicts_differences_table_and_caveats(small):
    text = plain(page(small))
    for words in ("XPrompt is above prompt tuning", "holds", "+5.0 [+5.0, +5.0]", "not measured", "81.0 ± 2.5",
                  "Before you believe it", "generated", "2 generated tasks (BoolQ, RTE)", "3 seeds",
                  "40 steps"):  # fmt: skip
        assert words in text, words
    assert page(small).count("<svg") == 1 and 'href="book/runs/' in page(small)


def test_a_mark_in_the_main_table_has_its_note_below_it(tmp_path):
    report = make_report(tmp_path, records())
    table = pd.DataFrame({"task": ["WSC *"], "XPrompt": ["50.0"]})
    title = "Tab 1: points. * WSC: even full fine-tuning is not above the majority class."
    report.save_table("tab1", table, title, runs=[record["run"] for record in records()])
    front = book_pages.write(book_pages.read(report))["index.md"]
    table, note = front.index("WSC *"), front.index("* WSC: even full fine-tuning is not above")
    assert front.count("* WSC: even full") == 1 and table < note < front.index("Before you believe it")


def test_every_run_has_a_page_with_its_settings_curve_masks_and_provenance(small):
    found = [record for record in records() if record["method"] == "xprompt"]
    text = page(small, f"book/runs/{found[0]['run']}.html")
    for words in ("XPrompt on BoolQ, seed 0", "tune.steps", "a machine", "1 of 2 tokens and 1 of 4 pieces", "Curve",
                  "starts from"):  # fmt: skip
        assert words in plain(text), words
    assert 'href="../tables.html#tab1"' in text
    assert text.count('class="curve"') == text.count('class="masks"') == 1
    listed = re.findall(r'href="runs/(\w+)\.html', page(small, "book/runs.html"))
    assert sorted(listed) == sorted(record["run"] for record in records())


def test_a_run_leads_to_those_that_it_started_from_and_to_no_other():
    def run(method, task="rte", **settings):
        name = "-".join([method, task, *map(str, settings.values())])
        config = {"task": task, "method": method, "length": 20, "tune": {"steps": 40, "learning_rate": 0.2}} | settings
        return {"run": name, "method": method, "task": task, "seed": 0, "protocol": "held_out", "backbone": "nano",
                "source": "nano", "config": config}  # fmt: skip

    slower = {"steps": 40, "learning_rate": 0.1}
    prune, sources = {"mode": "zero"}, {"boolq": "a print", "cb": "another"}
    found = [
        *(run("prompt_tuning", task, **changed) for task in ("rte", "boolq", "cb")
          for changed in ({"rounding": 1}, {"few_shot": 32}, {"length": 5}, {}, {"init": "first"})),
        run("structured_linear", tune=slower), run("intrinsic_subspace", tune=slower, source_tasks=sources),
        run("xprompt", prune={"mode": "drop"}), run("xprompt", prune=prune), run("xprompt", prune=prune, length=7),
        run("prompt_tuning_length", prune=prune), run("prompt_tuning_length", prune=prune, length=9),
        run("task_transfer", source_tasks={"cb": "another"}),
        run("xprompt_structured", prune=prune, learning_rates={"structured_linear": 0.1}),
        run("xprompt_structured", prune=prune),
        run("xprompt_subspace", prune=prune, source_tasks=sources, learning_rates={"intrinsic_subspace": 0.1}),
    ]  # fmt: skip
    contents = book_pages.Contents(Path(), {}, {record["run"]: record for record in found})
    started = {record["run"]: [of["run"] for of in book_pages._parents(contents, record)] for record in found[15:]}
    assert list(started.values()) == [
        [], ["prompt_tuning-boolq", "prompt_tuning-cb"], ["prompt_tuning-rte"], ["prompt_tuning-rte"], [],
        [f"xprompt-rte-{prune}"], [], ["prompt_tuning-cb"], [found[15]["run"]], [], [found[16]["run"]],
    ]  # fmt: skip


def test_no_published_run_leads_to_one_of_other_settings():
    contents = book_pages.read(Report(PUBLISHED))
    for record in contents.records.values():
        for parent in book_pages._parents(contents, record):
            mine, other = record["config"], parent["config"]
            differing = {name for name in mine | other if mine.get(name) != other.get(name)}
            rated = "learning_rates" in mine or record["method"] == "intrinsic_subspace"
            allowed = {"method", "prune", "learning_rates", "source_tasks"} | ({"tune"} if rated else set())
            if record["method"] in ("task_transfer", "intrinsic_subspace"):
                allowed |= {"task"}
                assert parent["provenance"]["data_fingerprint"] == mine["source_tasks"][parent["task"]]
            assert differing <= allowed, record["run"]


def test_the_pictures_come_from_the_records_and_lead_to_the_runs(small):
    text = page(small, "book/pictures.html")
    for heading in ("All differences", "Prune ratios", "Prompt tuning", "Retraining", "Importance"):
        assert f"<h2>{heading}<" in text, heading
    runs = {record["run"] for record in records()}
    linked = set(re.findall(r'xlink:href="runs/(\w+)\.html"', text))
    assert linked <= runs and len(linked) >= 12
    assert "#010203" not in text and "#040506" not in text, "colours of the page, light or dark"


def test_a_notebook_is_a_chapter_whatever_it_holds(small):
    text = page(small, "book/notebooks/99_mine.html")
    assert "A notebook of mine" in page(small), "in the navigation, by its title"
    assert "<msup>" in text and "<munder>" in text and "line 79" in text and "a widget" not in text
    assert "the end" in text and "characters more" in text and len(text) < 200_000, "one line of a million characters"
    assert "output_scroll" in text, "a long output is folded"
    assert "could not be shown as a page" in page(small, "book/notebooks/damaged.html")


@pytest.mark.parametrize("equation", [r"\frac{1}", r"\left(", "}{", "x^"])
def test_an_equation_that_is_no_latex_is_shown_as_it_was_written(equation):
    text = to_mathml(equation, "inline")
    assert "<math" in text or '<code class="math">' in text


def test_the_reference_says_a_line_of_every_public_name():
    lines = [line for line in book_chapters._reference()["api/index.rst"].splitlines() if line.startswith("*")]
    assert len(lines) == len(xprompt._HOME) and all(">`: " in line for line in lines)


def test_guides_and_the_reference_are_chapters(small):
    assert "Running" in page(small, "book/guides/running.html")
    assert (small / "book" / "api" / "index.html").is_file()
    text = page(small, "book/api/config.html")
    assert "TuneSettings" in text and "learning_rate" in text
    errors = re.findall(r"(?:ERROR|WARNING): .*", page(small, ".book/warnings.txt"))
    assert not errors


def test_a_quick_report_is_marked_and_decides_nothing(tmp_path):
    report = make_book_report(tmp_path, records(), quick=True)
    text = plain(page(book.build(report).parent))
    assert "(quick run)" in text and "its numbers mean nothing" in text
    assert "does not hold" not in re.sub(r"does not hold :", "", text) and "+5.0 [" not in text


def test_quick_items_and_what_was_measured_elsewhere_never_mix_with_results(tmp_path):
    real = records()
    report = make_book_report(tmp_path, real)
    trial = {**real[-1], "run": "f" * 16, "score": 0.123, "metrics": {"accuracy": 0.123}}
    report.store.put(trial)
    table = pd.DataFrame({"a": ["1"]})
    quick = Report(tmp_path, "other", quick=True)
    quick.save_claim("negative", Interval(9, 8, 10, 3))
    quick.save_table("beyond-trial", table, "t", runs=["f" * 16], statements=["A trial says 12.3."])
    Report(tmp_path, "12").save_table("beyond-bench", table, "bench", statements=["Training is 1.3 times as fast."])
    book.build(report)
    text = plain(page(tmp_path))
    assert "A trial says 12.3. (quick)" in text and "+9.0" not in text
    assert "its numbers mean nothing" in page(tmp_path, f"book/runs/{'f' * 16}.html")
    assert "its numbers mean nothing" not in page(tmp_path, f"book/runs/{real[0]['run']}.html")
    assert "1.3 times" not in text and "points above prompt tuning" in text, "no run of this report says so"


def test_a_report_that_goes_on_has_a_book_of_what_is_done(tmp_path):
    report = Report(tmp_path)
    with pytest.raises(StoreError, match="holds no report"):
        book.build(report)
    done = records()
    for record in done[:12]:
        report.store.put(record)
    book.build(report)
    first = plain(page(tmp_path))
    assert "+5.0" in first and "12 runs" in first and "The main table is written when" in first
    assert not report.manifest_path.exists(), "the manifest is the notebooks' own"
    for record in done[12:]:
        report.store.put(record)
    book.build(report)
    assert "30 runs" in plain(page(tmp_path))


def test_the_book_is_rewritten_while_runs_go_on(tmp_path, monkeypatch):
    report, commands = Report(tmp_path), []
    monkeypatch.setattr(book.subprocess, "run", lambda command, **options: commands.append(command[2:]))
    with book.kept_fresh(report, every=0.01):
        time.sleep(0.1)
        assert not commands, "no run is done yet"
        for number, record in enumerate(records()[:2], 1):
            report.store.put(record)
            deadline = time.monotonic() + 10
            while len(commands) < number and time.monotonic() < deadline:
                time.sleep(0.01)
        time.sleep(0.1)
    assert commands == [["xprompt", "book", str(tmp_path)]] * 2, "once for each run that was added"
    time.sleep(0.05)
    assert len(commands) == 2


def test_only_what_changed_is_read_again(small):
    before = {path: path.stat().st_mtime_ns for path in (small / "book").rglob("*.html")}
    book.build(Report(small))
    for name in ("api/config.html", "guides/running.html", "notebooks/99_mine.html"):
        path = small / "book" / name
        assert path.stat().st_mtime_ns == before[path], name


def test_the_command_builds_linked_books_elsewhere_and_leaves_the_reports(small, tmp_path, capsys):
    shutil.copytree(small, tmp_path / "a", ignore=shutil.ignore_patterns("book", ".book", "index.html"))
    runs = Report(small).manifest()["runs"]
    Report(tmp_path / "b").change(lambda manifest: {**manifest, "runs": runs})  # as a repeat that keeps no records
    assert main(["book", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "out")]) == 0
    assert "out/a/index.html" in capsys.readouterr().out and not (tmp_path / "a" / "book").exists()
    assert 'href="../b/index.html"' in page(tmp_path / "out" / "a")
    assert (tmp_path / "out" / "a" / "tables" / "tab1.csv").exists()
    assert main(["book", str(tmp_path)]) == 2 and "holds no report" in capsys.readouterr().err


# In a browser ---------------------------------------------------------------------------------------------------------

SIZE = 15_000_000
AXE_LEVELS = ("serious", "critical")


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    if not PUBLISHED.is_dir():
        pytest.skip("the published reports are not here: an sdist has none")
    return book.build(Report(PUBLISHED), tmp_path_factory.mktemp("published")).parent


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next((found for name in names if (found := shutil.which(name))), None)
    with api.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-quic"])
        except api.Error as error:
            pytest.skip(f"no browser: install chromium ({str(error).splitlines()[0][:120]})")
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """Open a page from disk, and collect what the browser complains of and what it fetches."""
    contexts = []

    def opened(path: Path, width: int = 1280, height: int = 800, scheme: str = "light", query: str = ""):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        tab = context.new_page()
        tab.complaints = []
        tab.on("console", lambda message: message.type in ("error", "warning") and tab.complaints.append(message.text))
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.on("requestfailed", lambda request: tab.complaints.append(f"failed: {request.url}"))
        tab.on("request", lambda request: request.url.startswith(("file:", "data:", "blob:"))
               or tab.complaints.append(f"fetched: {request.url}"))  # fmt: skip
        tab.goto(path.resolve().as_uri() + query, wait_until="load")
        return tab

    yield opened
    for context in contexts:
        context.close()


def pages_of_each_kind(folder: Path) -> list[Path]:
    runs = sorted((folder / "book" / "runs").glob("*.html"))
    masked = next(path for path in runs if 'class="masks"' in path.read_text(encoding="utf-8"))
    notebooks = sorted((folder / "book" / "notebooks").glob("*.html"))
    names = ("pictures", "api/pruning", "runs", "tables", "facts", "search", "guides/results", "api/index")
    return [folder / "index.html", notebooks[1], *(folder / "book" / f"{name}.html" for name in names), masked]


def test_the_book_is_small_and_names_no_place_on_the_web_to_fetch_from(published):
    files = [path for path in [published / "index.html", *(published / "book").rglob("*")] if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= SIZE
    for path in files:
        if path.suffix == ".html":
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"""<(?:script|img|link|iframe)[^>]*(?:src|href)=["'](?:https?:)?//""", text), path


def test_every_link_and_picture_is_there(published):
    missing = set()
    for path in [published / "index.html", *(published / "book").rglob("*.html")]:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r'\b(?:href|src)="([^"]+)"', text):
            if re.match(r"[a-z]+:|//", target):
                continue
            file, _, anchor = target.partition("#")
            file = file.partition("?")[0]
            there = Path(os.path.normpath(path.parent / file)) if file else path
            if not there.exists():
                missing.add(f"{path.relative_to(published)}: {target}")
            elif anchor and there.suffix == ".html" and not re.search(
                rf'\b(?:id|name)="{re.escape(anchor)}"', there.read_text(encoding="utf-8")
            ):  # fmt: skip
                missing.add(f"{path.relative_to(published)}: {target}, no such place")
    assert not missing, sorted(missing)[:20]


def test_pages_open_from_disk_without_a_complaint_and_never_scroll_sideways_on_a_phone(published, visit):
    kinds = pages_of_each_kind(published)
    others = [path for room in ("api", "guides", "notebooks") for path in (published / "book" / room).glob("*.html")]
    tab = visit(kinds[0])
    for path in dict.fromkeys([*kinds, *others]):
        tab.set_viewport_size({"width": 1280, "height": 800})
        tab.goto(path.resolve().as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 1280, path
        tab.set_viewport_size({"width": 390, "height": 844})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390, path
        assert tab.complaints == [], path


def test_the_front_page_shows_verdicts_differences_and_table_at_once(published, visit):
    tab = visit(published / "index.html")
    for selector in (".verdicts table", ".forest svg", "table.main"):
        box = tab.locator(selector).bounding_box()
        assert box["x"] >= 0 and box["y"] >= 0, selector
        assert box["x"] + box["width"] <= 1280 and box["y"] + box["height"] <= 800, (selector, box)
    verdicts_end = tab.locator(".verdicts table").bounding_box()
    assert verdicts_end["x"] + verdicts_end["width"] <= tab.locator(".forest svg").bounding_box()["x"] + 1
    clipped = "[...document.querySelectorAll('.front, .main, .picture')].some(e => e.scrollWidth > e.clientWidth + 1)"
    assert not tab.evaluate(clipped)


def test_search_works_from_disk(published, visit):
    tab = visit(published / "book" / "search.html", query="?q=importance")
    tab.wait_for_selector("#search-results li a", timeout=10_000)
    first = tab.locator("#search-results li a").first
    assert tab.locator("#search-results li").count() >= 3
    first.click()
    tab.wait_for_load_state("load")
    assert (
        "search.html" not in tab.url
        and Path(tab.url.partition("#")[0].partition("?")[0].removeprefix("file://")).exists()
    )
    assert tab.complaints == []
    front = visit(published / "index.html")
    front.keyboard.press("Control+k")
    front.keyboard.type("rewind")
    front.keyboard.press("Enter")
    front.wait_for_url("**/book/search.html?q=rewind*")
    front.wait_for_selector("#search-results li a", timeout=10_000)


def test_the_table_of_runs_sorts_searches_and_leads_to_a_run(published, visit):
    tab = visit(published / "book" / "runs.html")
    tab.wait_for_selector(".dt-search input")
    scores = "[...document.querySelectorAll('table.runs tbody tr')].map(row => parseFloat(row.cells[3].textContent))"
    header = tab.locator("table.runs thead th", has_text="score")
    header.click()
    tab.wait_for_selector("th[aria-sort=ascending]")
    rising = tab.evaluate(scores)
    header.click()
    tab.wait_for_selector("th[aria-sort=descending]")
    falling = tab.evaluate(scores)
    assert rising == sorted(rising) and falling == sorted(falling, reverse=True) and rising[0] < falling[0]
    tab.fill(".dt-search input", "XPrompt MultiRC")
    rows = tab.locator("table.runs tbody tr").all_inner_texts()
    assert rows and all("MultiRC" in row and "XPrompt" in row for row in rows)
    tab.locator("table.runs tbody a").first.click()
    tab.wait_for_url("**/runs/*.html")
    assert "XPrompt on MultiRC" in tab.locator("h1").inner_text() and tab.complaints == []


def test_a_seeds_dot_leads_to_its_run(published, visit):
    tab = visit(published / "index.html")
    tab.locator(".forest svg a").first.dispatch_event("click")
    tab.wait_for_url("**/book/runs/*.html")
    assert re.match(r"XPrompt on .*, seed \d", tab.locator("h1").inner_text())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_and_both_modes_are_readable(published, visit, scheme):
    axe = pytest.importorskip("axe_playwright_python")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    for path in pages_of_each_kind(published)[:: 3 if scheme == "light" else 4]:
        tab = visit(path, scheme=scheme)
        assert tab.evaluate("document.documentElement.dataset.theme") == scheme
        tab.evaluate(script)
        found = tab.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        serious = [(v["id"], v["nodes"][0]["html"][:200], v["nodes"][0].get("failureSummary", "")[:300])
                   for v in found if v["impact"] in AXE_LEVELS]  # fmt: skip
        assert not serious, path.name + json.dumps(serious, indent=1)
