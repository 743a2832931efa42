"""Callbacks: what happens around a training loop and changes none of its numbers."""

from __future__ import annotations

import functools
import importlib.util
import logging
import re
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from tqdm.auto import tqdm

from xprompt.errors import ConfigError
from xprompt.training.candidate import Candidate

log = logging.getLogger("xprompt")
P = ParamSpec("P")
R = TypeVar("R")


class Callback:
    """React to a training loop. Each method does nothing until a subclass overrides it.

    They are called in the main process only, and what one of them raises ends the loop. `stage` names the loop, such
    as "1-tuning"; `candidates` maps a candidate's index to its prompt, settings and history, which are to be read and
    not changed.
    """

    def on_train_begin(self, stage: str, candidates: Mapping[int, Candidate]) -> None:
        """See all candidates before the first step; in a resumed loop their histories hold what was done before."""

    def on_step_end(self, stage: str, step: int) -> None:
        """See the number of optimiser steps done."""

    def on_evaluate(self, stage: str, candidates: Mapping[int, Candidate]) -> None:
        """See the candidates that were just evaluated: the last entry of each history is new."""

    def on_train_end(self, stage: str) -> None:
        """Clean up: the loop has ended, or was interrupted."""


@dataclass
class Callbacks:
    """The callbacks of one run, and where its training loops save their states.

    Args:
        callbacks: called in this order.
        folder: each loop saves its state in a subfolder of it, and resumes from there; None: nothing is saved.
        every: seconds between two saved states. A loop that ends sooner saves none, unless it is interrupted.

    Attributes:
        resumed_seconds: seconds that resumed loops had taken before they were interrupted.
        num_stages: loops begun. They are numbered in the order they start in, which is the same in every run.
    """

    callbacks: list[Callback] = field(default_factory=list)
    folder: str | Path | None = None
    every: float = 30.0
    resumed_seconds: float = 0.0
    num_stages: int = 0

    def next_stage(self, describe: str) -> str:
        """Count one more loop and return its name, which is also its subfolder's."""
        self.num_stages += 1
        return f"{self.num_stages}-{re.sub('[^a-z0-9]+', '-', describe.lower()).strip('-')}"


class ProgressBar(Callback):
    """Show the steps done and the best selection score in a bar."""

    bar: tqdm | None = None

    def on_train_begin(self, stage: str, candidates: Mapping[int, Candidate]) -> None:
        self.candidates = candidates
        total = max(candidate.num_steps for candidate in candidates.values())
        self.bar = tqdm(total=total, desc=stage, unit="step", leave=False)

    def on_step_end(self, stage: str, step: int) -> None:
        if self.bar is not None:
            self.bar.update(step - self.bar.n)

    def on_evaluate(self, stage: str, candidates: Mapping[int, Candidate]) -> None:
        if self.bar is not None:
            split, score = _best(self.candidates)
            self.bar.set_postfix({split: score})

    def on_train_end(self, stage: str) -> None:
        if self.bar is not None:
            self.bar.close()


class ProgressLog(Callback):
    """Log the best selection score now and then, for where no bar is seen: a batch job, a notebook that is executed.

    Args:
        every: seconds between two lines.
    """

    def __init__(self, every: float = 15.0) -> None:
        self.every = every

    def on_train_begin(self, stage: str, candidates: Mapping[int, Candidate]) -> None:
        self.candidates, self.logged = candidates, time.perf_counter()

    def on_evaluate(self, stage: str, candidates: Mapping[int, Candidate]) -> None:
        if time.perf_counter() - self.logged < self.every:
            return
        self.logged = time.perf_counter()
        entry = next(iter(candidates.values())).history.entries[-1]
        split, score = _best(self.candidates)
        log.info("%s: step %d, best on %s %s, %.0f s", stage, entry["step"], split, score, entry["seconds"])


