"""Nothing printed is ever the reason for a failure: every command, in child processes, on terminals of every kind."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from xprompt.__main__ import main
from xprompt.cli.terminal import plain_form, tolerant_output

ROOT = Path(__file__).resolve().parents[2]
STRANGE = "± − → … é γ 漢 😀"
COMMANDS = [
    ["--help"],
    ["--version"],
    ["run", "--help"],
    ["plan", "--help"],
    ["reproduce", "--help"],
    ["bench", "--help"],
]
TERMINALS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C locale": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "not buffered": {"PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": "1"},
}
# Several commands in one child, which saves the import of torch: their exit codes go to a file.
SEVERAL = """import json, sys
from xprompt.__main__ import main
codes = [main(arguments) for arguments in json.loads(sys.argv[1])]
with open(sys.argv[2], "w") as file:
    json.dump(codes, file)
"""
needs_shell = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell and /dev")


def environment(**changes: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name not in ("LC_ALL", "PYTHONUTF8", "PYTHONIOENCODING")
    }
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}


def child(arguments: list[str], redirect: str = "", **changes: str) -> subprocess.CompletedProcess[bytes]:
    """Run Python with these arguments, its output redirected as a shell does it."""
    line = ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, *arguments]
    return subprocess.run(line, capture_output=True, env=environment(**changes), timeout=200)


@pytest.fixture
def prepared(tmp_path):
    """A notebook that prints what no ASCII terminal shows, and a command line for it and the other subcommands."""
    folder = tmp_path / "{note} books"
    folder.mkdir()
    cells = [new_code_cell("profile = 'tiny'", metadata={"tags": ["parameters"]}), new_code_cell(f"print({STRANGE!r})")]
    nbformat.write(new_notebook(cells=cells), folder / "prints.ipynb")
    output = ["--output", str(tmp_path / "é report")]
    return {
        "run": ["run", "--task", "rte", "--profile", "tiny", "--method", "majority", *output],
        "reproduce": ["reproduce", "--profile", "tiny", "--notebooks", str(folder), *output],
        "plan": ["plan", "--profile", "tiny", "--tasks", "rte"],
        "bench": ["bench", "--quick", "--backbones", "nano", "--only", "importance_cost", *output],
    }


@needs_shell
@pytest.mark.parametrize("terminal", TERMINALS)
def test_help_and_a_wrong_choice_on_every_terminal(terminal):
    for arguments in COMMANDS[:2] if terminal != "ascii" else COMMANDS:
        done = child(["-m", "xprompt", *arguments], **TERMINALS[terminal])
        assert done.returncode == 0 and done.stdout and not done.stderr, arguments
    done = child(["-m", "xprompt", STRANGE], **TERMINALS[terminal])
    assert done.returncode == 2 and done.stderr.startswith(b"error: ") and b"Traceback" not in done.stderr


@needs_shell
@pytest.mark.parametrize(
    "redirect", [">&-", ">/dev/full", ">&- 2>&-", ">/dev/full 2>/dev/full", "<&- >&- 2>&-", "2>&-"]
)
def test_help_and_a_wrong_choice_where_nothing_can_be_written(redirect):
    for arguments in COMMANDS[:2]:
        assert child(["-m", "xprompt", *arguments], redirect).returncode == 0
    done = child(["-m", "xprompt", STRANGE], redirect)
    assert done.returncode == 2 and b"Traceback" not in done.stderr


@needs_shell
def test_a_full_disk_is_told_on_standard_error_and_a_reader_that_left_is_not():
    done = child(["-m", "xprompt", "--help"], ">/dev/full")
    assert done.stderr == b"note: not all output could be written to standard output (No space left on device).\n"
    line = f"{sys.executable} -m xprompt reproduce --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, env=environment(), timeout=60)
    assert done.stdout == b"0\n" and not done.stderr


@needs_shell
@pytest.mark.timeout(240)
def test_every_command_on_an_ascii_terminal(prepared, tmp_path):
    codes = tmp_path / "codes"
    done = child(["-c", SEVERAL, json.dumps(list(prepared.values())), str(codes)], PYTHONIOENCODING="ascii")
    assert json.loads(codes.read_text()) == [0, 0, 0, 0], done.stderr.decode()
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    shown = done.stdout.decode("ascii")
    assert plain_form(STRANGE) in shown and "e report" in shown
    executed = nbformat.read(tmp_path / "é report" / "notebooks" / "prints.ipynb", as_version=4)
    assert STRANGE in executed.cells[-1].outputs[0].text  # what is stored is whole


@needs_shell
@pytest.mark.timeout(240)
def test_commands_that_cannot_print_do_their_work(prepared, tmp_path):
    codes = tmp_path / "codes"
    lines = [prepared[name] for name in ("run", "reproduce")]
    done = child(["-c", SEVERAL, json.dumps(lines), str(codes)], ">/dev/full 2>&-")
    assert done.returncode == 0 and json.loads(codes.read_text()) == [0, 0]
    assert (tmp_path / "é report" / "index.html").exists()
    assert list((tmp_path / "é report" / "runs").glob("*/record.json"))


def test_what_the_project_prints_has_a_plain_form():
    texts = {
        node.value
        for path in (ROOT / "xprompt").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    notebooks = [nbformat.read(path, as_version=4) for path in (ROOT / "notebooks").glob("*.ipynb")]
    texts |= {cell.source for notebook in notebooks for cell in notebook.cells if cell.cell_type == "code"}
    lacking = {character for text in texts for character in text if "?" in plain_form(character) != character}
    assert not lacking


def test_plain_forms():
    assert plain_form("87.2 ± 1.1, −0.5 → 1…") == "87.2 +/- 1.1, -0.5 -> 1..."
    assert plain_form("Γé γ²①\udc80漢") == "Gammae gamma21??"
    assert plain_form("as it is\n\t~") == "as it is\n\t~"


def test_streams_of_someone_else_are_left_alone(monkeypatch, capsys):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with tolerant_output():
        assert sys.stdout is stream
        print(STRANGE)
    assert stream.getvalue() == STRANGE + "\n" and sys.stdout is stream
    with pytest.raises(SystemExit):
        main(["--version"])
    assert "xprompt " in stream.getvalue()
