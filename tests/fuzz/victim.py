"""A process that writes to a store until it is ended from outside: `python -m tests.fuzz.victim ROOT NUMBER RUNS`."""

from __future__ import annotations

import sys
from pathlib import Path

from xprompt.config.run_config import RunConfig
from xprompt.runs.store import Store, run_id

METHODS = ("majority", "prompt_tuning", "xprompt")


def names(runs: int) -> dict[str, RunConfig]:
    configs = [RunConfig(task="rte", profile="tiny", method=METHODS[i % 3], seed=i // 3) for i in range(runs)]
    return {run_id(config.identity(), "", "", ""): config for config in configs}


def record(name: str, config: RunConfig) -> dict:
    return {
        "run": name,
        "method": config.method,
        "seed": config.seed,
        "score": config.seed / 7,
        "text": "\u00e9" * 5000,
    }


def write_files(folder: Path) -> None:
    (folder / "tuned_prompt").mkdir()
    (folder / "tuned_prompt" / "prompt.safetensors").write_bytes(bytes(range(256)) * 200)


def main(root: Path, number: str, runs: int) -> None:
    """Do every run that is not there, under its lock, and log each that was done here."""
    store = Store(root)
    for name, config in names(runs).items():
        with store.lock(name):
            if store.get(name) is None:
                store.put(record(name, config), write_files)
                with (root / "log").open("a") as log:  # one write of a short line: whole, whoever else writes
                    log.write(f"{name} {number}\n")
    print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
