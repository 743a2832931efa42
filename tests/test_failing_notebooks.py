"""Notebooks that end early, in every way: one sentence, what they did kept, the others executed, the page written."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from xprompt import reproduce
from xprompt.errors import ConfigError
from xprompt.reporting.notebooks import GIVES_WAY, LONGEST, Kernel, environment, execute, parameters_of

STARTED = "print('half way')"
BAD_MATHS = [r"\left(", "{", r"\begin{matrix} a", r"\begin{foo}\end{bar}", "{" * 3000, "a<b & c"]
# What a cell started must not outlive its kernel, as joblib's workers do.
WORKER = """import subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("worker", "w").write(str(worker.pid))
"""
FAILING = {
    "exits": ([STARTED, "import os; os._exit(3)", "print('never')"], "its process ended with exit code 3, in cell 4"),
    "killed": (
        [STARTED, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"],
        "its process was ended by SIGKILL, as when the memory runs out, in cell 4",
    ),
    "crashes": (
        [STARTED, "import ctypes; ctypes.string_at(0)"],
        "its process was ended by SIGSEGV, a crash in compiled code, in cell 4",
    ),
    "hangs": (
        [STARTED, WORKER, "while True: pass", "print('never')"],
        "reached its time limit of",
    ),
}


def write(path: Path, cells: list, parameters: str = "profile = 'nano'") -> Path:
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[tagged, *(new_code_cell(c) if isinstance(c, str) else c for c in cells)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def all_at_once(tmp_path_factory):
    """One report over every failing notebook and one that works, last: exit codes, folders, both outputs."""
    folder, output = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("report")
    for name, (cells, _) in FAILING.items():
        write(folder / f"{name}.ipynb", cells)
    (folder / "no_json.ipynb").write_text("{ no notebook", encoding="utf-8")
    (folder / "other_json.ipynb").write_text('["a list"]', encoding="utf-8")
    maths = [new_markdown_cell(f"Before ${equation}$ and\n\n$$\n{equation}\n$$\nafter") for equation in BAD_MATHS]
    long = f"print('x' * {2 * LONGEST}); print('the end')"
    write(folder / "works.ipynb", [*maths, long, "print('±', '−', '→')"])
    out, err = io.StringIO(), io.StringIO()
    others = [f"--only={path.stem}" for path in folder.glob("*.ipynb") if path.stem != "hangs"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        given = ["--notebooks", str(folder), "--output", str(output)]
        codes = reproduce.main([*given, "--only", "hangs", "--timeout", "0.0025"]), reproduce.main([*given, *others])
    return codes, folder, output, out.getvalue(), err.getvalue()


@pytest.mark.timeout(240)
class TestAllAtOnce:
    def test_the_command_fails_and_the_page_is_written(self, all_at_once):
        codes, _, output, out, err = all_at_once
        assert codes == (1, 1) and "Traceback" not in err and "DeadKernelError" not in out + err
        assert "Failed: hangs;" in out and "Failed: crashes, exits, killed, no_json, other_json;" in out
        assert "Not finished: crashes, exits" in (output / "index.html").read_text(encoding="utf-8")

    @pytest.mark.parametrize("name", FAILING)
    def test_what_ended_it_is_a_sentence_and_what_it_did_is_kept(self, all_at_once, name):
        _, _, output, _, err = all_at_once
        status = json.loads((output / "manifest.json").read_text(encoding="utf-8"))["notebooks"][name]["status"]
        assert status.startswith("failed: the notebook") and FAILING[name][1] in status
        assert f"{name} failed: {status.removeprefix('failed: ')}\n" in err
        executed = nbformat.read(output / "notebooks" / f"{name}.ipynb", as_version=4)
        nbformat.validate(executed)
        texts = [o.get("text", o.get("evalue", "")) for cell in executed.cells for o in cell.get("outputs", [])]
        assert "half way\n" in texts and any(FAILING[name][1].split(",")[0] in text for text in texts)
        assert not any("never" in text for text in texts)
        page = (output / "book" / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
        assert "half way" in page and FAILING[name][1].split(",")[0] in page

    @pytest.mark.parametrize("name", ["no_json", "other_json"])
    def test_a_file_that_is_no_notebook_is_named(self, all_at_once, name):
        _, folder, _, _, err = all_at_once
        assert f"{name} failed: {folder / name}.ipynb is no notebook that can be read" in err

    def test_the_last_one_works_whatever_it_holds(self, all_at_once):
        _, _, output, out, _ = all_at_once
        manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["notebooks"]["works"]["status"] == "done" and "±" in out
        stored = (output / "notebooks" / "works.ipynb").read_text(encoding="utf-8")
        assert "the end" in stored and "characters are left out here" in stored and len(stored) < 1.1 * LONGEST
        assert r"\left(" in (output / "book" / "notebooks" / "works.html").read_text(encoding="utf-8")

    @pytest.mark.skipif(not hasattr(os, "getsid"), reason="needs POSIX sessions")
    def test_no_process_of_a_stopped_notebook_is_left(self, all_at_once):
        pid = int((all_at_once[1] / "worker").read_text())
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"


@pytest.mark.timeout(240)
def test_notebooks_that_share_a_kernel_share_its_imports_and_nothing_else(tmp_path, capsys):
    """Nothing defined by one is seen by the next, whose cells count from 1; after a crash a new process takes over."""
    look = "import os, sys; print(os.getpid(), 'mine' in globals(), 'colorsys' in sys.modules)"
    paths = [
        write(tmp_path / "a.ipynb", [f"import colorsys; mine = 1; {look}"]),
        write(tmp_path / "b.ipynb", [look]),
        write(tmp_path / "c.ipynb", ["import os; os._exit(3)"]),
        write(tmp_path / "d.ipynb", [look]),
    ]
    kernel = Kernel(tmp_path)
    try:
        errors = [
            execute(path, tmp_path / "out" / path.name, {"profile": "x"}, timeout=120, kernel=kernel, label="| ")
            for path in paths
        ]
    finally:
        kernel.end()
    first, second, last = (line.removeprefix("| ").split() for line in capsys.readouterr().out.splitlines())
    assert errors[:2] == errors[3:] + [None] == [None, None] and "its process ended with exit code 3" in errors[2]
    assert first[1:] == ["True", "True"] and second[1:] == ["False", "True"] and last[1:] == ["False", "False"]
    assert first[0] == second[0] != last[0]
    for path in paths:
        cells = nbformat.read(tmp_path / "out" / path.name, as_version=4).cells
        assert [cell.execution_count for cell in cells][:2] == [1, 2], path.name
    assert not psutil.pid_exists(int(last[0]))


@pytest.mark.timeout(240)
def test_a_kernel_imports_the_package_that_started_it(tmp_path, monkeypatch, capsys):
    """One checkout's command is not answered by another one that is installed; site-packages stay where they are."""
    package = tmp_path / "checkout" / "xprompt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("print('this one')", encoding="utf-8")
    path = write(tmp_path / "a.ipynb", ["import xprompt"])
    monkeypatch.setattr("xprompt.__file__", str(package / "__init__.py"))
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    assert execute(path, tmp_path / "out.ipynb", {"profile": "x"}, timeout=120) is None
    assert capsys.readouterr().out == "this one\n"
    monkeypatch.setattr("site.getsitepackages", lambda: [str(tmp_path / "checkout")])
    assert environment()["PYTHONPATH"] == "elsewhere"


