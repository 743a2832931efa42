"""Sliders over the two prune ratios: the importance map under its mask, and the score with it, from what is cached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xprompt import html
from xprompt.errors import ConfigError
from xprompt.reporting import wording

DECADES = 3  # of importance below the largest that the colours span


class RatioExplorer:
    """Show what any pair of prune ratios leaves of a prompt, and what the prompt scores then, nothing retrained.

    In Jupyter two sliders choose the pair, and nothing is computed while they move: masks and scores are looked up.
    Without a kernel, without ipywidgets, or where nobody watches, it is a picture of one pair.

    Args:
        importance: of the prompt, with `.piece`, (P, K), as `xprompt.importance` returns it.
        grid: of the prompt, as `xprompt.masked_grid` returns it.
        token_ratio, piece_ratio: the pair that is shown first; the nearest of the grid is taken.
        live: whether somebody watches; a report knows (`report.live`).

    Raises `ConfigError` where the two are of different prompts.
    """

    def __init__(
        self, importance: Any, grid: Any, token_ratio: float = 0.0, piece_ratio: float = 0.0, *, live: bool = True
    ) -> None:
        self.piece, self.surviving = np.asarray(importance.piece, float), np.asarray(grid.surviving, bool)
        if self.surviving.shape[2:] != self.piece.shape:
            raise ConfigError(
                f"importance of {self.piece.shape} tokens × pieces does not fit masks of {self.surviving.shape[2:]}: "
                "both must be of one prompt."
            )
        self.grid, self.live = grid, live
        self.score = 100 * np.asarray(grid.score, float)  # (R, S), in points
        self.place = _nearest(grid.token_ratios, token_ratio), _nearest(grid.piece_ratios, piece_ratio)

    def __repr__(self) -> str:
        return self.describe(*self.place)

    def describe(self, row: int, column: int) -> str:
        """Return in a sentence what one pair of ratios leaves, and what the prompt scores with it."""
        ratios = self.grid.token_ratios[row], self.grid.piece_ratios[column]
        left, whole = self.surviving[row, column], 100 * self.grid.whole.score
        counts = f"{left.any(1).sum()} of {len(left)} tokens, {left.sum()} of {left.size} pieces"
        score = self.score[row, column]
        change = wording.points(score - whole, signed=True)
        return (
            f"Token prune ratio {ratios[0]:g}, piece prune ratio {ratios[1]:g}: {counts} are left; {score:.1f} points "
            f"on {self.grid.split}, {change} against the whole prompt, nothing retrained."
        )

    def picture(self, row: int, column: int) -> str:
        """Return one pair as HTML: the importance under its mask, and the scores of all pairs, this one marked."""
        high = float(self.piece.max()) or 1.0
        shades = np.clip(self.piece, high * 10.0**-DECADES, None)
        cells = np.where(self.surviving[row, column], shades, np.nan)
        caption = (
            f"Points of all pairs, {self.score.min():.1f} to {self.score.max():.1f} (darkest). "
            "Rows: token prune ratio; columns: piece prune ratio."
        )
        scores = html.heat_map(
            self.score.tolist(), caption, cell=24, row_names=_names(self.grid.token_ratios),
            column_names=_names(self.grid.piece_ratios), chosen=(row, column),
        )  # fmt: skip
        pieces = html.heat_map(
            [[None if np.isnan(value) else float(value) for value in line] for line in cells],
            f"Importance, up to {high:.2g} nats (darkest); outlined: pruned. Rows: prompt tokens; columns: pieces.",
            cell=_cell(len(cells)),
            row_names=_names(range(1, len(cells) + 1), 5), span=(float(shades.min()), high),
        )  # fmt: skip
        return (
            f'<p style="min-height:3em;margin:.5em 0">{self.describe(row, column)}</p>'
            f'<div style="display:flex;flex-wrap:wrap;gap:2em;align-items:flex-start">{pieces}{scores}</div>'
        )

    def widget(self) -> Any:
        """Return the sliders with the picture below them. Raises `ImportError` without ipywidgets."""
        import ipywidgets

        def slider(name: str, ratios: Sequence[float], place: int) -> Any:
            options = [(f"{ratio:g}", i) for i, ratio in enumerate(ratios)]
            return ipywidgets.SelectionSlider(
                options=options, value=place, description=name, style={"description_width": "9em"},
                layout={"width": "28em"},
            )  # fmt: skip

        token = slider("token prune ratio", self.grid.token_ratios, self.place[0])
        piece = slider("piece prune ratio", self.grid.piece_ratios, self.place[1])
        shown = ipywidgets.HTML(self.picture(*self.place))

        def redraw(_: Any) -> None:
            shown.value = self.picture(token.value, piece.value)

        for control in (token, piece):
            control.observe(redraw, "value")
        return ipywidgets.VBox([ipywidgets.HBox([token, piece], layout={"flex_flow": "row wrap"}), shown])

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        static = {"text/plain": repr(self), "text/html": self.picture(*self.place)}
        if not self.live:
            return static
        try:
            return {**self.widget()._repr_mimebundle_(), **static}
        except ImportError:
            return static


def _nearest(ratios: Sequence[float], wanted: float) -> int:
    return int(np.abs(np.asarray(ratios) - wanted).argmin())


def _cell(rows: int) -> int:
    """Pixels of a cell: a map stays about as high whatever the prompt's length, as far as it can be seen."""
    return min(16, max(5, 320 // rows))


def _names(values: Sequence[float], every: int = 1) -> list[str]:
    return [f"{value:g}" if i % every == 0 else "" for i, value in enumerate(values)]
