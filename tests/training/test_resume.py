"""An interrupted loop resumes to the very numbers of an uninterrupted one, and trusts no damaged or foreign state."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch

import xprompt as xp
from tests.conftest import tiny_data, tiny_model
from tests.runs.test_run import config, place  # noqa: F401
from xprompt import reproduce
from xprompt.data.splits import Splits
from xprompt.reporting import notebooks as execution
from xprompt.runs import run as pipeline
from xprompt.tasks.registry import get_task
from xprompt.training import checkpoint
from xprompt.training.callbacks import Callbacks
from xprompt.training.candidate import Candidate
from xprompt.training.checkpoint import TrainerState, load_state, save_state

QUICK = xp.TuneSettings(optimizer="adamw", learning_rate=0.05, steps=9, eval_every=2, batch_size=8, eval_batch_size=8)
ROOT = Path(__file__).resolve().parents[2]


class Stopping(xp.Callback):
    """End the loop, as Ctrl-C would, at the n-th evaluation."""

    def __init__(self, at):
        self.left = at

    def on_evaluate(self, stage, candidates):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def posed_as(task, splits):
    """The same examples with the same inputs, of another task."""
    return Splits(task, replace(splits.train, task=task), replace(splits.validation, task=task), splits.source)


def plain(history):
    return [{**entry, "seconds": None} for entry in history.entries], history.best_step, history.best_score


def odd_splits():
    """11 training examples in batches of 8: epochs end within and between what is cut off."""
    return Splits(get_task("rte"), tiny_data(11, "train"), tiny_data(8, "validation"), "test")


def many(backbone, callbacks=None):
    """Different optimisers, schedules, seeds, masks; halving drops one, one is done before the others."""
    prompts = [xp.SoftPrompt.init(backbone, 5, pieces=4, seed=i) for i in range(4)]
    prompts[1].token_mask[0] = False
    settings = [
        QUICK.replace(weight_decay=0.1, max_grad_norm=1.0), QUICK.replace(optimizer="adafactor", learning_rate=0.3),
        QUICK.replace(schedule="linear", steps=5), QUICK.replace(patience=2, learning_rate=1e-12),
    ]  # fmt: skip
    return xp.tune_many(
        backbone,
        prompts,
        odd_splits(),
        settings,
        seeds=[0, 1, 0, 2],
        halving_schedule={3: 3},
        width=2,
        callbacks=callbacks,
    )


@pytest.mark.parametrize("at", [1, 3, 5])
def test_interrupted_and_resumed_is_the_same_to_the_last_bit(kind, at, tmp_path):
    backbone = tiny_model(kind)
    whole = many(backbone)
    with pytest.raises(KeyboardInterrupt):
        many(backbone, Callbacks([Stopping(at)], tmp_path))
    assert (tmp_path / "1-tuning" / "state.json").exists()
    steps = []
    seen = backbone.loss
    backbone.loss = lambda *a, **k: steps.append(1) or seen(*a, **k)
    resumed = Callbacks(folder=tmp_path)
    again = many(backbone, resumed)
    assert resumed.resumed_seconds > 0 and len(steps) < 2 * 9, "some steps were done before"
    for a, b in zip(whole, again, strict=True):
        assert torch.equal(a.prompt.embeddings, b.prompt.embeddings) and plain(a.history) == plain(b.history)
        assert torch.equal(a.prompt.piece_mask, b.prompt.piece_mask)


def test_twice_interrupted_within_a_step_with_dropout(tmp_path):
    """Not at an evaluation but in a forward pass: the state is that of the step before, its random numbers too."""
    backbone = tiny_model("seq2seq", dropout=0.3)
    prompt, splits = xp.SoftPrompt.init(backbone, 5, pieces=4), odd_splits()
    settings = QUICK.replace(dropout=True, accumulation=2)
    torch.manual_seed(7)
    whole = xp.tune(backbone, prompt, splits, settings)
    seen, calls = backbone.loss, []

    def cut_off(*args, **kwargs):
        calls.append(1)
        if len(calls) in (6, 11):
            torch.rand(3)  # what the cut-off pass drew must not matter
            raise KeyboardInterrupt
        return seen(*args, **kwargs)

    backbone.loss = cut_off
    for start in (7, 8):  # the second call is another process, whose random numbers start anywhere
        torch.manual_seed(start)
        with pytest.raises(KeyboardInterrupt):
            xp.tune(backbone, prompt, splits, settings, callbacks=Callbacks(folder=tmp_path))
    backbone.loss = seen
    torch.manual_seed(99)
    resumed = Callbacks(folder=tmp_path)
    again = xp.tune(backbone, prompt, splits, settings, callbacks=resumed)
    assert resumed.resumed_seconds > 0 and plain(whole.history) == plain(again.history)
    assert torch.equal(whole.prompt.embeddings, again.prompt.embeddings)


def test_fine_tuning_too(kind, tmp_path):
    backbone = tiny_model(kind)
    settings = QUICK.replace(optimizer="adafactor", learning_rate=1e-3)
    whole = xp.fine_tune(backbone, odd_splits(), settings)
    with pytest.raises(KeyboardInterrupt):
        xp.fine_tune(backbone, odd_splits(), settings, callbacks=Callbacks([Stopping(3)], tmp_path, every=0))
    resumed = Callbacks(folder=tmp_path)
    again = xp.fine_tune(backbone, odd_splits(), settings, callbacks=resumed)
    assert resumed.resumed_seconds > 0 and plain(whole.history) == plain(again.history)
    for a, b in zip(whole.backbone.model.parameters(), again.backbone.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_state_that_takes_long_to_write_is_written_seldom(tmp_path, monkeypatch):
    """Else the next one would be due as soon as it is written, and a large model would save after every step."""
    clock = iter(range(1, 10**6))  # every look is a second later, and so each state takes seconds to write
    written = []
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(checkpoint, "save_state", lambda *_: written.append(next(clock)))
    backbone = tiny_model("seq2seq")
    candidate = Candidate(None, [torch.nn.Parameter(torch.zeros(3))], QUICK, dict)
    candidate.start(8, "selection", 0)
    saver = checkpoint.Checkpointer(tmp_path, 1.0, [candidate], backbone, [], {})
    for _ in range(40):
        saver.save(TrainerState(width=1))
    assert len(written) == 2 and written[1] - written[0] > 2 * checkpoint.SPARING, "of some forty seconds"


@pytest.mark.parametrize("method", ["structured_linear", "lora"])
def test_a_small_module_is_saved_when_it_is_interrupted(config, tmp_path, monkeypatch, method):  # noqa: F811
    monkeypatch.setattr(pipeline, "EventFiles", lambda folder: Stopping(2))
    monkeypatch.setattr(pipeline, "can_watch", lambda: True)
    with pytest.raises(KeyboardInterrupt):
        xp.run(config.replace(method=method), tmp_path)
    assert len(list((tmp_path / "runs" / ".unfinished").glob("*/*/state.json"))) == 1


def test_a_run_is_resumed_and_leaves_nothing_behind(config, tmp_path, monkeypatch):  # noqa: F811
    whole = xp.run(config.replace(method="xprompt"), tmp_path / "whole", watch=False)
    monkeypatch.setattr(pipeline, "EventFiles", lambda folder: Stopping(2))
    monkeypatch.setattr(pipeline, "can_watch", lambda: True)
    store = tmp_path / "store"
    for _ in range(2):  # in the prompt tuning that it builds on, then in the retraining
        with pytest.raises(KeyboardInterrupt):
            xp.run(config.replace(method="xprompt"), store)
        assert not (store / "runs" / whole.record["run"] / "record.json").exists()
        monkeypatch.setattr(pipeline, "EventFiles", lambda folder: Stopping(1 if "-xprompt-" in folder.name else 99))
    assert len(list((store / "runs" / ".unfinished").glob("*/*/state.json"))) == 1
    monkeypatch.setattr(pipeline, "can_watch", lambda: False)
    again = xp.run(config.replace(method="xprompt"), store)
    assert not list((store / "runs" / ".unfinished").iterdir())
    assert torch.equal(again.load_prompt().embeddings, whole.load_prompt().embeddings)
    strip = lambda record: [{**entry, "seconds": 0} for entry in record["history"]]  # noqa: E731
    assert strip(again.record) == strip(whole.record) and again.metrics == whole.metrics


KILLED = """
import os, signal, sys
from tests.training.test_resume import many, Stopping
from tests.conftest import tiny_model
from xprompt import Callbacks
class Killing(Stopping):
    def on_evaluate(self, stage, candidates):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
