"""The paper's own numbers, as far as we have them; a number that is not in paper.json is absent, never filled in."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

SCALE = "t5-xxl"
"""The backbone whose cells of Tab 1 we have, and the profile that compares with them."""


@cache
def numbers() -> dict[str, Any]:
    """Return the whole file: item → what it holds of that table or figure."""
    return json.loads((files(__package__) / "paper.json").read_text(encoding="utf-8"))


def tab1(method: str, task: str, scale: str = SCALE) -> float | None:
    """Return the paper's Tab 1 cell in points, or None where we do not have it."""
    return numbers()["tab1"].get(scale, {}).get(method, {}).get(task)


def metrics() -> dict[str, str]:
    """Return task → the one metric that Tab 1 has of it, as far as it can be told, where that is not the score."""
    return dict(numbers()["metrics"])


def kept() -> tuple[float, float]:
    """Return the fewest and the most parameters that XPrompt keeps, in percent of prompt tuning's. Source: Tab 3."""
    low, high = numbers()["tab3"]["xprompt, percent of prompt tuning"]
    return low, high


def over_fine_tuning(scale: str = SCALE) -> dict[str, float]:
    """Return task → XPrompt's gain over full fine-tuning in points, of the tasks that we have. Source: Tab 1."""
    return dict(numbers()["tab1"][scale]["xprompt minus fine_tuning"])


def gains() -> dict[str, tuple[float, float]]:
    """Return scale → (backbone parameters, average gain of XPrompt over prompt tuning in points). Source: Fig 1."""
    sizes = numbers()["backbone_params"]
    known = numbers()["fig1"]["average xprompt minus prompt_tuning"]
    return {scale: (sizes[scale], gain) for scale, gain in known.items()}
