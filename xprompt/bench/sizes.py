"""What is measured, and how much: comparisons; task, batch, steps and rounds for each backbone, in full and quick."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from xprompt.config.profiles import get_profile
from xprompt.config.settings import TuneSettings
from xprompt.data.loading import load_task
from xprompt.data.splits import Splits
from xprompt.errors import ConfigError

#: Comparisons on a backbone, and the rows that have a goal: those stand empty where it could not be measured.
HEADLINES = {
    "side_by_side": ("side_by_side_c8",),
    "peft_step": ("peft_train_words", "peft_eval"),
    "importance_cost": ("importance_pass",),
    "dropped_tokens": ("dropped_p20_50", "dropped_p100_50"),
    "subnormals": ("subnormals",),
    "matrix_rate": ("matrix_rate",),
    "bfloat16_cpu": ("bfloat16_cpu_p20", "bfloat16_cpu_p100"),
}
COMPARISONS = (*HEADLINES, "t5_scale")
_CPU_ONLY = ("subnormals", "bfloat16_cpu")
_BACKBONES = {"bfloat16_cpu": ("smollm2",)}  # nano's products are too small to gain from a narrower dtype


@dataclass(frozen=True)
class Size:
    """How much one backbone is measured on.

    Attributes:
        task: one of the generated tasks (source "nano"); its sources are cut at `max_source` tokens.
        length: prompt tokens P; `lengths` those of the comparison of dropped tokens.
        batch: examples per optimiser step; a timed call does `steps` of them.
        rounds: timed rounds of every comparison.
        examples: scored or evaluated in a timed call; `few` where a loop takes single examples.
        counts: numbers of candidates trained in parallel; `candidate_steps` of each in a timed call.
        accuracy_steps, accuracy_examples, seeds: for the comparison of accuracies.
        fresh: whether memory is measured in a fresh process.
    """

    task: str
    max_source: int
    length: int
    lengths: tuple[int, ...]
    batch: int
    steps: int
    rounds: int
    examples: int
    few: int
    counts: tuple[int, ...]
    candidate_steps: int
    accuracy_steps: int
    accuracy_examples: int
    seeds: int
    fresh: bool = True

    def settings(self, backbone: str, steps: int, **changes: Any) -> TuneSettings:
        """Return the backbone's recipe for `steps` steps, evaluated before the first and after the last."""
        profile = get_profile(backbone)
        return profile.tune.replace(**{"steps": steps, "eval_every": steps, "batch_size": self.batch, **changes})

    def splits(self, *, train: int, selection: int, validation: int | None = None) -> Splits:
        """Return the first `train` training examples, the last `selection` to select on, some to validate on."""
        loaded = _loaded(self.task)
        if train + selection > len(loaded.train):
            raise ConfigError(
                f"{train + selection} examples of {self.task} were asked for; it has {len(loaded.train)}: take fewer."
            )
        return Splits(
            loaded.task, loaded.train[:train], loaded.validation[:validation], loaded.source,
            selection=loaded.train[len(loaded.train) - selection :],
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """Return all numbers, to be kept with the timings."""
        return asdict(self)


@cache
def _loaded(task: str) -> Splits:
    return load_task(task, "nano")


_FULL = {
    "nano": Size("rte", 128, 20, (20, 100), 32, 16, 15, 512, 64, (1, 2, 4, 8), 8, 200, 500, 3),
    "smollm2": Size("rte", 128, 20, (20, 100), 8, 3, 7, 24, 8, (1, 2, 4), 2, 40, 64, 1),
}
_QUICK = {
    name: replace(
        size, lengths=(20,), batch=4, steps=1, rounds=2, examples=8, few=2, counts=(1, 2), candidate_steps=1,
        accuracy_steps=1, accuracy_examples=8, seeds=1, fresh=False,
    )
    for name, size in _FULL.items()
}  # fmt: skip
_GPU = {
    "nano": replace(_FULL["nano"], rounds=7, steps=25, examples=2000),
    "smollm2": replace(
        _FULL["smollm2"], batch=16, steps=10, rounds=7, examples=500, few=32, counts=(1, 2, 4, 8), candidate_steps=5,
        accuracy_steps=200, accuracy_examples=500,
    ),
}  # fmt: skip
BACKBONES = tuple(_FULL)


def comparisons_of(backbone: str, device: str, chosen: Iterable[str]) -> list[str]:
    """Return those of the chosen comparisons that are made with this backbone on this kind of device."""
    return [
        name for name in chosen
        if name in HEADLINES and backbone in _BACKBONES.get(name, BACKBONES)
        and (device == "cpu" or name not in _CPU_ONLY)
    ]  # fmt: skip


def size_of(backbone: str, quick: bool = False, device: str = "cpu") -> Size:
    """Return the size for one of `BACKBONES` on a kind of device; with `quick`, the numbers mean nothing."""
    if backbone not in _FULL:
        raise ConfigError(f"unknown backbone {backbone!r}: the bench measures {', '.join(BACKBONES)}.")
    return (_QUICK if quick else _GPU if device == "cuda" else _FULL)[backbone]
