"""Time the sides of a comparison in turns; the ratio of two of them with its interval.

pytest-benchmark times one function to the end before it starts the next, so that a machine that slows down in between
looks like a difference. Here the sides take turns, and each round gives a ratio.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import bootstrap

from xprompt.errors import ConfigError

CONFIDENCE = 0.95


class Ratio(NamedTuple):
    """A median of paired ratios and its 95 % bootstrap interval; `low` and `high` are NaN where there was one round."""

    value: float
    low: float
    high: float


def interleave(
    sides: Mapping[str, Callable[[], object]], rounds: int, *, warmups: int = 1, device: torch.device | None = None
) -> dict[str, list[float]]:
    """Time each side once per round: A B C, C B A, A B C, …

    The order reverses every round, so that no side always follows another and a steady drift affects all.

    Args:
        sides: name → what is timed, called without arguments; its result is not used.
        rounds: timed rounds, ≥ 1.
        warmups: untimed rounds before them.
        device: a GPU is waited for before and after each call.

    Returns:
        Name → seconds of each round, in order.
    """
    if rounds < 1 or not sides:
        raise ConfigError(f"{rounds} rounds of {len(sides)} sides were asked for: give at least 1 of each.")
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.freeze()  # so that the collections below need not search all of torch before every call
    try:
        for number in range(-warmups, rounds):
            for name in names if number % 2 == 0 else reversed(names):
                gc.collect()
                taken = once(sides[name], device)
                if number >= 0:
                    seconds[name].append(taken)
    finally:
        gc.unfreeze()
    return seconds


def once(run: Callable[[], object], device: torch.device | None = None) -> float:
    """Return the seconds of one call."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def paired_ratio(better: Sequence[float], worse: Sequence[float], *, seed: int = 0) -> Ratio:
    """Return the median over rounds of better[i] / worse[i], with its bootstrap interval over rounds.

    Args:
        better: one value per round that grows when ours is better: our throughput, or the baseline's seconds.
        worse: the other side's values of the same rounds.
        seed: of the resampling.
    """
    if len(better) != len(worse) or not len(better):
        raise ConfigError(f"{len(better)} and {len(worse)} rounds cannot be paired: give both sides the same rounds.")
    ratios = np.asarray(better, dtype=float) / np.asarray(worse, dtype=float)
    middle = float(np.median(ratios))
    if len(ratios) == 1:
        return Ratio(middle, float("nan"), float("nan"))
    # Percentiles: the corrected bootstrap needs a jackknife, which is degenerate for the median of a few rounds.
    found = bootstrap(
        (ratios,), np.median, confidence_level=CONFIDENCE, n_resamples=9999, method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Ratio(middle, float(found.low), float(found.high))


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
