"""TensorBoard event files of a run, written while it goes; they need the package tensorboard (the extra `watch`)."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xprompt.training.callbacks import Callback
from xprompt.training.candidate import Candidate

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

#: What an entry of a history holds besides its metrics; a train_loss of None (before any step) has no point.
SCALARS = ("train_loss", "selection_loss", "selection_score", "seconds")


def can_watch() -> bool:
    """Return whether the package that writes event files is installed."""
    return importlib.util.find_spec("tensorboard") is not None


class EventFiles(Callback):
    """Write one event file a training loop into <folder>/<stage>/, with a point an evaluation.

    Tags: train_loss, selection_loss, selection_score, the metrics by name, seconds, and the surviving tokens and
    pieces. Candidates trained in parallel each have their own tags, "selection_score/07", which the "custom scalars"
    page draws into one chart. A stage that is resumed, or done again, gets a new file in place of the old one, with
    the points before the interruption in it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.writer: SummaryWriter | None = None
        self.digits = 0  # of a candidate's index in its tag; 0: there is one candidate

    def on_train_begin(self, stage: str, candidates: Mapping[int, Candidate]) -> None:
        """Open the stage's file, and write what was evaluated before an interruption."""
        from torch.utils.tensorboard import SummaryWriter  # it takes a second to import

        shutil.rmtree(self.folder / stage, ignore_errors=True)
        self.digits = len(str(len(candidates) - 1)) if len(candidates) > 1 else 0
        self.writer = SummaryWriter(str(self.folder / stage), flush_secs=10)
        if self.digits:
            charts = {tag: ["Multiline", [f"^{tag}/"]] for tag in ("selection_score", "selection_loss", "train_loss")}
            self.writer.add_custom_scalars({"candidates": charts})
        began = time.time() - max((c.history.entries[-1]["seconds"] for c in candidates.values() if c.history.entries),
                                  default=0.0)  # fmt: skip
        for i, candidate in candidates.items():
            for entry in candidate.history.entries:
                self._write(i, candidate, entry, began + entry["seconds"])

    def on_evaluate(self, stage: str, candidates: Mapping[int, Candidate]) -> None:
        """Add the newest point of each of these candidates."""
        for i, candidate in candidates.items():
            self._write(i, candidate, candidate.history.entries[-1], time.time())

    def on_train_end(self, stage: str) -> None:
        """Close the file; what was written stays."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def _write(self, i: int, candidate: Candidate, entry: Mapping[str, Any], when: float) -> None:
        assert self.writer is not None
        values = {name: entry[name] for name in SCALARS} | entry["metrics"]
        if candidate.prompt is not None:
            values["surviving_tokens"] = int(candidate.prompt.surviving_tokens.sum())
            values["surviving_pieces"] = int(candidate.prompt.surviving_pieces.sum())
        for name, value in values.items():
            if value is not None:
                tag = f"{name}/{i:0{self.digits}}" if self.digits else name
                self.writer.add_scalar(tag, value, entry["step"], walltime=when)
