"""The command line: `xprompt SUBCOMMAND`, or `python -m xprompt SUBCOMMAND`."""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from xprompt import __version__
from xprompt.cli import bench, book, check, doctor, ls, plan, predict, reproduce, run
from xprompt.cli.signals import terminable
from xprompt.cli.terminal import tolerant_output
from xprompt.errors import ConfigError, XPromptError, did_you_mean, is_out_of_memory
from xprompt.files import cannot_use

COMMANDS = {
    "run": run,
    "plan": plan,
    "reproduce": reproduce,
    "book": book,
    "bench": bench,
    "ls": ls,
    "check": check,
    "predict": predict,
    "doctor": doctor,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code.

    0: done. 1: a plan that does not fit, a notebook that failed, or damage that is left. 2: wrong choices. 128 + n:
    ended by signal n, 130 by Ctrl-C.
    """
    with tolerant_output(), terminable():
        return _execute(list(sys.argv[1:] if arguments is None else arguments))


def _execute(given: Sequence[str]) -> int:
    try:
        if any("\0" in word for word in given):  # no shell hands one over, a program may
            raise ConfigError("an argument has a NUL character in it, which no name or path can have: leave it out.")
        if given and not given[0].startswith("-") and given[0] not in COMMANDS:
            raise ConfigError(
                f"unknown subcommand {given[0]!r}; known: {', '.join(COMMANDS)}.{did_you_mean(given[0], COMMANDS)}"
            )
        chosen = build_parser().parse_args(given)
        return chosen.execute(chosen)
    except XPromptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        number = getattr(interrupt, "number", signal.SIGINT)
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        print(f"\nInterrupted{by}: finished runs are kept; the same command resumes from here.", file=sys.stderr)
        return 128 + number
    except (MemoryError, OSError, RuntimeError, ImportError) as error:
        if is_out_of_memory(error):
            print("error: memory ran out; `python -m xprompt plan` says what fits this machine.", file=sys.stderr)
        elif isinstance(error, OSError):
            print(f"error: {cannot_use(Path(error.filename or 'a file'), error)}", file=sys.stderr)
        else:
            raise
        return 2


class _Parser(argparse.ArgumentParser):
    """A parser that names the option meant, where one is misspelled; argparse looks first at what is missing."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Refuse an option that is not declared; argparse's own arguments and result."""
        known = self._option_string_actions
        own = {} if self._subparsers is not None else known  # of a subcommand: options may stand anywhere
        for word in itertools.takewhile(lambda word: word != "--", args or ()):
            name = word.partition("=")[0]
            if own and name.startswith("--") and " " not in name and name not in known:
                self.error(f"unknown option {name}.{did_you_mean(name, known)}")
        return super().parse_known_args(args, namespace)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser; its help is the manual."""
    name = "xprompt" if Path(sys.argv[0]).stem == "xprompt" else "python -m xprompt"
    parser = _Parser(prog=name, description="XPrompt: soft prompts, tuned, pruned and retrained.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"xprompt {__version__}")
    commands = parser.add_subparsers(title="subcommands", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name, help=module.HELP, description=module.DESCRIPTION, allow_abbrev=False
        )  # fmt: skip
        module.add_arguments(command)
        command.set_defaults(execute=module.execute)
    return parser


if __name__ == "__main__":
    sys.exit(main())