many(tiny_model("seq2seq"), Callbacks([Killing(4)], __import__("pathlib").Path(sys.argv[1]), every=0))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_without_warning(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, capture_output=True, timeout=240)
    assert done.returncode == -9, done.stderr.decode()
    backbone = tiny_model("seq2seq")
    callbacks = Callbacks(folder=tmp_path)
    for a, b in zip(many(backbone), many(backbone, callbacks), strict=True):
        assert torch.equal(a.prompt.embeddings, b.prompt.embeddings) and plain(a.history) == plain(b.history)
    assert callbacks.resumed_seconds > 0


@pytest.mark.parametrize("harm", ["tensors", "facts", "cut", "settings", "label words", "metrics", "missing"])
def test_a_state_that_cannot_be_trusted_is_left_aside(harm, backbone, splits, tmp_path):
    prompt = xp.SoftPrompt.init(backbone, 5, pieces=4)
    with pytest.raises(KeyboardInterrupt):
        xp.tune(backbone, prompt, splits, QUICK, callbacks=Callbacks([Stopping(3)], tmp_path))
    folder, settings = tmp_path / "1-tuning", QUICK
    (tensors,) = folder.glob("*.safetensors")
    if harm == "tensors":
        content = bytearray(tensors.read_bytes())
        content[-1] ^= 1
        tensors.write_bytes(content)
    elif harm == "facts":
        body = json.loads((folder / "state.json").read_text())
        body["facts"]["step"] = 8
        (folder / "state.json").write_text(json.dumps(body))
    elif harm == "cut":
        (folder / "state.json").write_text((folder / "state.json").read_text()[:-20])
    elif harm == "missing":
        tensors.unlink()
    elif harm in ("label words", "metrics"):
        other = {"label_words": splits.task.label_words[::-1]} if harm == "label words" else {"metrics": ("macro_f1",)}
        splits = posed_as(replace(splits.task, **other), splits)
    else:
        settings = QUICK.replace(learning_rate=0.04)
    callbacks = Callbacks(folder=tmp_path)
    with pytest.warns(RuntimeWarning, match="starts from its beginning"):
        again = xp.tune(backbone, prompt, splits, settings, callbacks=callbacks)
    assert callbacks.resumed_seconds == 0
    assert plain(again.history) == plain(xp.tune(backbone, prompt, splits, settings).history)


