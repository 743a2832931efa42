"""Pretended runs for the tests of executors: as short as wanted, kept in a store, and some of them kill their worker.

`python -m tests.pretended_runs` measures the cost of scheduling: 1,000 short runs on Ray, and the same ones without.
Light to import, since every worker and driver of those tests does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import xprompt
from xprompt.config.run_config import RunConfig
from xprompt.errors import DataError
from xprompt.runs.executors import RayExecutor
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


def pretended(config: RunConfig, root: Path, seconds: float = 0.0) -> dict:
    """Like `xprompt.run` without the work: one at a time for each name, kept in the store, on top of another run."""
    store, name = Store(root), run_id(config.identity(), "", "", "")
    with store.lock(name):
        record = store.get(name)
        if record is None:
            before = config.parent
            below = store.get(run_id(before.identity(), "", "", "")) if before else {"score": 0.0}
            log(root, label(config) if below else f"{label(config)} before what it builds on")
            time.sleep(seconds)
            facts = {"profile": "tiny", "backbone": "", "task": "rte", "protocol": "held_out", "num_params": 1}
            score = below["score"] / 2 + config.seed / 7
            store.put(
                {"run": name, "method": config.method, "seed": config.seed, "score": score, "metrics": {}} | facts
            )
            record = store.get(name)
    return record


def slow(config: RunConfig, root: Path) -> dict:
    return pretended(config, root, 0.3)


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


def napping(config: RunConfig, root: Path, seconds: float) -> dict:
    began = time.monotonic()
    log(root, label(config))
    time.sleep(seconds)
    here = {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "worker": os.getpid()}
    return {"score": 0.0, "began": began, "ended": time.monotonic()} | here


def naps(seconds: float):
    return lambda config, root: napping(config, root, seconds)


def by_value() -> None:
    """Have Ray send workers these functions themselves and not their names: they need not find the tests."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def drive(root: Path, seeds: int, options: dict[str, Any]) -> None:
    """Spread a grid of slow runs, and print how many there were."""
    by_value()
    steps = RayExecutor(root, slow, gpus_per_run=0, **options).each(grid(seeds))
    print(json.dumps([step.record["score"] for step in sorted(steps, key=place) if step.record]))


def place(step: Any) -> int:
    return -1 if step.position is None else step.position


def overhead(root: Path, seeds: int, seconds: float, workers: int = 2, gpus_per_run: float = 0) -> dict[str, Any]:
    """Time a grid of naps on Ray, and the same naps in as many threads that share them out beforehand.

    `over_plain`: how much longer, from the beginning of the first run to the end of the last. The threads schedule
    nothing and ignore what builds on what. `idle`: of the workers' time in that span, from the first run of each, what
    they spent without a run, over what they spent at runs. `startup`: seconds before the first run began.
    """
    by_value()
    configs = grid(seeds)
    (root / "plain").mkdir(parents=True)
    asked = time.monotonic()
    executor = RayExecutor(root, naps(seconds), workers=workers, gpus_per_run=gpus_per_run)
    records = [step.record for step in executor.each(configs) if step.record]
    counted = logged(root)
    assert set(counted) == {label(config) for config in configs} and len(records) == len(configs)
    first, end = min(record["began"] for record in records), max(record["ended"] for record in records)
    began: dict[int, float] = {}
    for record in records:
        began[record["worker"]] = min(began.get(record["worker"], end), record["began"])
    up = sum(end - one for one in began.values())
    busy = sum(record["ended"] - record["began"] for record in records)
    start = time.monotonic()
    with ThreadPool(workers) as pool:
        pool.map(lambda i: [napping(config, root / "plain", seconds) for config in configs[i::workers]], range(workers))
    plain = time.monotonic() - start
    return {
        "runs": len(configs), "most": max(counted.values()), "workers": len(began),
        "gpus": sorted({record["gpu"] or "" for record in records}), "startup": first - asked, "ray": end - first,
        "plain": plain, "over_plain": (end - first) / plain - 1, "idle": up / busy - 1,
    }  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["drive"]:
        drive(Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
    else:
        import tempfile

        import ray

        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        time.sleep(20)  # a new cluster goes on starting processes of its own
        for nap in (0.0, 0.05, 0.1):
            with tempfile.TemporaryDirectory() as folder:
                print(json.dumps({"seconds": nap} | overhead(Path(folder), 200, nap)), flush=True)
