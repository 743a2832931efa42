"""Hundreds of runs in one process: memory, open files, threads and lock files stay flat."""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from pathlib import Path

import psutil

import xprompt as xp
from xprompt.runs.store import Store

#: Bytes that memory may grow by after the first quarter of the runs, however many follow.
GROWTH = 60 * 2**20


def measure(store: Store) -> dict[str, int]:
    """Count what a process that leaks has more and more of."""
    gc.collect()
    process = psutil.Process()
    locks = [path for path in store.locks.glob("*") if path.name != "manifest.lock"]
    left = [*locks, *store.staging.glob("*"), *store.unfinished.glob("*")]
    return {"memory": process.memory_info().rss, "open files": process.num_fds(), "threads": process.num_threads(),
            "files left over": len(left)}  # fmt: skip


def long_run(count: int, root: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Do `count` short runs of prompt tuning; return what was measured after a quarter of them, and at the end."""
    store, early = Store(root), {}
    base = xp.RunConfig(task="rte", profile="tiny", method="prompt_tuning")
    tune = base.tune.replace(steps=1, eval_every=1)
    for seed in range(count):
        xp.run(base.replace(seed=seed, tune=tune, limit_train=40, limit_validation=8), store, watch=False)
        if seed + 1 == max(1, count // 4):
            early = measure(store)
    return early, measure(store)


def grown(early: dict[str, int], late: dict[str, int]) -> list[str]:
    """Say what grew."""
    return [
        f"{name}: {early[name]:,} after a quarter, {late[name]:,} at the end"
        for name in late
        if late[name] > early[name] + (GROWTH if name == "memory" else 0)
    ]


def main() -> int:
    """Do the runs in a new folder; return 1 where something grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    with tempfile.TemporaryDirectory() as folder:
        early, late = long_run(parser.parse_args().runs, Path(folder))
    print(early, late)
    for what in grown(early, late):
        print(what, file=sys.stderr)
    return int(bool(grown(early, late) or late["files left over"]))


if __name__ == "__main__":
    sys.exit(main())
