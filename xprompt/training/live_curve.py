"""A callback that draws the selection score in a notebook while a prompt is tuned."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from html import escape
from typing import Any, NamedTuple

from IPython.core.getipython import get_ipython
from IPython.display import display

from xprompt import html
from xprompt.training.callbacks import Callback
from xprompt.training.candidate import Candidate, History

_FEW = 4  # candidates that have a line each


class _Curve(NamedTuple):
    """What is drawn of a candidate."""

    history: History
    num_steps: int


class LiveCurve(Callback):
    """Draw the selection score at every evaluation, in Jupyter, while it goes; elsewhere draw nothing.

    Each loop has its picture. What it shows at the end stays in the notebook, and so in an executed copy. Of more than
    four candidates the best, the median and the worst are drawn.

    Args:
        every: seconds between two drawings at least.

    Example:
        >>> import xprompt as xp
        >>> backbone, splits = xp.load_backbone("nano"), xp.load_task("rte", limit_train=64, limit_validation=32)
        >>> settings, curve = xp.PROFILES["nano"].tune.replace(steps=4, eval_every=2), xp.LiveCurve()
        >>> tuned = xp.tune(backbone, xp.SoftPrompt.init(backbone, length=4), splits, settings, callbacks=[curve])
        >>> curve
        LiveCurve(1-tuning, step 4 of 4)
    """

    def __init__(self, every: float = 0.5) -> None:
        self.every = every
        self.candidates: Mapping[int, Candidate | _Curve] = {}
        self.stage, self.step, self._drawn, self._handle = "", 0, 0.0, None

    def __repr__(self) -> str:
        return f"LiveCurve({self.stage}, step {self.step} of {self._num_steps()})"

    def _repr_html_(self) -> str:
        """Show the curve as far as it goes."""
        scores: dict[int, list[float]] = {}  # step → of the candidates evaluated there, in percent
        for candidate in self.candidates.values():
            for entry in candidate.history.entries:
                scores.setdefault(entry["step"], []).append(100 * entry["selection_score"])
        lines: dict[str, Any] = {}
        if len(self.candidates) > _FEW:
            for name, choose in (("best", max), ("median", statistics.median), ("worst", min)):
                lines[name] = [(step, choose(values)) for step, values in sorted(scores.items())]
        else:
            for i, candidate in self.candidates.items():
                entries = candidate.history.entries
                lines[str(i)] = [(entry["step"], 100 * entry["selection_score"]) for entry in entries]
        if not scores:
            return f"<p>{escape(repr(self))}</p>"
        split = next(iter(self.candidates.values())).history.selection_split
        best = max(map(max, scores.values()))
        caption = f"{self.stage}, step {self.step} of {self._num_steps()}: score on {split} (%), best {best:.1f}"
        return html.curve(lines, caption, self._num_steps())

    def on_train_begin(self, stage: str, candidates: Mapping[int, Candidate]) -> None:
        self.stage, self.candidates, self.step = stage, candidates, 0
        in_jupyter = getattr(get_ipython(), "kernel", None) is not None
        self._handle = display(self, display_id=True) if in_jupyter else None

    def on_step_end(self, stage: str, step: int) -> None:
        self.step = step

    def on_evaluate(self, stage: str, candidates: Mapping[int, Candidate]) -> None:
        if time.perf_counter() - self._drawn >= self.every:
            self._draw()

    def on_train_end(self, stage: str) -> None:
        self._draw()
        # What stays on the page needs no values: a candidate may hold a model, its optimiser and its best weights.
        self.candidates = {i: _Curve(c.history, c.num_steps) for i, c in self.candidates.items()}

    def _draw(self) -> None:
        self._drawn = time.perf_counter()
        if self._handle is not None:
            self._handle.update(self)

    def _num_steps(self) -> int:
        return max((candidate.num_steps for candidate in self.candidates.values()), default=0)
