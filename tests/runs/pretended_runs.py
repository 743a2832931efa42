"""Pretended runs for the tests of executors: short, kept in a store, and some of them kill their worker.

Light to import, since every worker and driver of those tests does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import xprompt
from xprompt.config.run_config import RunConfig
from xprompt.errors import DataError
from xprompt.runs.processes import ProcessExecutor
from xprompt.runs.ray_tasks import RayExecutor
from xprompt.runs.store import Store, run_id

SEARCHES = ("prompt_tuning", "prompt_tuning_matched", "xprompt", "prompt_tuning_length", "majority")


def grid(seeds: int = 1, methods: tuple[str, ...] = SEARCHES) -> list[RunConfig]:
    return [
        RunConfig(task="rte", profile="tiny", method=method, seed=seed) for seed in range(seeds) for method in methods
    ]


def log(root: Path, what: str) -> None:
    with (root / "log").open("a") as file:  # one write of a short line: whole, whoever else writes
        file.write(f"{what} {os.getpid()}\n")


def logged(root: Path) -> Counter[str]:
    path = root / "log"
    return Counter(line.rsplit(" ", 1)[0] for line in path.read_text().splitlines()) if path.exists() else Counter()


def label(config: RunConfig) -> str:
    return f"{config.method}-{config.seed}"


def pretended(config: RunConfig, root: Path, seconds: float = 0.0, timeout: float = -1) -> dict:
    """Like `xprompt.run` without the work: under its run's lock, kept in the store, from its parent's record."""
    store, name = Store(root), run_id(config.identity(), "", "", "")
    with store.lock(name, timeout):
        record = store.get(name)
        if record is None:
            below = [store.get(run_id(parent.identity(), "", "", "")) for parent in config.parents]
            log(root, f"{label(config)} before its parent" if None in below else label(config))
            time.sleep(seconds)
            facts = {"profile": "tiny", "backbone": "", "task": "rte", "protocol": "held_out", "num_params": 1}
            score = sum(record["score"] for record in below) / 2 + config.seed / 7
            store.put(
                {"run": name, "method": config.method, "seed": config.seed, "score": score, "metrics": {}} | facts
            )
            record = store.get(name)
    return record


def impatient(config: RunConfig, root: Path, seconds: float = 0.0) -> dict:
    """As `run_here`: parents first, and where another process holds one of them or the run, do not wait."""
    for parent in config.parents:
        impatient(parent, root, seconds)
    return pretended(config, root, seconds, timeout=0)


def impatient_and_slow(config: RunConfig, root: Path) -> dict:
    return impatient(config, root, 0.1)


def slow(config: RunConfig, root: Path) -> dict:
    return pretended(config, root, 0.15)


def unlucky(config: RunConfig, root: Path) -> dict:
    """One run kills its first worker, one kills every worker, and one raises."""
    name, end = label(config), f"{label(config)} killed its worker"
    if name == "xprompt-3" or (name == "xprompt-1" and not logged(root)[end]):
        log(root, end)
        os.kill(os.getpid(), signal.SIGKILL)
    return failing(config, root)


def failing(config: RunConfig, root: Path) -> dict:
    """One run raises."""
    if label(config) == "prompt_tuning-2":
        raise DataError("RTE/train.jsonl, line 3: no label.")
    return pretended(config, root)


class Unsendable(Exception):
    """It cannot be made of its one argument again, as unpickling would."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def unsendable(config: RunConfig, root: Path) -> dict:
    if label(config) == "prompt_tuning-2":
        raise Unsendable("a", "b")
    return pretended(config, root)


def threads_of(config: RunConfig, root: Path) -> dict:
    import torch

    return {"score": 0.0, "threads": torch.get_num_threads()}


class MortalStore(Store):
    """A store whose process is killed once when a record is all but in its place; it logs the others."""

    def _move_into_place(self, folder: Path, target: Path) -> None:
        written = json.loads((folder / "record.json").read_text())["record"]["method"]
        if written == "xprompt" and not (self.root / "killed").exists():
            (self.root / "killed").touch()
            log(self.root, "killed at xprompt")
            os.kill(os.getpid(), signal.SIGKILL)
        super()._move_into_place(folder, target)
        log(self.root, written)


def mortal(config: RunConfig, root: Path) -> dict:
    """A real run, in a store of that kind, on one thread."""
    import torch

    assert torch.get_num_threads() == 1
    return xprompt.run(config, store=MortalStore(root)).record


def napping(config: RunConfig, root: Path) -> dict:
    began = time.monotonic()
    log(root, label(config))
    time.sleep(0.005)
    return {"began": began, "ended": time.monotonic(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}


def write_tables(ready: Any, root: str, number: int) -> None:
    """Write tables of one's own, and one that others write too."""
    import pandas as pd

    from xprompt.reporting.layout import Report

    report = Report(root, f"n{number}")
    ready.wait()
    for j in range(6):
        report.save_table(f"beyond-{number}-{j}", pd.DataFrame({"x": [str(number)]}), "t")
        report.save_table("beyond-shared", pd.DataFrame({"x": [str(number)]}), "t")


def by_value() -> None:
    """Have Ray send workers these functions themselves and not their names: they need not find the tests."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def drive(root: Path, seeds: int, options: dict[str, Any]) -> None:
    """Do a grid of slow runs, on Ray where there is its address, and print their scores."""
    if "address" in options:
        by_value()
    executor = RayExecutor if "address" in options else ProcessExecutor
    work = impatient_and_slow if options.pop("impatient", False) else slow
    steps = [step for step in executor(root, work, **options).each(grid(seeds)) if step.record and not step.note]
    print(json.dumps([step.record["score"] for step in sorted(steps, key=lambda step: step.position)]))


if __name__ == "__main__":
    # A suite that was started in the background has its children ignore Ctrl-C, which the tests send.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # By their own name, so that workers find these functions.
    from tests.runs import pretended_runs

    pretended_runs.drive(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
