"""The command: choices checked first, notebooks executed live, a broken one fails the run and loses nothing."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest

from tests.conftest import empty_release
from xprompt import reproduce
from xprompt.errors import ConfigError, DataError
from xprompt.reporting.layout import HANDED_OVER, Report
from xprompt.reporting.notebooks import execute, parameters_of
from xprompt.tasks.custom import CustomTask

FIXTURES = Path(__file__).parent / "fixtures" / "notebooks"


def refuse(*_args, **_named):
    raise AssertionError("a notebook was executed although the choices were wrong")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--profile", "huge"], "known profiles: nano"),
        (["--tasks", "rte,sst2"], "sst2"),
        (["--tasks", "rte,rte"], "given twice"),
        (["--seeds", "0"], "how many (1 to"),
        (["--seeds", "-1"], "how many (1 to"),
        (["--data-dir", "no/such/folder"], "no such folder"),
        (["--only", "02_nothing"], "01_main_results"),
        (["--only", "11_take_it_home"], "10_peft, 11_custom_task"),
        (["--set", "output=elsewhere"], "no chosen notebook has a parameter output"),
        (["--set", "learning=1"], "no chosen notebook has a parameter learning"),
        (["--only", "A_tasks_and_templates", "--set", "methods=xprompt"], "methods"),
        (["--set", "methods"], "NAME=VALUE"),
        (["--set", "profile=tiny"], "--set profile=tiny: give it by its option, --profile"),
        (["--tasks", "cb", "--set", 'tasks=["rte"]'], "both set tasks; leave one out"),
        (["--seeds", "2", "--set", "seeds=[0]"], "both set seeds"),
        (["--tasks", "rte", "--set", "task=cb"], "both set task; leave one out"),
        (["--set", "task=nonsense"], "nonsense"),
        (["--set", "task=rte,cb"], "it is one task; for several give --tasks"),
        (["--only", "01_main_results", "--backbone", "nano-2x", "--set", "backbone_name=nano"], "set backbone_name"),
        (["--set", "tasks=rte,sst2"], "sst2"),
        (["--only", "01_main_results,", "--only", "02_nothing"], "no notebook 02_nothing;"),
        (["--only", ","], "--only , names no notebook"),
        (["--only", "all", "--only", "10_peft"], "all is every notebook; leave all out"),
        (["--backbone", "model.gguf"], "--only what takes another: 00_walkthrough, 01_main_results"),
        (["--only", "09_transfer", "--tasks", "rte"], "--tasks 'rte': 09_transfer would not use it"),
        (["--only", "09_transfer", "--tasks", "rte"], "data_dir, pairs, profile, seeds"),
        (["--only", "A_tasks_and_templates,22_trials", "--seeds", "2"], "22_trials, A_tasks_and_templates would not"),
        (["--only", "11_custom_task", "--tasks", "rte"], "methods, profile, seeds, steps, task_json"),
        (["--gpus-per-run", "1"], "the executor local has no gpus_per_run"),
        (["--workers", "0"], "greater than or equal to 1"),
        (["--executor", "ray", "--gpus-per-run", "1.5"], "gpus_per_run"),
        (["--executor", "ray", "--address", "head"], "host:port"),
        (["--executor", "ray", "--only", "A_tasks_and_templates"], "has no runs to distribute"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_choice_is_named_before_anything_is_executed(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(reproduce, "execute", refuse)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())  # chosen, and never started
    assert reproduce.main([*arguments, "--output", str(tmp_path / "report")]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("error: ") and "Traceback" not in error
    assert not (tmp_path / "report").exists()


def test_help_explains_every_choice(capsys):
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for option in ("--profile", "--tasks", "--seeds", "--data-dir", "--only", "--output", "--quick", "--set",
                   "--executor", "--address", "--workers", "--cpus-per-run", "--gpus-per-run"):  # fmt: skip
        assert option in text
    assert "smollm2" in text and "multirc" in text


def test_a_plan_gives_each_notebook_the_parameters_that_it_declares(tmp_path):
    plan = reproduce.make_plan("nano", "rte,cb", 2, only=["all"], output=tmp_path, settings={"protocols": ["paper"]})
    assert list(plan.notebooks) == sorted((reproduce.ROOT / "notebooks").glob("*.ipynb"))
    by_name = {path.stem: parameters for path, parameters in plan.notebooks.items()}
    walkthrough, main_results = by_name["00_walkthrough"], by_name["01_main_results"]
    tasks = by_name["A_tasks_and_templates"]
    assert main_results["tasks"] == ["rte", "cb"] and main_results["seeds"] == [0, 1]
    assert main_results["protocols"] == ["paper"] and "protocols" not in walkthrough and "seeds" not in tasks
    assert walkthrough["task"] == by_name["10_peft"]["task"] == "rte"
    assert "task_json" not in by_name["11_custom_task"] and "tasks" not in by_name["09_transfer"]
    for path, parameters in plan.notebooks.items():
        assert set(parameters) <= set(parameters_of(path))
        assert (path.parent / plan.handed_over["output"]).resolve() == tmp_path.resolve()
    assert not Path(plan.handed_over["output"]).is_absolute()


def test_another_backbone_reaches_the_notebooks_from_where_they_run(tmp_path):
    (tmp_path / "mine").mkdir()
    for given, there in ((str(tmp_path / "mine"), True), ("google/t5-small", False)):
        plan = reproduce.make_plan("nano", only=["01_main_results", "00_walkthrough"], backbone=given)
        for path, parameters in plan.notebooks.items():
            name = parameters["backbone_name"]
            assert (path.parent / name).resolve() == tmp_path / "mine" if there else name == given


def test_grids_go_beside_the_other_notebooks_where_runs_go_in_parallel(monkeypatch):
    monkeypatch.setattr(reproduce, "count_processes", lambda threads: 1 if None in threads else 2)
    at_a_time = [
        reproduce._notebooks_at_a_time(reproduce.make_plan(profile, only=only, executor_options=options))
        for profile, only, options in [
            ("nano", None, {}), ("nano", None, {"workers": 3}), ("nano", None, {"workers": 1}),
            ("nano", ["01_main_results"], {}), ("smollm2-gpu", None, {}),
        ]
    ]  # fmt: skip
    assert at_a_time == [2, 2, 1, 1, 1]


@pytest.mark.parametrize("at_a_time", [1, 2])
def test_each_notebook_is_executed_once_grids_in_order_and_failures_are_named_in_the_plans_order(
    tmp_path, monkeypatch, at_a_time
):
    done, kernels = [], {}

    def pretend(path, output, parameters, timeout, *, kernel, label):
        done.append(path.stem)
        kernels[path.stem] = kernel
        assert label == (f"{path.stem[:2].rstrip('_')} | " if at_a_time > 1 else "")
        time.sleep(0.02)
        return "no reason" if path.stem in ("10_peft", "01_main_results") else None

    monkeypatch.setattr(reproduce, "execute", pretend)
    monkeypatch.setattr(reproduce, "_notebooks_at_a_time", lambda plan: at_a_time)
    plan, report = reproduce.make_plan(output=tmp_path), Report(tmp_path)
    assert reproduce._execute_all(plan, report) == ["01_main_results", "10_peft"]
    assert sorted(done) == sorted(reproduce.CORE) and set(report.manifest()["notebooks"]) == set(done)
    if at_a_time == 1:
        assert done == list(reproduce.CORE)
    grids = [name for name in done if name in ("01_main_results", "05_importance_maps", "11_custom_task")]
    assert grids == sorted(grids) and len({kernels[name] for name in grids}) == 1
    assert len(set(kernels.values())) == at_a_time


def test_a_plan_hands_executor_and_quick_over_beside_the_parameters(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())
    plans = []
    monkeypatch.setattr(reproduce, "reproduce", lambda plan: plans.append(plan) or 0)
    wanted = {"workers": 3, "cpus_per_run": 2.0, "gpus_per_run": 0.25}
    flags = ["--workers", "3", "--cpus-per-run", "2", "--gpus-per-run", "0.25"]
    assert reproduce.main(["--executor", "ray", *flags, "--output", str(tmp_path)]) == 0
    assert reproduce.main(["--quick", "--output", str(tmp_path)]) == 0
    for plan, executor, options, quick in zip(plans, ("ray", "local"), (wanted, {}), (False, True), strict=True):
        folder = plan.handed_over.pop("output")
        assert (reproduce.ROOT / "notebooks" / folder).resolve() == tmp_path.resolve()
        assert plan.handed_over == {"quick": quick, "executor": executor, "executor_options": options}
        for parameters in plan.notebooks.values():
            assert not {"output", "quick", "executor", "executor_options"} & set(parameters)


def test_a_notebook_opens_the_report_that_it_is_handed(monkeypatch, tmp_path):
    handed_over = {"output": str(tmp_path), "quick": True, "executor": "local", "executor_options": {"workers": 3}}
    monkeypatch.setenv(HANDED_OVER, json.dumps(handed_over))
    report = Report.open("01_main_results", "nano")
    assert (report.root, report.notebook, report.quick) == (tmp_path, "01_main_results", True)
    assert report.executor().workers == 3


@pytest.mark.parametrize(("place", "root"), [("notebooks", "../reports/tiny"), ("elsewhere", "reports/tiny")])
def test_in_jupyter_a_report_is_the_profiles_and_nothing_is_quick(monkeypatch, tmp_path, place, root):
    monkeypatch.delenv(HANDED_OVER, raising=False)
    (tmp_path / place).mkdir()
    monkeypatch.chdir(tmp_path / place)
    report = Report.open("01_main_results", "tiny")
    assert report.root == Path(root) and report.live and not report.quick
    assert report.executor().workers == 1


@pytest.mark.parametrize("handed_over", [None, {"output": "elsewhere/mine", "quick": False}])
def test_quick_in_a_notebook_has_a_folder_of_its_own(monkeypatch, tmp_path, handed_over):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(HANDED_OVER, raising=False)
    if handed_over:
        monkeypatch.setenv(HANDED_OVER, json.dumps(handed_over))
    real, quick = (Report.open("01_main_results", "nano", quick=quick) for quick in (False, True))
    for report in (real, quick):
        report.save_table("tab1", pd.DataFrame({"score": [int(report.quick)]}), "Tab 1")
    assert quick.root == real.root.with_name(f"{real.root.name}-quick") and quick.quick and not real.quick
    assert (real.tables / "tab1.csv").read_text() == "score\n0\n"
    assert (quick.tables / "tab1.csv").read_text() == "score\n1\n" and quick.manifest()["items"]["tab1"]["quick"]


def test_a_notebook_that_reproduce_has_made_quick_stays_in_its_folder(monkeypatch, tmp_path):
    monkeypatch.setenv(HANDED_OVER, json.dumps({"output": str(tmp_path / "nano-quick"), "quick": True}))
    report = Report.open("01_main_results", "nano", quick=True)
    assert report.root == tmp_path / "nano-quick" and report.quick and not report.live


def test_quick_is_refused_in_the_folder_of_a_real_report(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(reproduce, "execute", refuse)
    Report(tmp_path, "01_main_results").save_table("tab1", pd.DataFrame({"score": [0]}), "Tab 1")
    assert reproduce.main(["--profile", "tiny", "--quick", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path} holds a report that is not quick (tab1)" in error and "Traceback" not in error
    monkeypatch.setenv(HANDED_OVER, json.dumps({"output": str(tmp_path), "quick": True}))
    with pytest.raises(ConfigError, match="not quick"):
        Report.open("01_main_results", "nano")
    assert (tmp_path / "tables" / "tab1.csv").read_text() == "score\n0\n"


@pytest.mark.parametrize("text", ["{", "[1]", '{"folder": "x"}', "{}"])
def test_a_report_handed_over_in_another_form_is_named(monkeypatch, text):
    monkeypatch.setenv(HANDED_OVER, text)
    with pytest.raises(ConfigError, match=HANDED_OVER):
        Report.open("01_main_results", "nano")


@pytest.mark.parametrize("profile", ["tiny", "nano", "t5-xl"])
def test_a_plan_leaves_each_notebook_its_own_choices_where_none_is_made(profile):
    plan = reproduce.make_plan(profile)
    assert plan.output == reproduce.ROOT / "reports" / profile
    for given in plan.notebooks.values():
        assert given.keys() <= {"profile", "data_dir"} and given.get("data_dir", "") == ""


def test_a_quick_report_never_replaces_a_real_one():
    assert reproduce.make_plan("nano", quick=True).output != reproduce.make_plan("nano").output


def test_a_data_folder_reaches_the_notebooks_from_where_they_run(tmp_path):
    empty_release(tmp_path, "RTE")
    plan = reproduce.make_plan("nano", "rte", data_dir=str(tmp_path), only=["01_main_results.ipynb"])
    ((path, parameters),) = plan.notebooks.items()
    assert (path.parent / parameters["data_dir"]).resolve() == tmp_path.resolve()
    with pytest.raises(DataError, match="lacks CB/train.jsonl, CB/val.jsonl: add"):
        reproduce.make_plan("nano", "rte,cb", data_dir=str(tmp_path))
    empty_release(tmp_path, "CB")
    with pytest.raises(ConfigError, match="--data-dir .*: 12_speed_and_scale would not use it"):
        reproduce.make_plan("nano", "", data_dir=str(tmp_path), only=["12_speed_and_scale"], settings={"bench": "x"})


def test_a_home_folder_is_found_by_its_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    empty_release(tmp_path, "RTE")
    plan = reproduce.make_plan("nano", "rte", data_dir="~", only=["01_main_results"], output="~/out", backbone="~/RTE")
    ((path, parameters),) = plan.notebooks.items()
    assert (path.parent / parameters["data_dir"]).resolve() == tmp_path.resolve() == plan.output.parent
    assert (path.parent / parameters["backbone_name"]).resolve() == tmp_path / "RTE"


def test_a_task_that_is_set_is_found_from_where_the_notebooks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = {"a": "x", "b": "y"}
    CustomTask(name="mine", template="{text}", label="l", verbalizer=words, validation_share=0.5).save("m")
    (tmp_path / "m" / "train.csv").write_text("text,l\nt,a\nu,b\n")
    plan = reproduce.make_plan("nano", only=["01_main_results"], settings={"tasks": ["m", "rte"]})
    ((path, parameters),) = plan.notebooks.items()
    mine, rte = parameters["tasks"]
    assert (path.parent / mine).resolve() == tmp_path / "m" and rte == "rte"


def test_paths_that_are_set_are_found_from_where_the_notebooks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    settings = {"data_dir": "mine", "backbone_name": "mine"}
    plan = reproduce.make_plan("nano", only=["01_main_results"], settings=settings)
    ((path, parameters),) = plan.notebooks.items()
    assert all((path.parent / parameters[name]).resolve() == tmp_path / "mine" for name in settings)
    plan = reproduce.make_plan("nano", only=["01_main_results"], settings={"backbone_name": "google/t5"})
    assert next(iter(plan.notebooks.values()))["backbone_name"] == "google/t5"


def test_paths_on_another_drive_are_whole(tmp_path, monkeypatch):
    def no_way(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr("os.path.relpath", no_way)
    empty_release(tmp_path, "RTE")
    plan = reproduce.make_plan(
        "nano", "rte", data_dir=str(tmp_path), only=["01_main_results"], output=tmp_path / "out", backbone=str(tmp_path)
    )
    ((_, given),) = plan.notebooks.items()
    assert given["data_dir"] == given["backbone_name"] == str(tmp_path)
    assert plan.handed_over["output"] == str(tmp_path / "out")


def test_a_folder_named_as_an_embedded_backbone_is_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").mkdir()
    ((_, given),) = reproduce.make_plan(only=["01_main_results"], backbone="nano").notebooks.items()
    assert given["backbone_name"] == "nano"


def test_the_summary_is_of_what_was_executed_now(tmp_path, capsys):
    def entry(notebook, words):
        return {
            "notebook": notebook,
            "table": {"title": words, "columns": ["x"], "rows": [["1"]], "statements": [words]},
        }

    items = {"tab1": entry("01_main_results", "the main table"), "fig5": entry("03_controls", "a control")}
    reproduce._print_summary(Report(tmp_path), {"items": items}, {"03_controls"}, [])
    said = capsys.readouterr().out
    assert "- a control" in said and "the main table" not in said


@pytest.mark.parametrize("name", ["index.html", "notebooks/thesis.ipynb"])
def test_what_no_report_wrote_is_not_replaced(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(reproduce, "execute", refuse)
    file = tmp_path / "site" / name
    file.parent.mkdir(parents=True)
    file.write_text("years of work")
    assert reproduce.main(["--profile", "tiny", "--output", str(tmp_path / "site")]) == 2
    assert "no report's, and would be overwritten" in capsys.readouterr().err
    assert file.read_text() == "years of work" and not (tmp_path / "site" / "runs").exists()
    (tmp_path / "site" / "runs").mkdir()  # a report, going on
    assert reproduce.make_plan("tiny", output=tmp_path / "site").output == tmp_path / "site"


def test_the_notebooks_that_are_run_are_not_replaced_by_what_they_become(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "notebooks").symlink_to(reproduce.NOTEBOOKS)
    for output in (reproduce.NOTEBOOKS.parent, tmp_path):
        with pytest.raises(ConfigError, match="would be overwritten"):
            reproduce.make_plan(output=output)


def test_an_unknown_parameter_fails_although_papermill_would_only_warn(tmp_path):
    with pytest.raises(ConfigError, match="no parameter colours; its parameters: profile"):
        execute(FIXTURES / "working.ipynb", tmp_path / "working.ipynb", {"colours": "blue"})
    assert not (tmp_path / "working.ipynb").exists()


def test_a_folder_without_notebooks_is_named(tmp_path):
    with pytest.raises(ConfigError, match="holds no notebooks"):
        reproduce.make_plan(notebooks=tmp_path)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A report of two notebooks, the first of them broken: exit code, folder, what stood on the terminal."""
    output = tmp_path_factory.mktemp("report")
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        os.environ.pop(HANDED_OVER, None)
        code = reproduce.main(
            ["--notebooks", str(FIXTURES), "--output", str(output), "--seeds", "3", "--set", "colour=blue"]
        )
    assert HANDED_OVER not in os.environ
    return code, output, out.getvalue(), err.getvalue()


