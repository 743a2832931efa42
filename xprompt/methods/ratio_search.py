"""Which ratios are tried, how pruned prompts are retrained and the best is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xprompt.backbones.base import Backbone
from xprompt.config.settings import PruneSettings
from xprompt.data.splits import Splits
from xprompt.methods.race import num_left
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.pruning.ratio import num_pruned
from xprompt.training.callbacks import Callback, Callbacks
from xprompt.training.candidate import History
from xprompt.training.tune import TuneResult, tune_many


@dataclass(frozen=True)
class RetrainedPrompt:
    """One pair of prune ratios, tried.

    Attributes:
        token_ratio, piece_ratio: shares removed, in [0, 1).
        pruned: the prompt after pruning and rewinding, (P, H).
        prompt: the same after retraining, at its best checkpoint.
        history: of retraining; empty where a race dropped it before.
        raced: (n,) its loss, untrained, on each example of a race; (0,) where there was none.
    """

    token_ratio: float
    piece_ratio: float
    pruned: SoftPrompt
    prompt: SoftPrompt
    history: History
    raced: np.ndarray = field(default_factory=lambda: np.empty(0), compare=False)

    def __repr__(self) -> str:
        ratios = f"token ratio {self.token_ratio:g}, piece ratio {self.piece_ratio:g}"
        if not self.history.entries:
            return f"RetrainedPrompt({ratios}: dropped by the race, {self.prompt!r})"
        return f"RetrainedPrompt({ratios}: {100 * self.score:.1f} on {self.history.selection_split}, {self.prompt!r})"

    @property
    def score(self) -> float:
        """Return the score on the selection split, in [0, 1]; -inf where a race dropped it before it was scored."""
        return self.history.best_score

    def describe(self) -> dict[str, Any]:
        """Return JSON values for a record; of a candidate that a race dropped, the scores are None."""
        entries = self.history.entries
        raced = {"raced_examples": len(self.raced), "raced_loss": float(self.raced.mean())} if len(self.raced) else {}
        return {
            "token_ratio": self.token_ratio,
            "piece_ratio": self.piece_ratio,
            "num_params": self.prompt.num_params,
            "selection_score": self.score if entries else None,
            "best_step": self.history.best_step,
            "last_step": self.history.last_step,
            "before_retraining": entries[0]["selection_score"] if entries else None,
            **({"diverged": self.history.diverged} if self.history.diverged else {}),
            **raced,
        }


def distinct_masks(prompts: Sequence[SoftPrompt]) -> tuple[list[SoftPrompt], list[int]]:
    """Return the first prompt of each mask, and for every prompt its index among them.

    Pairs of ratios that round to the same mask are one candidate.
    """
    masks = [prompt.surviving_pieces.cpu().numpy().tobytes() for prompt in prompts]
    distinct = list(dict.fromkeys(masks))
    return [prompts[masks.index(mask)] for mask in distinct], [distinct.index(mask) for mask in masks]


def next_ratios(settings: PruneSettings, candidates: Sequence[RetrainedPrompt]) -> list[tuple[float, float]]:
    """Return the (token ratio, piece ratio) pairs to try next; [] where the search is over.

    "grid", "halving" and "race" try all pairs at once. "linear" tries the token ratios with every piece kept, then the
    piece ratios at the best token ratio: 9 + 9 candidates in place of 81. It chooses among the last, each a pair of the
    grid.

    Args:
        candidates: all tried so far.
    """
    if settings.search != "linear" or settings.level != "both":
        return [] if candidates else settings.grid()
    if not candidates:
        return [(ratio, 0.0) for ratio in settings.token_ratios]
    if len(candidates) > len(settings.token_ratios):
        return []
    best = choose_best(candidates).token_ratio
    return [(best, ratio) for ratio in settings.piece_ratios]


def retrain(
    backbone: Backbone,
    prompts: Sequence[SoftPrompt],
    splits: Splits,
    settings: PruneSettings,
    *,
    seeds: Sequence[int],
    schedule: Mapping[int, int] | None = None,
    progress: bool = False,
    describe: str = "retraining",
    callbacks: Callbacks | Sequence[Callback] | None = None,
) -> list[TuneResult]:
    """Retrain candidates by the settings' search: XPrompt's, and those of its budget-matched control.

    "grid" and "linear" retrain every candidate to the end. "halving" scores every candidate untrained on the
    selection split, retrains the better third, and keeps a third of those at each step of `halving_schedule`; so does
    "race" with those that its race has left. All of them evaluate at the same steps, so that they choose among the
    same checkpoints.

    Args:
        prompts: C times (P, H), pruned and rewound; unchanged.
        seeds: of the candidates' data orders.
        schedule: step → how many go on, where a search that drops is not to follow `halving_schedule`.
        describe: what the candidates are, in bars, logs and the stage's name.
        progress, callbacks: as in `tune`.

    Source: paper §3.2 ("linearly searched"), §3.3; its limitations ask for a search without the exhaustive
    retraining. Successive halving: Jamieson and Talwalkar (2016).
    """
    if schedule is None:
        schedule = halving_schedule(len(prompts), settings.retune.num_steps(len(splits.train)))
    if not settings.stops_early:
        schedule = dict.fromkeys(schedule, len(prompts))  # looked at, and none dropped
    return tune_many(
        backbone, prompts, splits, [settings.retune] * len(prompts), seeds=seeds, width=settings.side_by_side,
        halving_schedule=schedule, progress=progress, describe=f"{describe} {len(prompts)}", callbacks=callbacks,
    )  # fmt: skip


def halving_schedule(candidates: int, steps: int) -> dict[int, int]:
    """Return step → how many go on: a third after each of 0, 1/9 and 1/3 of the steps, never fewer than one.

    Of 81 candidates 27 are trained at all, and in sum for 8.6 % of the grid's steps.
    """
    left, schedule = candidates, {}  # step → candidates after it
    for step in (0, -(-steps // 9), -(-steps // 3)):
        left = max(1, -(-left // 3))
        schedule[step] = left
    return schedule


def num_masks(settings: PruneSettings, tokens: int, pieces: int) -> int:
    """Return how many masks the settings' search can make of a prompt of P tokens in K pieces.

    Pairs of ratios that remove as many tokens, and as many pieces of the others, make one: of the paper's 81 pairs 63
    are left with 8 tokens in 16 pieces, and all with 20. Where a token loses its last piece a few more are equal,
    which the scores decide.
    """
    if settings.search == "linear" and settings.level == "both":
        return len({num_pruned(tokens, t) for t in settings.token_ratios}) + len(settings.piece_ratios)
    gone = [(num_pruned(tokens, token_ratio), piece_ratio) for token_ratio, piece_ratio in settings.grid()]
    return len({(n, num_pruned((tokens - n) * pieces, piece_ratio)) for n, piece_ratio in gone})


def matched_schedule(settings: PruneSettings, steps: int, tokens: int, pieces: int) -> tuple[int, dict[int, int]]:
    """Return (how many prompts, step → how many go on) for a control that looks as often as XPrompt does.

    XPrompt looks at every pruned prompt untrained. Copies of one tuned prompt are equal then: the control takes these
    looks while its candidates, as many as XPrompt retrains, are on their way to the first rung. What a race drops
    has no score and cannot be chosen, so that its heats are no looks.

    Args:
        settings: of XPrompt's search.
        steps: of retraining.
        tokens, pieces: of the prompt; of masks that are equal XPrompt retrains one.
    """
    masks = num_masks(settings, tokens, pieces)
    candidates = num_left(masks) if settings.search == "race" else masks
    schedule = halving_schedule(candidates, steps)
    left = schedule.pop(0)
    trained = left if settings.stops_early else candidates
    extra, rung = round(candidates / trained), min(schedule, default=0)
    looks = {rung * (i + 1) // (extra + 1): trained for i in range(extra)}
    looks.pop(0, None)
    return trained, looks | schedule


def search_cost(candidates: Sequence[RetrainedPrompt], settings: PruneSettings, splits: Splits) -> dict[str, int]:
    """Count distinct candidates, and the examples they were trained on and evaluated on, those of a race among them."""
    num_train, num_selection = len(splits.train), len(splits.selected_on)
    batch_size = settings.retune.batch_size
    distinct = {id(candidate.history): candidate for candidate in candidates}.values()
    passes = [divmod(candidate.history.last_step, -(-num_train // batch_size)) for candidate in distinct]
    evaluations = sum(len(candidate.history.entries) for candidate in distinct)
    return {
        "candidates": len(distinct),
        # Of an epoch only the last batch may be short.
        "trained_examples": sum(epochs * num_train + steps * batch_size for epochs, steps in passes),
        "evaluated_examples": evaluations * num_selection + sum(len(candidate.raced) for candidate in distinct),
    }


def choose_best(candidates: Sequence[RetrainedPrompt]) -> RetrainedPrompt:
    """Return the candidate with the highest selection score; of equals, the fewest parameters; of those, the first."""
    return max(candidates, key=lambda candidate: (candidate.score, -candidate.prompt.num_params))
