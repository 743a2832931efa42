"""What the subcommands' arguments have in common."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from xprompt.errors import ConfigError, shown
from xprompt.files import parse_json


def add_backbone(parser: argparse.ArgumentParser) -> None:
    """Give a parser the choice of another backbone than the profile's."""
    parser.add_argument("--backbone", default="", metavar="NAME", help="in place of the profile's: a folder, a .gguf "
                        "file or a hub id")  # fmt: skip


def parse_values(pairs: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """Return the values of NAME=VALUE texts by name; a later one of the same name wins.

    Args:
        pairs: each VALUE in JSON, or a plain word where it is none: "steps=4", "dtype=bfloat16", 'tasks=["rte"]'.
        option: that they were given with, for the error.

    Raises `ConfigError` where a text has no "=", nothing before it, or a value that JSON forbids: NaN, a key twice.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"{option} {pair:.200}: give NAME=VALUE.")
        try:
            values[name] = parse_json(text)
        except json.JSONDecodeError:
            values[name] = text
        except ValueError as error:  # JSON that does not mean one thing everywhere
            raise ConfigError(f"{option} {shown(pair)}: {error}. Give a value that JSON can hold.") from error
    return values


def check_option(given: Mapping[str, Any], options: Mapping[str, str]) -> None:
    """Raise `ConfigError` where --set gives what has an option of its own, by the option's name."""
    for name, value in given.items():
        if name in options:
            raise ConfigError(f"--set {name}={value!s:.80}: give it by its option, {options[name]}.")


def split_names(text: str) -> list[str]:
    """Return the names of a comma-separated text."""
    return [name.strip() for name in text.split(",") if name.strip()]
