"""Where the runs of a grid are done: in this process, in parallel on this machine (joblib), or on a cluster (Ray)."""

from __future__ import annotations

import itertools
import json
import math
import os
import socket
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import joblib
import psutil
from filelock import FileLock
from loky import get_reusable_executor
from pydantic import Field, model_validator

import xprompt
from xprompt.backbones.malloc import give_back_freed_memory
from xprompt.config.profiles import get_profile
from xprompt.config.run_config import RunConfig
from xprompt.config.settings import Settings
from xprompt.errors import ConfigError, HeldError, did_you_mean
from xprompt.files import try_folder
from xprompt.nano.sizes import SIZES
from xprompt.runs.store import Store
from xprompt.tasks.superglue import TASKS

EXECUTORS: tuple[str, ...] = ("local", "ray")
Run = Callable[[RunConfig, Path], Mapping[str, Any]]
_RUNS_PER_PROCESS = 4  # a process takes as long to start as one of the smallest runs
_BYTES_PER_PROCESS = 3 * 2**29  # with a small backbone
_MAX_PROCESSES = 8  # unless asked for: they share a GPU if there is one
_LOOK_AGAIN = 1.0  # seconds between two looks at runs that another process does
HELD = "another process does this run; the others first"
_IDLE_SECONDS = 60  # until a process without a run ends, and its memory is free
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # read as the numeric libraries are loaded
_NAMES = (*SIZES, "hub", "smollm2", *TASKS)  # of sources, backbones and tasks; anything else may be a path


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
    dropped: bool = False  # it, or an ancestor, has failed


#: A run and its record with its seconds, or what it raised.
_Ended = Iterator[tuple[PlannedRun, tuple[Mapping[str, Any], float] | Exception]]


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
    return list(runs.values())


def run_here(config: RunConfig, root: Path) -> Mapping[str, Any]:
    """Do a run, or read it from the store under `root`, and return its record. Raises `HeldError`."""
    return xprompt.run(config, store=root, wait=False).record


