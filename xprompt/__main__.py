"""The package's command line: `python -m xprompt plan` and `python -m xprompt run`.

Owns the subcommands and their exit codes. Never does the work: each subcommand calls the library.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from xprompt.config.methods import METHODS
from xprompt.config.profiles import PROFILES
from xprompt.errors import XPromptError
from xprompt.tasks.superglue import TASKS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code: 0 done, 1 a plan that does not fit, 2 wrong choices."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["run"]:
        from xprompt.cli.run import main_run  # it has its own choices, and needs torch to list them

        return main_run(given[1:])
    chosen = parser().parse_args(given)
    try:
        return chosen.run(chosen)
    except XPromptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Return the command line; its help is the manual."""
    own = argparse.ArgumentParser(prog="python -m xprompt", description="XPrompt beside its notebooks.")
    commands = own.add_subparsers(title="subcommands", required=True, metavar="SUBCOMMAND")
    plan = commands.add_parser(
        "plan",
        help="runs, parameters, memory and hours of a report, before anything is downloaded",
        description="Print what `nox -s reproduce` with the same choices would take on this machine. Nothing is "
        "downloaded; speed is probed for a second or two. Exit code 1 where it does not fit this machine's memory.",
    )
    plan.add_argument("--profile", default="nano", help=f"one of {', '.join(PROFILES)}; default: nano")
    plan.add_argument("--tasks", default="", metavar="A,B", help=f"tasks, or 'all': {', '.join(TASKS)}; "
                      "default: the profile's own choice")  # fmt: skip
    plan.add_argument("--methods", default="", metavar="A,B", help=f"methods of {', '.join(METHODS)}; "
                      "default: the profile's own")  # fmt: skip
    plan.add_argument("--seeds", type=int, metavar="N", help="how many seeds; default: the profile's own number")
    plan.add_argument("--data-dir", default="", metavar="FOLDER", help="SuperGLUE in its official release layout, to "
                      "count its examples; default: the profile's own source")  # fmt: skip
    plan.set_defaults(run=_plan)
    commands.add_parser("run", help="one run; see `python -m xprompt run --help`", add_help=False)
    return own


def _plan(chosen: argparse.Namespace) -> int:
    from xprompt.planning.forecast import forecast
    from xprompt.planning.text import describe  # torch is imported only where it is needed

    methods = [name.strip() for name in chosen.methods.split(",") if name.strip()]
    plan = forecast(chosen.profile, chosen.tasks, chosen.seeds, chosen.data_dir, methods)
    print(describe(plan))
    return 1 if plan.too_large else 0


if __name__ == "__main__":
    sys.exit(main())
