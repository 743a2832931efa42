"""Callbacks see a loop from its beginning to its end, change no number, and are passed in more than one way."""

from __future__ import annotations

import logging

import pytest
import torch

import xprompt as xp
from tests.conftest import tiny_model
from xprompt.training.callbacks import ProgressLog

QUICK = xp.TuneSettings(optimizer="adamw", learning_rate=0.05, steps=4, eval_every=2, batch_size=8, eval_batch_size=8)


class Recorder(xp.Callback):
    def __init__(self):
        self.calls = []

    def on_train_begin(self, stage, candidates):
        self.calls.append(("begin", stage, list(candidates)))

    def on_step_end(self, stage, step):
        self.calls.append(("step", stage, step))

    def on_evaluate(self, stage, candidates):
        self.calls.append(("evaluate", stage, [c.history.entries[-1]["step"] for c in candidates.values()]))

    def on_train_end(self, stage):
        self.calls.append(("end", stage))


@pytest.fixture
def backbone():
    return tiny_model("seq2seq")


@pytest.fixture
def prompt(backbone):
    return xp.SoftPrompt.init(backbone, 5, pieces=4)


def test_a_callback_sees_every_step_and_evaluation_and_changes_no_number(backbone, prompt, splits, capsys):
    recorder = Recorder()
    watched = xp.tune(backbone, prompt, splits, QUICK, progress=True, callbacks=[xp.Callback(), recorder])
    assert "1-tuning" in capsys.readouterr().err, "the bar"
    assert recorder.calls == [
        ("begin", "1-tuning", [0]), ("evaluate", "1-tuning", [0]),
        ("step", "1-tuning", 1), ("step", "1-tuning", 2), ("evaluate", "1-tuning", [2]),
        ("step", "1-tuning", 3), ("step", "1-tuning", 4), ("evaluate", "1-tuning", [4]), ("end", "1-tuning"),
    ]  # fmt: skip
    assert torch.equal(watched.prompt.embeddings, xp.tune(backbone, prompt, splits, QUICK).prompt.embeddings)


def test_halved_candidates_are_seen_no_more(backbone, prompt, splits):
    recorder = Recorder()
    xp.tune_many(backbone, [prompt] * 3, splits, [QUICK] * 3, halving_schedule={2: 1}, callbacks=[recorder])
    assert [call[2] for call in recorder.calls if call[0] == "evaluate"] == [[0] * 3, [2] * 3, [4]]


def test_a_candidate_that_diverges_is_seen_no_more(backbone, prompt, splits):
    recorder = Recorder()
    wild = QUICK.replace(optimizer="adafactor", learning_rate=3e38)
    xp.tune_many(backbone, [prompt] * 2, splits, [wild, QUICK], callbacks=[recorder])
    assert [call[2] for call in recorder.calls if call[0] == "evaluate"] == [[0, 0], [2], [4]]


def test_states_are_saved_where_a_text_says(backbone, prompt, splits, tmp_path):
    xp.tune(backbone, prompt, splits, QUICK, callbacks=xp.Callbacks(folder=str(tmp_path / "states"), every=0.0))
    assert list((tmp_path / "states").rglob("state.json"))


@pytest.mark.parametrize("size", [0, -5, 2.5])
def test_a_batch_size_that_is_none_is_refused(backbone, prompt, splits, size):
    for call in (
        lambda: xp.evaluate(backbone, prompt, splits.validation, batch_size=size),
        lambda: xp.xprompt(backbone, splits, prompt, xp.PROFILES["tiny"].prune, batch_size=size),
    ):
        with pytest.raises((xp.DataError, xp.ConfigError), match="at least 1"):
            call()


def test_what_a_callback_raises_ends_the_loop_and_the_end_is_called(backbone, prompt, splits):
    class Failing(Recorder):
        def on_evaluate(self, stage, candidates):
            raise RuntimeError("seen enough")

    failing = Failing()
    with pytest.raises(RuntimeError, match="seen enough"):
        xp.tune(backbone, prompt, splits, QUICK, callbacks=[failing])
    assert failing.calls[-1] == ("end", "1-tuning")


def test_along_is_a_deprecated_alias(backbone, prompt, splits):
    calls = {
        "1-tuning": lambda **how: xp.tune(backbone, prompt, splits, QUICK, **how),
        "2-tuning": lambda **how: xp.tune_many(backbone, [prompt], splits, [QUICK], **how),
        "3-fine-tuning": lambda **how: xp.fine_tune(backbone, splits, QUICK.replace(steps=1), **how),
    }
    recorder = Recorder()
    callbacks = xp.Callbacks([recorder])
    for stage, call in calls.items():
        with pytest.warns(DeprecationWarning, match="callbacks="):
            call(along=callbacks)
        assert recorder.calls[-1] == ("end", stage)
    with pytest.warns(DeprecationWarning), pytest.raises(TypeError, match="both along= and callbacks="):
        calls["1-tuning"](along=callbacks, callbacks=callbacks)


def test_progress_is_logged_where_enough_time_has_passed(backbone, prompt, splits, caplog):
    with caplog.at_level(logging.INFO, "xprompt"):
        xp.tune(backbone, prompt, splits, QUICK)
        assert not caplog.records, "a short loop says nothing"
        xp.tune(backbone, prompt, splits, QUICK, callbacks=[ProgressLog(every=0)])
    assert len(caplog.records) == 3
    assert caplog.messages[-1].startswith("1-tuning: step 4, best on validation ")
