"""One encoder layer of a frozen T5 with its backward pass by hand: for short rows on a CPU, where small kernels count.

Equal to autograd's up to rounding. B batch, S prompt and source positions, H embedding width, N heads, D width of a
head, F width of the feed-forward's inside; rows are the B · S positions.
"""

# Half of a step on nano is not products. Autograd runs a kernel for each sum with a residual, for each sum of the
# gradients of query, key and value, and several where a norm divides; here sums are the products' own accumulators, and
# what is no longer needed is overwritten.

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.t5.modeling_t5 import T5DenseActDense, T5LayerNorm

_aten: Any = torch.ops.aten


def can_run(block: Any) -> bool:
    """Tell whether it is a layer of T5 with plain norms, a ReLU as of the first generation, and linear maps untouched.

    Methods that change keys or values hook into these maps or replace them, which this layer would not see.
    """
    attention, feed_forward = block.layer
    layer, dense = attention.SelfAttention, feed_forward.DenseReluDense
    return (
        type(attention.layer_norm) is type(feed_forward.layer_norm) is T5LayerNorm
        and isinstance(dense, T5DenseActDense)
        and type(dense.act) is nn.ReLU
        and all(map(_is_plain, (layer.q, layer.k, layer.v, layer.o, dense.wi, dense.wo)))
    )


def _is_plain(linear: nn.Module) -> bool:
    hooked = linear._forward_hooks or linear._forward_pre_hooks
    return type(linear) is nn.Linear and linear.bias is None and not hooked


class FrozenEncoderBlock(torch.autograd.Function):
    """Self-attention and feed-forward of a layer, (B, S, H) → (B, S, H); the bias, (1 or B, N, S, S), has no gradient.

    Source: Raffel et al. (2020), as transformers has it: root-mean-square norms before, no scaling of the scores.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Float[Tensor, "B S H"], bias: Tensor, block: Any) -> Float[Tensor, "B S H"]:
        """Return the layer's states."""
        attention, feed_forward = block.layer
        layer, dense = attention.SelfAttention, feed_forward.DenseReluDense
        batch, length, width = hidden.shape
        heads = layer.n_heads
        states = hidden.reshape(-1, width)  # (rows, H)
        first_inverse = _inverse(states, attention.layer_norm)  # (rows, 1)
        normed = (states * first_inverse).mul_(attention.layer_norm.weight)  # (rows, H)
        query, key, value = (
            _by_head(normed @ linear.weight.t(), batch, heads) for linear in (layer.q, layer.k, layer.v)
        )  # each (B · N, S, D)
        scores = torch.bmm(query, key.transpose(1, 2)).view(batch, heads, length, length).add_(bias)
        weights = scores.softmax(dim=-1).view(-1, length, length)  # (B · N, S, S)
        attended = torch.addmm(states, _by_row(torch.bmm(weights, value), batch), layer.o.weight.t())  # (rows, H)
        second_inverse = _inverse(attended, feed_forward.layer_norm)  # (rows, 1)
        normed = (attended * second_inverse).mul_(feed_forward.layer_norm.weight)  # (rows, H)
        inside = (normed @ dense.wi.weight.t()).relu_()  # (rows, F)
        ctx.save_for_backward(states, first_inverse, query, key, value, weights, attended, second_inverse, inside)
        ctx.block = block
        return torch.addmm(attended, inside, dense.wo.weight.t()).view(batch, length, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "B S H"]) -> tuple[Float[Tensor, "B S H"], None, None]:
        """Return the gradient of the layer's input."""
        states, first_inverse, query, key, value, weights, attended, second_inverse, inside = ctx.saved_tensors
        attention, feed_forward = ctx.block.layer
        layer, dense = attention.SelfAttention, feed_forward.DenseReluDense
        batch, heads = len(gradient), layer.n_heads
        out = gradient.reshape(-1, gradient.shape[-1])  # (rows, H)
        of_inside = out @ dense.wo.weight  # (rows, F)
        _aten.threshold_backward.grad_input(of_inside, inside, 0, grad_input=of_inside)
        of_normed = (of_inside @ dense.wi.weight).mul_(feed_forward.layer_norm.weight)  # (rows, H)
        out = _through_norm(out, of_normed, attended, second_inverse)  # (rows, H)
        of_attended = _by_head(out @ layer.o.weight, batch, heads)  # (B · N, S, D)
        of_weights = torch.bmm(of_attended, value.transpose(1, 2))  # (B · N, S, S)
        of_scores = _aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)  # (B · N, S, S)
        of_normed = _by_row(torch.bmm(weights.transpose(1, 2), of_attended), batch) @ layer.v.weight  # (rows, H)
        of_key, of_query = torch.bmm(of_scores.transpose(1, 2), query), torch.bmm(of_scores, key)  # (B · N, S, D)
        torch.addmm(of_normed, _by_row(of_key, batch), layer.k.weight, out=of_normed)
        torch.addmm(of_normed, _by_row(of_query, batch), layer.q.weight, out=of_normed)
        of_normed.mul_(attention.layer_norm.weight)
        return _through_norm(out, of_normed, states, first_inverse).view_as(gradient), None, None


def _by_head(rows: Float[Tensor, "rows I"], batch: int, heads: int) -> Float[Tensor, "BN S D"]:
    parted = rows.view(batch, -1, heads, rows.shape[1] // heads).transpose(1, 2)  # (B, N, S, D)
    return parted.reshape(batch * heads, *parted.shape[2:])


def _by_row(parted: Float[Tensor, "BN S D"], batch: int) -> Float[Tensor, "rows I"]:
    by_position = parted.view(batch, -1, *parted.shape[1:]).transpose(1, 2)  # (B, S, N, D)
    return by_position.reshape(batch * parted.shape[1], -1)


def _inverse(states: Float[Tensor, "rows H"], norm: Any) -> Float[Tensor, "rows 1"]:
    """Return the inverse of the root mean square, ε added to the mean."""
    length = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    return length.square_().div_(states.shape[-1]).add_(norm.variance_epsilon).rsqrt_()


def _through_norm(
    past: Float[Tensor, "rows H"],
    gradient: Float[Tensor, "rows H"],
    states: Float[Tensor, "rows H"],
    inverse: Float[Tensor, "rows 1"],
) -> Float[Tensor, "rows H"]:
    """Return the gradient that went past a norm of states x, plus that of x · inverse(x)."""
    share = (gradient * states).sum(dim=-1, keepdim=True).mul_(inverse.pow(3)).div_(states.shape[-1])  # (rows, 1)
    return torch.addcmul(past, gradient, inverse).addcmul_(states, share, value=-1)