@pytest.mark.timeout(240)
def test_a_broken_notebook_fails_the_command(both):
    code, _, out, err = both
    assert code == 1
    assert "broken failed: ValueError: this notebook is broken" in err
    assert "Failed: broken" in out and "resumes from there" in out


@pytest.mark.timeout(240)
def test_what_a_broken_notebook_did_is_kept(both):
    _, output, _, _ = both
    executed = nbformat.read(output / "notebooks" / "broken.ipynb", as_version=4)
    printed = "".join(part.get("text", "") for cell in executed.cells for part in cell.get("outputs", []))
    assert "half way nano" in printed and "never" not in printed
    assert "on purpose" in (output / "book" / "notebooks" / "broken.html").read_text(encoding="utf-8")


@pytest.mark.timeout(240)
def test_the_other_notebooks_run_all_the_same_and_the_page_says_what_is_missing(both):
    _, output, out, _ = both
    assert "colour blue seeds [0, 1, 2] quick False" in out  # live, on the terminal
    assert "=== working (2 of 2) ===" in out
    assert "blue" in (output / "tables" / "beyond-colour.csv").read_text()
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["notebooks"]["working"]["status"] == "done"
    assert manifest["notebooks"]["broken"]["status"].startswith("failed: ValueError")
    assert "Not finished: broken" in (output / "index.html").read_text(encoding="utf-8")


