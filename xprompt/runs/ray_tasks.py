"""The executor on a cluster: every run a Ray task."""

from __future__ import annotations

import math
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import Field, model_validator

import xprompt
from xprompt.config.run_config import RunConfig
from xprompt.config.settings import Settings
from xprompt.errors import ConfigError, HeldError
from xprompt.files import path_of, try_folder
from xprompt.nano.sizes import SIZES
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
    first_line,
    plan_runs,
    run_here,
    timed,
)
from xprompt.runs.store import Store
from xprompt.tasks.superglue import TASKS

_NAMES = (*SIZES, "hub", "smollm2", *TASKS)  # of sources, backbones and tasks; anything else may be a path


class RayOptions(Settings):
    """Options of `RayExecutor`; a wrong value is a `ConfigError`."""

    address: str = Field("", description='of a running cluster, host:port or "auto"; "": one on this machine, for now')
    cpus_per_run: float = Field(1, gt=0, description="CPUs set aside for a run; the whole ones are its threads")
    gpus_per_run: float | None = Field(None, ge=0, description="0.25: four runs a GPU; None: 1 where there are any")
    workers: int | None = Field(None, ge=1, description="runs at a time; None: as many as there is room for")
    retries: int = Field(3, ge=0, description="times that a run is begun again after its worker died")

    @model_validator(mode="after")
    def _whole_gpus(self) -> RayOptions:
        gpus = self.gpus_per_run or 0.0
        if gpus > 1 and not gpus.is_integer():
            raise ValueError(f"gpus_per_run {gpus:g} must be at most 1, or a whole number of GPUs")
        return self


class RayExecutor:
    """Does runs in parallel as Ray tasks; a run's task takes its parents' as arguments, so that Ray orders them.

    Ray shares out CPUs and GPUs and retries a run whose worker died. A run that raises is not retried. Arguments and
    errors as `get_executor`'s; `run` is what a worker does for a run.
    """

    def __init__(self, store: Store | str | Path, run: Run = run_here, **options: Any) -> None:
        self.options = RayOptions(**options)
        self.root, self.workers, self._run = absolute_root(store), self.options.workers or 1, run
        _import_ray()
        _check_address(self.options.address)

    def each(self, configs: Sequence[RunConfig]) -> Iterator[Step]:
        """Yield a step as each run ends. Raises `ConfigError` where no machine has what a run needs."""
        ray, runs = _import_ray(), plan_runs(configs)
        with self._connected(ray), self._marker() as marker:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            cpus, gpus = self.options.cpus_per_run, self.options.gpus_per_run
            gpus = float(any(node.get("GPU") for node in nodes)) if gpus is None else gpus
            slots = count_slots(nodes, cpus, gpus)
            self.workers = max(1, min(self.options.workers or slots, slots, len(runs)))
            share = f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
            yield Step(None, note=f"up to {self.workers} runs at a time on Ray, each with {share}")
            # A process computes on its first run's GPU for good: it does one run where the next may get another GPU.
            calls = int(gpus > 0 and any(node.get("GPU", 0) > 1 for node in nodes))
            shares = {"num_cpus": cpus, "num_gpus": gpus, "max_calls": calls, "max_retries": self.options.retries}
            task = ray.remote(**shares)(work_on_ray)
            given = (self._run, self.root, marker, max(1, int(cpus)), xprompt.__version__)
            yield from as_steps(runs, self._ended(ray, runs, lambda *rest: task.remote(*given, *rest)))

    @contextmanager
    def _marker(self) -> Iterator[Path]:
        """A file by which a worker knows that it sees the store; a lock, so that it shows whether its driver lives."""
        marker = Store(self.root).locks / f"ray-{uuid.uuid4().hex}.lock"
        try_folder(marker.parent)
        with FileLock(marker):
            yield marker
            marker.unlink(missing_ok=True)

    def _ended(self, ray: Any, runs: Sequence[PlannedRun], submit: Callable[..., Any]) -> Ended:
        by_depth = sorted(runs, key=lambda run: run.depth)  # so that few of `workers` tasks wait for a parent
        to_do, tasks, under_way = deque(by_depth), dict[PlannedRun, Any](), dict[Any, PlannedRun]()
        try:
            while to_do or under_way:
                while to_do and len(under_way) < (self.options.workers or len(runs)):
                    if not (run := to_do.popleft()).dropped:
                        wanted_by = [absolute_paths(config) for config in run.wanted_by]
                        parents = [tasks[parent] for parent in run.parents]
                        tasks[run] = submit(absolute_paths(run.config), wanted_by, *parents)
                        under_way[tasks[run]] = run
                for run in map(under_way.pop, ray.wait(list(under_way))[0] if under_way else ()):
                    if run.dropped:  # its task failed as its parent's did
                        continue
                    try:
                        outcome = ray.get(tasks[run])
                    except ray.exceptions.RayError as error:
                        while failed := self._failed(ray, [tasks[p] for p in run.parents if tasks[p] in under_way]):
                            run = under_way.pop(failed)  # the error came down from there
                        outcome = self._cause(error, ray.exceptions.RayError)
                        if isinstance(outcome, MachineError):  # there, every run would fail
                            raise outcome from None
                    yield run, outcome
        finally:
            for task in under_way:
                ray.cancel(task, force=True)

    def _failed(self, ray: Any, tasks: Sequence[Any]) -> Any:
        """Return the first of the tasks that has ended by an error; None where none has."""
        for task in ray.wait(list(tasks), num_returns=len(tasks), timeout=0)[0] if tasks else ():
            try:
                ray.get(task)
            except ray.exceptions.RayError:
                return task
        return None

    def _cause(self, error: Exception, kind: type[Exception]) -> Exception:
        """Return what a run raised, or a `ConfigError` where its workers died."""
        cause = getattr(error, "cause", error)
        if isinstance(cause, Exception) and not isinstance(cause, kind):
            cause.__cause__ = error  # which says where in the worker
            return cause
        return ConfigError(
            f"a worker died {self.options.retries + 1} times at the same run ({first_line(cause)}): where memory ran "
            "out, give each run more of the machine (--cpus-per-run, --gpus-per-run), or have fewer --workers."
        )

    @contextmanager
    def _connected(self, ray: Any) -> Iterator[None]:
        """Connect, or start Ray on this machine, and disconnect at the end; use a connection that is there."""
        if ray.is_initialized():
            yield
            return
        address, workers = self.options.address, self.options.workers
        how: dict[str, Any] = {"address": address or "local", "log_to_driver": False, "logging_level": "error"}
        where, fix = f"at {address}", "check the address, and that the same versions of Python and ray run there"
        if not address:
            how["include_dashboard"] = False
            how["num_cpus"] = math.ceil(workers * self.options.cpus_per_run) if workers else None
            where, fix = "on this machine", "look into /tmp/ray/session_latest/logs"
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_task_oom_retries", str(self.options.retries))  # without end otherwise
        try:
            for last in (bool(address), True):  # a busy machine may miss the half minute that Ray gives itself to start
                try:
                    ray.init(**how)
                    break
                except Exception as error:  # Ray's own, Python's or grpc's, by the way it fails
                    ray.shutdown()
                    if last:
                        raise ConfigError(f"Ray {where} cannot be used ({first_line(error)}): {fix}.") from error
            yield
        finally:
            ray.shutdown()


