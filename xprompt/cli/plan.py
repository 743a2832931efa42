"""`python -m xprompt plan`: what a report will cost on this machine, before anything is downloaded."""

from __future__ import annotations

import argparse

from xprompt.cli.arguments import add_backbone, check_option, parse_values, split_names
from xprompt.config.methods import METHODS
from xprompt.config.profiles import PROFILES
from xprompt.tasks.superglue import TASKS

#: Settings with an option each.
_OPTIONS = {
    "task": "--tasks", "profile": "--profile", "method": "--methods", "seed": "--seeds", "backbone": "--backbone",
    "source": "--data-dir",
}  # fmt: skip
HELP = "estimate what a report will cost here"
DESCRIPTION = (
    "Estimate what `python -m xprompt reproduce` with the same choices would take on this machine. Nothing is "
    "downloaded; the machine's speed is measured for a second or two. Exit code 1: it does not fit in memory."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser this subcommand's choices."""
    parser.add_argument("--profile", default="nano", help=f"one of {', '.join(PROFILES)}; default: %(default)s")
    add_backbone(parser)
    parser.add_argument("--tasks", default="", metavar="A,B", help=f"of {', '.join(TASKS)}, or 'all'; "
                        "default: the profile's tasks")  # fmt: skip
    parser.add_argument("--methods", default="", metavar="A,B", help=f"of {', '.join(METHODS)}; "
                        "default: the profile's methods")  # fmt: skip
    parser.add_argument("--seeds", type=int, metavar="N", help="number of seeds; default: the profile's number")
    parser.add_argument("--data-dir", default="", metavar="FOLDER", help="SuperGLUE in its official release layout, "
                        "to count its examples; default: the profile's source")  # fmt: skip
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", default=[], help="a setting of the runs, in "
                        "JSON or a plain word: --set prune.side_by_side=1 --set dtype=bfloat16")  # fmt: skip


def execute(chosen: argparse.Namespace) -> int:
    """Print the forecast; return 0, or 1 where it does not fit this machine's memory."""
    from xprompt.planning.forecast import forecast  # these two import torch
    from xprompt.planning.report import describe

    given = parse_values(chosen.set)
    check_option(given, _OPTIONS)
    plan = forecast(
        chosen.profile, chosen.tasks, chosen.seeds, chosen.data_dir, split_names(chosen.methods),
        backbone=chosen.backbone, changes=given,
    )  # fmt: skip
    print(describe(plan))
    return 1 if plan.too_large else 0
