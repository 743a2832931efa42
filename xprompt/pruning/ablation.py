"""Score a tuned prompt with parts of it masked and nothing retrained: paper Fig 2, and each token or piece left out.

P: prompt tokens; K: pieces a token; N: tokens, or pieces, that are left out one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from xprompt.backbones.base import Backbone
from xprompt.config.settings import Mode
from xprompt.data.splits import TaskDataset
from xprompt.errors import ConfigError
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.pruning.importance import Importance
from xprompt.pruning.prune import Order, prune
from xprompt.signatures import check_arguments
from xprompt.streams import stream_seed
from xprompt.training.evaluation import Evaluation, evaluate_many

#: Prompts in one pass over the data; it changes no number.
WIDTH = 64
Level = Literal["token", "piece"]


@check_arguments
def masked_scores(
    backbone: Backbone,
    prompt: SoftPrompt,
    scores: Importance,
    data: TaskDataset,
    token_ratio: float,
    piece_ratio: float = 0.0,
    *,
    draws: int = 20,
    seed: int = 0,
    batch_size: int = 64,
    objective: str = "label_scores",
) -> list[dict[str, Any]]:
    """Score the whole prompt, the prompt without its lowest or highest scores, and without as many drawn at random.

    Args:
        prompt: (P, H), tuned; unchanged.
        scores: of this prompt, (P,) and (P, K).
        data: the split to report on.
        token_ratio, piece_ratio: shares masked, in [0, 1), as `prune` takes them.
        draws: random masks, ≥ 1.
        seed: of the draws.

    Returns:
        one row a prompt, tidy: mask ("all", "lowest", "highest" or "random"), draw (0 … draws − 1; 0 where there is one
        alone), masked_tokens, masked_pieces (in tokens that are left), score (in [0, 1]), loss (nats), and each metric.

    Raises:
        ConfigError: as `prune`; fewer than one draw.
        NotFiniteError: a loss is not finite.

    Source: paper Fig 2. Differs: several random masks, and the highest scores masked, in the same pass.
    """
    if draws < 1:
        raise ConfigError(f"{draws} random masks were asked for: give draws of 1 or more.")
    named: list[tuple[str, int, SoftPrompt]] = [("all", 0, prompt)]
    orders: tuple[Order, ...] = ("lowest", "highest")
    for order in orders:
        named.append((order, 0, prune(prompt, scores, token_ratio, piece_ratio, order=order)))
    for draw in range(draws):
        drawn = stream_seed(seed, "random mask", draw)
        named.append(("random", draw, prune(prompt, scores, token_ratio, piece_ratio, order="random", seed=drawn)))
    evaluations = _evaluate(backbone, [masked for *_, masked in named], data, batch_size, objective)
    return [
        {
            "mask": mask,
            "draw": draw,
            "masked_tokens": int(prompt.surviving_tokens.sum() - masked.token_mask.sum()),
            "masked_pieces": int((prompt.surviving_pieces & masked.token_mask[:, None] & ~masked.piece_mask).sum()),
            "score": evaluation.score,
            "loss": evaluation.loss,
            **evaluation.metrics,
        }
        for (mask, draw, masked), evaluation in zip(named, evaluations, strict=True)
    ]


@dataclass(frozen=True)
class MaskedGrid:
    """What a tuned prompt scores under the mask of every pair of prune ratios, nothing retrained.

    R: token ratios; S: piece ratios.

    Attributes:
        token_ratios, piece_ratios: (R,) and (S,), ascending.
        surviving: (R, S, P, K) bool, CPU: the pieces that are left.
        score: (R, S) float32, CPU, in [0, 1].
        loss: (R, S) float32, CPU, in nats.
        whole: of the prompt as it was given.
        split: what it was scored on.
    """

    token_ratios: tuple[float, ...]
    piece_ratios: tuple[float, ...]
    surviving: Bool[Tensor, "R S P K"]
    score: Float[Tensor, "R S"]
    loss: Float[Tensor, "R S"]
    whole: Evaluation
    split: str

    def __repr__(self) -> str:
        low, high = 100 * float(self.score.min()), 100 * float(self.score.max())
        return f"MaskedGrid({len(self.token_ratios)} × {len(self.piece_ratios)} pairs of ratios on {self.split}; " + (
            f"{low:.1f} to {high:.1f} points, {100 * self.whole.score:.1f} unpruned)"
        )


@check_arguments
def masked_grid(
    backbone: Backbone,
    prompt: SoftPrompt,
    scores: Importance,
    data: TaskDataset,
    token_ratios: Sequence[float],
    piece_ratios: Sequence[float],
    mode: Mode | None = None,
    *,
    batch_size: int = 64,
    objective: str = "label_scores",
    progress: bool = False,
) -> MaskedGrid:
    """Score the prompt under the mask of every pair of prune ratios: what sliders over the ratios need.

    Args:
        prompt: (P, H), tuned; unchanged.
        scores: of this prompt, (P,) and (P, K).
        data: the split to score on.
        token_ratios, piece_ratios: shares masked, in [0, 1); each once, in any order.
        mode: as in `prune`.
        progress: show a bar.

    Raises:
        ConfigError: as `prune`; no ratio.
        NotFiniteError: a loss is not finite.

    Example:
        >>> import xprompt as xp
        >>> backbone, splits = xp.load_backbone("nano"), xp.load_task("rte", limit_train=64, limit_validation=32)
        >>> prompt = xp.SoftPrompt.init(backbone, length=4)
        >>> scores = xp.importance(backbone, prompt, splits.train, limit=32)
        >>> grid = xp.masked_grid(backbone, prompt, scores, splits.validation, [0.0, 0.5], [0.0, 0.25, 0.5])
        >>> grid.score.shape, grid.surviving.sum(dim=(2, 3)).tolist()
        (torch.Size([2, 3]), [[64, 48, 32], [32, 24, 16]])

    Source: paper §3.2, before rewinding and retraining.
    """
    rows, columns = (tuple(sorted(set(map(float, ratios)))) for ratios in (token_ratios, piece_ratios))
    if not rows or not columns:
        raise ConfigError("masked_grid needs one token ratio and one piece ratio at least, such as [0.0, 0.5].")
    whole, *_ = _evaluate(backbone, [prompt], data, batch_size, objective)
    surviving, evaluations = [], []
    for token_ratio in tqdm(rows, desc="masks", unit="row", disable=not progress, leave=False):
        masked = [prune(prompt, scores, token_ratio, piece_ratio, mode) for piece_ratio in columns]
        surviving.append(torch.stack([candidate.surviving_pieces.cpu() for candidate in masked]))
        evaluations.append(_evaluate(backbone, masked, data, batch_size, objective))
    score, loss = (
        torch.tensor([[getattr(evaluation, name) for evaluation in row] for row in evaluations])
        for name in ("score", "loss")
    )
    return MaskedGrid(rows, columns, torch.stack(surviving), score, loss, whole, data.split)


@dataclass(frozen=True)
class LeaveOneOut:
    """What changes when one token, or one piece, alone is pruned.

    Attributes:
        loss: (P,) or (P, K) float32, CPU: the mean loss without it, less the whole prompt's, in nats. Above 0: the
            prompt needs it; below 0: it does harm. NaN where it was pruned before.
        score: the same of the score, in [−1, 1]; below 0: the prompt needs it.
        whole: of the whole prompt.
    """

    loss: Float[Tensor, "*N"]
    score: Float[Tensor, "*N"]
    whole: Evaluation


@check_arguments
def leave_one_out(
    backbone: Backbone,
    prompt: SoftPrompt,
    data: TaskDataset,
    level: Level = "token",
    *,
    batch_size: int = 64,
    objective: str = "label_scores",
) -> LeaveOneOut:
    """Prune each token, or each piece, alone, and measure what that does to loss and score on a split.

    Args:
        prompt: (P, H), tuned; unchanged. Its mode says what becomes of a pruned token's position.
        level: "token" or "piece".

    Raises:
        ConfigError: an unknown level, or fewer than two that survive.
        NotFiniteError: a loss is not finite.

    Differs: the paper does not measure whether importance predicts harm.
    """
    if level not in ("token", "piece"):
        raise ConfigError(f"unknown level {level!r}: choose 'token' or 'piece'.")
    surviving = (prompt.surviving_tokens if level == "token" else prompt.surviving_pieces).cpu()  # (P,) or (P, K)
    places = [tuple(place) for place in surviving.nonzero().tolist()]  # N
    if len(places) < 2:
        raise ConfigError(f"the prompt has {len(places)} {level} that survives: leaving one out needs two or more.")
    pruned = []
    for place in places:
        without = prompt.clone()
        (without.token_mask if level == "token" else without.piece_mask)[place] = False
        pruned.append(without)
    whole, *evaluations = _evaluate(backbone, [prompt, *pruned], data, batch_size, objective)
    loss, score = (torch.full(surviving.shape, float("nan")) for _ in range(2))
    for place, evaluation in zip(places, evaluations, strict=True):
        loss[place], score[place] = evaluation.loss - whole.loss, evaluation.score - whole.score
    return LeaveOneOut(loss, score, whole)


def predictors(
    prompt: SoftPrompt, scores: Importance, level: Level = "token", *, seed: int = 0
) -> dict[str, Float[Tensor, "*N"]]:
    """Return what may predict the loss without each token, or piece: higher means that the prompt needs it more.

    Args:
        prompt: (P, H), the one that was scored.
        scores: of this prompt, as `importance` returns them.

    Returns:
        each (P,) or (P, K), float32, on the CPU: "importance", E|∂L/∂mask| (paper §3.2); "first_order", −E ∂L/∂mask,
        the change in loss that a step of the mask from 1 to 0 promises; "magnitude", the norm of the values; "random".

    Raises `ConfigError` for an unknown level, or scores without their signs.
    """
    if level not in ("token", "piece") or scores.signed is None:
        raise ConfigError(
            f"level {level!r}, scores {'with' if scores.signed is not None else 'without'} signs: choose 'token' or "
            "'piece', and scores that importance() returned."
        )
    values = prompt.masked().detach().float().cpu().unflatten(1, (prompt.pieces, -1))  # (P, K, H / K)
    by_token = level == "token"
    generator = torch.Generator().manual_seed(stream_seed(seed, "random mask"))
    found = scores.token if by_token else scores.piece
    return {
        "importance": found,
        "first_order": -(scores.signed.sum(dim=1) if by_token else scores.signed),
        "magnitude": values.flatten(1).norm(dim=1) if by_token else values.norm(dim=2),
        "random": torch.rand(found.shape, generator=generator),
    }


def _evaluate(
    backbone: Backbone, prompts: Sequence[SoftPrompt], data: TaskDataset, batch_size: int, objective: str
) -> list[Evaluation]:
    """Evaluate all of them, `WIDTH` at a time."""
    encoded = backbone.encode(data, max(prompt.num_vectors for prompt in prompts))
    evaluations: list[Evaluation] = []
    for first in range(0, len(prompts), WIDTH):
        evaluations += evaluate_many(
            backbone, prompts[first : first + WIDTH], data, encoded=encoded, batch_size=batch_size, objective=objective
        )
    return [evaluation.require_finite(data.split) for evaluation in evaluations]
