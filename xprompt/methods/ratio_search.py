"""Which prune ratios to try, and which of the re-trained candidates to keep.

Owns the search over ratio pairs: the paper's grid, and successive halving over it. Never scores importance, never
reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xprompt.backbones.base import Backbone
from xprompt.config.settings import PruneSettings
from xprompt.data.splits import Splits
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.pruning.importance import Importance
from xprompt.pruning.prune import Order, prune, rewind
from xprompt.training.callbacks import Along
from xprompt.training.candidate import History
from xprompt.training.tune import TuneResult, tune_many


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


def search(
    backbone: Backbone,
    tuned: SoftPrompt,
    scores: Importance,
    splits: Splits,
    settings: PruneSettings,
    *,
    order: Order = "lowest",
    seed: int = 0,
    progress: bool = False,
    along: Along | None = None,
) -> list[Tried]:
    """Prune and rewind for every ratio pair of the grid, re-train as `settings.search` says, and return them in order.

    "grid" re-trains every pair to the end. "halving" scores every mask untrained on the selection split, re-trains the
    better third, and keeps a third of those at each rung. Pairs that round to the same masks are one candidate.

    Source: paper §3.2 ("linearly searched"), §3.3; its limitations ask for a search without the exhaustive
    re-training. Successive halving: Jamieson and Talwalkar (2016).
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
    results = retrain(
        backbone,
        pruned,
        splits,
        settings,
        seeds=[seed] * len(pruned),
        progress=progress,
        describe="re-training",
        along=along,
    )
    return [
        Tried(t, p, pruned[i], results[i].prompt, results[i].history)
        for (t, p), i in zip(settings.grid(), place, strict=True)
    ]


def retrain(
    backbone: Backbone,
    prompts: Sequence[SoftPrompt],
    splits: Splits,
    settings: PruneSettings,
    *,
    seeds: Sequence[int],
    progress: bool = False,
    describe: str = "re-training",
    along: Along | None = None,
) -> list[TuneResult]:
    """Re-train candidates by the settings' search: XPrompt's, and those of its budget-matched control."""
    steps = settings.retune.num_steps(len(splits.train))
    return tune_many(
        backbone, prompts, splits, [settings.retune] * len(prompts), seeds=seeds, width=settings.side_by_side,
        rungs=rungs(len(prompts), steps) if settings.search == "halving" else None, progress=progress,
        describe=f"{describe} {len(prompts)}", along=along,
    )  # fmt: skip


def rungs(candidates: int, steps: int) -> dict[int, int]:
    """Step → how many go on: a third after each of 0, 1/9 and 1/3 of the steps, never fewer than one.

    Of 81 candidates 27 are trained at all, and in sum for 8.6 % of the grid's steps.
    """
    left, found = candidates, {}
    for step in (0, -(-steps // 9), -(-steps // 3)):
        left = max(1, -(-left // 3))
        found[step] = left
    return found


def cost(tried: Sequence[Tried], settings: PruneSettings, selection: int) -> dict[str, int]:
    """Examples trained on and evaluated, over the different candidates; `selection`: examples in that split."""
    histories = {id(one.history): one.history for one in tried}.values()
    return {
        "candidates": len(histories),
        "trained_examples": sum(h.entries[-1]["step"] for h in histories) * settings.retune.batch_size,
        "evaluated_examples": sum(len(h.entries) for h in histories) * selection,
    }


def best(candidates: Sequence[Tried]) -> Tried:
    """The highest selection score; of equals, the fewest parameters; of those, the first."""
    return max(candidates, key=lambda c: (c.score, -c.prompt.num_params))
