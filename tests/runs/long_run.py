"""Many runs in one process, which must hold no more at the end than after the first ones.

`python tests/runs/long_run.py [RUNS]` does 500 real runs in a folder for the time, and exits with 1 where memory, file
handles, threads, child processes or leftovers have grown.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

import xprompt
from xprompt.config.run_config import RunConfig
from xprompt.reporting.layout import Report
from xprompt.runs.store import Store

RUNS = 500
WARM_UP = 10  # runs after which nothing grows any more, one of each kind among them: libraries are loaded
MEMORY = 24 * 2**20  # bytes of growth that a heap's holes explain; a prompt that is kept a run would be seen


@dataclass(frozen=True)
class Held:
    """What a process and its store hold between two runs."""

    memory: int
    files: int
    threads: int
    children: int
    locks: int
    staged: int
    unfinished: int

    def grown(self, since: Held) -> dict[str, int]:
        """Return what has grown, and by how much."""
        allowed = {"memory": MEMORY}
        more = {name: value - asdict(since)[name] for name, value in asdict(self).items()}
        return {name: by for name, by in more.items() if by > allowed.get(name, 0)}


def measure(store: Store) -> Held:
    gc.collect()
    process = psutil.Process()
    return Held(
        process.memory_info().rss,
        process.num_fds() if hasattr(process, "num_fds") else process.num_handles(),
        process.num_threads(),
        len(process.children(recursive=True)),
        *(len(list(folder.glob("*"))) for folder in (store.locks, store.staging, store.unfinished)),
    )


def config(number: int) -> RunConfig:
    """A run of a few steps, and now and then one that starts from it."""
    method = "xprompt" if number % 10 == 9 else "prompt_tuning"
    small = RunConfig(task="rte", profile="tiny", method=method, seed=number, limit_train=16, limit_validation=16)
    return small.replace(tune=small.tune.replace(steps=2, eval_every=1))


def long_run(root: Path, runs: int = RUNS) -> tuple[Held, Held]:
    """Do that many runs under `root`, and return what was held after the warm-up and at the end.

    Each is written to the report's manifest and read back, as a grid's runs are.
    """
    store, report, first = Store(root), Report(root), None
    for number in range(runs):
        result = xprompt.run(config(number), store=store, watch=False, save_every=0.0)
        assert xprompt.find(config(number), store).record == result.record
        report.note_notebook(f"n{number % 5}", {"status": "done", "run": result.record["run"]})
        if number + 1 == max(WARM_UP, runs // 5):  # caches are full then, too
            first = measure(store)
    assert first is not None, f"give more than {WARM_UP} runs"
    return first, measure(store)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        first, last = long_run(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else RUNS)
    print(f"after the warm-up {first}\nat the end        {last}")
    if grown := last.grown(first):
        sys.exit(f"grown: {grown}")
