"""TensorBoard event files of a run, written while it goes; they need the package tensorboard (the extra `watch`)."""

from __future__ import annotations

import importlib.util
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xprompt.files import path_of
from xprompt.training.callbacks import MetricLogger, require_package

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def can_watch() -> bool:
    """Return whether the package that writes event files is installed."""
    return importlib.util.find_spec("tensorboard") is not None


class EventFiles(MetricLogger):
    """Write one event file a training loop into <folder>/<stage>/, with a point an evaluation.

    The "custom scalars" page draws candidates that are trained in parallel into one chart. A stage that is resumed, or
    done again, gets a new file in place of the old one; of several loops that one object is handed and that have one
    name, the second writes into <stage>-2. Raises `ConfigError` where tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        require_package("tensorboard", "watch")
        self.folder = path_of(folder)
        self.writer: SummaryWriter | None = None
        self.written: Counter[str] = Counter()  # loops by stage

    def open(self, stage: str, settings: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # it takes a second to import

        self.written[stage] += 1
        folder = self.folder / (stage if self.written[stage] == 1 else f"{stage}-{self.written[stage]}")
        shutil.rmtree(folder, ignore_errors=True)
        self.writer = SummaryWriter(str(folder), flush_secs=10)
        if self.digits:
            charts = {tag: ["Multiline", [f"^{tag}/"]] for tag in ("selection_score", "selection_loss", "train_loss")}
            self.writer.add_custom_scalars({"candidates": charts})

    def log(self, step: int, values: dict[str, float], when: float) -> None:
        assert self.writer is not None
        for name, value in values.items():
            self.writer.add_scalar(name, value, step, walltime=when)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None
