"""What a backbone costs before it is there: weights, operations and memory, from its configuration alone.

Models are built on torch's meta device, which holds shapes and no values. Operations are counted by torch on a real
forward and backward pass; memory is arithmetic, since the counter does not see what a pass keeps.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from math import gcd
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from xprompt.backbones.shapes import build_on_meta, count_weights
from xprompt.backbones.t5_fast_path import PLAIN_ATTENTION, FrozenT5
from xprompt.errors import BackboneError

Work = Literal["evaluate", "tune", "fine_tune"]

#: What a feed-forward layer keeps of each inner value for the activation itself (T5's "gelu_new" is eight operations).
_KEPT_BY = {"gelu_new": 4, "relu": 1, "silu": 1, "gelu": 1}


@dataclass(frozen=True)
class Footprint:
    """An architecture, as far as its cost depends on it.

    Attributes:
        parameters: all weights, those of embeddings and head included.
        one, two: the model with 1/repeats and 2/repeats of its layers, on the meta device. Operations are linear in the
            layers, so that counts of these two give those of the whole.
        repeats: greatest common divisor of the stacks' layers.
        hidden, inner, heads, feed_forward: H, heads × head width, number of heads, inner width.
        layers: that a source token passes.
        kept_by_activation: values kept for each inner value of a feed-forward layer.
    """

    parameters: int
    one: PreTrainedModel
    two: PreTrainedModel
    repeats: int
    hidden: int
    inner: int
    heads: int
    feed_forward: int
    layers: int
    kept_by_activation: int

    def operations(self, rows: float, length: int, work: Work, *, recompute: bool = False) -> float:
        """Return floating-point operations for `rows` sources of `length` tokens, prompt included, with label scores.

        Args:
            recompute: with gradient checkpointing, which does the forward pass twice.
        """
        (forward, total), (forward_two, total_two) = (_count(model, length, work) for model in (self.one, self.two))
        if recompute and work != "evaluate":
            total, total_two = total + forward, total_two + forward_two
        return rows * (total + (self.repeats - 1) * (total_two - total))

    def activations(
        self, rows: int, length: int, dtype: torch.dtype, *, learns: bool = False, recompute: bool = False
    ) -> int:
        """Return the bytes kept between forward and backward pass.

        Args:
            rows, length: B and P + T of the batch.
            learns: whether the weights are trained too, not only the prompt.
            recompute: with gradient checkpointing: each layer's input, and one layer at a time in full.
        """
        layer = self.one_layer(rows, length, dtype, learns=learns)
        if recompute:
            return rows * length * dtype.itemsize * self.layers * self.hidden + layer
        bias = rows * self.heads * length**2 * dtype.itemsize  # of positions and padding: one for all layers
        return self.layers * (layer - bias) + bias

    def one_layer(self, rows: int, length: int, dtype: torch.dtype, *, learns: bool = False) -> int:
        """Return the bytes that one layer needs at once: all that an evaluation holds beside the weights."""
        full = dtype in (torch.float32, torch.float64)
        values = (2 if full else 6) * self.hidden + 4 * self.inner + self.kept_by_activation * self.feed_forward
        if learns:  # the inputs of every product, and attention's own weights, which the frozen way never stores
            values += 4 * self.hidden + self.feed_forward + (1 if full else 3) * self.heads * length
        elif full and length <= PLAIN_ATTENTION:  # the weights are kept, and not what was read with them
            values += self.heads * length - self.inner
        return rows * length * dtype.itemsize * (values + self.heads * length)


def measure(config: Any) -> Footprint:
    """Return the footprint of what a configuration describes.

    Raises `BackboneError` where it names its widths as neither T5 nor Llama does.
    """
    model = build_on_meta(config)
    try:
        feed_forward = getattr(config, "d_ff", None) or config.intermediate_size
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or config.hidden_size // heads
        activation = getattr(config, "dense_act_fn", None) or str(getattr(config, "hidden_act", "gelu"))
        gated = getattr(config, "is_gated_act", not config.is_encoder_decoder)
        hidden, layers = config.hidden_size, config.num_hidden_layers
    except AttributeError as error:
        raise BackboneError(
            f"an architecture of type {config.model_type!r} cannot be planned for ({error}): "
            "give a backbone of T5's or Llama's kind, or time a short run of it."
        ) from error
    repeats = gcd(layers, getattr(config, "num_decoder_layers", None) or layers)
    return Footprint(
        parameters=count_weights(model, config),
        one=_with_layers(config, 1, repeats),
        two=_with_layers(config, 2, repeats),
        repeats=repeats,
        hidden=hidden,
        inner=heads * head,
        heads=heads,
        feed_forward=feed_forward,
        layers=layers,
        kept_by_activation=_KEPT_BY.get(activation, 1) + (2 if gated else 0),
    )


def _with_layers(config: Any, numerator: int, denominator: int) -> PreTrainedModel:
    """The model, on the meta device, with that fraction of its layers."""
    small = copy.deepcopy(config)
    small.num_hidden_layers = config.num_hidden_layers * numerator // denominator
    if config.is_encoder_decoder:
        small.num_decoder_layers = config.num_decoder_layers * numerator // denominator
        small.decoder_start_token_id = 0
    return build_on_meta(small).eval()


@cache
def _count(model: PreTrainedModel, length: int, work: Work) -> tuple[int, int]:
    """Operations of one row of `length` tokens: of the forward pass, and of both passes (evaluation has one)."""
    model.requires_grad_(work == "fine_tune")
    vectors = torch.zeros(1, length, model.config.hidden_size, device="meta", requires_grad=work != "evaluate")
    # Plain attention: the counter knows it on every device, and the fused kernels do the same operations.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        states = _forward(model, vectors)
        forward = counter.get_total_flops()
        if work != "evaluate":
            states.sum().backward()
    return forward, counter.get_total_flops()


def _forward(model: Any, vectors: Tensor) -> Tensor:
    """The states that labels are scored by, of (1, S, H) input vectors, computed the way that the backbones do."""
    length = vectors.shape[1]
    if not model.config.is_encoder_decoder:
        # With four dimensions a mask is used as it is; transformers would look into any other, which has no values.
        mask = torch.ones(1, 1, length, length, dtype=torch.bool, device="meta")
        return model.base_model(inputs_embeds=vectors, attention_mask=mask, use_cache=False).last_hidden_state
    fast = FrozenT5(model)
    if fast.applies:
        mask = torch.ones(1, length, dtype=torch.long, device="meta")
        return fast.first_hidden(fast.encode(vectors, mask), mask)
    states = model.get_encoder()(inputs_embeds=vectors).last_hidden_state
    start = vectors[:, :1]  # stands for the start token's embedding
    return model.get_decoder()(inputs_embeds=start, encoder_hidden_states=states, use_cache=False).last_hidden_state
