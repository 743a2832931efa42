"""XPrompt, end to end: score, prune, rewind, retrain, choose (paper §3.2 and §3.3)."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from xprompt.backbones.base import Backbone
from xprompt.backbones.gradient_checkpointing import recomputing
from xprompt.config.settings import PruneSettings
from xprompt.data.splits import Splits, TaskDataset, check_whole
from xprompt.methods.base import MethodContext, MethodResult, entries, summary
from xprompt.methods.race import Race, race
from xprompt.methods.ratio_search import RetrainedPrompt, choose_best, distinct_masks, next_ratios, retrain, search_cost
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.pruning.importance import Importance, importance
from xprompt.pruning.prune import Order, prune, rewind
from xprompt.signatures import check_arguments
from xprompt.streams import stream_seed
from xprompt.training.callbacks import Callback, Callbacks
from xprompt.training.candidate import History
from xprompt.training.tune import TuneResult


@dataclass(frozen=True)
class XPromptResult:
    """The chosen prompt and every candidate that was tried.

    Attributes:
        best: the chosen candidate, with its ratios, its history, and its prompt before and after retraining.
        candidates: one for each pair of ratios, in the order tried. The best was chosen among all of them; by the
            search "linear" among those of its second level.
        scores: importance of the tuned prompt's tokens, (P,), and pieces, (P, K).
        scoring_seconds: that the scores took.
        rescored: `scores` with the pieces' as they are once the chosen candidate's tokens are pruned, where the
            settings ask for that reading of the hierarchy.
    """

    best: RetrainedPrompt
    candidates: list[RetrainedPrompt]
    scores: Importance
    scoring_seconds: float
    rescored: Importance | None = None

    def __repr__(self) -> str:
        return f"XPromptResult({len(self.candidates)} tried, chosen: {self.best!r})"

    @property
    def prompt(self) -> SoftPrompt:
        """Return the method's result, (P, H): pruned, rewound and retrained."""
        return self.best.prompt


@check_arguments
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
    callbacks: Callbacks | Sequence[Callback] | None = None,
) -> XPromptResult:
    """Prune a tuned prompt and retrain what survives: the paper's method, after prompt tuning.

    Args:
        splits: scored and retrained on `train`; chosen on `selection`, or on `validation` where nothing is held out.
        tuned: the prompt after prompt tuning, (P, H); unchanged.
        settings: ratios, mode, retraining and search.
        order: "lowest" is XPrompt; "highest" and "random" are its controls (paper §5.3).
        seed: of the data order and, with `settings.draw`, of random masks.
        batch_size, objective: of the pass that scores importance; default: those of retraining, whose accumulation
            (its micro-batches are scored one at a time) and gradient checkpointing count here too. A larger batch than
            retraining's is scored in several.
        progress, callbacks: of the training loop, as in `tune`.

    Raises:
        ConfigError, DataError: as `prune` and `tune_many` do.

    Source: paper §3.2, §3.3. Differs: piece scores come from the same pass as token scores, unless
    `settings.rescore_pieces` asks for the other reading.
    """
    if not isinstance(callbacks, Callbacks):
        callbacks = Callbacks(list(callbacks or ()))
    batch_size = settings.retune.batch_size if batch_size is None else batch_size
    check_whole("batch_size", batch_size, 1)
    objective = settings.retune.objective if objective is None else objective

    # Score: I(p) of every token and I(q) of every piece, on the training data (§3.2).
    def score(prompt: SoftPrompt) -> Importance:
        return score_prompt(
            backbone, prompt, splits.train, settings, seed=seed, batch_size=batch_size, objective=objective,
            progress=progress,
        )  # fmt: skip

    selection = splits.selected_on
    mask_seed = stream_seed(seed, "random mask", settings.draw) if settings.draw else seed
    began = time.perf_counter()
    scores = score(tuned)
    scoring_seconds = time.perf_counter() - began

    @functools.cache
    def scores_at(token_ratio: float) -> Importance:
        """Where pieces are scored again, do so once these tokens are pruned."""
        if not settings.rescore_pieces:
            return scores
        left = prune(tuned, scores, token_ratio, 0.0, settings.mode, order=order, seed=mask_seed)
        again = score(left)
        return replace(scores, piece=again.piece, signed=again.signed)

    candidates: list[RetrainedPrompt] = []
    while ratios := next_ratios(settings, candidates):
        # Prune: at every pair of ratios tokens (γ), then pieces of the tokens that are left (ζ) (§3.2).
        pruned = [
            prune(tuned, scores_at(token_ratio), token_ratio, piece_ratio, settings.mode, order=order, seed=mask_seed)
            for token_ratio, piece_ratio in ratios
        ]
        distinct, index = distinct_masks(pruned)

        # Rewind: the survivors go back to their values after prompt tuning (§3.3).
        rewound = [rewind(prompt, tuned) for prompt in distinct]

        # Race, where the settings ask for it: the masks with the lower loss go on. No part of the paper.
        if settings.search == "race":
            raced = race(backbone, rewound, selection, settings.retune, seed=seed)
        else:
            raced = Race.without(len(rewound))

        # Retrain: the survivors alone, all candidates in parallel (§3.3).
        order_seed = stream_seed(seed, "re-training order")
        results = retrain(
            backbone, [rewound[i] for i in raced.left], splits, settings, seeds=[order_seed] * len(raced.left),
            progress=progress, callbacks=callbacks,
        )  # fmt: skip
        retrained = {i: TuneResult(prompt, History(selection.split)) for i, prompt in enumerate(rewound)}
        retrained |= zip(raced.left, results, strict=True)
        tried = [
            RetrainedPrompt(token_ratio, piece_ratio, rewound[i], *retrained[i], raced.losses[i])
            for (token_ratio, piece_ratio), i in zip(ratios, index, strict=True)
        ]
        candidates += tried

    # Choose: the best score on the selection split (§3.2, "linearly searched").
    best = choose_best(tried)
    rescored = scores_at(best.token_ratio) if settings.rescore_pieces else None
    return XPromptResult(best, candidates, scores, scoring_seconds, rescored)


