"""From scores and ratios to masks: hierarchical structured pruning, its controls, and rewinding.

Owns which tokens and pieces go. Never looks at data and never trains.
"""

from __future__ import annotations

from math import floor
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xprompt.errors import ConfigError
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.pruning.importance import Importance

Order = Literal["lowest", "highest", "random"]


def num_pruned(total: int, ratio: float) -> int:
    """How many of `total` entries a prune ratio takes: ratio · total rounded half up, and always one fewer than all.

    Raises:
        ConfigError: the ratio is outside [0, 1).
    """
    if not 0 <= ratio < 1:
        raise ConfigError(f"a prune ratio of {ratio} was given; it must lie in [0, 1): the share that is *removed*.")
    # The tiny term undoes binary fractions such as 0.15 · 10 = 1.4999…, which should round up like 1.5.
    return min(floor(ratio * total + 0.5 + 1e-9), total - 1)


def keep_mask(
    scores: Float[Tensor, "..."],
    ratio: float,
    *,
    alive: Bool[Tensor, "..."] | None = None,
    order: Order = "lowest",
    seed: int = 0,
) -> Bool[Tensor, "..."]:
    """Keep-mask of the scores' shape, with `ratio` of the living entries pruned, all of them ranked together.

    Args:
        scores: importance, any shape.
        alive: entries that may be pruned; the others stay pruned. Default: all.
        order: which go first: "lowest" is XPrompt, "highest" Reversed XPrompt, "random" the random mask (paper §5.3).
        seed: of the random order.

    Ties go to the earlier position, so equal scores give one answer.
    """
    flat = scores.flatten().double().cpu()
    living = torch.ones(flat.shape, dtype=torch.bool) if alive is None else alive.flatten().cpu()
    candidates = living.nonzero().squeeze(1)
    if order == "random":
        ranked = candidates[torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))]
    elif order in ("lowest", "highest"):
        ranked = candidates[torch.sort(flat[candidates], stable=True, descending=order == "highest").indices]
    else:
        raise ConfigError(f"unknown order {order!r}: choose lowest, highest or random.")
    keep = living.clone()
    keep[ranked[: num_pruned(len(candidates), ratio)]] = False
    return keep.view(scores.shape)


def prune(
    prompt: SoftPrompt,
    scores: Importance,
    token_ratio: float,
    piece_ratio: float,
    mode: Literal["zero", "drop"] | None = None,
    *,
    order: Order = "lowest",
    seed: int = 0,
) -> SoftPrompt:
    """Return a copy with the lowest-scoring tokens, then the lowest-scoring pieces of the surviving tokens, pruned.

    Args:
        prompt: (P, H); entries it has pruned already stay pruned.
        scores: of this prompt.
        token_ratio, piece_ratio: shares removed, in [0, 1). At least one token and one piece survive.
        mode: "zero" or "drop"; the prompt's own where None.
        order, seed: the controls; see `keep_mask`.

    Returns:
        a pruned copy with the same values where it survives.

    Source: paper §3.2. Differs: piece scores come from the same backward pass as token scores, at γ = ζ = 1.
    """
    if scores.piece.shape != prompt.piece_mask.shape:
        raise ConfigError(
            f"the scores are for {tuple(scores.piece.shape)} tokens × pieces, the prompt has "
            f"{tuple(prompt.piece_mask.shape)}: score this prompt with importance()."
        )
    pruned = prompt.clone()
    if mode is not None:
        pruned = SoftPrompt(prompt.embeddings, pieces=prompt.pieces, mode=mode)
    tokens = keep_mask(scores.token, token_ratio, alive=prompt.surviving_tokens, order=order, seed=seed)
    alive = prompt.surviving_pieces.cpu() & tokens[:, None]
    pieces = keep_mask(scores.piece, piece_ratio, alive=alive, order=order, seed=seed + 1)
    pruned.token_mask.copy_(tokens)
    pruned.piece_mask.copy_(pieces)
    return pruned


def rewind(pruned: SoftPrompt, tuned: SoftPrompt) -> SoftPrompt:
    """Return the pruned prompt with its survivors reset to their values after prompt tuning. Source: paper §3.3."""
    if pruned.embeddings.shape != tuned.embeddings.shape:
        raise ConfigError(
            f"cannot rewind a prompt of shape {tuple(pruned.embeddings.shape)} to one of "
            f"{tuple(tuned.embeddings.shape)}: give the tuned prompt it was pruned from."
        )
    rewound = pruned.clone()
    with torch.no_grad():
        rewound.embeddings.copy_(tuned.embeddings)
    return rewound
