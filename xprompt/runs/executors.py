"""Which executor does the runs of a grid: on this machine, or on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xprompt.errors import ConfigError, did_you_mean
from xprompt.runs.planned_runs import Executor
from xprompt.runs.processes import LocalOptions, ProcessExecutor
from xprompt.runs.ray_tasks import RayExecutor
from xprompt.runs.store import Store

EXECUTORS: tuple[str, ...] = ("local", "ray")


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
