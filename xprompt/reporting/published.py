"""The paper's own numbers, for the columns that stand beside ours.

Owns reading published.json. Never fills a cell that is not there: an unknown number is absent.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

SCALE = "t5-xxl"
"""The scale whose Tab 1 numbers were to be had; the profile of that name is the one they can be held against."""


@cache
def published() -> dict[str, Any]:
    """Return the whole file: item → what is known of it."""
    return json.loads((files(__package__) / "published.json").read_text(encoding="utf-8"))


def tab1(method: str, task: str, scale: str = SCALE) -> float | None:
    """Return the paper's Tab 1 cell in points, or None where it was not to be had."""
    return published()["tab1"].get(scale, {}).get(method, {}).get(task)


def gains() -> dict[str, tuple[float, float]]:
    """Return scale → (backbone parameters, average gain of XPrompt over prompt tuning in points). Source: Fig 1."""
    sizes = published()["backbone_params"]
    known = published()["fig1"]["average xprompt minus prompt_tuning"]
    return {scale: (sizes[scale], gain) for scale, gain in known.items()}
