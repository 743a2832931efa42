"""The notebooks, README and guides: their form, and the notebooks' result tables on the tiny profile.

`python tests/test_notebooks.py` writes the stored tables again; look at the difference before you commit it.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

import xprompt as xp
from xprompt import reproduce
from xprompt.reporting import COLUMNS
from xprompt.reporting.book_extension import to_mathml
from xprompt.reporting.notebooks import parameters_of
from xprompt.runs.store import Store

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "tests" / "fixtures" / "tables"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "notebooks" / "guides").glob("*.md"))]
# Six steps on a hundred examples, checkpoints chosen on 29: another CPU, or another number of threads, rounds
# differently, and may choose another one. One thread and two were seen to differ by six of the 64 examples reported on.
# What is trained may move by ten of them, and by what one decimal hides; everything else has to be the same.
POINTS = 100 * 10 / 64 + 0.1
TABLES = ("tab1", "beyond-comparison", "beyond-walkthrough", "tab9", "tab10")
FREE = {"run", "difference"}
EQUATION = re.compile(r"(\$\$?[^$`]+\$\$?)")


def cells(path: Path) -> list:
    return nbformat.read(path, as_version=4).cells


def code(path: Path) -> list:
    return [cell for cell in cells(path) if cell.cell_type == "code"]


def test_a_plain_call_executes_the_core_and_all_is_every_one():
    assert [path.stem for path in reproduce.make_plan().notebooks] == list(reproduce.CORE)
    assert list(reproduce.make_plan(only=["all"]).notebooks) == NOTEBOOKS


def test_the_notebooks_are_there_and_named_by_one_scheme():
    core = {
        "00_walkthrough", "01_main_results", "02_masking", "03_controls", "04_parameters_and_levels",
        "05_importance_maps", "06_baselines", "07_few_shot", "08_length_and_start", "09_transfer", "10_peft",
        "11_custom_task", "12_speed_and_scale", "20_protocols", "21_ratio_search", "22_trials", "23_convergence",
        "24_importance_and_harm", "25_zero_and_drop", "26_hierarchy", "27_neighbours", "28_evidence",
        "29_budgets_and_pruning", "A_tasks_and_templates",
    }  # fmt: skip
    found = {path.stem for path in NOTEBOOKS}
    assert core <= found and all(re.match(r"([012]\d|A)_[a-z_]+$", name) for name in found)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestForm:
    def test_it_is_valid_and_carries_no_outputs(self, path):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert notebook.metadata.kernelspec.name == "python3"
        assert set(notebook.metadata) == {"kernelspec", "language_info"}
        for cell in code(path):
            assert not cell.outputs and cell.execution_count is None

    def test_it_defines_nothing_and_its_cells_are_short(self, path):
        for cell in code(path):
            assert len(cell.source.splitlines()) <= 15, cell.source
            for node in ast.walk(ast.parse(cell.source)):
                assert not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)), cell.source

    def test_of_the_package_it_imports_the_public_surface_alone(self, path):
        lines = re.findall(r"^.*\bimport\b.*\bxprompt\b.*$|^.*\bxprompt\b.*\bimport\b.*$", "\n".join(
            cell.source for cell in code(path)), re.M)  # fmt: skip
        assert lines == ["import xprompt as xp", "from xprompt import reporting as rp"]
        used = {name for cell in code(path) for name in re.findall(r"\bxp\.(\w+)", cell.source)}
        assert used <= set(xp.__all__)

    def test_a_sentence_stands_before_each_code_cell(self, path):
        kinds = cells(path)
        assert kinds[0].cell_type == "markdown"
        for before, cell in zip(kinds, kinds[1:], strict=False):
            if cell.cell_type == "code":
                assert before.cell_type == "markdown" and re.search(r"[.:?,]$", before.source.strip()), cell.source

    def test_it_opens_with_question_item_files_and_time_and_ends_with_two_things_to_change(self, path):
        first, last = cells(path)[0].source, cells(path)[-1].source
        for heading in ("# ", "**Question.**", "**The paper's item", "**Files written.**", "**Time.**"):
            assert heading in first
        assert last.startswith("## Two things to change") and len(re.findall(r"^\d\. ", last, re.M)) == 2
        headings = [line for cell in cells(path) for line in cell.source.splitlines() if line.startswith("## ")]
        assert headings[0] == "## Parameters" and "## What matched, what did not, and why" in headings

    def test_jupyters_contents_lead_to_every_part(self, path):
        markdown = [cell.source for cell in cells(path) if cell.cell_type == "markdown"]
        titles = [line for source in markdown for line in source.splitlines() if line.startswith("#")]
        assert [title for title in titles if title.startswith("# ")] == titles[:1]
        assert all(title.startswith("## ") for title in titles[1:]) and len(set(titles)) == len(titles) >= 6
        assert all(source.startswith("#") for source in markdown if re.search("^#", source, re.M)), (
            "a heading opens a cell"
        )
        parts = "\n".join("" if cell.source.startswith("## ") else "c" if cell.cell_type == "code" else "t"
                          for cell in cells(path)).split("\n\n")  # fmt: skip
        assert max(part.count("c") for part in parts) <= 3, "too much below one heading"

    def test_what_it_says_to_change_is_a_parameter(self, path):
        last, parameters = cells(path)[-1].source, set(parameters_of(path))
        for line in last.splitlines()[1:]:
            for name in re.findall(r"\b(?:Set|Raise|Take another|to|in|and) `(\w+)(?: = [^`]*)?`", line):
                assert name in parameters, f"{name}: a parameter of the first cell?"
        assert not re.search(r"\.py`|in place of `", last), "a value, not code, is changed"

    def test_its_long_cells_show_that_they_go_on(self, path):
        for cell in code(path):
            for call in ("xp.tune(", "xp.tune_many(", "xp.xprompt(", "xp.importance(", "xp.masked_grid(", "rp.collect(",
                         "xp.run("):  # fmt: skip
                assert cell.source.count(call) <= cell.source.count("progress=report.live") + cell.source.count(
                    "**watch"
                ), f"{call}…) without a bar"

    def test_its_equations_are_latex_that_a_page_can_show(self, path):
        equations = [e for cell in cells(path) if cell.cell_type == "markdown" for e in EQUATION.findall(cell.source)]
        for equation in equations:
            assert to_mathml(equation.strip("$"), "inline").startswith("<math"), equation

    def test_its_parameters_are_literals_each_with_a_comment(self, path):
        tagged = [cell for cell in code(path) if "parameters" in cell.metadata.get("tags", [])]
        assert len(tagged) == 1 and tagged[0] is not code(path)[-1]
        source = tagged[0].source
        for line in source.splitlines():
            assert re.search(r"  # \S", line), f"no comment: {line}"
        for node in ast.parse(source).body:
            assert isinstance(node, ast.Assign)
            ast.literal_eval(node.value)
        declared = set(parameters_of(path))
        assert "profile" in declared and not {"output", "quick", "executor", "executor_options"} & declared

    def test_it_writes_the_files_that_it_says(self, path):
        text = "\n".join(cell.source for cell in code(path))
        assert f'rp.Report.open("{path.stem}", profile)' in text
        saved = set(re.findall(r'save_table\(\s*"([\w-]+)"', text)) | set(
            re.findall(r'save_figure\(\s*"([\w-]+)"', text)
        )
        said = set(re.findall(r"`(?:tables|figures)/([\w-]+)\.\*`", cells(path)[0].source))
        assert saved == said


def test_the_walkthroughs_first_cell_decides_what_is_tuned_and_pruned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parameters, settings = (cell.source for cell in code(ROOT / "notebooks" / "00_walkthrough.ipynb")[:2])
    given = {"profile": "tiny", "template": "{premise} So: {hypothesis}?", "length": 6, "pieces": 8, "steps": 5,
             "learning_rate": 0.1, "retrain_steps": 3}  # fmt: skip
    plain, changed = {}, {}
    exec(parameters + "\nprofile = 'tiny'\n" + settings, plain)
    exec(parameters, changed)
    changed.update(given)
    exec(settings, changed)
    profile, config = xp.PROFILES["tiny"], changed["config"]
    assert (plain["tune"], plain["retune"]) == (profile.tune, profile.prune.retune) and plain[
        "config"
    ].pattern == "paper"
    assert (config.length, config.pieces, config.pattern.template) == (6, 8, given["template"])
    assert changed["tune"] == profile.tune.replace(steps=5, learning_rate=0.1)
    assert changed["retune"] == profile.prune.retune.replace(steps=3)


class TestPages:
    def test_the_readme_fits_one_sitting(self):
        assert len(README.read_text(encoding="utf-8").splitlines()) <= 130

    @pytest.mark.timeout(240)
    def test_the_readmes_python_runs(self, tmp_path, monkeypatch, capsys):
        (source,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setitem(xp.PROFILES, "nano", xp.PROFILES["tiny"])  # the same lines, with fewer steps and examples
        monkeypatch.setattr(xp, "load_task", partial(xp.load_task, limit_train=192, limit_validation=64))
        exec(compile(source, "README.md", "exec"), {})
        assert re.fullmatch(r"\{'accuracy': \d\.\d+\}\n(not_)?entailment \(\d+\.\d %\)\n", capsys.readouterr().out)
        assert (tmp_path / "out" / "adapter_config.json").exists()

    @pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
    def test_a_page_leads_to_files_and_notebooks_that_exist(self, page):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / link).exists(), link
        names = {path.stem for path in NOTEBOOKS}
        assert set(re.findall(r"`(?:notebooks/)?([012A]\d?_[a-z_]+)", text)) <= names
        for path in re.findall(r"`(xprompt/[\w/]+\.py)`", text):
            assert (ROOT / path).exists(), path

    @pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
    def test_a_page_uses_the_fields_words(self, page):
        dialect = r"told apart|taken up|take up|anew|reckon|side by side|an own task|go(es)? on from"
        assert not re.search(dialect, page.read_text(encoding="utf-8"), re.I)

    def test_the_citation_names_this_version_and_the_paper(self):
        cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
        assert cited["version"] == xp.__version__ and cited["license"] == "Apache-2.0"
        (paper,) = cited["references"]
        assert paper["title"] == "XPrompt: Exploring the Extreme of Prompt Tuning" and "2210.04457" in paper["url"]


def execute(output: Path) -> int:
    """Execute every notebook, those of one task on the one that `01_main_results` has runs of."""
    return reproduce.main(["--profile", "tiny", "--only", "all", "--set", "task=rte", "--output", str(output)])


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Every notebook executed on the tiny profile; the report's folder."""
    output = tmp_path_factory.mktemp("reports") / "tiny"
    assert execute(output) == 0
    return output


