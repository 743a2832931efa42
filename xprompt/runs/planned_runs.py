"""The different runs of a list with their ancestors, and what an executor reports of them."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import xprompt
from xprompt.backbones.malloc import give_back_freed_memory
from xprompt.config.profiles import get_profile
from xprompt.config.run_config import RunConfig
from xprompt.errors import XPromptError
from xprompt.files import path_of
from xprompt.nano.sizes import SIZES
from xprompt.runs.store import Store

Run = Callable[[RunConfig, Path], Mapping[str, Any]]
LOOK_AGAIN = 1.0  # seconds between two looks at runs that another process does
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # read as the numeric libraries are loaded


class Step(NamedTuple):
    """What an executor reports: a run began (no record) or ended, or a note on one run or on all.

    `position` is the run's place in the list asked for; None for a run that only others start from.
    """

    config: RunConfig | None
    position: int | None = None
    record: dict[str, Any] | None = None
    seconds: float = 0.0
    note: str = ""


class Executor(Protocol):
    """Does runs, `workers` at a time."""

    workers: int

    def each(self, configs: Sequence[RunConfig]) -> Iterator[Step]:
        """Yield steps as they happen, one with a record for each place in `configs`; raise a run's error at the end."""
        ...


@dataclass(eq=False)
class PlannedRun:
    """A run to do once, for all its positions in the list asked for, after its parents."""

    config: RunConfig
    parents: list[PlannedRun]
    depth: int  # of its longest line of ancestors
    positions: list[int] = field(default_factory=list)
    wanted_by: list[RunConfig] = field(default_factory=list)  # where nobody asked for it: the runs that it is done for
    dropped: bool = False  # it, or an ancestor, has failed


#: A run's record, None where it was not needed, and the seconds it took.
Timed = tuple[dict[str, Any] | None, float]
#: A run, and what became of it or what it raised.
Ended = Iterator[tuple[PlannedRun, Timed | Exception]]


def plan_runs(configs: Sequence[RunConfig]) -> list[PlannedRun]:
    """List the different runs of `configs` and their ancestors, each once, in the order asked for, parents first."""
    runs: dict[str, PlannedRun] = {}

    def plan(config: RunConfig) -> PlannedRun:
        key = json.dumps([config.identity(), config.source, config.backbone], sort_keys=True)
        if key not in runs:
            parents = [plan(parent) for parent in config.parents]
            runs[key] = PlannedRun(config, parents, 1 + max((parent.depth for parent in parents), default=-1))
        return runs[key]

    for position, config in enumerate(configs):
        plan(config).positions.append(position)
    for run in reversed(runs.values()):  # children first
        for parent in run.parents:
            if not parent.positions:
                parent.wanted_by += [run.config] if run.positions else run.wanted_by
    return list(runs.values())


def threads_of(config: RunConfig) -> int | None:
    """Return the most threads that a run can use, as its profile says; None: all, as where the backbone is larger."""
    profile = get_profile(config.profile)
    return profile.threads if config.backbone in (profile.backbone, *SIZES) else None


def run_here(config: RunConfig, root: Path) -> Mapping[str, Any]:
    """Do a run, or read it from the store under `root`, and return its record. Raises `HeldError`."""
    return xprompt.run(config, store=root, wait=False).record


def timed(run: Run, config: RunConfig, root: Path, wanted_by: Sequence[RunConfig] = ()) -> Timed:
    """Do a run and return its record and the seconds it took; memory that it has freed goes to other processes.

    Where the store has all the runs of `wanted_by`, if any are given, nothing is done and the record is None.
    """
    began = time.perf_counter()
    if wanted_by and all(_is_done(other, root) for other in wanted_by):
        return None, time.perf_counter() - began
    record = dict(run(config, root))
    seconds = time.perf_counter() - began
    if seconds > 1:  # a shorter run frees little, and this takes a tenth of a second
        give_back_freed_memory()
    return record, seconds


def _is_done(config: RunConfig, root: Path) -> bool:
    with contextlib.suppress(XPromptError):  # its own run will raise it, and take no other along
        return xprompt.find(config, root) is not None
    return False


def as_steps(runs: Sequence[PlannedRun], ended: Ended) -> Iterator[Step]:
    """Turn what became of the runs into steps, drop the descendants of one that raised, and raise its error last."""
    errors = []
    for run, outcome in ended:
        if isinstance(outcome, Exception):
            errors.append(outcome)
            yield Step(run.config, note=drop(run, runs, outcome))
        else:
            record, seconds = outcome
            if record is None:
                continue
            yield from (Step(run.config, position, dict(record), seconds) for position in run.positions or (None,))
    if errors:
        raise errors[0]


def drop(run: PlannedRun, runs: Sequence[PlannedRun], error: Exception) -> str:
    """Drop a run that raised and all that start from it, of `runs`, and return a note on them."""
    run.dropped, others = True, 0
    for other in runs:  # parents come first
        if any(parent.dropped for parent in other.parents) and not other.dropped:
            other.dropped, others = True, others + 1
    also = f"; left out for that, {others} that start from it" if others else ""
    return f"failed: {type(error).__name__}: {first_line(error)}{also}"


def absolute_root(store: Store | str | Path) -> Path:
    """Return the absolute path of a store's folder."""
    return Path(os.path.abspath(store.root if isinstance(store, Store) else path_of(store)))


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
