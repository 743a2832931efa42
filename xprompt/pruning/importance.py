"""Gradient importance of prompt tokens and of the pieces inside them.

Owns the scores I(p) and I(q). Never prunes: what to do with a score is `pruning`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from xprompt.backbones.base import Backbone
from xprompt.data.batching import batches, shard
from xprompt.data.splits import TaskDataset
from xprompt.distributed import process_group
from xprompt.prompts.soft_prompt import SoftPrompt


@dataclass(frozen=True)
class Importance:
    """Mean absolute sensitivity of the loss to each mask entry.

    Attributes:
        token: (P,) float32, CPU, ≥ 0: E_x |∂L(x)/∂γᵢ|.
        piece: (P, K) float32, CPU, ≥ 0: E_x |∂L(x)/∂ζᵢⱼ|.
        num_examples: examples averaged over.
    """

    token: Float[Tensor, " P"]
    piece: Float[Tensor, "P K"]
    num_examples: int


def importance(
    backbone: Backbone,
    prompt: SoftPrompt,
    data: TaskDataset,
    *,
    batch_size: int = 32,
    limit: int | None = None,
    objective: str = "label_scores",
    progress: bool = False,
) -> Importance:
    """Score every token and every piece from one backward pass over the data.

    The prompt is expanded to one copy an example, (B, P, H), and the *sum* of the examples' losses is
    differentiated with respect to it, so g[b] holds example b's own gradient. A mask entry multiplies its part of
    the prompt, hence ∂L_b/∂γᵢ = ⟨g_bᵢ, pᵢ⟩ and ∂L_b/∂ζᵢⱼ = the same over piece j; the absolute value is taken per
    example, then averaged. Exact, both levels at once, at any batch size.

    Args:
        data: the training split; the first `limit` examples of it where given.

    Returns:
        `Importance`; entries already pruned score 0.

    Source: paper §3.2, Eq. for I(p) and I(q).
    """
    if limit is not None:
        data = data[:limit]
    encoded, verbalizer = backbone.encode(data), backbone.verbalizer(data.task)
    values = prompt().detach().to(backbone.device)
    kept = prompt.surviving_tokens if prompt.mode == "drop" else torch.ones_like(prompt.token_mask)
    token = values.new_zeros(len(values), dtype=torch.float64)
    piece = values.new_zeros(len(values), prompt.pieces, dtype=torch.float64)
    bar = tqdm(total=len(data), desc="importance", unit="ex", disable=not progress, leave=False)
    for whole in batches(encoded, batch_size, seed=None):
        batch = shard(whole, process_group())
        if not len(batch):
            continue
        rows = values.expand(len(batch.labels), -1, -1).clone().requires_grad_()
        loss = backbone.loss(rows, batch, verbalizer, objective=objective).sum()
        (gradient,) = torch.autograd.grad(loss, rows)
        by_piece = (gradient * values).unflatten(-1, (prompt.pieces, -1)).sum(dim=-1)  # (B, P, K)
        piece += by_piece.abs().sum(dim=0, dtype=torch.float64)
        token += by_piece.sum(dim=-1).abs().sum(dim=0, dtype=torch.float64)
        bar.update(len(whole))
    bar.close()
    process_group().all_reduce([token, piece])
    all_token = torch.zeros(prompt.length)
    all_piece = torch.zeros(prompt.length, prompt.pieces)
    all_token[kept.cpu()] = (token / len(data)).float().cpu()
    all_piece[kept.cpu()] = (piece / len(data)).float().cpu()
    return Importance(all_token, all_piece, len(data))