def test_short_loops_write_nothing(backbone, splits, tmp_path):
    xp.tune(backbone, xp.SoftPrompt.init(backbone, 5, pieces=4), splits, QUICK, callbacks=Callbacks(folder=tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_state_that_cannot_be_written_is_one_warning_and_no_other_number(backbone, splits, tmp_path, monkeypatch):
    def full(path, content):
        raise xp.StoreError(f"{path} cannot be written (No space left on device): free some room there.")

    prompt = xp.SoftPrompt.init(backbone, 5, pieces=4)
    alone = xp.tune(backbone, prompt, splits, QUICK)
    monkeypatch.setattr("xprompt.training.checkpoint.write_atomically", full)
    with pytest.warns(RuntimeWarning, match="No space left .* Training goes on") as caught:
        found = xp.tune(backbone, prompt, splits, QUICK, callbacks=Callbacks(folder=tmp_path, every=0))
    assert len(caught) == 1 and plain(found.history) == plain(alone.history)


def test_a_state_is_replaced_whole_and_holds_plain_formats_only(tmp_path):
    for value in (1.0, 2.0):
        save_state(tmp_path, "x", {"a": torch.full((2,), value), "b": torch.tensor(3, dtype=torch.int64)}, {"f": 0.1})
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    tensors, facts = load_state(tmp_path, "x")
    assert tensors["a"].tolist() == [2, 2] and tensors["b"].shape == () and facts == {"f": 0.1}
    body = json.loads((tmp_path / "state.json").read_text())
    assert load_state(tmp_path / "nowhere", "x") is None and body["identity"] == "x"


def test_reproduce_says_how_to_go_on_and_keeps_the_half_done_notebook(tmp_path, monkeypatch, capsys):
    def half_done(source, output, **_):
        Path(output).write_text(Path(source).read_text())  # as papermill leaves it
        raise KeyboardInterrupt

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", metadata={"tags": ["parameters"]})])
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python"},
    }
    (tmp_path / "in").mkdir()
    nbformat.write(notebook, tmp_path / "in" / "one.ipynb")
    monkeypatch.setattr(execution.papermill, "execute_notebook", half_done)
    assert reproduce.main(["--notebooks", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("Interrupted: finished runs are kept")
    assert {path.suffix for path in (tmp_path / "out" / "notebooks").iterdir()} == {".ipynb"}


@pytest.mark.parametrize(("asked", "goes_on_with"), [(1, 1), (2, 2), (None, 4)])
def test_a_resumed_loop_takes_the_width_that_is_asked_for_now(asked, goes_on_with):
    state = TrainerState(width=asked)
    state.load_state_dict(TrainerState(width=4).state_dict())
    assert state.width == goes_on_with
