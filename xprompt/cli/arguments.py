"""What the subcommands' arguments have in common."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from xprompt.errors import ConfigError


def parse_values(pairs: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """Return the values of NAME=VALUE texts by name; a later one of the same name wins.

    Args:
        pairs: each VALUE in JSON, or a plain word where it is none: "steps=4", "dtype=bfloat16", 'tasks=["rte"]'.
        option: that they were given with, for the error.

    Raises `ConfigError` where a text has no "=", or nothing before it.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"{option} {pair}: give NAME=VALUE.")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


def split_names(text: str) -> list[str]:
    """Return the names of a comma-separated text."""
    return [name.strip() for name in text.split(",") if name.strip()]
