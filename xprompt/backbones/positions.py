"""How many positions a model has: a table of absolute positions ends, and one after it is no number of the model's."""

from __future__ import annotations

from typing import Any

from torch import nn

_NAMES = ("embed_positions", "position_embeddings", "position_embedding", "positions_embed", "wpe", "pos_encoding")


def max_positions(model: Any) -> int | None:
    """Return how many positions [P; X] may have; None where positions are relative or computed for any length."""
    part = model.get_encoder() if model.config.is_encoder_decoder else model
    lengths = [
        module.weight.shape[0] - _unused(module)
        for name, module in part.named_modules()
        if isinstance(module, nn.Embedding)
        and name.rsplit(".", 1)[-1] in _NAMES
        and not hasattr(module, "make_weight")  # FSMT's table grows
    ]
    lengths += [buffer.shape[0] for name, buffer in part.named_buffers() if name.rsplit(".", 1)[-1] in _NAMES]
    if model.config.model_type == "mpt":  # its slopes are laid out for this length
        lengths.append(model.config.max_seq_len)
    return min(lengths, default=None)


def _unused(table: nn.Embedding) -> int:
    """Return how many first rows of a table stand for no position: BART and OPT count them, RoBERTa names the last."""
    return getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1)
