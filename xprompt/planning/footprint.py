"""What a backbone costs before it is there: weights, operations and memory, counted from its configuration alone.

Owns the architectures known without a download, and the arithmetic from an architecture to operations and bytes.
Never reads a weight and never measures: models are built on torch's meta device, which holds shapes and no values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from xprompt.backbones.shapes import build_on_meta, count_weights
from xprompt.backbones.t5_fast_path import PLAIN_ATTENTION
from xprompt.errors import BackboneError

Work = Literal["evaluate", "tune", "fine_tune"]

#: Operations for each weight and each token that meets it: forward; + the gradient of the input; + that of the weight.
_PER_WEIGHT: dict[Work, int] = {"evaluate": 2, "tune": 4, "fine_tune": 6}
#: Times the forward's attention products, which have two factors to take a gradient of, in both kinds of training.
_PER_ATTENTION: dict[Work, int] = {"evaluate": 1, "tune": 3, "fine_tune": 3}
#: What a feed-forward layer keeps of each inner value for the activation itself (T5's "gelu_new" is eight operations).
_KEPT_BY = {"gelu_new": 4, "relu": 1, "silu": 1, "gelu": 1}


@dataclass(frozen=True)
class Footprint:
    """An architecture, as far as its cost depends on it.

    Attributes:
        parameters: all weights, those of embeddings and head included.
        source_weights: in matrix products that every source and prompt token meets.
        label_weights: in those that every label position meets; 0 for a decoder-only LM, where it is a source token.
        cross_weights: keys and values over the source, left out while the backbone is frozen (see `t5_scoring`).
        hidden, inner, heads, feed_forward: widths H, heads × head width, number of heads, inner width.
        layers: that a source token passes.
        kept_by_activation: values kept for each inner value of a feed-forward layer.
    """

    parameters: int
    source_weights: int
    label_weights: int
    cross_weights: int
    hidden: int
    inner: int
    heads: int
    feed_forward: int
    layers: int
    kept_by_activation: int

    def operations(self, rows: float, length: float, work: Work, *, recompute: bool = False) -> float:
        """Floating-point operations for `rows` sources of `length` tokens (prompt included) and one label position.

        Args:
            recompute: with gradient checkpointing, which does the forward pass twice.
        """
        weights = self.source_weights * length + self.label_weights
        if work == "fine_tune":
            weights += self.cross_weights * length
        attention = 4 * length**2 * self.inner * self.layers
        again = 1 if recompute and work != "evaluate" else 0
        return rows * ((_PER_WEIGHT[work] + 2 * again) * weights + (_PER_ATTENTION[work] + again) * attention)

    def activations(
        self, rows: int, length: int, dtype: torch.dtype, *, learns: bool = False, recompute: bool = False
    ) -> int:
        """Bytes kept between forward and backward pass.

        Args:
            rows, length: of the batch, prompt included.
            learns: whether the weights are trained too, not only the prompt.
            recompute: with gradient checkpointing: each layer's input, and one layer at a time in full.
        """
        layer = self.one_layer(rows, length, dtype, learns=learns)
        if recompute:
            return rows * length * dtype.itemsize * self.layers * self.hidden + layer
        bias = rows * self.heads * length**2 * dtype.itemsize  # of positions and padding: one for all layers
        return self.layers * (layer - bias) + bias

    def one_layer(self, rows: int, length: int, dtype: torch.dtype, *, learns: bool = False) -> int:
        """Bytes that one layer needs at once: all that an evaluation ever holds beside the weights."""
        full = dtype in (torch.float32, torch.float64)
        values = (2 if full else 6) * self.hidden + 4 * self.inner + self.kept_by_activation * self.feed_forward
        if learns:  # the inputs of every product, and attention's own weights, which the frozen way never stores
            values += 4 * self.hidden + self.feed_forward + (1 if full else 3) * self.heads * length
        elif full and length <= PLAIN_ATTENTION:  # the weights are kept, and not what was read with them
            values += self.heads * length - self.inner
        return rows * length * dtype.itemsize * (values + self.heads * length)


def measure(config: Any) -> Footprint:
    """Count what a configuration describes.

    Raises `BackboneError` where it names its widths as neither T5 nor Llama does.
    """
    model = build_on_meta(config)
    encoder, decoder = model.get_encoder(), model.get_decoder()
    two = config.is_encoder_decoder
    try:
        feed_forward = getattr(config, "d_ff", None) or config.intermediate_size
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or config.hidden_size // heads
        activation = getattr(config, "dense_act_fn", None) or str(getattr(config, "hidden_act", "gelu"))
        gated = getattr(config, "is_gated_act", not two)
        hidden, layers = config.hidden_size, config.num_hidden_layers
    except AttributeError as error:
        raise BackboneError(
            f"an architecture of type {config.model_type!r} cannot be planned for ({error}): "
            "give a backbone of T5's or Llama's kind, or time a short run of it."
        ) from error
    across = sum(n for name, n in _products(decoder) if two and _reads_source(name))
    return Footprint(
        parameters=count_weights(model, config),
        source_weights=sum(n for _, n in _products(encoder if two else decoder)),
        label_weights=sum(n for _, n in _products(decoder)) - across if two else 0,
        cross_weights=across,
        hidden=hidden,
        inner=heads * head,
        heads=heads,
        feed_forward=feed_forward,
        layers=layers,
        kept_by_activation=_KEPT_BY.get(activation, 1) + (2 if gated else 0),
    )


def _products(module: nn.Module) -> list[tuple[str, int]]:
    return [(name, part.weight.numel()) for name, part in module.named_modules() if isinstance(part, nn.Linear)]


def _reads_source(name: str) -> bool:
    *_, owner, last = ["", *name.split(".")]
    return owner in ("EncDecAttention", "encoder_attn") and last in ("k", "v", "k_proj", "v_proj")
