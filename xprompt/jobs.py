"""The runs of a grid as jobs: which are the same run, and which has to be there before which.

Owns that order and what is told while it is worked through. Never does a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from xprompt.config import RunConfig


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


def builds_on(config: RunConfig) -> RunConfig | None:
    """The run that this one starts from, as `xprompt.methods` asks for it; None where it starts from nothing."""
    if config.method == "prompt_tuning_length":
        return config.but(method="xprompt")
    if config.method.startswith(("xprompt", "prompt_tuning_")):
        return config.but(method="prompt_tuning")
    return None


def jobs_of(configs: Sequence[RunConfig]) -> list[Job]:
    """Return the different runs of a list and those that they build on, each once, none before what it builds on."""
    jobs: dict[str, Job] = {}

    def add(config: RunConfig) -> Job:
        key = json.dumps([config.identity(), config.source, config.backbone], sort_keys=True)
        if key not in jobs:
            before = builds_on(config)
            base = add(before) if before is not None else None
            jobs[key] = Job(config, len(jobs), first=base is None)
            if base is not None:
                base.then.append(jobs[key])
        return jobs[key]

    for position, config in enumerate(configs):
        add(config).positions.append(position)
    return list(jobs.values())
