"""A tuned prompt with parts of it masked, nothing retrained: paper Fig 2, and each token and piece left out alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from xprompt.methods.base import MethodContext, MethodResult
from xprompt.methods.xprompt import score_prompt
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.pruning.ablation import Level, leave_one_out, masked_scores, predictors
from xprompt.pruning.importance import Importance
from xprompt.pruning.prune import prune

#: Random masks at each ratio.
DRAWS = 20
_LEVELS: dict[str, tuple[Level, ...]] = {"token": ("token",), "piece": ("piece",), "both": ("token", "piece")}


def masking(context: MethodContext) -> MethodResult:
    """Mask the tokens with the lowest scores, the highest, and `DRAWS` times as many at random, at every token ratio.

    The result is the prompt without its lowest tokens, at the ratio that scores best on the selection split; of equals
    the larger one. Scores are those that XPrompt prunes by.

    Source: paper Fig 2. Differs: every ratio, the highest scores too, and several random masks.
    """
    config, splits = context.config, context.splits
    prompt, scores, num_cut, seconds = _scored(context)
    selection = splits.selected_on
    measured = []
    for split in (selection,) if splits.selection is None else (selection, splits.validation):
        for ratio in config.pruning.token_ratios:
            rows = masked_scores(
                context.backbone, prompt, scores, split, ratio, draws=DRAWS, seed=config.seed,
                batch_size=config.tune.eval_batch_size, objective=config.tune.objective,
            )  # fmt: skip
            measured.append({"split": split.split, "token_ratio": ratio, **_by_mask(rows)})
    on_selection = [entry for entry in measured if entry["split"] == selection.split]
    best = max(on_selection, key=lambda entry: (entry["score"]["lowest"], entry["token_ratio"]))["token_ratio"]
    masked = prune(prompt, scores, best, 0.0)
    details = {"token_ratio": best, "draws": DRAWS, "masks": measured, "importance": {"token": _plain(scores.token)}}
    return MethodResult(
        context.report(masked), masked.num_params, prompts={"pruned_prompt": masked}, details=details,
        num_cut=num_cut, seconds_before=seconds,
    )  # fmt: skip


def leave_each_out(context: MethodContext) -> MethodResult:
    """Leave out each token, and each piece, alone: what that does to loss and score, beside what may predict it.

    The settings' `prune.level` says which of the two. The result is the whole prompt's. Harm is measured on the
    reported split, the predictors come from train. A level with a single entry is left out.

    Differs: the paper does not measure whether importance predicts harm.
    """
    config, backbone = context.config, context.backbone
    prompt, scores, num_cut, seconds = _scored(context)
    details: dict[str, Any] = {}
    whole = None
    for level in _LEVELS[config.pruning.level]:
        if int((prompt.surviving_tokens if level == "token" else prompt.surviving_pieces).sum()) < 2:
            continue  # without the only one there is no prompt
        found = leave_one_out(
            backbone, prompt, context.splits.validation, level, batch_size=config.tune.eval_batch_size,
            objective=config.tune.objective,
        )  # fmt: skip
        whole = found.whole
        predicted = predictors(prompt, scores, level, seed=config.seed)
        details[level] = {name: _plain(values) for name, values in (
            ("loss_change", found.loss), ("score_change", found.score), *predicted.items()
        )}  # fmt: skip
    return MethodResult(
        whole or context.report(prompt), prompt.num_params, details={"leave_one_out": details}, num_cut=num_cut,
        seconds_before=seconds,
    )  # fmt: skip


def _scored(context: MethodContext) -> tuple[SoftPrompt, Importance, int, float]:
    """The parent's prompt in the settings' mode, its importance as XPrompt computes it, cut sources, and seconds."""
    config, tuned = context.config, context.tuned()
    scores = score_prompt(
        context.backbone, tuned.prompt, context.splits.train, config.pruning, seed=config.seed,
        batch_size=config.tune.batch_size, objective=config.tune.objective, progress=context.progress,
    )  # fmt: skip
    return prune(tuned.prompt, scores, 0.0, 0.0, config.pruning.mode), scores, tuned.num_cut, tuned.seconds


def _by_mask(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Score and loss by mask, those of random masks as a list: a row a draw would be ten times the record."""
    rows = list(rows)
    named = {row["mask"]: row for row in rows if row["mask"] != "random"}
    drawn = [row for row in rows if row["mask"] == "random"]
    return {"masked_tokens": named["lowest"]["masked_tokens"]} | {
        of: {mask: _round(row[of]) for mask, row in named.items()} | {"random": [_round(row[of]) for row in drawn]}
        for of in ("score", "loss")
    }


def _plain(values: Tensor) -> list[float]:
    """Flatten to numbers of six digits for a record."""
    return [_round(value) for value in values.flatten().tolist()]


def _round(value: float) -> float:
    return float(f"{value:.6g}")