def compared(name: str, folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False)
    return table[[column for column in table.columns if column not in FREE]]


@pytest.mark.timeout(900)
class TestExecuted:
    @pytest.mark.parametrize("name", TABLES)
    def test_a_result_table_is_the_stored_one_within_tolerance(self, report, name):
        stored, found = compared(name, STORED), compared(name, report / "tables")
        assert list(found.columns) == list(stored.columns) and len(found) == len(stored)
        trained = {"value", "ours", "accuracy", "score"}
        for column in stored:
            for row, (want, got) in enumerate(zip(stored[column], found[column], strict=True)):
                kind = stored["method"][row] if "method" in stored else ""
                if column in trained and not kind.startswith("majority"):
                    assert abs(float(got) - float(want)) <= POINTS, f"{name}, row {row}, {column}: {got}, stored {want}"
                else:
                    assert got == want, f"{name}, row {row}, {column}"

    def test_the_report_is_as_the_contract_says(self, report):
        manifest = json.loads((report / "manifest.json").read_text(encoding="utf-8"))
        for item in ("tab1", "tab9", "tab10"):
            for suffix in ("csv", "md", "tex"):
                assert (report / "tables" / f"{item}.{suffix}").stat().st_size > 0
        for item in ("fig1", "fig9", "tab1"):
            for suffix in ("png", "svg"):
                assert (report / "figures" / f"{item}.{suffix}").stat().st_size > 5000
        for path in NOTEBOOKS:
            assert (report / "notebooks" / path.name).exists()
            assert (report / "book" / "notebooks" / f"{path.stem}.html").exists()
            assert manifest["notebooks"][path.stem]["status"] == "done"
        assert "<title>XPrompt, tiny" in (report / "index.html").read_text(encoding="utf-8")
        assert list(pd.read_csv(report / "tables" / "tab1.csv").columns) == list(COLUMNS)

    def test_the_manifest_names_runs_that_are_in_the_store(self, report):
        manifest = json.loads((report / "manifest.json").read_text(encoding="utf-8"))
        names = {record["run"] for record in Store(report).records()}
        item = manifest["items"]["tab1"]
        assert item["notebook"] == "01_main_results" and item["runs"] and set(item["runs"]) <= names
        assert manifest["runs"]["versions"]["torch"] and manifest["runs"]["hardware"]
        assert set(pd.read_csv(report / "tables" / "tab1.csv", dtype=str)["run"]) == set(item["runs"])

    def test_no_cell_failed_or_complained_and_figures_are_shown(self, report):
        for path in sorted((report / "notebooks").glob("*.ipynb")):
            shown = 0
            for cell in code(path):
                for output in cell.outputs:
                    assert output.output_type != "error"
                    shown += "image/png" in output.get("data", {})
                    assert "Warning" not in output.get("text", ""), output.get("text")
            saved = sum(cell.source.count("save_figure(") for cell in code(path))
            assert shown == saved, f"{path.stem} saves {saved} figures and shows {shown}"

    def test_where_nobody_watches_curves_and_sliders_are_pictures(self, report):
        outputs = [output for cell in code(report / "notebooks" / "00_walkthrough.ipynb") for output in cell.outputs]
        pages = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
        assert not any("widget" in kind for output in outputs for kind in output.get("data", {}))
        curves = [page for page in pages if "<polyline" in page]
        retrained = [curve for curve in curves if "step 4 of 4: score on selection" in curve]
        assert 2 <= len(curves) <= 4 and retrained, "a run that the main results have done is read, and draws none live"
        assert sum("Selection score (%) by step" in page for page in pages) == 1, "the tuning's, live or read"
        assert retrained[0].count("<circle") == 3
        assert sum("Token prune ratio 0.3, piece prune ratio 0.2" in page for page in pages) == 1
        book = (report / "book" / "notebooks" / "00_walkthrough.html").read_text(encoding="utf-8")
        assert "Token prune ratio 0.3, piece prune ratio 0.2" in book and "step 4 of 4: score on selection" in book

    def test_exported_prompts_say_the_same_in_peft(self, report):
        table = pd.read_csv(report / "tables" / "beyond-take-home.csv")
        assert list(table["prompt"]) == ["not pruned", "zero", "drop", "tuned by PEFT, pruned here (drop)"]
        assert (table["max logit difference"] <= 1e-5).all() and (table["same predictions (%)"] == 100).all()
        tokens = dict(zip(table["prompt"], table["virtual tokens"], strict=True))
        assert tokens["not pruned"] == tokens["zero"] > tokens["drop"] > 0

    def test_the_sources_are_as_they_were(self, report):
        for path in NOTEBOOKS:
            assert not any(cell.outputs for cell in code(path))

    def test_asked_for_again_the_runs_are_read_not_done(self, report):
        before = {path: path.stat().st_mtime_ns for path in report.glob("runs/*/record.json")}
        assert before
        assert reproduce.main(["--profile", "tiny", "--output", str(report), "--only", "01_main_results"]) == 0
        assert {path: path.stat().st_mtime_ns for path in report.glob("runs/*/record.json")} == before


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        if execute(Path(folder) / "tiny"):
            sys.exit("a notebook failed: nothing stored")
        STORED.mkdir(parents=True, exist_ok=True)
        for table in TABLES:
            shutil.copy(Path(folder) / "tiny" / "tables" / f"{table}.csv", STORED / f"{table}.csv")
        print(f"stored {', '.join(TABLES)} in {STORED}")
