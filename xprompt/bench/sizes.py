"""How much is measured: task, batch, steps and rounds for each backbone, at full length and quick.

Owns the numbers that a measurement is stated with. Never measures.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from xprompt.config.profiles import get_profile
from xprompt.config.settings import TuneSettings
from xprompt.data.loading import load_task
from xprompt.data.splits import Splits
from xprompt.errors import ConfigError


@dataclass(frozen=True)
class Size:
    """What one backbone is measured on.

    Attributes:
        task: one of the generated tasks (source "nano"); its sources are cut at `max_source` tokens.
        length: prompt tokens P; `lengths` those of the dropped-token comparison.
        batch: examples an optimiser step; `steps` of them a timed call.
        rounds: timed rounds of every comparison.
        examples: scored, evaluated or passed over in a timed call; `few` where single examples are looped over.
        counts: candidates side by side; `candidate_steps` of each in a timed call.
        accuracy_steps, accuracy_examples, seeds: of the comparison of accuracies.
        fresh: whether memory is measured in processes of their own.
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
        """The backbone's own recipe, cut to so many steps, evaluated before the first and after the last."""
        profile = get_profile(backbone)
        return profile.tune.replace(**{"steps": steps, "eval_every": steps, "batch_size": self.batch, **changes})

    def splits(self, *, train: int, selection: int, validation: int | None = None) -> Splits:
        """That many training examples, others to select on, and some of the validation split."""
        loaded = _loaded(self.task)
        if train + selection > len(loaded.train):
            raise ConfigError(
                f"{train + selection} examples of {self.task} were asked for, it has {len(loaded.train)}."
            )
        return Splits(
            loaded.task, loaded.train[:train], loaded.validation[:validation], loaded.source,
            selection=loaded.train[len(loaded.train) - selection :],
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """All numbers, to be kept beside the timings."""
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
    "nano": replace(_FULL["nano"], steps=50, examples=2000, candidate_steps=30),
    "smollm2": replace(
        _FULL["smollm2"], batch=16, steps=20, rounds=15, examples=500, few=32, counts=(1, 2, 4, 8), candidate_steps=10,
        accuracy_steps=200, accuracy_examples=500, seeds=3,
    ),
}  # fmt: skip
BACKBONES = tuple(_FULL)


def size_of(backbone: str, quick: bool = False, device: str = "cpu") -> Size:
    """The size for one of `BACKBONES` on a kind of device; quick shows that it works, its numbers mean nothing."""
    if backbone not in _FULL:
        raise ConfigError(f"unknown backbone {backbone!r}: the bench measures {', '.join(BACKBONES)}.")
    return (_QUICK if quick else _GPU if device == "cuda" else _FULL)[backbone]
