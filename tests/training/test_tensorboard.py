"""Event files hold what the record's history holds, are there while a run goes, and change nothing."""

from __future__ import annotations

import numpy as np
import pytest

import xprompt as xp
from tests.runs.test_run import config, place  # noqa: F401
from xprompt.runs import run as pipeline
from xprompt.training import tensorboard
from xprompt.training.tensorboard import EventFiles

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
QUICK = xp.TuneSettings(optimizer="adamw", learning_rate=0.05, steps=6, eval_every=2, batch_size=8, eval_batch_size=8)


def read(folder):
    """Tag → [(step, value)]."""
    found = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def expected(entries, name):
    values = [(e["step"], {**e, **e["metrics"]}[name]) for e in entries]
    return [(step, float(np.float32(value))) for step, value in values if value is not None]


def test_events_are_the_records_history(config, tmp_path):  # noqa: F811
    record = xp.run(config.replace(method="prompt_tuning"), tmp_path).record
    (folder,) = (tmp_path / "watch").iterdir()
    assert folder.name == f"rte-prompt_tuning-seed0-{record['run']}"
    found = read(folder / "1-tuning")
    for name in ("train_loss", "selection_loss", "selection_score", "accuracy", "seconds"):
        assert found[name] == expected(record["history"], name)
    assert found["surviving_tokens"] == [(step, 5.0) for step in (0, 2, 4)]
    assert found["surviving_pieces"][0] == (0, 20.0)


def test_each_candidate_has_its_own_tags(config, tmp_path):  # noqa: F811
    record = xp.run(config.replace(method="xprompt"), tmp_path).record
    (folder,) = (tmp_path / "watch").glob("*-xprompt-*")
    found = read(next(folder.iterdir()))
    scores = {max(v for _, v in found[f"selection_score/{i}"]) for i in range(4)}
    assert max(scores) == float(np.float32(record["details"]["best_score"]))
    pieces = {found[f"surviving_pieces/{i}"][0][1] for i in range(4)}
    assert record["details"]["surviving_pieces"] in pieces and len(pieces) > 1


def test_events_are_there_while_the_run_goes(backbone, splits, tmp_path):
    """Looked at from within, at each evaluation, after a flush: no later than what was just evaluated."""
    seen = []

    class Looking(EventFiles):
        def on_evaluate(self, stage, candidates):
            super().on_evaluate(stage, candidates)
            self.writer.flush()
            seen.append([step for step, _ in read(self.folder / stage)["selection_score"]])

    prompt = xp.SoftPrompt.init(backbone, 5, pieces=4)
    xp.tune(backbone, prompt, splits, QUICK, callbacks=[Looking(tmp_path)])
    assert seen == [[0], [0, 2], [0, 2, 4], [0, 2, 4, 6]]


def test_watching_is_no_part_of_a_run(config, tmp_path, monkeypatch):  # noqa: F811
    watched = xp.run(config.replace(method="prompt_tuning"), tmp_path / "a").record
    unwatched = xp.run(config.replace(method="prompt_tuning"), tmp_path / "b", watch=False).record
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    assert not pipeline.can_watch()
    without = xp.run(config.replace(method="prompt_tuning"), tmp_path / "c").record
    assert [p.name for p in tmp_path.glob("*/watch")] == ["watch"] and (tmp_path / "a" / "watch").exists()
    for other in (unwatched, without):
        assert other["run"] == watched["run"]
        for a, b in zip(watched["history"], other["history"], strict=True):
            assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_a_stage_is_named_by_its_order_and_kind():
    callbacks = xp.Callbacks()
    assert [callbacks.next_stage(d) for d in ("tuning", "retraining 81")] == ["1-tuning", "2-retraining-81"]


def test_a_second_loop_of_the_same_name_leaves_the_first_ones_curves(backbone, splits, tmp_path):
    events = EventFiles(tmp_path)
    for _ in range(2):
        xp.tune(backbone, xp.SoftPrompt.init(backbone, 5, pieces=4), splits, QUICK, callbacks=[events])
    assert [len(read(tmp_path / name)["selection_score"]) for name in ("1-tuning", "1-tuning-2")] == [4, 4]
