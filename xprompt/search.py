"""Which prune ratios to try, and which of the re-trained candidates to keep.

Owns the search over ratio pairs: the paper's grid. Never scores importance and never reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from xprompt.backbone import Backbone
from xprompt.candidate import History
from xprompt.data import Splits
from xprompt.importance_scores import Importance
from xprompt.prompts import SoftPrompt
from xprompt.pruning import Order, prune, rewind
from xprompt.settings import PruneSettings
from xprompt.training import TuneResult, tune_many

T = TypeVar("T")


@dataclass(frozen=True)
class Tried:
    """One ratio pair's prompt after pruning and rewinding, re-trained, with its history."""

    token_ratio: float
    piece_ratio: float
    pruned: SoftPrompt
    prompt: SoftPrompt
    history: History

    @property
    def score(self) -> float:
        """On the selection split, in [0, 1]."""
        return self.history.best_score


def search_grid(
    backbone: Backbone,
    tuned: SoftPrompt,
    scores: Importance,
    splits: Splits,
    settings: PruneSettings,
    *,
    order: Order = "lowest",
    seed: int = 0,
    progress: bool = False,
) -> list[Tried]:
    """Prune, rewind and re-train every ratio pair of the grid, in its order.

    Pairs that round to the same masks are one candidate, trained once.

    Source: paper §3.2 ("linearly searched"), §3.3.
    """
    masks: dict[bytes, int] = {}
    pruned: list[SoftPrompt] = []
    place: list[int] = []
    for token_ratio, piece_ratio in settings.grid():
        prompt = prune(tuned, scores, token_ratio, piece_ratio, settings.mode, order=order, seed=seed)
        key = prompt.surviving_pieces.cpu().numpy().tobytes()
        if key not in masks:
            masks[key] = len(pruned)
            pruned.append(rewind(prompt, tuned))
        place.append(masks[key])
    results: list[TuneResult] = []
    for group in grouped(pruned, settings.side_by_side):
        results += tune_many(
            backbone, group, splits, [settings.retune] * len(group), seeds=[seed] * len(group), progress=progress,
            describe=f"re-training {len(results) + len(group)}/{len(pruned)}",
        )  # fmt: skip
    return [
        Tried(t, p, pruned[i], results[i].prompt, results[i].history)
        for (t, p), i in zip(settings.grid(), place, strict=True)
    ]


def best(candidates: Sequence[Tried]) -> Tried:
    """The highest selection score; of equals, the fewest parameters; of those, the first."""
    return max(candidates, key=lambda c: (c.score, -c.prompt.num_params))


def grouped(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    """Consecutive groups of at most `size`."""
    return (items[i : i + size] for i in range(0, len(items), size))
