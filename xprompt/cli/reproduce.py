"""`python -m xprompt reproduce`: run the notebooks and write a report."""

from __future__ import annotations

import argparse
import logging

from xprompt.cli.arguments import add_backbone, parse_values
from xprompt.config.profiles import PROFILES
from xprompt.tasks.superglue import TASKS

HELP = "run the notebooks and write a report"
DESCRIPTION = (
    "Run the notebooks and write a report: tables, figures, executed notebooks and a page over them. Finished runs are "
    "read from the report's folder, so an interrupted call resumes. Exit code 1: a notebook failed."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser this subcommand's choices."""
    with_ray = "with --executor ray: "
    add = parser.add_argument
    add("--profile", default="nano", help=f"backbone and settings: {', '.join(PROFILES)}; default: %(default)s")
    add_backbone(parser)
    add("--tasks", default="", metavar="A,B", help=f"of {', '.join(TASKS)}, or 'all', or the task.json of a custom "
        "task; default: each notebook's own choice, which most leave to the profile")  # fmt: skip
    add("--seeds", type=int, metavar="N", help="number of seeds, 0 to N-1; default: each notebook's own choice")
    add("--data-dir", default="", metavar="FOLDER", help="SuperGLUE in its official release layout (CB/train.jsonl, "
        "…); default: the profile's source")  # fmt: skip
    add("--only", action="append", metavar="NOTEBOOK", help="only this notebook, such as 01_main_results; may be given "
        "again; 'all': every one, which may take hours; default: the main results and first use")  # fmt: skip
    add("--output", default="", metavar="FOLDER", help="report folder; default: reports/<profile>")
    add("--quick", action="store_true", help="a few examples and steps, one task, one seed: checks in a minute that "
        "everything works; the numbers mean nothing")  # fmt: skip
    add("--executor", default="local", metavar="NAME", help="where runs are done: local (this machine) or ray (this "
        "machine or a cluster); the tables are the same; default: %(default)s")  # fmt: skip
    add("--workers", type=int, metavar="N", help="runs at a time, each in a process; default: local: 1, or one per "
        "core where a profile's runs keep one busy (nano, smollm2); ray: as many as fit")  # fmt: skip
    add("--address", metavar="HOST:PORT", help=with_ray + "a running cluster whose machines all see the report folder; "
        "'auto': the one on this machine; default: this machine alone")  # fmt: skip
    add("--cpus-per-run", type=float, metavar="C", help=with_ray + "CPUs, and so threads, per run; default: 1")
    add("--gpus-per-run", type=float, metavar="G", help=with_ray + "GPUs per run; 0.25 puts four runs on one; "
        "default: 1 where there are any")  # fmt: skip
    add("--timeout", type=float, metavar="HOURS", help="a notebook that takes longer is stopped, and the next one "
        "begins; default: 72")  # fmt: skip
    add("--set", action="append", metavar="NAME=VALUE", default=[], help="another notebook parameter, in JSON or a "
        "plain word: --set 'protocols=[\"paper\", \"held_out\"]'")  # fmt: skip
    add("--notebooks", help=argparse.SUPPRESS)


def execute(chosen: argparse.Namespace) -> int:
    """Run the chosen notebooks; return 0, or 1 where one failed."""
    from xprompt import reproduce as library  # pandas, matplotlib and papermill come with it

    options = {name: getattr(chosen, name) for name in ("address", "workers", "cpus_per_run", "gpus_per_run")}
    given = {name: getattr(chosen, name) for name in ("notebooks", "timeout", "backbone")}
    plan = library.make_plan(
        chosen.profile, chosen.tasks, chosen.seeds, chosen.data_dir, chosen.only, chosen.output, chosen.quick,
        parse_values(chosen.set), executor=chosen.executor,
        executor_options={name: value for name, value in options.items() if value is not None},
        **{name: value for name, value in given.items() if value is not None},
    )  # fmt: skip
    try:
        return library.reproduce(plan)
    except KeyboardInterrupt:
        logging.getLogger("asyncio").disabled = True  # it would print pages about the interrupted cell
        raise
