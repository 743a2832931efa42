"""Arguments in the wrong order: one error that names the argument, what it takes and what it was given."""

from __future__ import annotations

import inspect

import pytest

import xprompt as xp
from tests.conftest import tiny_data, tiny_model
from xprompt.data.splits import Splits
from xprompt.signatures import check_arguments


@pytest.fixture(scope="module")
def things():
    backbone = tiny_model("seq2seq")
    splits = Splits(xp.get_task("rte"), tiny_data(8, "train"), tiny_data(8, "validation"), "test")
    prompt = xp.SoftPrompt.init(backbone, 4, pieces=4)
    return backbone, splits, prompt, xp.importance(backbone, prompt, splits.train), xp.PROFILES["tiny"]


SWAPPED = {
    "tune(splits, backbone)": (
        lambda b, s, p, i, f: xp.tune(s, b, p, f.tune), r"^tune: backbone takes Backbone \(xp.load_backbone\(…\)\), "
        r"and was given Splits\(rte .*\. Its arguments are \(backbone, prompt, splits, settings, "),
    "tune by name": (lambda b, s, p, i, f: xp.tune(b, p, settings=s, splits=f.tune), "tune: settings takes TuneSett"),
    "tune with a profile": (lambda b, s, p, i, f: xp.tune(b, p, s, f), "takes TuneSettings .*given Profile"),
    "fine_tune": (lambda b, s, p, i, f: xp.fine_tune(s, b, f.tune), "fine_tune: backbone takes Backbone"),
    "importance(prompt, backbone)": (lambda b, s, p, i, f: xp.importance(p, b, s.train), "and was given SoftPrompt"),
    "importance of splits": (lambda b, s, p, i, f: xp.importance(b, p, s), "data takes TaskDataset .*splits.train or"),
    "prune(scores, prompt)": (lambda b, s, p, i, f: xp.prune(i, p, 0.5, 0.5), "prompt takes SoftPrompt.*Importance"),
    "prune with too few": (lambda b, s, p, i, f: xp.prune(i, p), "prompt takes SoftPrompt"),
    "prune by a prompt": (lambda b, s, p, i, f: xp.prune(p, i, p, 0.5), "token_ratio takes float, and was given Soft"),
    "rewind": (lambda b, s, p, i, f: xp.rewind(p, i), "rewind: tuned takes SoftPrompt"),
    "evaluate(prompt, backbone)": (lambda b, s, p, i, f: xp.evaluate(p, b, s.validation), "evaluate: backbone takes"),
    "evaluate on splits": (lambda b, s, p, i, f: xp.evaluate(b, p, s), "evaluate: data takes TaskDataset"),
    "evaluate a list": (lambda b, s, p, i, f: xp.evaluate(b, [p], s.train), "prompt takes SoftPrompt or None"),
    "init(20, backbone)": (lambda b, s, p, i, f: xp.SoftPrompt.init(20, b), r"SoftPrompt.init: backbone .*given 20\."),
    "classifier(backbone, …)": (lambda b, s, p, i, f: xp.classifier(b, p), "classifier: prompt takes str or Path or "),
    "to_peft(backbone, …)": (lambda b, s, p, i, f: xp.to_peft(b, p, "x"), r"given Seq2SeqBackbone\(tiny-seq2seq: .*32"),
    "to_peft(folder, …)": (lambda b, s, p, i, f: xp.to_peft("x", p, b), "to_peft: prompt takes SoftPrompt.*given 'x'"),
    "from_peft(backbone, …)": (lambda b, s, p, i, f: xp.from_peft(b, "x"), "from_peft: folder takes str or Path"),
    "xprompt(splits, …)": (lambda b, s, p, i, f: xp.xprompt(s, b, p, f.prune), "xprompt: backbone takes Backbone"),
    "xprompt(…, TuneSettings)": (lambda b, s, p, i, f: xp.xprompt(b, s, p, f.tune), "settings takes PruneSettings"),
    "masked_scores": (lambda b, s, p, i, f: xp.masked_scores(b, i, p, s.train, 0.5), "prompt takes SoftPrompt"),
    "run a task": (lambda b, s, p, i, f: xp.run("rte"), r"run: config takes RunConfig \(xp.RunConfig\(task=…\)\)"),
    "load_task(backbone)": (lambda b, s, p, i, f: xp.load_task(b), "load_task: name takes str or Path or Task"),
}  # fmt: skip


@pytest.mark.parametrize("case", SWAPPED)
def test_what_is_swapped_is_named(case, things, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, words = SWAPPED[case]
    with pytest.raises(xp.ConfigError, match=words):
        call(*things)
    assert not list(tmp_path.iterdir()), "nothing was written"


def test_what_is_left_out_is_pythons_own_error(things):
    with pytest.raises(TypeError, match="missing 2 required positional arguments"):
        xp.prune(things[2], things[3])


def test_what_fits_passes_subclasses_none_and_other_values_too():
    class Mine(xp.SoftPrompt):
        pass

    @check_arguments
    def take(prompt: xp.SoftPrompt | None, ratio: float = 0.5, **more: str) -> tuple:
        """Take."""
        return prompt, ratio, more

    mine = Mine.__new__(Mine)
    assert take(mine) == (mine, 0.5, {}) and take(None, ratio=1, odd=2) == (None, 1, {"odd": 2})
    assert take(None, "0.5")[1] == "0.5", "numbers and texts are the function's own business"
    with pytest.raises(xp.ConfigError, match=r"prompt takes SoftPrompt \(.*\) or None|prompt takes SoftPrompt or None"):
        take("folder")


def test_a_checked_function_shows_its_own_signature_and_docstring():
    for function in (xp.tune, xp.importance, xp.evaluate, xp.to_peft, xp.SoftPrompt.init):
        assert "args" not in inspect.signature(function).parameters and function.__doc__
