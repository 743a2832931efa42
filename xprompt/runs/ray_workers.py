"""The workers of Ray that do the runs of a grid side by side.

Owns what each worker is given and when, and what happens when one dies. Never connects to Ray, and never imports it:
it is handed over by who did, `executors`.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xprompt
from xprompt.config.run_config import RunConfig
from xprompt.errors import ConfigError
from xprompt.runs.jobs import THREADS, Agenda, Job, Step, one_line
from xprompt.tasks.superglue import TASKS

_NAMES = ("nano", "hub", "smollm2", *TASKS)  # what a source, a backbone or a task may be called; else it may be a path
_PATIENCE = 60.0  # seconds without a single worker before the reader is told what is waited for
Run = Callable[[RunConfig, Path], Mapping[str, Any]]


def slots(nodes: Sequence[Mapping[str, float]], cpus: float, gpus: float) -> int:
    """How many workers of so many CPUs and GPUs there is room for; a worker lies on one machine."""
    shares = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    # 0.3 / 0.1 is 2.999…
    return sum(min(math.floor(node.get(kind, 0) / share + 1e-9) for kind, share in shares.items()) for node in nodes)


class Worker:
    """What lives in a worker's process."""

    def __init__(self, threads: int, run: Run) -> None:
        for name in THREADS:  # read by the numeric libraries when they are loaded, at the first run
            os.environ[name] = str(threads)
        self._run = run

    def ready(self, root: str, seen: str, version: str) -> None:
        """Raise `ConfigError` where this worker could not do what the driver could."""
        if xprompt.__version__ != version:
            raise ConfigError(
                f"a worker on {socket.gethostname()} has xprompt {xprompt.__version__}, not {version}: install the "
                "same version on every machine."
            )
        if not Path(seen).exists():
            raise ConfigError(
                f"a worker on {socket.gethostname()} does not see the report's folder {root}: give an --output that "
                "all machines share, under the same path."
            )

    def run(self, settings: str, root: str) -> str:
        began = time.perf_counter()
        record = self._run(RunConfig(**json.loads(settings)), Path(root))
        return json.dumps({"record": record, "seconds": time.perf_counter() - began})


class Pool:
    """The workers of one grid: each has one run at most, and gets the next when that has ended."""

    def __init__(
        self, ray: Any, root: Path, run: Run, workers: int, cpus: float, gpus: float, retries: int
    ) -> None:  # fmt: skip
        self._ray, self._root, self._run, self._retries = ray, root, run, retries
        self._workers, self._threads = workers, max(1, int(cpus))
        # A death is dealt with here and not by Ray, so that it can be told and counted.
        self._kind = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(Worker)
        self._seen = root / "runs" / ".staging" / f"seen-by-workers-{uuid.uuid4().hex}"
        self._under_way: dict[Any, tuple[Any, Job | None]] = {}  # no job: a worker that is starting
        self._idle: list[Any] = []

    def work(self, jobs: Sequence[Job]) -> Iterator[Step]:
        """Yield the steps of all jobs; raise the first error of a run when the others are done."""
        self._seen.parent.mkdir(parents=True, exist_ok=True)
        self._seen.touch()
        agenda, lost, started = Agenda(jobs), 0, False
        told: list[Step] = []
        for _ in range(self._workers):
            self._start()
        while True:
            while self._idle and agenda.ready:
                self._give(self._idle.pop(), agenda.take())
            yield from told  # with every worker at its next run
            told = []
            if not len(agenda):
                break
            ended, _ = self._ray.wait(list(self._under_way), timeout=_PATIENCE)
            if not ended and not started:
                told = [Step(None, note="no worker yet: the cluster is busy, or still starting them")]
            for reference in ended:
                job, answer, error, died = self._end(reference)
                if job is None:
                    lost += died
                    if error and (not died or lost > self._retries):
                        raise error
                    started = started or not died
                elif error is None:
                    said = json.loads(answer)
                    told += agenda.done(job, said["record"], said["seconds"])
                elif died and job.deaths < self._retries:
                    job.deaths += 1
                    agenda.put_back(job)
                    told.append(
                        Step(job.config, note=f"its worker died; begun again ({job.deaths} of {self._retries})")
                    )
                else:
                    told.append(agenda.drop(job, error))
        agenda.end()

    def close(self) -> None:
        """End the workers, whatever they are doing: a run that is not in the store has not happened."""
        self._seen.unlink(missing_ok=True)
        for worker in [*self._idle, *(worker for worker, _ in self._under_way.values())]:
            self._ray.kill(worker)

    def _start(self) -> None:
        worker = self._kind.remote(self._threads, self._run)
        said = worker.ready.remote(str(self._root), str(self._seen), xprompt.__version__)
        self._under_way[said] = (worker, None)

    def _give(self, worker: Any, job: Job) -> None:
        self._under_way[worker.run.remote(json.dumps(travelling(job.config)), str(self._root))] = (worker, job)

    def _end(self, reference: Any) -> tuple[Job | None, str, Exception | None, bool]:
        """What came of a call: its job, the answer or the error, and whether the worker died (there is a new one)."""
        worker, job = self._under_way.pop(reference)
        kinds = self._ray.exceptions
        try:
            answer = self._ray.get(reference)
        except kinds.RayTaskError as error:  # raised by what ran there
            self._idle.append(worker)
            return job, "", error.cause if isinstance(error.cause, Exception) else error, False
        except kinds.RayError as error:  # its process or its machine is gone
            self._ray.kill(worker)
            self._start()
            gone = ConfigError(
                f"a worker died {job.deaths + 1 if job else self._retries + 1} times "
                f"{'at the same run' if job else 'while starting'} ({one_line(error)}): where memory ran out, give "
                "each run more of the machine (--cpus-per-run, --gpus-per-run), or have fewer --workers."
            )
            return job, "", gone, True
        self._idle.append(worker)
        return job, answer, None, False


def travelling(config: RunConfig) -> dict[str, Any]:
    """The settings with whole paths: a worker's current folder is another one. The run's name is the same."""
    settings = config.settings()
    for name in ("task", "source", "backbone"):
        if settings[name] not in _NAMES and os.path.exists(os.path.expanduser(settings[name])):
            settings[name] = os.path.abspath(os.path.expanduser(settings[name]))
    return settings
