"""Objects that show themselves: short texts, small pictures, copies by pickle; and the examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pickle
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import xprompt as xp
from tests.conftest import tiny_data, tiny_model
from xprompt import html
from xprompt.data.splits import Splits

TUNE = xp.TuneSettings(optimizer="adamw", learning_rate=0.05, steps=2, eval_every=1, batch_size=8)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """One object of every kind that people print."""
    backbone = tiny_model("seq2seq")
    splits = Splits(xp.get_task("rte"), tiny_data(3000, "train"), tiny_data(16, "validation"), "test")
    few = Splits(splits.task, splits.train[:24], splits.validation, "test").hold_out(0.5)
    prompt = xp.SoftPrompt.init(backbone, length=6, pieces=4)
    tuned, history = xp.tune(backbone, prompt, few, TUNE)
    scores = xp.importance(backbone, tuned, few.train)
    prune = xp.PruneSettings(token_ratios=(0.5,), piece_ratios=(0.5,), retune=TUNE)
    result = xp.xprompt(backbone, few, tuned, prune)
    config = xp.RunConfig(task="rte", profile="tiny", method="prompt_tuning", tune=TUNE, limit_train=64)
    return {
        "Splits": splits, "held out": few, "TaskDataset": splits.train, "TokenizedDataset": backbone.encode(few.train),
        "Seq2SeqBackbone": backbone,
        "SoftPrompt": result.prompt, "Importance": scores, "History": history, "XPromptResult": result,
        "RetrainedPrompt": result.best, "RunConfig": config,
        "RunResult": xp.run(config, tmp_path_factory.mktemp("run")),
        **{f"task {name}": task for name, task in xp.TASKS.items()},
        **{f"profile {name}": profile for name, profile in xp.PROFILES.items()},
    }  # fmt: skip


def test_a_repr_is_short_and_says_what_it_is(shown):
    for name, value in shown.items():
        assert 20 < len(repr(value)) < 500, f"{name}: {len(repr(value))} characters"
        assert repr(value).startswith(type(value).__name__)
    assert "train 3,000" in repr(shown["Splits"]) and "entailment 1,588" in repr(shown["TaskDataset"])
    assert "3 tokens and 6 of 24 pieces survive" in repr(shown["SoftPrompt"])
    assert "best" in repr(shown["History"]) and "rte prompt_tuning seed 0" in repr(shown["RunResult"])


@pytest.mark.parametrize("name", ["Splits", "held out", "SoftPrompt", "Importance", "History", "RunResult"])
def test_a_picture_is_small_and_well_formed(shown, name):
    picture = shown[name]._repr_html_()
    assert len(picture) < 50_000
    ElementTree.fromstring(f"<body>{picture}</body>")  # raises where a tag stays open or a text is not escaped


def test_pictures_say_what_the_object_holds(shown):
    root = ElementTree.fromstring(shown["Importance"]._repr_html_())
    cells = root.findall(".//{*}rect")
    assert len(cells) == 6 * 4
    values = [float(cell.find("{*}title").text) for cell in cells]
    dark = [float(cell.get("fill-opacity")) for cell in cells]
    assert dark[values.index(max(values))] == 1 and dark[values.index(min(values))] == 0.08
    pruned = ElementTree.fromstring(shown["SoftPrompt"]._repr_html_()).findall(".//{*}rect[@fill='none']")
    assert len(pruned) == 24 - int(shown["SoftPrompt"].surviving_pieces.sum())
    few = shown["held out"]
    picture = few._repr_html_()
    assert all(f"<td>{name}</td><td>{len(data)}</td>" in picture for name, data in few.parts.items())
    assert few.task.render(few.train[0]) in picture
    points = ElementTree.fromstring(shown["History"]._repr_html_()).findall(".//{*}circle")
    assert len(points) == len(shown["History"].entries)
    assert "majority class" in shown["RunResult"]._repr_html_()


def test_examples_of_others_stay_out_of_reports(shown, monkeypatch):
    example = shown["Splits"].task.render(shown["Splits"].train[0])
    monkeypatch.setenv("XPROMPT_REPORT", "{}")
    assert example not in shown["Splits"]._repr_html_()
    assert "<pre" in xp.load_task("rte", limit_train=8)._repr_html_()  # generated: may be passed on


def test_texts_are_escaped_and_odd_values_drawn():
    for picture in (
        html.table([["<a>"], ["&"]], "<b>"), html.text("<pre>" * 500), html.heat_map([], "none"),
        html.heat_map([[0.0, -1.0], [None, 1.0]], "signed"), html.heat_map([[2.0]], "one"),
        html.curve({"<a>": [(0, 1), (1, float("nan"))], "b": [(0, 1)]}, "<curve>"), html.curve({}, "empty"),
    ):  # fmt: skip
        ElementTree.fromstring(picture)
        assert "nan" not in picture
    assert html.history([]) == ""


@pytest.mark.parametrize("name", xp.TASKS)
def test_splits_and_tasks_are_copied_by_pickle(name):
    splits = xp.load_task(name, limit_train=40, limit_validation=40)
    copy = pickle.loads(pickle.dumps(splits))
    assert copy.fingerprint == splits.fingerprint and copy.train[0] == splits.train[0]
    again = xp.load_task(pickle.loads(pickle.dumps(splits.task)), limit_train=40, limit_validation=40)
    assert again.fingerprint == splits.fingerprint  # its parser came with it


def test_custom_tasks_are_copied_by_pickle(tmp_path):
    rows = [{"text": f"word {i}", "label": i % 2} for i in range(8)]
    splits = xp.task_from(rows, template="{text}", label_words={0: "no", 1: "yes"})
    assert pickle.loads(pickle.dumps(splits)).fingerprint == splits.fingerprint
    assert len(repr(splits)) < 500 and len(repr(splits.task)) < 500


EXAMPLES = ("load_task", "task_from", "SoftPrompt.init", "tune", "importance", "prune", "evaluate", "classifier")


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_docstrings_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = xp
    for part in name.split("."):
        value = getattr(value, part)
    module = importlib.import_module(value.__module__)
    (found,) = doctest.DocTestFinder(recurse=False).find(inspect.unwrap(value), name, module, {})
    assert found.examples, f"xp.{name} has no example"
    said: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found, out=said.append)
    assert not outcome.failed, "".join(said)


def test_the_package_says_that_it_is_typed():
    assert (Path(xp.__file__).parent / "py.typed").is_file()


def test_pictures_need_no_matplotlib():
    code = "import sys, xprompt as xp; xp.load_task('cb')._repr_html_(); print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
