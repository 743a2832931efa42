"""Where the runs of a grid are done: in this process, in some of this machine, or on the workers of Ray.

Owns the choice, its check, and the connection to Ray, which is imported only where it is asked for. Never trains and
never imports torch: what is chosen calls `xprompt.run`, which keeps the record.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import loky
import psutil
from pydantic import Field, model_validator

import xprompt
from xprompt.config.profiles import get_profile
from xprompt.config.run_config import RunConfig
from xprompt.config.settings import Settings
from xprompt.errors import ConfigError
from xprompt.runs import local_workers
from xprompt.runs.jobs import Executor, Step, jobs_of, one_line
from xprompt.runs.local_workers import Run
from xprompt.runs.ray_workers import Pool, slots
from xprompt.runs.store import Store

__all__ = [
    "EXECUTORS", "Executor", "LocalExecutor", "LocalOptions", "ProcessExecutor", "RayExecutor", "RayOptions", "Step",
    "get_executor",
]  # fmt: skip
EXECUTORS: tuple[str, ...] = ("local", "ray")
_ENOUGH = 4  # runs for each process, whose start takes as long as one of the smallest
_BYTES = 3 * 2**29  # that a process with a small backbone may need
_MOST = 8  # processes, where nobody says how many: they share a GPU if there is one


class LocalExecutor:
    """One run after another, in this process, in the order given. `run(config)` does one; its result has `.record`."""

    workers = 1

    def __init__(self, run: Callable[[RunConfig], Any]) -> None:
        self._run = run

    def each(self, configs: Sequence[RunConfig]) -> Iterator[Step]:
        """Yield a step as each run begins, and one as it ends; an error ends it all."""
        for position, config in enumerate(configs):
            yield Step(config, position)
            began = time.perf_counter()
            record = dict(self._run(config).record)
            yield Step(config, position, record, time.perf_counter() - began)


def run_here(config: RunConfig, root: Path) -> Mapping[str, Any]:
    """Do a run, or read it where the store under `root` has it, and return its record."""
    return xprompt.run(config, store=root).record


class LocalOptions(Settings):
    """What may be said about processes of this machine; a wrong value is a `ConfigError`."""

    workers: int | None = Field(
        None, ge=1, description="runs at a time; None: one, or where a profile's runs keep one core busy, one a core"
    )


class ProcessExecutor:
    """Runs side by side in processes of this machine; in this one where one at a time is all there is to do.

    How many is said by `workers`, or else by the profiles of the runs: where theirs names the threads that a run makes
    use of, as many as there are cores and memory for, each with that many threads and with some runs to pay for its
    start. A run's numbers do not depend on how many go on beside it.

    Args:
        store: a folder.
        run: what a worker does for a run.
        options: fields of `LocalOptions`.
    """

    def __init__(self, store: Store | str | Path, run: Run = run_here, **options: Any) -> None:
        self.options = LocalOptions(**options)
        self.root = Path(os.path.abspath(store.root if isinstance(store, Store) else store))
        self.workers = self.options.workers or 1
        self._run = run

    def each(self, configs: Sequence[RunConfig]) -> Iterator[Step]:
        """Yield a step as each run ends, in the order in which they do; one at a time, as it begins too."""
        jobs, cores = jobs_of(configs), loky.cpu_count(only_physical_cores=True)
        used = [get_profile(config.profile).threads for config in configs]
        threads = max((t for t in used if t is not None), default=0)
        room = min(cores // threads, psutil.virtual_memory().available // _BYTES, _MOST) if all(used) else 1
        self.workers = max(1, min(self.options.workers or min(room, len(jobs) // _ENOUGH), len(jobs)))
        if self.workers == 1:
            yield from LocalExecutor(lambda config: SimpleNamespace(record=self._run(config, self.root))).each(configs)
            return
        threads = threads or max(1, cores // self.workers)
        each = f"{threads} thread{'s' * (threads > 1)}"
        yield Step(None, note=f"{self.workers} runs at a time, in processes of their own with {each} each")
        yield from local_workers.work(jobs, self._run, self.root, self.workers, threads)


class RayOptions(Settings):
    """What may be said about Ray; a wrong value is a `ConfigError`."""

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
    """Runs side by side on Ray, no run twice, and none begun before the one that it builds on is in the store.

    A worker is one process with its share of CPUs and of a GPU, kept for all its runs, so that the backbone is loaded
    once. Where a worker dies its run is begun again on a new one. A run that raises is not, nor is anything that
    builds on it; the others go on, and the first such error is raised at the end.

    Args:
        store: a folder that every worker sees under the same path.
        run: what a worker does for a run.
        options: fields of `RayOptions`.

    Raises `ConfigError` for a wrong option, where Ray is not installed, or nobody answers at the address.
    """

    def __init__(self, store: Store | str | Path, run: Run = run_here, **options: Any) -> None:
        self.options = RayOptions(**options)
        self.root = Path(os.path.abspath(store.root if isinstance(store, Store) else store))
        self.workers = self.options.workers or 1
        self._run = run
        _import_ray()
        _check_address(self.options.address)

    def each(self, configs: Sequence[RunConfig]) -> Iterator[Step]:
        """Yield a step as each run ends, in the order in which they do. Raises `ConfigError` where there is no room."""
        ray, jobs, cpus = _import_ray(), jobs_of(configs), self.options.cpus_per_run
        with self._connected(ray):
            room, gpus = self._room(ray)
            self.workers = max(1, min(self.options.workers or room, len(jobs)))
            share = f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
            yield Step(None, note=f"up to {self.workers} runs at a time on Ray, each with {share}")
            pool = Pool(ray, self.root, self._run, self.workers, cpus, gpus, self.options.retries)
            with closing(pool):
                yield from pool.work(jobs)

    @contextmanager
    def _connected(self, ray: Any) -> Iterator[None]:
        """Connect, or start Ray on this machine, and end what was started; a connection that is there is used."""
        if ray.is_initialized():
            yield
            return
        try:
            self._connect(ray)
            yield
        finally:
            ray.shutdown()

    def _connect(self, ray: Any) -> None:
        address, workers = self.options.address, self.options.workers
        how: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if address:
            tries, how["address"] = 1, address
            fix = "check the address, and that the same versions of Python and ray run there"
        else:  # a busy machine may not start Ray's own processes within the half minute that Ray allows
            tries, fix = 2, "look into /tmp/ray/session_latest/logs"
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            how |= {"address": "local", "include_dashboard": False}
            how["num_cpus"] = math.ceil(workers * self.options.cpus_per_run) if workers else None
        for left in reversed(range(tries)):
            try:
                ray.init(**how)
                return
            except Exception as error:  # Ray raises its own, Python's and grpc's, by the way it fails
                ray.shutdown()
                if not left:
                    where = f"at {address}" if address else "on this machine"
                    raise ConfigError(f"Ray {where} cannot be used ({one_line(error)}): {fix}.") from error

    def _room(self, ray: Any) -> tuple[int, float]:
        """How many workers there is room for, and the GPUs of each."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        wanted, cpus = self.options.gpus_per_run, self.options.cpus_per_run
        gpus = wanted if wanted is not None else float(any(node.get("GPU") for node in nodes))
        room = slots(nodes, cpus, gpus)
        if not room:
            have = "; ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes)
            raise ConfigError(
                f"a run needs {cpus:g} CPU and {gpus:g} GPU on one machine, which no machine has ({have}): "
                "lower --cpus-per-run or --gpus-per-run."
            )
        return room, gpus


def get_executor(name: str, store: Store | str | Path, **options: Any) -> Executor:
    """Return what does runs and keeps their records in `store`; nothing is started yet.

    Args:
        name: "local" or "ray".
        store: where records live; with Ray, a folder that every worker sees under the same path.
        options: fields of `LocalOptions` or `RayOptions`.

    Raises `ConfigError` for an unknown name or option, where Ray is not installed, or nobody answers at the address.
    """
    if name not in EXECUTORS:
        raise ConfigError(f"unknown executor {name!r}; known: {', '.join(EXECUTORS)}.")
    if name == "ray":
        return RayExecutor(store, **options)
    unknown = [option for option in options if option not in LocalOptions.model_fields]
    if unknown:
        raise ConfigError(f"the executor local has no {', '.join(unknown)}: leave it out, or choose the executor ray.")
    return ProcessExecutor(store, **options)


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
            f"nobody answers at Ray's address {address} ({one_line(error)}): start the cluster with "
            "`ray start --head`, and give host:port as it prints it."
        ) from error
