"""`xprompt check`: what a custom task's declaration makes of its examples, before anything is trained."""

from __future__ import annotations

import argparse

HELP = "check a task.json: two examples as rendered, counts, warnings"
DESCRIPTION = (
    "Read a custom task's declaration and all its examples; show two as the backbone sees them, the counts of each "
    "label, and what looks wrong. What makes no sense is an error with file, line and field. Nothing is trained."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser this subcommand's choices."""
    parser.add_argument(
        "task", metavar="TASK.JSON", help="a declaration, or the folder that holds one; or a task's name"
    )
    parser.add_argument("--data-dir", default="nano", metavar="FOLDER", help="for a task of SuperGLUE: its official "
                        "release layout; default: %(default)s")  # fmt: skip


def execute(chosen: argparse.Namespace) -> int:
    """Print what there is and return 0."""
    from xprompt.data.loading import load_task
    from xprompt.data.summary import describe_splits, warnings_about

    splits = load_task(chosen.task, chosen.data_dir)
    print(describe_splits(splits))
    warnings = warnings_about(splits)
    print("\n".join(f"warning: {text}" for text in warnings) if warnings else "no warnings")
    return 0