class LocalExecutor:
    """Does one run after another in this process, in the order given. `run(config)` returns what has a `.record`."""

    workers = 1

    def __init__(self, run: Callable[[RunConfig], Any]) -> None:
        self._run = run

    def each(self, configs: Sequence[RunConfig]) -> Iterator[Step]:
        """Yield a step as each run begins and one as it ends; an error ends all.

        A run that another process does comes later, when the others are done.
        """
        to_do, told = deque(enumerate(configs)), set[int]()
        while to_do:
            position, config = to_do.popleft()
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
                    time.sleep(_LOOK_AGAIN)
                continue
            yield Step(config, position, record, time.perf_counter() - began)


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
        self.root, self.workers, self._run = _root(store), self.options.workers or 1, run

    def each(self, configs: Sequence[RunConfig]) -> Iterator[Step]:
        """Yield a step as each run ends; one at a time, as it begins too. Raises `ConfigError` where a process dies."""
        runs, profiles = plan_runs(configs), [config.profile for config in configs]
        room, threads = count_processes(profiles), _threads(profiles)
        self.workers = max(1, min(self.options.workers or min(room, len(runs) // _RUNS_PER_PROCESS), len(runs)))
        if self.workers == 1:
            yield from LocalExecutor(lambda config: SimpleNamespace(record=self._run(config, self.root))).each(configs)
            return
        threads = threads or max(1, _cores() // self.workers)
        yield Step(None, note=f"{self.workers} processes with {threads} thread{'s' * (threads > 1)} each")
        yield from _steps(runs, self._ended(runs, threads))

    def _ended(self, runs: Sequence[PlannedRun], threads: int) -> _Ended:
        """Do the runs in the order given, each as soon as its parents are done and a process is free."""
        pool = get_reusable_executor(self.workers, timeout=_IDLE_SECONDS, env=dict.fromkeys(THREADS, str(threads)))
        to_do, done, held = list(runs), set[PlannedRun](), set[PlannedRun]()
        under_way: dict[Future[Any], PlannedRun] = {}
        try:
            while to_do or under_way:
                ready = (run for run in to_do if run not in held and done.issuperset(run.parents))
                for run in list(itertools.islice(ready, self.workers - len(under_way))):
                    to_do.remove(run)
                    under_way[pool.submit(_attempt, self._run, run.config, self.root)] = run
                if not under_way:  # others do all that could be done now
                    time.sleep(_LOOK_AGAIN)
                ended = wait(under_way, timeout=_LOOK_AGAIN if held else None, return_when=FIRST_COMPLETED).done
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


def count_processes(profiles: Sequence[str]) -> int:
    """Count the processes that have room on this machine for runs of these profiles, each at its `threads`.

    As many as cores and memory allow, at most `_MAX_PROCESSES`; 1 where a profile names no number of threads, since
    its runs may use all cores, or no profile is given.
    """
    threads = _threads(profiles)
    if not threads or None in [get_profile(profile).threads for profile in profiles]:
        return 1
    return max(1, min(_cores() // threads, psutil.virtual_memory().available // _BYTES_PER_PROCESS, _MAX_PROCESSES))


def _threads(profiles: Sequence[str]) -> int:
    """Return the most threads that one of the profiles names; 0 where none does."""
    return max((get_profile(profile).threads or 0 for profile in profiles), default=0)


def _cores() -> int:
    return int(joblib.cpu_count(only_physical_cores=True))


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
        self.root, self.workers, self._run = _root(store), self.options.workers or 1, run
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
            yield from _steps(runs, self._ended(ray, runs, lambda *rest: task.remote(*given, *rest)))

    @contextmanager
    def _marker(self) -> Iterator[Path]:
        """A file by which a worker knows that it sees the store; a lock, so that it shows whether its driver lives."""
        marker = Store(self.root).locks / f"ray-{uuid.uuid4().hex}.lock"
        try_folder(marker.parent)
        with FileLock(marker):
            yield marker
            marker.unlink(missing_ok=True)

    def _ended(self, ray: Any, runs: Sequence[PlannedRun], submit: Callable[..., Any]) -> _Ended:
        by_depth = sorted(runs, key=lambda run: run.depth)  # so that few of `workers` tasks wait for a parent
        to_do, tasks, under_way = deque(by_depth), dict[PlannedRun, Any](), dict[Any, PlannedRun]()
        try:
            while to_do or under_way:
                while to_do and len(under_way) < (self.options.workers or len(runs)):
                    if not (run := to_do.popleft()).dropped:
                        tasks[run] = submit(absolute_paths(run.config), *(tasks[parent] for parent in run.parents))
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
            f"a worker died {self.options.retries + 1} times at the same run ({_first_line(cause)}): where memory ran "
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
                        raise ConfigError(f"Ray {where} cannot be used ({_first_line(error)}): {fix}.") from error
            yield
        finally:
            ray.shutdown()


def get_executor(name: str, store: Store | str | Path, **options: Any) -> Executor:
    """Return what does runs and keeps their records in `store`; nothing is started yet.

    Args:
        name: "local" or "ray".
        store: where records live; with Ray, a folder that every worker sees under the same path.
        options: fields of `LocalOptions` or `RayOptions`.

    A run that raises takes along only what starts from it; the first such error is raised when the others are done.
    Raises `ConfigError` for an unknown name or option, where Ray is not installed, or nobody answers at the address.
    """
    if name not in EXECUTORS:
        raise ConfigError(f"unknown executor {name!r}; known: {', '.join(EXECUTORS)}.{did_you_mean(name, EXECUTORS)}")
    if name == "ray":
        return RayExecutor(store, **options)
    unknown = [option for option in options if option not in LocalOptions.model_fields]
    if unknown:
        raise ConfigError(f"the executor local has no {', '.join(unknown)}: leave it out, or choose the executor ray.")
    return ProcessExecutor(store, **options)


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
    path = os.path.abspath(os.path.expanduser(name))
    return path if name not in _NAMES and os.path.exists(path) else name


class MachineError(ConfigError):
    """A machine of a cluster can do none of the runs."""


def work_on_ray(run: Run, root: Path, marker: Path, threads: int, version: str, settings: Any, *parents: Any) -> Any:
    """Do a run as a Ray task, which begins when `parents` are done; raise `MachineError` where this machine cannot."""
    wrong = "" if marker.exists() else f"does not see {root}: give an --output that all machines share, under one path"
    if xprompt.__version__ != version:
        wrong = f"has xprompt {xprompt.__version__}, not {version}: install the same version on every machine"
    if wrong:
        raise MachineError(f"a worker on {socket.gethostname()} {wrong}.")
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    while True:
        try:
            return _timed(run, RunConfig(**settings), root)
        except HeldError:
            time.sleep(_LOOK_AGAIN)


def _attempt(run: Run, config: RunConfig, root: Path) -> tuple[dict[str, Any], float] | Exception:
    """Do a run in a process of the pool; return what it raises with where, which a process does not send otherwise."""
    try:
        return _timed(run, config, root)
    except Exception as error:
        error.__notes__ = [traceback.format_exc()]
        return error


def _timed(run: Run, config: RunConfig, root: Path) -> tuple[dict[str, Any], float]:
    began = time.perf_counter()
    record = dict(run(config, root))
    seconds = time.perf_counter() - began
    if seconds > 1:  # a shorter run frees little, and this takes a tenth of a second
        give_back_freed_memory()  # to the other processes
    return record, seconds


def _steps(runs: Sequence[PlannedRun], ended: _Ended) -> Iterator[Step]:
    """Turn what became of the runs into steps, drop the descendants of one that raised, and raise its error last."""
    errors = []
    for run, outcome in ended:
        if isinstance(outcome, Exception):
            errors.append(outcome)
            run.dropped, others = True, 0
            for other in runs:  # parents come first
                if any(parent.dropped for parent in other.parents) and not other.dropped:
                    other.dropped, others = True, others + 1
            also = f"; left out for that, {others} that start from it" if others else ""
            yield Step(run.config, note=f"failed: {type(outcome).__name__}: {_first_line(outcome)}{also}")
        else:
            record, seconds = outcome
            yield from (Step(run.config, position, dict(record), seconds) for position in run.positions or (None,))
    if errors:
        raise errors[0]


def _root(store: Store | str | Path) -> Path:
    return Path(os.path.abspath(store.root if isinstance(store, Store) else store))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
            f"nobody answers at Ray's address {address} ({_first_line(error)}): start the cluster with "
            "`ray start --head`, and give host:port as it prints it."
        ) from error
