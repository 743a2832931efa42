"""Executors on this machine: one run after another in this process, or in parallel in joblib's."""

from __future__ import annotations

import itertools
import pickle
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
from loky import get_reusable_executor
from pydantic import Field

from xprompt.backbones.main_memory import available_memory
from xprompt.config.run_config import RunConfig
from xprompt.config.settings import Settings
from xprompt.errors import ConfigError, HeldError, is_out_of_memory
from xprompt.runs.planned_runs import (
    LOOK_AGAIN,
    THREADS,
    Ended,
    PlannedRun,
    Run,
    Step,
    Timed,
    absolute_root,
    as_steps,
    drop,
    plan_runs,
    run_here,
    threads_of,
    timed,
)
from xprompt.runs.store import Store

_RUNS_PER_PROCESS = 4  # a process takes as long to start as one of the smallest runs
_BYTES_PER_PROCESS = 3 * 2**29  # with a small backbone
_MAX_PROCESSES = 8  # unless asked for: they share a GPU if there is one
HELD = "another process does this run; the others first"
_IDLE_SECONDS = 60  # until a process without a run ends, and its memory is free


class LocalExecutor:
    """Does one run after another in this process, in the order given. `run(config)` returns what has a `.record`."""

    workers = 1

    def __init__(self, run: Callable[[RunConfig], Any]) -> None:
        self._run = run

    def each(self, configs: Sequence[RunConfig]) -> Iterator[Step]:
        """Yield a step as each run begins and one as it ends, and raise the first error when the others are done.

        A run that another process does comes later. One that raises takes along what starts from it; where memory ran
        out, the others would fail too, and the error ends all.
        """
        runs, errors = plan_runs(configs), list[Exception]()
        run_at = {position: run for run in runs for position in run.positions}
        to_do, told = deque(enumerate(configs)), set[int]()
        while to_do:
            position, config = to_do.popleft()
            if run_at[position].dropped:
                continue
            if position not in told:
                yield Step(config, position)
            began = time.perf_counter()
            try:
                record = dict(self._run(config).record)
            except HeldError:
                if position not in told:
                    yield Step(config, position, note=HELD)
                to_do.append((position, config))
                told.add(position)
                if all(other in told for other, _ in to_do):
                    time.sleep(LOOK_AGAIN)
                continue
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                traceback.clear_frames(error.__traceback__)  # which hold the failed run's tensors
                errors.append(error)
                yield Step(config, position, note=drop(run_at[position], runs, error))
                continue
            yield Step(config, position, record, time.perf_counter() - began)
        if errors:
            raise errors[0]


class LocalOptions(Settings):
    """Options of `ProcessExecutor`; a wrong value is a `ConfigError`."""

    workers: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="runs at a time; None: one, or where a profile's runs keep one core busy, one a core",
    )


class ProcessExecutor:
    """Does runs in parallel in joblib's processes on this machine, in the order asked for, children after parents.

    Without `workers` the profiles say how many: where each names the threads that its runs can use, as many as cores
    and memory allow, with enough runs each to pay for a process's start; else one, which needs no process. A run's
    numbers do not depend on it. Arguments as `get_executor`'s; `run` is what a process does for a run.
    """

    def __init__(self, store: Store | str | Path, run: Run = run_here, **options: Any) -> None:
        self.options = LocalOptions(**options)
        self.root, self.workers, self._run = absolute_root(store), self.options.workers or 1, run

    def each(self, configs: Sequence[RunConfig]) -> Iterator[Step]:
        """Yield a step as each run ends; one at a time, as it begins too. Raises `ConfigError` where a process dies."""
        runs, each = plan_runs(configs), [threads_of(config) for config in configs]
        room, threads = count_processes(each), _most(each)
        self.workers = max(1, min(self.options.workers or min(room, len(runs) // _RUNS_PER_PROCESS), len(runs)))
        if self.workers == 1:
            yield from LocalExecutor(lambda config: SimpleNamespace(record=self._run(config, self.root))).each(configs)
            return
        threads = threads or max(1, _cores() // self.workers)
        yield Step(None, note=f"{self.workers} processes with {threads} thread{'s' * (threads > 1)} each")
        yield from as_steps(runs, self._ended(runs, threads))

    def _ended(self, runs: Sequence[PlannedRun], threads: int) -> Ended:
        """Do the runs in the order given, each as soon as its parents are done and a process is free."""
        pool = get_reusable_executor(self.workers, timeout=_IDLE_SECONDS, env=dict.fromkeys(THREADS, str(threads)))
        to_do, done, held = list(runs), set[PlannedRun](), set[PlannedRun]()
        under_way: dict[Future[Any], PlannedRun] = {}
        try:
            while to_do or under_way:
                ready = (run for run in to_do if run not in held and done.issuperset(run.parents))
                for run in list(itertools.islice(ready, self.workers - len(under_way))):
                    to_do.remove(run)
                    under_way[pool.submit(_attempt, self._run, run.config, self.root, run.wanted_by)] = run
                if not under_way:  # others do all that could be done now
                    time.sleep(LOOK_AGAIN)
                ended = wait(under_way, timeout=LOOK_AGAIN if held else None, return_when=FIRST_COMPLETED).done
                held.clear()
                for future in ended:
                    run, outcome = under_way.pop(future), future.result()
                    if isinstance(outcome, HeldError):
                        held.add(run)
                        to_do.append(run)
                    else:
                        done.add(run)
                        yield run, outcome
                to_do = [run for run in to_do if not run.dropped]
        except BrokenProcessPool as error:
            raise ConfigError(
                "a worker's process was ended from outside, most likely because memory ran out. Finished runs are "
                "kept: give the same command again, with fewer --workers."
            ) from error
        finally:
            if under_way:  # interrupted
                pool.shutdown(kill_workers=True)


def count_processes(threads: Sequence[int | None]) -> int:
    """Count the processes that have room on this machine for runs that use these numbers of threads.

    As many as cores and memory allow, at most `_MAX_PROCESSES`; 1 where a run may use all cores (None), or none is
    given.
    """
    most = _most(threads)
    if not most or None in threads:
        return 1
    return max(1, min(_cores() // most, available_memory() // _BYTES_PER_PROCESS, _MAX_PROCESSES))


def _most(threads: Sequence[int | None]) -> int:
    """Return the largest of some numbers of threads; 0 where there is none."""
    return max((number or 0 for number in threads), default=0)


def _cores() -> int:
    return int(joblib.cpu_count(only_physical_cores=True))


def _attempt(run: Run, config: RunConfig, root: Path, wanted_by: Sequence[RunConfig]) -> Timed | Exception:
    """Do a run in a process of the pool; return what it raises with where, which a process does not send otherwise."""
    try:
        return timed(run, config, root, wanted_by)
    except Exception as error:
        error.__notes__ = [traceback.format_exc()]
        return error if _travels(error) else _described(error)


def _travels(error: Exception) -> bool:
    """Return whether an error can be sent to another process, and made again there."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


def _described(error: Exception) -> RuntimeError:
    """Return a plain error that says what another one is, with its notes."""
    plain = RuntimeError(f"{type(error).__name__}: {error}")
    plain.__notes__ = error.__notes__
    return plain