class MetricLogger(Callback):
    """Hand the numbers of every evaluation to a tracker. A subclass says how a training loop is opened, fed and closed.

    The names are train_loss, selection_loss, selection_score, seconds, each metric's own, surviving_tokens and
    surviving_pieces. Candidates trained in parallel each have theirs: "selection_score/07". A loop that is resumed is
    opened again, and gets what was evaluated before the interruption first.
    """

    digits = 0  # of a candidate's index in its names; 0: there is one candidate
    failed = False  # at `close`: whether the loop raised, or was interrupted
    _outside: BaseException | None = None  # what was being handled when the loop began

    def open(self, stage: str, settings: dict[str, Any]) -> None:
        """Begin with a training loop; `settings` are those that its candidates share."""
        raise NotImplementedError

    def log(self, step: int, values: dict[str, float], when: float) -> None:
        """Take the numbers at a step, by name; `when` is the time in seconds since 1970."""
        raise NotImplementedError

    def close(self) -> None:
        """End with the training loop; it may have been interrupted, and `open` may have failed."""

    def on_train_begin(self, stage: str, candidates: Mapping[int, Candidate]) -> None:
        """Open the loop, and log what was evaluated before an interruption."""
        self._outside = sys.exc_info()[1]
        self.digits = len(str(len(candidates) - 1)) if len(candidates) > 1 else 0
        each = [candidate.settings.model_dump(mode="json") for candidate in candidates.values()]
        self.open(stage, {name: value for name, value in each[0].items() if all(s[name] == value for s in each)})
        done = [(entry["step"], i, entry) for i, c in candidates.items() for entry in c.history.entries]
        began = time.time() - max((entry["seconds"] for _, _, entry in done), default=0.0)
        for step, i, entry in sorted(done, key=lambda point: point[:2]):
            self.log(step, self._values(i, candidates[i], entry), began + entry["seconds"])

    def on_evaluate(self, stage: str, candidates: Mapping[int, Candidate]) -> None:
        """Log the newest evaluation of each of these candidates."""
        for i, candidate in candidates.items():
            entry = candidate.history.entries[-1]
            self.log(entry["step"], self._values(i, candidate, entry), time.time())

    def on_train_end(self, stage: str) -> None:
        """Close the loop; what was logged stays."""
        self.failed = sys.exc_info()[1] is not self._outside
        self.close()

    def _values(self, i: int, candidate: Candidate, entry: Mapping[str, Any]) -> dict[str, float]:
        """Return the numbers of an entry by name; a train_loss of None (before any step) is none."""
        values = {name: entry[name] for name in ("train_loss", "selection_loss", "selection_score", "seconds")}
        values |= entry["metrics"]
        if candidate.prompt is not None:
            values["surviving_tokens"] = int(candidate.prompt.surviving_tokens.sum())
            values["surviving_pieces"] = int(candidate.prompt.surviving_pieces.sum())
        ending = f"/{i:0{self.digits}}" if self.digits else ""
        return {name + ending: value for name, value in values.items() if value is not None}


def require_package(name: str, extra: str) -> None:
    """Raise `ConfigError` where the package that a callback writes with is not installed."""
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"the package {name} is not installed here: run `pip install -e '.[{extra}]'`.")


def _best(candidates: Mapping[int, Candidate]) -> tuple[str, str]:
    """Return the selection split's name and the best score on it, in percent."""
    best = max((candidate.history for candidate in candidates.values()), key=lambda history: history.best_score)
    return best.selection_split, f"{100 * best.best_score:.1f}"


def accept_along(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function take `along=`, the former name of `callbacks=`, with a `DeprecationWarning`."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if "along" in kwargs:
            warnings.warn("along= is now called callbacks=: pass callbacks=.", DeprecationWarning, stacklevel=2)
            if kwargs.get("callbacks") is not None:
                raise TypeError(f"{function.__name__} got both along= and callbacks=, which are one: pass callbacks=.")
            kwargs["callbacks"] = kwargs.pop("along")
        return function(*args, **kwargs)

    return wrapper
