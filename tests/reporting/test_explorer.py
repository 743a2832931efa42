"""Sliders over the prune ratios: what they show, that nothing is computed for it, and the picture without a kernel."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from xprompt.errors import ConfigError
from xprompt.reporting import RatioExplorer

WIDGET = "application/vnd.jupyter.widget-view+json"
PIECE = np.array([[4.0, 3.0], [2.0, 1.0]])
KEPT = np.ones((2, 3, 2, 2), bool)
KEPT[:, 1, 1, 1] = KEPT[:, 2, 1, :] = KEPT[1, :, 1, :] = False
GRID = SimpleNamespace(
    token_ratios=(0.0, 0.5), piece_ratios=(0.0, 0.25, 0.5), surviving=KEPT, split="selection",
    score=np.array([[0.9, 0.85, 0.7], [0.6, 0.6, 0.5]]), whole=SimpleNamespace(score=0.9),
)  # fmt: skip


def explorer(**options):
    return RatioExplorer(SimpleNamespace(piece=PIECE), GRID, **options)


def test_a_pair_is_told_with_what_is_left_and_its_score():
    assert explorer().describe(0, 1) == (
        "Token prune ratio 0, piece prune ratio 0.25: 2 of 2 tokens, 3 of 4 pieces are left; 85.0 points on selection, "
        "−5.0 against the whole prompt, nothing retrained."
    )
    assert "1 of 2 tokens, 2 of 4 pieces are left; 50.0 points" in explorer().describe(1, 2)


def test_the_nearest_pair_of_the_grid_is_shown_first():
    assert repr(explorer(token_ratio=0.4, piece_ratio=0.3)) == explorer().describe(1, 1)


def test_pruned_pieces_are_outlines_and_the_others_keep_their_colours():
    whole, pruned = (explorer().picture(0, column) for column in (0, 1))
    assert whole.count("<title>4</title>") == pruned.count("<title>4</title>") == 1
    assert pruned.count('stroke="#999"') == whole.count('stroke="#999"') + 1
    shade = 'fill-opacity="{}"><title>4</title>'
    assert shade.format("1.00") in whole and shade.format("1.00") in pruned
    # 0.08 + 0.92 · log 2 / log 4: on the scale of the whole map, though its lowest value, 1, is pruned
    assert 'fill-opacity="0.54"><title>2</title>' in whole and 'fill-opacity="0.54"><title>2</title>' in pruned


def test_sliders_redraw_from_what_is_there(monkeypatch):
    pytest.importorskip("ipywidgets")
    shown = explorer()
    controls, picture = shown.widget().children
    token, piece = controls.children
    assert [label for label, _ in token.options] == ["0", "0.5"] and picture.value == shown.picture(0, 0)
    monkeypatch.setattr(shown, "grid", SimpleNamespace(**{**vars(GRID), "score": None}))  # nothing is asked of it again
    token.value = 1
    piece.value = 2
    assert picture.value == shown.picture(1, 2) and "50.0 points" in picture.value


@pytest.mark.parametrize("without", ["a watcher", "ipywidgets"])
def test_without_a_watcher_or_ipywidgets_it_is_a_picture(monkeypatch, without):
    pytest.importorskip("ipywidgets")
    assert WIDGET in explorer()._repr_mimebundle_() and "text/html" in explorer()._repr_mimebundle_()
    if without == "ipywidgets":
        monkeypatch.setitem(sys.modules, "ipywidgets", None)
    bundle = explorer(token_ratio=0.5, live=without == "ipywidgets")._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert bundle["text/html"].count("<svg") == 2 and "Token prune ratio 0.5" in bundle["text/plain"]


def test_masks_of_another_prompt_are_refused():
    with pytest.raises(ConfigError, match=r"\(3, 2\) tokens × pieces does not fit masks of \(2, 2\)"):
        RatioExplorer(SimpleNamespace(piece=np.ones((3, 2))), GRID)
