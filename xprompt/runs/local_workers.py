"""Runs side by side in processes of this machine.

Owns those processes, and what happens when one is ended. Never chooses how many: `executors` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from loky import ProcessPoolExecutor

from xprompt.backbones.malloc import give_back_freed_memory
from xprompt.config.run_config import RunConfig
from xprompt.errors import ConfigError
from xprompt.runs.jobs import THREADS, Agenda, Job, Step

Run = Callable[[RunConfig, Path], Mapping[str, Any]]
_GRACE = 10.0  # seconds that interrupted runs have to write down where they are
_GAINS = 2**30  # bytes that a worker's cached data may come to, before loky takes them for a leak and ends it


def work(jobs: Sequence[Job], run: Run, root: Path, workers: int, threads: int) -> Iterator[Step]:
    """Do the jobs, and yield a step as each ends; none is begun before what it builds on has ended.

    A run that raises takes along what builds on it; the others go on, and its error is raised at the end.

    Args:
        run: called with a run's settings and `root` in a worker's process; returns its record.
        workers: runs at a time.
        threads: that each computes with.

    Raises `ConfigError` where a process was ended from outside.
    """
    agenda = Agenda(jobs)
    environment = {name: str(threads) for name in THREADS} | {"LOKY_MAX_MEMORY_LEAK_SIZE": str(_GAINS)}
    pool = ProcessPoolExecutor(workers, env=environment)
    under_way: dict[Future[tuple[dict[str, Any], float]], Job] = {}
    try:
        while len(agenda):
            while agenda.ready and len(under_way) < workers:
                job = agenda.take()
                under_way[pool.submit(_timed, run, job.config, root)] = job
            ended, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in ended:
                job = under_way.pop(future)
                try:
                    record, seconds = future.result()
                except BrokenProcessPool:
                    raise
                except Exception as error:
                    yield agenda.drop(job, error)
                else:
                    yield from agenda.done(job, record, seconds)
        agenda.end()
    except BrokenProcessPool as error:  # also where the next run was to be handed over
        raise ConfigError(
            "a worker's process was ended from outside, most likely since memory ran out. Finished runs are kept: "
            "give the same command again, with fewer --workers."
        ) from error
    finally:
        wait(under_way, timeout=_GRACE)  # an interruption reaches the workers too
        pool.shutdown(kill_workers=bool(under_way))


def _timed(run: Run, config: RunConfig, root: Path) -> tuple[dict[str, Any], float]:
    began = time.perf_counter()
    record = dict(run(config, root))
    seconds = time.perf_counter() - began
    give_back_freed_memory()  # to the other workers
    return record, seconds
