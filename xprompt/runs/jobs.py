"""The runs of a grid as jobs: which are the same run, which has to be there before which, and what is left of them.

Owns that order and what is told while it is worked through. Never does a run.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from xprompt.config.run_config import RunConfig

#: Read by the numeric libraries when they are loaded: how many threads a worker's process computes with.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Step(NamedTuple):
    """Something that happened: a run began (no record), or ended, or there is a note about it or about all of them.

    `position` is the run's place in the list that was asked for; None for a run that only others build on.
    `seconds` is how long the run itself took where it was done.
    """

    config: RunConfig | None
    position: int | None = None
    record: dict[str, Any] | None = None
    seconds: float = 0.0
    note: str = ""


class Executor(Protocol):
    """What does runs. `workers` says how many at a time."""

    workers: int

    def each(self, configs: Sequence[RunConfig]) -> Iterator[Step]:
        """Do the runs and tell of each as it happens; one ended step for each place in `configs`."""
        ...


@dataclass(eq=False)
class Job:
    """A run to be done once, for every place in the list that asks for it, and before the jobs that build on it."""

    config: RunConfig
    number: int
    positions: list[int] = field(default_factory=list)
    then: list[Job] = field(default_factory=list)
    first: bool = True  # it builds on nothing
    deaths: int = 0  # workers that died at it

    def __lt__(self, other: Job) -> bool:
        return (not self.then, self.number) < (not other.then, other.number)  # what others wait for comes first

    def with_all_after(self) -> list[Job]:
        """The job and all that build on it, directly or not."""
        return [self, *(job for after in self.then for job in after.with_all_after())]


def jobs_of(configs: Sequence[RunConfig]) -> list[Job]:
    """Return the different runs of a list and those that they build on, each once, none before what it builds on."""
    jobs: dict[str, Job] = {}

    def add(config: RunConfig) -> Job:
        key = json.dumps([config.identity(), config.source, config.backbone], sort_keys=True)
        if key not in jobs:
            before = config.parent
            base = add(before) if before is not None else None
            jobs[key] = Job(config, len(jobs), first=base is None)
            if base is not None:
                base.then.append(jobs[key])
        return jobs[key]

    for position, config in enumerate(configs):
        add(config).positions.append(position)
    return list(jobs.values())


class Agenda:
    """What is left of a list of jobs, and which of it may begin now: `len` says how many, `ready` whether any may."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._left, self._ready = len(jobs), sorted(job for job in jobs if job.first)
        self._errors: list[Exception] = []

    def __len__(self) -> int:
        return self._left

    @property
    def ready(self) -> bool:
        """Whether there is a job that waits for nothing but a worker."""
        return bool(self._ready)

    def take(self) -> Job:
        """The one to begin next: what others wait for comes first."""
        return heapq.heappop(self._ready)

    def put_back(self, job: Job) -> None:
        """It was begun, and has to be begun again."""
        heapq.heappush(self._ready, job)

    def done(self, job: Job, record: Mapping[str, Any], seconds: float) -> list[Step]:
        """Cross a job off, and return the steps that tell of it; what builds on it may begin."""
        self._left -= 1
        for after in job.then:
            heapq.heappush(self._ready, after)
        return [Step(job.config, position, dict(record), seconds) for position in job.positions or (None,)]

    def drop(self, job: Job, error: Exception) -> Step:
        """Cross off a job that raised, and all that builds on it; return the note that tells of it."""
        dropped = job.with_all_after()
        self._left -= len(dropped)
        self._errors.append(error)
        also = f"; left out for that, {len(dropped) - 1} built on it" if len(dropped) > 1 else ""
        return Step(job.config, note=f"failed: {type(error).__name__}: {one_line(error)}{also}")

    def end(self) -> None:
        """Raise the first error of a job that was dropped."""
        if self._errors:
            raise self._errors[0]


def one_line(error: BaseException) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