@pytest.mark.skipif(not hasattr(os, "setpriority"), reason="needs Unix priorities")
@pytest.mark.timeout(240)
def test_a_kernel_that_gives_way_is_nicer_than_its_parent(tmp_path, capsys):
    path = write(tmp_path / "a.ipynb", ["import os; print(os.getpriority(os.PRIO_PROCESS, 0))"])
    for gives_way in (False, True):
        kernel = Kernel(tmp_path, gives_way)
        try:
            assert execute(path, tmp_path / "out.ipynb", {"profile": "x"}, timeout=120, kernel=kernel) is None
        finally:
            kernel.end()
    usual, nice = map(int, capsys.readouterr().out.split())
    assert usual == os.getpriority(os.PRIO_PROCESS, 0) and nice == max(usual, GIVES_WAY)


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf", "1e308"])
def test_a_time_limit_is_a_number_of_hours(tmp_path, capsys, hours):
    assert reproduce.main(["--timeout", hours, "--output", str(tmp_path / "report")]) == 2
    error = capsys.readouterr().err
    assert "--timeout" in error and "give hours above 0" in error and not (tmp_path / "report").exists()


def test_the_help_names_the_default_time_limit(capsys):
    with pytest.raises(SystemExit):
        reproduce.main(["--help"])
    assert f"default: {reproduce.TIMEOUT:g}" in " ".join(capsys.readouterr().out.partition("--timeout")[2].split())
    assert reproduce.make_plan("tiny").timeout == reproduce.TIMEOUT


def test_a_kernel_that_cannot_start_fails_its_notebook(tmp_path, monkeypatch):
    monkeypatch.setattr("xprompt.reporting.notebooks.START_TIMEOUT", 1)
    path = write(tmp_path / "a.ipynb", ["1"])
    stop = tmp_path / "bin" / "sitecustomize.py"  # the kernel's interpreter ends before it answers
    stop.parent.mkdir()
    stop.write_text("import os, sys\nif 'ipykernel' in ' '.join(sys.orig_argv): os._exit(4)\n")
    monkeypatch.setenv("PYTHONPATH", f"{stop.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    reason = execute(path, tmp_path / "out" / "a.ipynb", {}, timeout=60)
    assert reason and reason.startswith("the notebook could not be executed: ") and "\n" not in reason
    assert (tmp_path / "out" / "a.ipynb").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b'{"cells": 1}'], ids=repr)
def test_a_file_that_is_no_notebook_is_one_error(tmp_path, content):
    path = tmp_path / "a.ipynb"
    path.write_bytes(content)
    try:
        assert parameters_of(path) == {}
    except ConfigError as error:
        assert str(path) in str(error) and "no notebook that can be read" in str(error)