@pytest.mark.timeout(240)
def test_an_executed_copy_names_no_place_on_this_machine(both):
    _, output, _, _ = both
    here = str(Path.cwd())
    for folder, name in (("notebooks", "working.ipynb"), ("book/notebooks", "working.html")):
        assert here not in (output / folder / name).read_text(encoding="utf-8")
    assert here not in (output / "manifest.json").read_text(encoding="utf-8")


@pytest.mark.timeout(240)
def test_a_second_call_replaces_only_what_it_runs(both):
    code, output, _, _ = both
    again = reproduce.main(
        ["--notebooks", str(FIXTURES), "--output", str(output), "--only", "working", "--set", "colour=red"]
    )
    assert again == 0
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["notebooks"]["broken"]["status"].startswith("failed")
    assert "red" in (output / "tables" / "beyond-colour.csv").read_text()


@pytest.mark.parametrize("place", ["", "tables", "figures", "notebooks", "runs", "manifest.json"])
def test_what_stands_in_the_way_of_the_report_is_found_before_a_notebook_is_run(tmp_path, monkeypatch, capsys, place):
    monkeypatch.setattr(reproduce, "execute", refuse)
    output = tmp_path / "report"
    in_the_way = output / place
    in_the_way.parent.mkdir(exist_ok=True)
    in_the_way.mkdir() if place == "manifest.json" else in_the_way.touch()
    assert reproduce.main(["--profile", "tiny", "--only", "00_walkthrough", "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(in_the_way) in error and "Traceback" not in error