def score_prompt(
    backbone: Backbone,
    prompt: SoftPrompt,
    train: TaskDataset,
    settings: PruneSettings,
    *,
    seed: int,
    batch_size: int,
    objective: str,
    progress: bool = False,
) -> Importance:
    """Return the importance of a prompt's tokens and pieces, in passes that fit where those of retraining do.

    Args:
        settings: of which `importance_limit`, and retraining's accumulation and gradient checkpointing count.
        batch_size: of a step, as many micro-batches as accumulation says; at most retraining's.
    """
    pass_size = max(1, min(batch_size, settings.retune.batch_size) // settings.retune.accumulation)
    with recomputing(backbone.model, settings.retune.gradient_checkpointing):
        return importance(
            backbone, prompt, train, limit=settings.importance_limit, seed=seed, batch_size=pass_size,
            objective=objective, progress=progress,
        )  # fmt: skip


def run_xprompt(context: MethodContext, order: Order = "lowest") -> MethodResult:
    """Run XPrompt from the parent's tuned prompt, and describe it for the record."""
    config, tuned = context.config, context.tuned()
    result = xprompt(
        context.backbone, context.splits, tuned.prompt, config.pruning, order=order, seed=config.seed,
        batch_size=config.tune.batch_size, objective=config.tune.objective, progress=context.progress,
        callbacks=context.callbacks,
    )  # fmt: skip
    prompts = {"tuned_prompt": tuned.prompt, "pruned_prompt": result.best.pruned, "rewound_prompt": result.prompt}
    return MethodResult(
        context.report(result.prompt), result.prompt.num_params, entries("rewind", result.best.history), prompts,
        _details(result, config.pruning, context.splits), tuned.num_cut, tuned.seconds,
    )  # fmt: skip


def run_reversed(context: MethodContext) -> MethodResult:
    """Run Reversed XPrompt, which prunes the *highest* scores. Source: paper §5.3."""
    return run_xprompt(context, "highest")


def run_random(context: MethodContext) -> MethodResult:
    """Run the random mask: as many entries pruned, drawn by the seed. Source: paper §5.3."""
    return run_xprompt(context, "random")


def _details(result: XPromptResult, settings: PruneSettings, splits: Splits) -> dict[str, Any]:
    """Return JSON values for the record."""
    prompt, scores = result.prompt, result.scores
    return {
        "token_ratio": result.best.token_ratio,
        "piece_ratio": result.best.piece_ratio,
        "surviving_tokens": int(prompt.surviving_tokens.sum()),
        "surviving_pieces": int(prompt.surviving_pieces.sum()),
        "token_mask": prompt.surviving_tokens.int().tolist(),
        "piece_mask": prompt.surviving_pieces.int().tolist(),
        "importance": {
            "token": scores.token.tolist(),
            "piece": scores.piece.tolist(),
            "num_examples": scores.num_examples,
            "seconds": round(result.scoring_seconds, 3),
        },
        **({} if result.rescored is None else {"rescored_piece_importance": result.rescored.piece.tolist()}),
        "candidates": [candidate.describe() for candidate in result.candidates],
        "search": {"strategy": settings.search} | search_cost(result.candidates, settings, splits),
        **summary(result.best.history),
    }
