"""XPrompt, end to end: score, prune, rewind, re-train, choose (paper §3.2 and §3.3)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from xprompt.backbones.base import Backbone
from xprompt.config.settings import PruneSettings
from xprompt.data.splits import Splits
from xprompt.methods.base import MethodContext, MethodResult, entries, summary
from xprompt.methods.ratio_search import RetrainedPrompt, choose_best, distinct_masks, retrain, search_cost
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.pruning.importance import Importance, importance
from xprompt.pruning.prune import Order, prune, rewind
from xprompt.training.callbacks import Callbacks


@dataclass(frozen=True)
class XPromptResult:
    """The chosen prompt, its importance scores, and every candidate it was chosen from.

    Attributes:
        prompt: pruned, rewound and re-trained.
        best: the candidate that it is, with its ratios and its history.
        candidates: one a ratio pair, in the grid's order.
        scores: importance of the tuned prompt.
        scoring_seconds: that the scores took.
    """

    best: RetrainedPrompt
    candidates: list[RetrainedPrompt]
    scores: Importance
    scoring_seconds: float

    @property
    def prompt(self) -> SoftPrompt:
        """The method's result."""
        return self.best.prompt


def xprompt(
    backbone: Backbone,
    splits: Splits,
    tuned: SoftPrompt,
    settings: PruneSettings,
    *,
    order: Order = "lowest",
    seed: int = 0,
    batch_size: int | None = None,
    objective: str | None = None,
    progress: bool = False,
    callbacks: Callbacks | None = None,
) -> XPromptResult:
    """Prune a tuned prompt and re-train what survives: the paper's method, after prompt tuning.

    Args:
        splits: scored and re-trained on `train`; chosen on `selection`, or on `validation` where nothing is held out.
        tuned: the prompt after prompt tuning, (P, H); unchanged.
        settings: ratios, mode, re-training and search.
        order: "lowest" is XPrompt; "highest" and "random" are its controls (paper §5.3).
        seed: of the data order and of random masks.
        batch_size, objective: of the pass that scores importance; default: those of re-training.
        progress: show bars.
        callbacks: of the training loops; they change no number.

    Source: paper §3.2, §3.3. Differs: piece scores come from the same pass as token scores; see `prune`.
    """
    began = time.perf_counter()
    scores = importance(  # I(p_i) and I(q_ij) on the training data, paper §3.2
        backbone, tuned, splits.train, limit=settings.importance_limit,
        batch_size=batch_size or settings.retune.batch_size, objective=objective or settings.retune.objective,
        progress=progress,
    )  # fmt: skip
    scoring_seconds = time.perf_counter() - began
    pruned = [  # γ, then ζ, at every pair of ratios, paper §3.2
        prune(tuned, scores, token_ratio, piece_ratio, settings.mode, order=order, seed=seed)
        for token_ratio, piece_ratio in settings.grid()
    ]
    different, place = distinct_masks(pruned)
    rewound = [rewind(prompt, tuned) for prompt in different]  # survivors back to their tuned values, paper §3.3
    retrained = retrain(  # by the search's schedule, paper §3.3
        backbone, rewound, splits, settings, seeds=[seed] * len(rewound), progress=progress, callbacks=callbacks
    )
    candidates = [
        RetrainedPrompt(*ratios, rewound[i], retrained[i].prompt, retrained[i].history)
        for ratios, i in zip(settings.grid(), place, strict=True)
    ]
    return XPromptResult(choose_best(candidates), candidates, scores, scoring_seconds)  # on the selection split


def run_xprompt(context: MethodContext, order: Order = "lowest") -> MethodResult:
    """Run XPrompt from the parent's tuned prompt, and describe it for the record."""
    config, tuned = context.config, context.tuned()
    found = xprompt(
        context.backbone, context.splits, tuned.prompt, config.prune, order=order, seed=config.seed,
        batch_size=config.tune.batch_size, objective=config.tune.objective, progress=context.progress,
        callbacks=context.callbacks,
    )  # fmt: skip
    prompts = {"tuned_prompt": tuned.prompt, "pruned_prompt": found.best.pruned, "rewound_prompt": found.prompt}
    return MethodResult(
        context.report(found.prompt), found.prompt.num_params, entries("rewind", found.best.history), prompts,
        _details(found, config.prune, len(context.splits.selection or context.splits.validation)), tuned.num_cut,
        tuned.seconds,
    )  # fmt: skip


def run_reversed(context: MethodContext) -> MethodResult:
    """Run Reversed XPrompt, which prunes the *highest* scores. Source: paper §5.3."""
    return run_xprompt(context, "highest")


def run_random(context: MethodContext) -> MethodResult:
    """Run the random mask: as many entries pruned, drawn by the seed. Source: paper §5.3."""
    return run_xprompt(context, "random")


def _details(found: XPromptResult, settings: PruneSettings, num_selection: int) -> dict[str, Any]:
    prompt, scores = found.prompt, found.scores
    return {
        "token_ratio": found.best.token_ratio,
        "piece_ratio": found.best.piece_ratio,
        "surviving_tokens": int(prompt.surviving_tokens.sum()),
        "surviving_pieces": int(prompt.surviving_pieces.sum()),
        "token_mask": prompt.surviving_tokens.int().tolist(),
        "piece_mask": prompt.surviving_pieces.int().tolist(),
        "importance": {
            "token": scores.token.tolist(),
            "piece": scores.piece.tolist(),
            "num_examples": scores.num_examples,
            "seconds": round(found.scoring_seconds, 3),
        },
        "candidates": [candidate.describe() for candidate in found.candidates],
        "search": {"strategy": settings.search} | search_cost(found.candidates, settings, num_selection),
        **summary(found.best.history),
    }
