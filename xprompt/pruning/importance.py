"""Gradient importance of prompt tokens, I(p), and of the pieces inside them, I(q)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from xprompt import html
from xprompt.backbones.base import Backbone
from xprompt.backbones.subnormals import subnormals_as_zero
from xprompt.data.batching import batches, shard
from xprompt.data.splits import TaskDataset, check_whole, stratified_sample
from xprompt.distributed import process_group
from xprompt.errors import NotFiniteError
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.signatures import check_arguments
from xprompt.tasks.example import data_error


@dataclass(frozen=True)
class Importance:
    """Mean absolute sensitivity of the loss to each mask entry.

    Attributes:
        token: (P,) float32, CPU, ≥ 0: E_x |∂L(x)/∂γᵢ|.
        piece: (P, K) float32, CPU, ≥ 0: E_x |∂L(x)/∂ζᵢⱼ|.
        num_examples: examples averaged over.
        signed: (P, K) float32, CPU: E_x ∂L(x)/∂ζᵢⱼ, with its sign; a token's is the sum over its pieces.
    """

    token: Float[Tensor, " P"]
    piece: Float[Tensor, "P K"]
    num_examples: int
    signed: Float[Tensor, "P K"] | None = None

    def __repr__(self) -> str:
        tokens, pieces = self.piece.shape
        low, high = float(self.token.min()), float(self.token.max())
        size = f"{tokens} tokens × {pieces} pieces, over {self.num_examples:,} examples"
        return f"Importance({size}; token scores {low:.3g} to {high:.3g})"

    def _repr_html_(self) -> str:
        """Show the map of the pieces; entries that score 0 are pruned, or do nothing."""
        rows = [[value or None for value in row] for row in self.piece.tolist()]
        return html.heat_map(rows, f"{self!r}. Rows: tokens; columns: pieces; darker: more important; outlined: 0.")


@check_arguments
def importance(
    backbone: Backbone,
    prompt: SoftPrompt,
    data: TaskDataset,
    *,
    batch_size: int = 32,
    limit: int | None = None,
    seed: int = 0,
    objective: str = "label_scores",
    progress: bool = False,
) -> Importance:
    """Score every token and every piece from one backward pass over the data.

    The prompt is expanded to one copy an example, (B, P, H), and the *sum* of the examples' losses is
    differentiated with respect to it, so g[b] holds example b's own gradient. A mask entry multiplies its part of
    the prompt, hence ∂L_b/∂γᵢ = ⟨g_bᵢ, pᵢ⟩ and ∂L_b/∂ζᵢⱼ = the same over piece j; the absolute value is taken per
    example, then averaged. Exact, both levels at once, at any batch size.

    Args:
        prompt: (P, H); unchanged.
        data: the training split; where `limit` (≥ 1) is given, a sample of as many, stratified by label.
        seed: of the sample.
        batch_size: examples in one backward pass; it changes no score but by rounding.

    Returns:
        `Importance`, (P,) and (P, K); entries already pruned score 0.

    Raises:
        DataError: no examples, or a limit that is no whole number of at least 1.
        NotFiniteError: a gradient is not finite.

    Source: paper §3.2, Eq. for I(p) and I(q).

    Example:
        >>> import xprompt as xp
        >>> backbone, splits = xp.load_backbone("nano"), xp.load_task("rte", limit_train=64)
        >>> scores = xp.importance(backbone, xp.SoftPrompt.init(backbone, length=4), splits.train, limit=32)
        >>> scores.token.shape, scores.piece.shape, scores.num_examples
        (torch.Size([4]), torch.Size([4, 16]), 32)
    """
    if not len(data):
        raise data_error(
            "Importance", f"no examples of {data.task.name}'s {data.split} split", "at least 1", "give the whole split"
        )
    if limit is not None:
        check_whole("limit", limit, 1)
    data = stratified_sample(data, limit, seed)
    vectors = prompt().detach().to(backbone.device)  # (Q, H): Q = P, or the surviving tokens in mode "drop"
    vectors = vectors.float() if vectors.element_size() < 4 else vectors  # or products would be rounded
    encoded, verbalizer = backbone.encode(data, len(vectors)), backbone.verbalizer(data.task)
    positions = prompt.surviving_tokens if prompt.mode == "drop" else torch.ones_like(prompt.token_mask)
    token = vectors.new_zeros(len(vectors), dtype=torch.float64)  # (Q,)
    piece = vectors.new_zeros(len(vectors), prompt.pieces, dtype=torch.float64)  # (Q, K)
    signed = torch.zeros_like(piece)  # (Q, K)
    bar = tqdm(total=len(data), desc="importance", unit="ex", disable=not progress, leave=False)
    for whole in batches(encoded, batch_size, seed=None):
        batch = shard(whole, process_group())
        if not len(batch):
            continue
        expanded = vectors.expand(len(batch), -1, -1).clone().requires_grad_()  # (B, Q, H)
        with subnormals_as_zero(backbone.device):
            loss = backbone.loss(expanded, batch, verbalizer, objective=objective).sum()  # ()
            (gradient,) = torch.autograd.grad(loss, expanded)  # (B, Q, H)
        by_piece = (gradient * vectors).unflatten(-1, (prompt.pieces, -1)).sum(dim=-1)  # (B, Q, K): ∂L_b/∂ζᵢⱼ
        signed += by_piece.sum(dim=0, dtype=torch.float64)
        piece += by_piece.abs().sum(dim=0, dtype=torch.float64)
        token += by_piece.sum(dim=-1).abs().sum(dim=0, dtype=torch.float64)  # (B, Q): ∂L_b/∂γᵢ
        bar.update(len(whole))
    bar.close()
    process_group().all_reduce([token, piece, signed])
    if not bool(torch.isfinite(piece).all() & torch.isfinite(token).all()):
        raise NotFiniteError(
            "the gradients that importance is made of are not finite: the prompt or the backbone holds such values, or "
            "they overflow in the backbone's dtype. Tune the prompt at a lower rate, or use bfloat16 or float32."
        )

    def at_all_positions(sums: Tensor) -> Tensor:  # (Q, …) → (P, …)
        means = torch.zeros(prompt.length, *sums.shape[1:])
        means[positions.cpu()] = (sums / len(data)).float().cpu()
        return means

    return Importance(at_all_positions(token), at_all_positions(piece), len(data), at_all_positions(signed))
