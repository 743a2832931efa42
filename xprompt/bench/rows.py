"""One comparison as one row of bench.csv, and all that a measurement returns: rows, raw timings, facts, notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import median
from typing import Any

import torch

from xprompt.bench.harness import paired_ratio
from xprompt.runs.provenance import provenance

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Row:
    """One comparison; a ratio above 1 means ours is better, whatever the unit. None: not measured, or no ratio.

    Attributes:
        hardware: what both sides ran on, or "not measured".
        baseline, ours: medians over the rounds, in `unit`.
        ratio, ratio_low, ratio_high: median of the paired ratios and its 95 % interval.
    """

    name: str
    backbone: str
    hardware: str
    baseline: float | None = None
    ours: float | None = None
    unit: str = ""
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None


COLUMNS = tuple(column.name for column in fields(Row))


@dataclass
class Findings:
    """What was measured.

    Attributes:
        rows: of bench.csv.
        raw: one per timed call: name (of the measurement), backbone, hardware, side, round, seconds, work, unit.
        facts: one per measurement: name, backbone, hardware, and settings or results that explain its rows.
        notes: name, backbone and reason of what was not measured.
    """

    rows: list[Row] = field(default_factory=list)
    raw: list[dict[str, Any]] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)

    def missing(self, names: Iterable[str], backbone: str, reason: str) -> None:
        """Note that these were not measured: a row without values, and a note with the reason."""
        for name in names:
            self.rows.append(Row(name, backbone, NOT_MEASURED))
            self.notes.append({"name": name, "backbone": backbone, "reason": reason})

    def timings(
        self, name: str, backbone: str, hardware: str, seconds: Mapping[str, Sequence[float]],
        work: Mapping[str, float], unit: str,
    ) -> None:  # fmt: skip
        """Keep every timing; `work` of a side is how many `unit` one of its calls does."""
        for side, rounds in seconds.items():
            for number, taken in enumerate(rounds):
                self.raw.append(
                    {"name": name, "backbone": backbone, "hardware": hardware, "side": side, "round": number,
                     "seconds": taken, "work": work[side], "unit": unit}
                )  # fmt: skip


def throughput(
    name: str, backbone: str, hardware: str, seconds: Mapping[str, Sequence[float]], work: Mapping[str, float],
    *, baseline: str, ours: str, unit: str = "examples/s",
) -> Row:  # fmt: skip
    """Compare two sides by work per second, paired by round."""
    rates = {side: [work[side] / taken for taken in seconds[side]] for side in (baseline, ours)}
    return Row(
        name, backbone, hardware, median(rates[baseline]), median(rates[ours]), unit,
        *paired_ratio(rates[ours], rates[baseline]),
    )  # fmt: skip


def memory(name: str, backbone: str, hardware: str, baseline: float, ours: float) -> Row:
    """Compare two peaks of memory in bytes, each measured once: a ratio without an interval."""
    ratio = baseline / ours if ours > 0 else None
    return Row(name, backbone, hardware, baseline / 2**20, ours / 2**20, "MiB", ratio)


def hardware_of(device: torch.device) -> str:
    """Return the GPU's name, or the processor with the number of threads that torch uses."""
    facts = provenance(device, torch.float32)
    if device.type == "cuda":
        return str(facts["hardware"])
    return f"{facts['hardware']}, {facts['threads']} thread{'s' if facts['threads'] > 1 else ''}"
