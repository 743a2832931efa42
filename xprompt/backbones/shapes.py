"""Architectures and parameter counts from a configuration alone; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, T5Config

#: d_model, d_ff, heads, layers (each of encoder and decoder) of T5 v1.1 and its LM-adapted form. Source: the released
#: configurations; the parameter counts that follow are the published ones (a test holds them).
_T5_V11 = {
    "small": (512, 1024, 6, 8),
    "base": (768, 2048, 12, 12),
    "large": (1024, 2816, 16, 24),
    "xl": (2048, 5120, 32, 24),
    "xxl": (4096, 10240, 64, 24),
}


def known_config(name: str) -> Any | None:
    """Return the configuration of a backbone whose architecture is known here (google/t5-*-lm-adapt), else None."""
    size = name.removeprefix("google/t5-").removesuffix("-lm-adapt")
    if size not in _T5_V11 or name != f"google/t5-{size}-lm-adapt":
        return None
    width, inner, heads, layers = _T5_V11[size]
    untied: dict[str, Any] = {"tie_word_embeddings": False}
    return T5Config(
        vocab_size=32128, d_model=width, d_kv=64, d_ff=inner, num_heads=heads, num_layers=layers,
        num_decoder_layers=layers, feed_forward_proj="gated-gelu", **untied,
    )  # fmt: skip


def count_parameters(config: Any) -> int:
    """Count the weights of the language model that a configuration describes, each shared one once."""
    return count_weights(build_on_meta(config), config)


def build_on_meta(config: Any) -> Any:
    """Build the model that a configuration describes, with shapes and no values."""
    auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        return auto_class.from_config(config)


def count_weights(model: Any, config: Any) -> int:
    """Count the weights of a built model, each shared one once."""
    total = sum(parameter.numel() for parameter in model.parameters())
    # transformers builds every T5 with one table for input and head; v1.1, whose outputs it does not scale, has two,
    # which it finds only in the weights.
    if not getattr(config, "scale_decoder_outputs", True) and hasattr(model, "shared"):
        head = model.get_output_embeddings().weight
        total += head.numel() if head is model.get_input_embeddings().weight else 0
    return total
