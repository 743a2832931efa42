"""The command that does one run: `python -m xprompt run`, on one process or, by `accelerate launch`, on several.

Owns its choices, what it prints and its exit code. Never trains: `pipeline.run` does, and reads what is done already.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

from xprompt.config.methods import METHODS
from xprompt.config.profiles import PROFILES
from xprompt.config.run_config import RunConfig
from xprompt.config.settings import PROTOCOLS, Settings
from xprompt.distributed import join_processes
from xprompt.errors import ConfigError, XPromptError
from xprompt.runs.run import run
from xprompt.tasks.superglue import TASKS


def main_run(arguments: Sequence[str] | None = None) -> int:
    """Do one run and return the exit code: 0 done, 2 wrong choices, 130 interrupted."""
    own = argparse.ArgumentParser(prog="python -m xprompt run", description=ABOUT)
    add_choices(own)
    try:
        return do(own.parse_args(arguments))
    except XPromptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


ABOUT = (
    "Do one run and print its metrics; a run that is in the report's folder already is read, and one that was "
    "interrupted goes on where it was. `accelerate launch --num_processes N -m xprompt run …` spreads the batches "
    "over N processes: the same global batch, the same prompt."
)


def add_choices(own: argparse.ArgumentParser) -> None:
    """Give a parser this command's choices."""
    own.add_argument("--task", required=True, help=f"one of {', '.join(TASKS)}, or a task.json of your own")
    own.add_argument("--profile", default="nano", help=f"one of {', '.join(PROFILES)}; default: nano")
    own.add_argument("--method", default="xprompt", help=f"one of {', '.join(METHODS)}; default: xprompt")
    own.add_argument("--seed", type=int, default=0, help="default: 0")
    own.add_argument("--protocol", default="held_out", help=f"{' or '.join(PROTOCOLS)}; default: held_out")
    own.add_argument("--data-dir", default="", metavar="FOLDER", help="SuperGLUE in its official release layout; "
                     "default: the profile's own source")  # fmt: skip
    own.add_argument("--output", default="", metavar="FOLDER", help="the report's folder; default: reports/<profile>")
    own.add_argument("--device-map", metavar="MAP", help="spread the backbone over this machine's devices: auto, "
                     "balanced or sequential; needs accelerate; not together with several processes")  # fmt: skip
    own.add_argument("--no-watch", action="store_true", help="write no TensorBoard event files")
    own.add_argument("--save-every", type=float, default=30.0, metavar="SECONDS", help="between two states that an "
                     "interrupted run goes on from; default: 30")  # fmt: skip
    own.add_argument("--set", action="append", metavar="NAME=VALUE", default=[], help="a setting of the run, in JSON "
                     "or a plain word, such as --set tune.batch_size=32 --set prune.retune.gradient_checkpointing=true "
                     "--set dtype=bfloat16")  # fmt: skip


def do(chosen: argparse.Namespace) -> int:
    """Do what was chosen; every process of a launch comes here, the main one prints."""
    config = RunConfig(
        task=chosen.task, profile=chosen.profile, method=chosen.method, seed=chosen.seed, protocol=chosen.protocol,
        source=chosen.data_dir,
    )  # fmt: skip
    for pair in chosen.set:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: give NAME=VALUE.")
        config = _changed(config, name.split("."), _value(text))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with join_processes() as process_group:
            if process_group.world_size > 1 and chosen.device_map is not None:
                raise ConfigError(
                    f"--device-map {chosen.device_map} with {process_group.world_size} processes: each process has one "
                    "device; leave one of the two out."
                )
            result = run(
                config,
                chosen.output or None,
                progress=process_group.is_main and sys.stderr.isatty(),
                watch=not chosen.no_watch,
                save_every=chosen.save_every,
                device_map=chosen.device_map,
            )
            if process_group.is_main:
                found = ", ".join(f"{name} {100 * value:.1f}" for name, value in result.metrics.items())
                done = f"{result.record['task']} {config.method} seed {config.seed}"
                print(f"{done}: {found}; {result.folder}", flush=True)
    except KeyboardInterrupt:
        print("Interrupted: the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def _changed(settings: Any, path: list[str], value: Any) -> Any:
    """The settings with the value at that path; of the two lengths, a new one takes the other's place."""
    name, *rest = path
    if rest:
        inner = getattr(settings, name, None)
        if not isinstance(inner, Settings):
            raise ConfigError(f"--set {'.'.join(path)}: {type(settings).__name__} has no settings named {name!r}.")
        return settings.replace(**{name: _changed(inner, rest, value)})
    other = {"steps": "epochs", "epochs": "steps"}.get(name)
    return settings.replace(**({other: None} if other else {}), **{name: value})


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    sys.exit(main_run())
