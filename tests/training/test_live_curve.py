"""The curve that a notebook draws while a prompt is tuned."""

from __future__ import annotations

import gc
import re
import weakref
from types import SimpleNamespace

import pytest

import xprompt as xp
from tests.conftest import tiny_model
from xprompt.config.settings import TuneSettings
from xprompt.training import live_curve

SETTINGS = TuneSettings(steps=4, eval_every=2, batch_size=4)


@pytest.fixture
def shown(monkeypatch):
    """What a kernel shows, drawing by drawing."""
    drawings = []
    handle = SimpleNamespace(update=lambda curve: drawings.append(curve._repr_html_()))
    monkeypatch.setattr(live_curve, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(live_curve, "display", lambda curve, display_id: (handle.update(curve), handle)[1])
    return drawings


def test_each_evaluation_adds_a_point_and_no_number_changes(splits, shown):
    backbone = tiny_model("seq2seq")
    start = xp.SoftPrompt.init(backbone, 3)
    plain = xp.tune(backbone, start, splits, SETTINGS)
    tuned = xp.tune(backbone, start, splits, SETTINGS, callbacks=[xp.LiveCurve(every=0)])
    assert (tuned.prompt() == plain.prompt()).all()
    assert [drawing.count("<circle") for drawing in shown] == [0, 1, 2, 3, 3]
    assert all(">4</text>" in drawing for drawing in shown[1:])  # the axis is as long as the tuning from the start
    assert f"step 4 of 4: score on validation (%), best {100 * tuned.history.best_score:.1f}" in shown[-1]


def test_it_keeps_no_weights(splits, shown):
    curve = xp.LiveCurve()
    result = xp.fine_tune(tiny_model("seq2seq"), splits, SETTINGS, callbacks=[curve])
    held = weakref.ref(result.backbone.model)
    del result
    gc.collect()
    assert held() is None and curve._repr_html_() == shown[-1]


def test_it_draws_seldom_and_always_the_end(splits, shown):
    backbone = tiny_model("seq2seq")
    xp.tune(backbone, xp.SoftPrompt.init(backbone, 3), splits, SETTINGS, callbacks=[xp.LiveCurve(every=1e6)])
    assert shown[-1].count("<circle") == 3 and len(shown) <= 3


def test_of_many_candidates_it_draws_best_median_and_worst():
    entries = [[{"step": step, "selection_score": score / 10} for step, score in enumerate(line)]
               for line in ([1, 9], [2, 8], [3, 3], [4], [5])]  # fmt: skip
    curve = xp.LiveCurve()
    curve.candidates = {
        i: SimpleNamespace(num_steps=1, history=SimpleNamespace(entries=line, selection_split="selection"))
        for i, line in enumerate(entries)
    }
    page = curve._repr_html_()
    assert all(f">{name}</text>" in page for name in ("best", "median", "worst")) and page.count("<polyline") == 3
    best, median, worst = (
        [float(point.split(",")[1]) for point in line.split()] for line in re.findall('points="([^"]*)"', page)
    )
    assert best[1] < best[0] == min(best[0], median[0], worst[0])  # 9 above 5; up is a lower y
    assert median[1] < median[0] < worst[0] and worst[1] > best[1]


def test_without_a_kernel_nothing_is_drawn(splits, monkeypatch):
    monkeypatch.setattr(live_curve, "display", lambda *_: pytest.fail("drawn"))
    backbone = tiny_model("seq2seq")
    xp.tune(backbone, xp.SoftPrompt.init(backbone, 3), splits, SETTINGS, callbacks=[xp.LiveCurve()])
