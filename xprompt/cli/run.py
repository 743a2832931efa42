"""`python -m xprompt run`: one run, on one process or, by `accelerate launch`, on several."""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xprompt.cli.arguments import add_backbone, check_option, parse_values
from xprompt.config.methods import METHODS
from xprompt.config.overrides import check_used, override, without_dot
from xprompt.config.profiles import PROFILES
from xprompt.config.run_config import RunConfig
from xprompt.config.settings import PROTOCOLS
from xprompt.errors import ConfigError
from xprompt.tasks.superglue import TASKS
from xprompt.units import readable_duration

#: Settings with an option each. Others are filled in from some of them: one that --set changed later would not be.
_OPTIONS = {
    "task": "--task", "profile": "--profile", "method": "--method", "seed": "--seed", "protocol": "--protocol",
    "backbone": "--backbone", "source": "--data-dir",
}  # fmt: skip
HELP = "do one run and print its metrics"
DESCRIPTION = (
    "Do one run and print its metrics. A finished run is read from the report's folder; an interrupted one resumes. "
    "`accelerate launch --num_processes N -m xprompt run …` spreads each batch over N processes: the same global "
    "batch, the same prompt."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser this subcommand's choices."""
    parser.add_argument("--task", required=True, help=f"one of {', '.join(TASKS)}, or the task.json of a custom task")
    parser.add_argument("--profile", default="nano", help=f"one of {', '.join(PROFILES)}; default: %(default)s")
    add_backbone(parser)
    parser.add_argument("--method", default="xprompt", help=f"one of {', '.join(METHODS)}; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--protocol", default="held_out", help=f"{' or '.join(PROTOCOLS)}; default: %(default)s")
    parser.add_argument("--data-dir", default="", metavar="FOLDER", help="SuperGLUE in its official release layout; "
                        "default: the profile's source")  # fmt: skip
    parser.add_argument("--output", default="", metavar="FOLDER", help="report folder; default: reports/<profile>")
    parser.add_argument("--device-map", metavar="MAP", help="spread the backbone over this machine's devices: auto, "
                        "balanced or sequential; needs accelerate; not with several processes")  # fmt: skip
    parser.add_argument("--no-watch", action="store_true", help="write no TensorBoard event files")
    parser.add_argument("--save-every", type=float, default=30.0, metavar="SECONDS", help="time between checkpoints "
                        "that an interrupted run resumes from; default: %(default)g")  # fmt: skip
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", default=[], help="a setting of the run, in "
                        "JSON or a plain word: --set tune.batch_size=32 --set prune.retune.gradient_checkpointing=true "
                        "--set dtype=bfloat16")  # fmt: skip


def execute(chosen: argparse.Namespace) -> int:
    """Do the chosen run and return 0; every process of a launch comes here, the main one prints."""
    given = parse_values(chosen.set)
    config = _configure(chosen, given)
    rates = {"tune.learning_rate", "fine_tune.learning_rate"} & given.keys()
    if rates and config.method in config.learning_rates:
        rate = json.dumps({config.method: given[min(rates)]})
        raise ConfigError(
            f"--set {min(rates)}={given[min(rates)]}: {config.method} is trained at its own rate, "
            f"{config.learning_rates[config.method]:g}; needed --set 'learning_rates={rate}'."
        )

    from xprompt.distributed import join_processes  # these two import torch
    from xprompt.runs.grid import done_before
    from xprompt.runs.run import run

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with join_processes() as process_group:
        if process_group.world_size > 1 and chosen.device_map is not None:
            raise ConfigError(
                f"--device-map {chosen.device_map} with {process_group.world_size} processes: each process has one "
                "device; leave one of the two out."
            )
        began = datetime.datetime.now(datetime.timezone.utc)
        result = run(
            config,
            chosen.output or None,
            progress=process_group.is_main and sys.stderr.isatty(),
            watch=not chosen.no_watch,
            save_every=chosen.save_every,
            device_map=chosen.device_map,
        )
        if process_group.is_main:
            print("\n".join(_describe(result.record, result.folder, done_before(result.record, began))), flush=True)
    return 0


def _configure(chosen: argparse.Namespace, given: Mapping[str, Any]) -> RunConfig:
    """Return the run's settings: those of the options, then values given whole, then single ones of a group."""
    check_option(given, _OPTIONS)
    check_used([chosen.method], chosen.protocol, given)
    config = RunConfig(
        task=chosen.task, profile=chosen.profile, method=chosen.method, seed=chosen.seed, protocol=chosen.protocol,
        source=chosen.data_dir, backbone=chosen.backbone, **without_dot(given),
    )  # fmt: skip
    return override(config, given)


def _describe(record: dict[str, Any], folder: Path, read: bool) -> list[str]:
    """Return what a run came to, beside what answering the most frequent label scores, and where it lies."""

    def scores(metrics: dict[str, float]) -> str:
        return ", ".join(f"{name} {100 * value:.1f}" for name, value in metrics.items())

    lines = [f"{record['task']} {record['method']} seed {record['seed']}: {scores(record['metrics'])}"]
    lines.append(f"  majority class: {scores(record['majority'])}")
    details = record["details"]
    if "token_mask" in details:
        pieces = len(details["token_mask"]) * len(details["piece_mask"][0])
        lines.append(
            f"  survived: {details['surviving_tokens']} of {len(details['token_mask'])} tokens, "
            f"{details['surviving_pieces']} of {pieces} pieces"
        )
    spent = readable_duration(record["seconds"]["total"])
    when = f"read, done {record['provenance']['started'][:10]} in {spent}" if read else f"done in {spent}"
    return [*lines, f"  {when}: {folder}"]
