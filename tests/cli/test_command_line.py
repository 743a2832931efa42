"""The command line: help at once, exit codes, unknown names, and each subcommand handed on to the library."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import xprompt as xp
from tests.runs.test_run import config, place  # noqa: F401
from xprompt.__main__ import COMMANDS, main
from xprompt.planning import forecast as planning
from xprompt.planning.machine import Machine

HEAVY = ("torch", "transformers", "datasets", "sklearn", "matplotlib", "pandas", "peft", "papermill")
COMMAND_LINES = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]


def modules_after(code: str) -> set[str]:
    """Which of `HEAVY` a new interpreter has imported once it ran this."""
    listing = f"{code}\nimport sys; print('imported', *[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("arguments", COMMAND_LINES, ids=" ".join)
def test_help_imports_nothing_heavy(arguments):
    code = (
        f"from xprompt.__main__ import main\ntry: main({arguments})\nexcept SystemExit as stop: assert stop.code == 0"
    )
    assert modules_after(code) == set()


def test_help_answers_in_under_a_second():
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "xprompt", "--help"], capture_output=True, check=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 1


def test_help_has_one_line_for_each_subcommand(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = " ".join(capsys.readouterr().out.split())  # long helps are wrapped
    for name, module in COMMANDS.items():
        assert f" {name} {module.HELP}" in listed


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0 and capsys.readouterr().out == f"xprompt {xp.__version__}\n"


def test_public_names_import_nothing_before_it_is_needed():
    assert modules_after("import xprompt as xp") == set()
    assert modules_after("import xprompt as xp; xp.load_task, xp.TASKS, xp.RunConfig, xp.Store") == set()
    needed = modules_after("import xprompt as xp; xp.load_backbone, xp.tune, xp.evaluate, xp.xprompt, xp.run, xp.find")
    assert needed == {"torch", "transformers"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            ["plann"],
            "unknown subcommand 'plann'; known: run, plan, reproduce, book, bench, ls, check, predict, doctor. Did",
        ),
        (["plan", "--profile", "t5-huge"], "unknown profile 't5-huge'"),
        (["plan", "--profile", "smolm2"], "Did you mean 'smollm2'?"),
        (["plan", "--profile", "t5-xl", "--tasks", "sst"], "sst"),
        (["plan", "--profile", "t5-xl", "--tasks", "bolq"], "Did you mean 'boolq'?"),
        (["plan", "--profile", "t5-xl", "--seeds", "0"], "seeds 0"),
        (["plan", "--profile", "t5-xl", "--methods", "magic"], "unknown method magic"),
        (["plan", "--profile", "t5-xl", "--data-dir", "no-such-folder"], "no such folder"),
        (["run", "--task", "rte", "--profile", "nanoo"], "Did you mean 'nano'?"),
        (["run", "--task", "rte", "--set", "tune.stepps=1"], "stepps"),
        (["run", "--task", "rte", "--set", "tuning.steps=1"], "no settings named 'tuning'"),
        (["run", "--task", "rte", "--set", "steps"], "give NAME=VALUE"),
        (["run", "--task", "rte", "--set", "profile=tiny"], "--set profile=tiny: give it by its option, --profile"),
        (["run", "--task", "rte", "--set", "task=cb"], "by its option, --task"),
        (["run", "--task", "rte", "--set", "source=x"], "by its option, --data-dir"),
        (
            ["run", "--task", "rte", "--method", "lora", "--set", "tune.learning_rate=0.5"],
            "lora is trained at its own rate, 0.001; needed --set 'learning_rates={\"lora\": 0.5}'",
        ),
        (
            ["run", "--task", "rte", "--method", "fine_tuning", "--set", "tune.learning_rate=1"],
            "fine_tuning does not depend on tune but on fine_tune",
        ),
        (
            ["run", "--task", "rte", "--method", "prompt_tuning", "--set", "prune.token_ratios=[0.9]"],
            "prompt_tuning does not depend on prune but on tune;",
        ),
        (["run", "--task", "rte", "--method", "majority", "--set", 'tune={"steps": 1}'], "neither tune, fine_tune nor"),
        (["run", "--task", "rte", "--set", "fine_tune.steps=1"], "xprompt does not depend on fine_tune but on prune"),
        (
            ["run", "--task", "rte", "--method", "xprompt_piece", "--set", "prune.level=both"],
            "xprompt_piece prunes at the level piece whatever prune.level is",
        ),
        (["run", "--task", "rte", "--method", "xprompt_token", "--set", 'prune={"level": "both"}'], "the level token"),
        (["reproduce", "--only", "02_nothing"], "no notebook 02_nothing"),
        (["plan", "--set", "seed=3"], "--set seed=3: give it by its option, --seeds"),
        (["plan", "--set", "tune.stepps=1"], "Did you mean 'steps'?"),
        (["reproduce", "--set", "methods"], "give NAME=VALUE"),
        (["bench", "--only", "nothing"], "side_by_side"),
        (["bench", "--only", "peft_stp"], "Did you mean 'peft_step'?"),
        (["run", "--task", "rte", "--method", "xpromt"], "Did you mean 'xprompt'?"),
        (["plan", "--methods", "xpromt"], "Did you mean 'xprompt'?"),
        (["run", "--task", "rte", "--protocol", "heldout"], "Did you mean 'held_out'?"),
        (["run", "--task", "rte", "--set", "tune.stepps=1"], "Did you mean 'steps'?"),
        (["reproduce", "--only", "01_main_result"], "Did you mean '01_main_results'?"),
        (["reproduce", "--set", "methds=1"], "Did you mean 'methods'?"),
        (["reproduce", "--executor", "lokal"], "Did you mean 'local'?"),
        (["run", "--task", "rte", "--backbone", "smolm2.gguf"], "there is no such file: check the path"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_choice_ends_with_code_2_and_a_sentence(capsys, arguments, words):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert words in shown.err and shown.err.startswith("error: ") and "Traceback" not in shown.err and not shown.out


@pytest.mark.parametrize("arguments", [[], ["run"], ["run", "--tas", "rte"], ["plan", "--seed", "1"]], ids=" ".join)
def test_options_are_written_out_and_needed_ones_given(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and "usage: python -m xprompt" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["run", "--tsk", "rte"], "unknown option --tsk. Did you mean '--task'?"),
        (["plan", "--seed", "1"], "unknown option --seed. Did you mean '--seeds'?"),
        (["ls", "runs", "--report=x"], "unknown option --report. Did you mean '--reports'?"),
        (["predict", "x", "--texts", "a b"], "unknown option --texts. Did you mean '--text'?"),
        (["run", "--task", "rte", "--no-watc"], "unknown option --no-watc. Did you mean '--no-watch'?"),
    ],
)
def test_the_option_meant_is_named(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupted_command_ends_with_code_130(name, monkeypatch, capsys):
    def interrupted(chosen):
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS[name], "execute", interrupted)
    needed = {
        "run": ["--task", "rte"],
        "book": ["x"],
        "ls": ["tasks"],
        "check": ["x"],
        "predict": ["x"],
        "doctor": ["x"],
    }
    assert main([name, *needed.get(name, [])]) == 130
    assert "same command resumes" in capsys.readouterr().err


def test_a_plan_is_printed(capsys):
    assert main(["plan", "--profile", "tiny", "--tasks", "rte", "--seeds", "1", "--methods", "prompt_tuning"]) == 0
    shown = capsys.readouterr().out
    assert "1,242,368 parameters" in shown and "prompt_tuning" in shown and "It fits" in shown


def test_a_plan_that_does_not_fit_ends_with_code_1(monkeypatch, capsys):
    small = Machine(torch.device("cpu"), torch.float32, "a machine", 4 * 2**30, 4 * 2**30, 1e12)
    monkeypatch.setattr(planning, "probe_machine", lambda *a, **k: small)
    assert main(["plan", "--profile", "t5-xl", "--tasks", "rte", "--seeds", "1"]) == 1
    assert "does NOT fit" in capsys.readouterr().out


def test_a_run_is_done_with_its_settings_and_printed(place, tmp_path, capsys):  # noqa: F811
    changes = {"length": 5, "pieces": 4, "tune.steps": 2, "tune.batch_size": 8, "tune.gradient_checkpointing": "true"}
    words = ["run", "--task", "rte", "--profile", "tiny", "--method", "prompt_tuning", "--no-watch",
             "--backbone", str(place / "model"), "--data-dir", str(place / "data"),
             "--output", str(tmp_path)]  # fmt: skip
    words += [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
    assert main(words) == 0
    (record,) = xp.Store(tmp_path).records()
    score, majority = (f"accuracy {100 * record[name]['accuracy']:.1f}" for name in ("metrics", "majority"))
    folder = xp.Store(tmp_path).path(record["run"])
    first, second, *last = capsys.readouterr().out.splitlines()[-3:]
    assert first == f"rte prompt_tuning seed 0: {score}" and second == f"  majority class: {majority}"
    assert last[0].startswith("  done in ") and last[0].endswith(f": {folder}")
    provenance = record["provenance"] | {"started": "2020-02-03T04:05:06+00:00"}
    xp.Store(tmp_path).put(record | {"provenance": provenance})
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("  read, done 2020-02-03 in ")
    assert record["config"]["tune"]["steps"] == 2 and record["config"]["length"] == 5


def test_a_pruned_run_says_what_survived(place, tmp_path, capsys):  # noqa: F811
    changes = {"length": 5, "pieces": 4, "prune.token_ratios": "[0.4]", "prune.piece_ratios": "[0.5]"}
    words = ["run", "--task", "rte", "--profile", "tiny", "--backbone", str(place / "model"),
             "--data-dir", str(place / "data"), "--output", str(tmp_path)]  # fmt: skip
    assert main(words + [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]) == 0
    assert "  survived: 3 of 5 tokens, 6 of 20 pieces\n" in capsys.readouterr().out


def test_a_task_misspelled_leaves_no_folder(tmp_path, capsys):
    assert main(["run", "--task", "rtee", "--profile", "tiny", "--output", str(tmp_path / "report")]) == 2
    assert "Unknown task 'rtee'" in capsys.readouterr().err and not (tmp_path / "report").exists()


@pytest.fixture
def asked(monkeypatch):
    """Return the list of what a command asks to be run; nothing runs."""
    noted = []

    def note(wanted, *_, **__):
        noted.append(wanted)
        raise xp.ConfigError("enough")

    monkeypatch.setattr("xprompt.runs.run.run", note)
    return noted


def test_a_baselines_own_rate_is_set_by_its_name(asked, capsys):
    words = ["run", "--task", "rte", "--profile", "tiny", "--method"]
    assert main([*words, "lora", "--set", 'learning_rates={"lora": 0.5}']) == 2
    assert main([*words, "lora", "--set", "learning_rates={}", "--set", "tune.learning_rate=0.25"]) == 2
    assert main([*words, "prompt_tuning", "--set", "tune.learning_rate=0.125"]) == 2
    assert [wanted.training.learning_rate for wanted in asked] == [0.5, 0.25, 0.125]
    capsys.readouterr()
    assert main([*words, "lora", "--set", "learning_rates.lora=0.5"]) == 2
    assert "no settings named 'learning_rates': set it whole" in capsys.readouterr().err
    assert main([*words, "lora", "--set", "steps=4"]) == 2
    assert "epochs" not in capsys.readouterr().err.partition("Fields:")[0]


def test_the_order_of_settings_does_not_matter(asked):
    words = ["run", "--task", "rte", "--profile", "tiny", "--method", "prompt_tuning"]
    for pair in (["tune.accumulation=3", "tune.batch_size=24"], ["tune.steps=null", "tune.epochs=1"]):
        for given in (pair, pair[::-1]):
            assert main([*words, *(word for text in given for word in ("--set", text))]) == 2
    assert [(c.tune.accumulation, c.tune.batch_size) for c in asked[:2]] == [(3, 24)] * 2
    assert [(c.tune.steps, c.tune.epochs) for c in asked[2:]] == [(None, 1.0)] * 2


def test_a_method_of_transfer_is_given_its_source_tasks(asked):
    words = ["run", "--task", "rte", "--profile", "tiny", "--method", "task_transfer"]
    assert main([*words, "--set", 'source_tasks=["cb"]']) == 2
    assert asked[0].source_tasks == ("cb",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--method", "lora", "--set", "length=5"], "lora has no soft prompt; leave it out"),
        (["--protocol", "paper", "--set", "selection=0.5"], "protocol paper holds nothing out of train"),
    ],
)
def test_a_setting_that_changes_nothing_is_refused(given, said, asked, capsys):
    assert main(["run", "--task", "rte", "--profile", "tiny", *given]) == 2
    assert said in capsys.readouterr().err and not asked


def test_a_folder_without_a_report_is_not_listed_as_empty(tmp_path, capsys):
    assert main(["ls", "runs", "--reports", str(tmp_path)]) == 2
    assert "holds no report with runs" in capsys.readouterr().err


def test_settings_that_must_agree_are_checked_when_all_are_set(asked, capsys):
    words = ["run", "--task", "rte", "--profile", "tiny", "--set", "tune.objective=generation"]
    assert main([*words, "--set", "length=4", "--set", "prune.retune.objective=generation"]) == 2
    assert main([*words, "--method", "zero_shot"]) == 2
    assert [(c.tune.objective, c.method) for c in asked] == [("generation", "xprompt"), ("generation", "zero_shot")]
    assert (asked[0].prune.retune.objective, asked[0].length) == ("generation", 4)
    assert main(words) == 2 and "prune.retune.objective='label_scores' were given" in capsys.readouterr().err


def test_the_console_script_is_this_command_line():
    pyproject = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert 'xprompt = "xprompt.__main__:main"' in pyproject


def test_ls_lists_what_there_is(capsys):
    for kind, names in {
        "tasks": xp.TASKS, "profiles": xp.PROFILES, "methods": xp.METHODS,
        "notebooks": [path.stem for path in (Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb")],
    }.items():  # fmt: skip
        assert main(["ls", kind]) == 0
        head, *lines = capsys.readouterr().out.splitlines()
        assert head.split()[0] == kind.removesuffix("s")
        assert sorted(line.split()[0] for line in lines) == sorted(names)


def test_ls_lists_runs_of_every_report_by_their_folders(tmp_path, capsys):
    record = {"run": "0" * 16, "task": "rte", "method": "xprompt", "seed": 3, "protocol": "paper", "score": 0.625}
    folder = xp.Store(tmp_path / "mine").put(record)
    for given in (tmp_path, tmp_path / "mine"):
        assert main(["ls", "runs", "--reports", str(given)]) == 0
        (line,) = capsys.readouterr().out.splitlines()[1:]
        assert line.split() == [str(folder), "rte", "xprompt", "3", "paper", "62.5"]
    half = tmp_path / "mine" / "runs" / ("1" * 16)  # such as one that is being copied: listed, and left alone
    half.mkdir()
    assert main(["ls", "runs", "--reports", str(tmp_path)]) == 0
    assert f"{half}  damaged (" in capsys.readouterr().out and half.is_dir()
    assert main(["ls", "runs", "--reports", str(tmp_path / "nowhere")]) == 2
    assert main(["ls", "methos"]) == 2
    assert "Did you mean 'methods'?" in capsys.readouterr().err


@pytest.fixture
def books(monkeypatch):
    """The books that are asked for: folder, output, links to others."""
    asked = []

    def note(report, output=None, others=()):
        asked.append((str(report.root), None if output is None else str(output), list(others)))
        return Path(output or report.root) / "index.html"

    monkeypatch.setattr("xprompt.reporting.book.build", note)
    return asked


def test_books_are_linked_where_they_lie_beside_each_other(books, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["book", "a/nano", "b/smollm2"]) == 0 and main(["book", "a/nano", "a/tiny"]) == 0
    assert books == [
        ("a/nano", None, []), ("b/smollm2", None, []), ("a/nano", None, ["tiny"]), ("a/tiny", None, ["nano"])
    ]  # fmt: skip
    books.clear()
    assert main(["book", "a/nano", "b/smollm2", "--output", "out"]) == 0
    assert main(["book", "a/nano", "--output", "out"]) == 0, "again, over its own front page"
    assert books[:2] == [("a/nano", "out/nano", ["smollm2"]), ("b/smollm2", "out/smollm2", ["nano"])]
    assert main(["book", "a/nano", "b/nano", "--output", "new"]) == 2
    assert "nano names several reports" in capsys.readouterr().err and not Path("new").exists()


@pytest.mark.parametrize("name", ["index.html", "nano/index.html", "nano/notebooks/thesis.ipynb"])
def test_a_book_replaces_no_other_page(books, tmp_path, capsys, name):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("years of work")
    assert main(["book", "a/nano", "--output", str(tmp_path)]) == 2
    assert "what no book wrote would be overwritten" in capsys.readouterr().err
    assert file.read_text() == "years of work" and not books


def test_a_tilde_is_the_home_folder_wherever_a_path_is_given(books, place, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "model").symlink_to(place / "model")
    (tmp_path / "data").symlink_to(place / "data")
    words = ["run", "--task", "rte", "--profile", "tiny", "--method", "zero_shot", "--no-watch"]
    assert main([*words, "--backbone=~/model", "--data-dir=~/data", "--output=~/mine"]) == 0
    (record,) = xp.Store(tmp_path / "mine").records()
    assert record["backbone"] == "model"
    assert main(["ls", "runs", "--reports", "~/mine"]) == 0 and record["run"] in capsys.readouterr().out
    assert main(["doctor", "~/mine"]) == 0
    assert main(["book", "~/mine", "--output", "~/site"]) == 0
    assert books == [(str(tmp_path / "mine"), str(tmp_path / "site" / "mine"), [])]
    assert main(["plan", "--profile", "tiny", "--backbone", "~/model", "--methods", "zero_shot", "--tasks", "rte"]) == 0
    xp.SoftPrompt(torch.ones(2, 4), pieces=2).save("~/saved")
    assert xp.SoftPrompt.load("~/saved").length == 2
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_file_that_cannot_be_read_is_not_said_to_be_written(tmp_path, monkeypatch, capsys):
    def denied(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", denied)
    assert main(["ls", "runs", "--reports", str(tmp_path)]) == 2
    assert f"{tmp_path} cannot be read or written (Permission denied)" in capsys.readouterr().err


def test_a_number_of_processes_that_is_none_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "x")
    assert main(["run", "--task", "rte", "--profile", "tiny", "--output", str(tmp_path / "out")]) == 2
    assert "WORLD_SIZE='x': needed a number of processes" in capsys.readouterr().err


def test_the_console_script_names_itself_in_its_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/xprompt", "plan", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.startswith("usage: xprompt plan")
