"""Timing several sides of a comparison in turn, and the ratio between two of them with its interval.

Owns the clock and the statistics of a comparison. Never knows what is timed.

pytest-benchmark times one function to the end before it begins with the next, so that a machine that slows down in
between shows up as a difference; here the sides take turns, and a ratio is made within each round.
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
    """A median of paired ratios and its 95 % bootstrap interval; `low` and `high` are NaN where one round is all."""

    value: float
    low: float
    high: float


def interleave(
    sides: Mapping[str, Callable[[], object]], rounds: int, *, warmups: int = 1, device: torch.device | None = None
) -> dict[str, list[float]]:
    """Time each side once a round: A B C, C B A, A B C, …

    The order turns round every round, so that neither side always follows the other and a steady drift hits all.

    Args:
        sides: name → what is timed; called without arguments, its result is thrown away.
        rounds: timed rounds, ≥ 1.
        warmups: untimed rounds before them.
        device: a GPU is waited for before and after each call.

    Returns:
        name → seconds of each round, in order.
    """
    if rounds < 1 or not sides:
        raise ConfigError(f"{rounds} rounds of {len(sides)} sides were asked for: it takes at least 1 of each.")
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.freeze()  # what is there already, all of torch among it, need not be looked through again before every call
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
    """Seconds of one call."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def paired_ratio(better: Sequence[float], worse: Sequence[float], *, seed: int = 0) -> Ratio:
    """Median over rounds of better[i] / worse[i], with its bootstrap interval over rounds.

    Args:
        better: what grows when ours is better, one value a round: our throughput, or the baseline's seconds.
        worse: the other side's, of the same rounds.
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
