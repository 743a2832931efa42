"""Compute what a frozen T5 needs to score a label, and no more: its encoder, and its decoder's first position.

Equal to transformers' own forward up to rounding (a test compares values and gradients in float64), which `seq2seq`
uses wherever dropout is active, weights are trained, or modules lie on several devices.
Shapes: B batch, S prompt and source positions, H embedding width, N heads, D width of a head.
"""

# Half of the time of a step on nano goes to matrix products (`bench/matrix_rate.py`). What is left out:
#
# - Keys and values of the cross-attention for every source position. With one query, a head's scores are
#   (q W_k) · states and its output is W_v (attention · states): the weights meet one vector a head in place of S
#   states. That is a seventh of all products of a T5 v1.1.
# - Query and key of the decoder's self-attention: over one position, attention is the value.
# - The mask, where no row of a batch is padded.
# - Tensors that a sum or a ReLU can overwrite, and half of the root mean square's backward pass: 4.8 % of a step on
#   nano (95 % interval 2.3 to 7.2, 31 rounds of processor time), to the same bits.
#
# Fused attention is for long rows and for GPUs. On a CPU torch's own kernel gains nothing from a second core, and its
# backward pass is slow: over 48 positions two cores do plain products 1.4 times as fast in evaluation, 1.7 in training.

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5DenseActDense, T5LayerNorm

from xprompt.backbones.gradient_checkpointing import is_recomputed, recompute
from xprompt.backbones.t5_encoder_block import FrozenEncoderBlock, can_run

#: Positions, prompt included, up to which attention is done by plain products on a CPU.
PLAIN_ATTENTION = 96


class FrozenT5:
    """The two halves of the forward that label scores need.

    Args:
        model: a `T5ForConditionalGeneration` of either generation (ReLU or gated GELU; tied or separate head).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model
        self._weights = tuple(model.parameters())  # listed once: to walk the modules takes 3 % of nano's evaluation

    @property
    def applies(self) -> bool:
        """Whether it is T5 itself (its relatives differ in their position bias), on one device, and frozen now."""
        return (
            type(self.model) is T5ForConditionalGeneration
            and getattr(self.model, "hf_device_map", None) is None
            and not self.model.training
            and not any(weight.requires_grad for weight in self._weights)
        )

    def encode(self, embeddings: Float[Tensor, "B S H"], mask: Int[Tensor, "B S"]) -> Float[Tensor, "B S H"]:
        """Return the encoder's last states."""
        encoder = self.model.encoder
        length = embeddings.shape[1]
        hidden = embeddings  # (B, S, H)
        bias = encoder.block[0].layer[0].SelfAttention.compute_bias(length, length)  # (1, N, S, S)
        if mask.device.type != "cpu" or not mask.all():  # asking a GPU would make the loop wait for it
            bias = bias.masked_fill(mask[:, None, None, :] == 0, torch.finfo(bias.dtype).min)  # (B, N, S, S)
        for block in encoder.block:
            if is_recomputed(block):
                hidden = recompute(_encode_block, block, hidden, bias)
            else:
                hidden = _encode_block(block, hidden, bias)
        return _normalize(encoder.final_layer_norm, hidden)

    def first_hidden(self, states: Float[Tensor, "B S H"], mask: Int[Tensor, "B S"]) -> Float[Tensor, "B H"]:
        """Return the decoder's last state at its first position, which predicts the first label token."""
        decoder = self.model.decoder
        start = torch.full((len(states),), self.model.config.decoder_start_token_id, device=states.device)  # (B,)
        hidden = decoder.embed_tokens(start)  # (B, H)
        for block in decoder.block:
            attention, cross, feed_forward = block.layer
            hidden = hidden + attention.SelfAttention.o(attention.SelfAttention.v(attention.layer_norm(hidden)))
            hidden = hidden + _cross_attend(cross.EncDecAttention, cross.layer_norm(hidden), states, mask)
            hidden = hidden + feed_forward.DenseReluDense(feed_forward.layer_norm(hidden))
        return decoder.final_layer_norm(hidden)


def _encode_block(block: Any, hidden: Tensor, bias: Tensor) -> Tensor:
    if torch.is_grad_enabled() and _is_short(hidden) and can_run(block):
        return FrozenEncoderBlock.apply(hidden, bias, block)
    attention, feed_forward = block.layer
    hidden = _attend(attention.SelfAttention, _normalize(attention.layer_norm, hidden), bias).add_(hidden)
    return _feed_forward(feed_forward.DenseReluDense, _normalize(feed_forward.layer_norm, hidden)).add_(hidden)


class _MeanSquare(torch.autograd.Function):
    """Mean of squares over the last dimension (…, H) → (…, 1): one product backward, where autograd's has four."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor) -> Tensor:
        ctx.save_for_backward(hidden)
        return hidden.pow(2).mean(-1, keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (hidden,) = ctx.saved_tensors
        return hidden * (gradient / hidden.shape[-1] * 2)


def _normalize(layer: Any, hidden: Tensor) -> Tensor:
    """Divide by the root mean square and scale, as T5LayerNorm does: the mean in float32, the rest in the weights'."""
    if type(layer) is not T5LayerNorm:
        return layer(hidden)
    inverse = torch.rsqrt(_MeanSquare.apply(hidden.to(torch.float32)) + layer.variance_epsilon)  # (…, 1)
    return (hidden * inverse).to(layer.weight.dtype).mul_(layer.weight)


def _feed_forward(layer: Any, hidden: Tensor) -> Tensor:
    if isinstance(layer, T5DenseActDense) and type(layer.act) is nn.ReLU:
        return layer.wo(F.relu_(layer.wi(hidden)))
    return layer(hidden)


def _attend(attention: Any, hidden: Tensor, bias: Tensor) -> Tensor:
    """Attend within the source in one encoder layer; T5 does not scale its scores."""
    query, key, value = (
        linear(hidden).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2)  # (B, N, S, D)
        for linear in (attention.q, attention.k, attention.v)
    )
    if _is_short(hidden):
        out = (query @ key.transpose(-1, -2)).add_(bias).softmax(dim=-1) @ value  # (B, N, S, D)
    else:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
    return attention.o(out.transpose(1, 2).flatten(2))  # (B, S, H)


def _is_short(hidden: Float[Tensor, "B S H"]) -> bool:
    """Tell whether plain products attend faster; on one core they do in the backward pass only."""
    return (
        hidden.device.type == "cpu"
        and hidden.shape[1] <= PLAIN_ATTENTION
        and hidden.dtype in (torch.float32, torch.float64)
        and (torch.is_grad_enabled() or torch.get_num_threads() > 1)
    )


def _cross_attend(attention: Any, hidden: Float[Tensor, "B H"], states: Tensor, mask: Tensor) -> Float[Tensor, "B H"]:
    """Attend with one query a row, the weights of key and value applied to the query and to the attended states."""
    heads = (attention.n_heads, -1)
    query = attention.q(hidden).unflatten(-1, heads)  # (B, N, D)
    query = torch.einsum("bnd,ndh->bnh", query, attention.k.weight.unflatten(0, heads))  # (B, N, H)
    scores = query @ states.transpose(1, 2)  # (B, N, S)
    scores = scores.masked_fill(mask[:, None] == 0, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
    attended = weights @ states  # (B, N, H)
    attended = torch.einsum("bnh,ndh->bnd", attended, attention.v.weight.unflatten(0, heads))  # (B, N, D)
    return attention.o(attended.flatten(1))  # (B, H)