def count_slots(nodes: Sequence[Mapping[str, float]], cpus: float, gpus: float) -> int:
    """Count the runs of so many CPUs and GPUs that fit the machines at a time. Raises `ConfigError` for none."""
    shares = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    # 0.3 / 0.1 is 2.999…
    slots = sum(min(int(node.get(kind, 0) / share + 1e-9) for kind, share in shares.items()) for node in nodes)
    if not slots:
        have = "; ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes)
        raise ConfigError(
            f"a run needs {cpus:g} CPU and {gpus:g} GPU on one machine, which no machine has ({have}): "
            "lower --cpus-per-run or --gpus-per-run."
        )
    return slots


def absolute_paths(config: RunConfig) -> dict[str, Any]:
    """Return a run's settings with absolute paths, for a worker in another folder. Its ID is the same."""
    settings = config.settings()
    for name in ("task", "source", "backbone"):
        settings[name] = _absolute(settings[name])
    settings["source_tasks"] = [_absolute(task) for task in settings["source_tasks"]]
    return settings


def _absolute(name: str) -> str:
    path = os.path.abspath(path_of(name))
    return path if name not in _NAMES and os.path.exists(path) else name


class MachineError(ConfigError):
    """A machine of a cluster can do none of the runs."""


def work_on_ray(
    run: Run, root: Path, marker: Path, threads: int, version: str, settings: Any, wanted_by: Any, *parents: Any
) -> Timed:
    """Do a run as a Ray task, which begins when `parents` are done; raise `MachineError` where this machine cannot."""
    wrong = "" if marker.exists() else f"does not see {root}: give an --output that all machines share, under one path"
    if xprompt.__version__ != version:
        wrong = f"has xprompt {xprompt.__version__}, not {version}: install the same version on every machine"
    if wrong:
        raise MachineError(f"a worker on {socket.gethostname()} {wrong}.")
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    while True:
        try:
            return timed(run, RunConfig(**settings), root, [RunConfig(**other) for other in wanted_by])
        except HeldError:
            time.sleep(LOOK_AGAIN)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "the executor ray needs the package ray, which is not installed here: "
            "run `pip install -c constraints.txt -e .[ray]`."
        ) from error
    return ray


def _check_address(address: str) -> None:
    """Ask at host:port whether anybody is there; Ray alone would take a minute to find out."""
    host, colon, port = address.rpartition(":")
    if not address or address == "auto" or "://" in address:
        return
    if not (host and colon and port.isdigit()):
        raise ConfigError(f"Ray's address {address!r}: give host:port as `ray start --head` prints it, or auto.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"nobody answers at Ray's address {address} ({first_line(error)}): start the cluster with "
            "`ray start --head`, and give host:port as it prints it."
        ) from error
