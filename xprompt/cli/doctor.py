"""`python -m xprompt doctor`: verify a report's folder, and repair what can be."""

from __future__ import annotations

import argparse

HELP = "verify the stored files of a report, and repair what can be"
DESCRIPTION = (
    "Verify everything a report's folder holds against its checksums: records, prompts, unfinished states, archive, "
    "manifest, tables, figures. Say what is damaged or left over, and with --repair move damaged runs aside (they are "
    "run again), and delete what processes that died left behind. Nothing that a live process uses is touched."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser this subcommand's choices."""
    parser.add_argument("folder", help="a report's folder, such as reports/nano")
    parser.add_argument("--repair", action="store_true", help="repair what can be repaired")


def execute(chosen: argparse.Namespace) -> int:
    """Print what was found; return 0, or 1 where damage is left."""
    from xprompt.runs.doctor import examine  # imports torch

    report = examine(chosen.folder, repair=chosen.repair)
    for finding in report.findings:
        print(finding)
    print(report.summary)
    return 1 if report.damage_left else 0
