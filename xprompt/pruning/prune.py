"""From scores and ratios to masks: hierarchical structured pruning, its controls, and rewinding."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xprompt.config.settings import Mode
from xprompt.errors import ConfigError, NotFiniteError
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.pruning.importance import Importance
from xprompt.pruning.ratio import num_pruned
from xprompt.signatures import check_arguments
from xprompt.streams import stream_seed

Order = Literal["lowest", "highest", "random"]


def keep_mask(
    scores: Float[Tensor, "..."],
    ratio: float,
    *,
    prunable: Bool[Tensor, "..."] | None = None,
    order: Order = "lowest",
    seed: int = 0,
    level: int = 0,
) -> Bool[Tensor, "..."]:
    """Return a mask of the scores' shape, True where an entry is kept, with `ratio` of the prunable ones removed.

    Args:
        scores: importance, any shape; all entries are ranked together.
        ratio: share removed, in [0, 1); one entry always stays.
        prunable: the entries not pruned yet; the others stay pruned. Default: all.
        order: which go first: "lowest" is XPrompt, "highest" Reversed XPrompt, "random" the random mask (paper §5.3).
        seed, level: of the random order; 0 for tokens, 1 for pieces, so that the two draws are independent.

    Of equal scores the earlier position goes first, so that there is one answer.

    Raises:
        ConfigError: a ratio out of range, an unknown order.
        NotFiniteError: scores that are not finite.
    """
    if prunable is not None and (prunable.shape != scores.shape or prunable.dtype != torch.bool):
        raise ConfigError(
            f"prunable is {prunable.dtype} of shape {tuple(prunable.shape)}; it must be a mask (torch.bool) of the "
            f"scores' shape, {tuple(scores.shape)}."
        )
    flat = scores.flatten().double().cpu()  # (N,)
    if not bool(torch.isfinite(flat).all()):
        raise NotFiniteError("scores that are not finite cannot be ranked: score the prompt again with importance().")
    keep = torch.ones(flat.shape, dtype=torch.bool) if prunable is None else prunable.flatten().cpu().clone()  # (N,)
    entries = keep.nonzero().squeeze(1)  # (M,): indices of those that may go
    if order == "random":
        generator = torch.Generator().manual_seed(stream_seed(seed, "random mask", level))
        ranked = entries[torch.randperm(len(entries), generator=generator)]
    elif order in ("lowest", "highest"):
        ranked = entries[torch.sort(flat[entries], stable=True, descending=order == "highest").indices]
    else:
        raise ConfigError(f"unknown order {order!r}: choose lowest, highest or random.")
    keep[ranked[: num_pruned(len(entries), ratio)]] = False
    return keep.view(scores.shape)


@check_arguments
def prune(
    prompt: SoftPrompt,
    scores: Importance,
    token_ratio: float,
    piece_ratio: float,
    mode: Mode | None = None,
    *,
    order: Order = "lowest",
    seed: int = 0,
) -> SoftPrompt:
    """Return a copy with the lowest-scoring tokens, then the lowest-scoring pieces of the surviving tokens, pruned.

    Args:
        prompt: (P, H), where a piece survives; entries it has pruned already stay pruned.
        scores: of this prompt, (P,) and (P, K).
        token_ratio, piece_ratio: shares removed, in [0, 1). At least one token and one piece survive.
        mode: "zero" or "drop"; the prompt's own where None.
        order, seed: the controls; see `keep_mask`.

    Returns:
        a pruned copy with the same values where it survives.

    Raises:
        ConfigError: scores of another prompt, one with nothing left, a ratio out of range, an unknown order or mode.

    Example:
        >>> import xprompt as xp
        >>> backbone, splits = xp.load_backbone("nano"), xp.load_task("rte", limit_train=64)
        >>> prompt = xp.SoftPrompt.init(backbone, length=4)
        >>> scores = xp.importance(backbone, prompt, splits.train, limit=32)
        >>> xp.prune(prompt, scores, token_ratio=0.5, piece_ratio=0.25)
        SoftPrompt(4 tokens of 128 values in 16 pieces, of which 2 tokens and 24 of 64 pieces survive. Mode "zero".)

    Source: paper §3.2. Differs: piece scores come from the same backward pass as token scores, at γ = ζ = 1.
    """
    if scores.piece.shape != prompt.piece_mask.shape or scores.token.shape != prompt.token_mask.shape:
        raise ConfigError(
            f"the scores are for {tuple(scores.piece.shape)} tokens × pieces, the prompt has "
            f"{tuple(prompt.piece_mask.shape)}: score this prompt with importance()."
        )
    if not bool(prompt.surviving_pieces.any()):
        raise ConfigError(
            f"the prompt's masks keep 0 of {prompt.piece_mask.numel():,} pieces; one at least must survive: give the "
            "prompt as it was before they were set, such as the tuned one."
        )
    pruned = SoftPrompt(prompt.embeddings, pieces=prompt.pieces, mode=prompt.mode if mode is None else mode)
    pruned.card = prompt.card
    # γ: tokens first, (P,)
    token_mask = keep_mask(scores.token, token_ratio, prunable=prompt.surviving_tokens, order=order, seed=seed)
    # ζ: then pieces of the surviving tokens, ranked over all of those together, (P, K)
    prunable = prompt.surviving_pieces.cpu() & token_mask[:, None]
    piece_mask = keep_mask(scores.piece, piece_ratio, prunable=prunable, order=order, seed=seed, level=1)
    pruned.token_mask.copy_(token_mask)
    pruned.piece_mask.copy_(piece_mask)
    return pruned


@check_arguments
def rewind(pruned: SoftPrompt, tuned: SoftPrompt) -> SoftPrompt:
    """Return a copy of the pruned prompt whose survivors have their values after prompt tuning again.

    Args:
        pruned: (P, H), whose masks are kept.
        tuned: (P, H), whose values are taken.

    Raises:
        ConfigError: the prompts differ in shape.

    Source: paper §3.3.
    """
    if pruned.embeddings.shape != tuned.embeddings.shape:
        raise ConfigError(
            f"cannot rewind a prompt of shape {tuple(pruned.embeddings.shape)} to one of "
            f"{tuple(tuned.embeddings.shape)}: give the tuned prompt it was pruned from."
        )
    rewound = pruned.clone()
    with torch.no_grad():
        rewound.embeddings.copy_(tuned.embeddings)
    return rewound
