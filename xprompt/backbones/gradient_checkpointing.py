"""Gradient checkpointing: drop a block's activations and recompute them in the backward pass.

No number changes. transformers recomputes in training mode only, and a block in training mode applies the dropout that
it calls as a function (OPT's, BART's); so the block's forward is wrapped, and no mode is touched.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from xprompt.errors import BackboneError


@contextlib.contextmanager
def recomputing(model: PreTrainedModel, active: bool) -> Iterator[None]:
    """Recompute the model's blocks in backward passes whose forward was inside this block.

    Random numbers are drawn again as before. Raises `BackboneError` where the model has no such blocks.
    """
    if not active:
        yield
        return
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise BackboneError(
            f"{type(model).__name__} has no blocks that can be recomputed: tune it with gradient_checkpointing=False."
        )
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own is seen again


def is_recomputed(block: nn.Module) -> bool:
    """Return whether a block's activations are recomputed now."""
    return "forward" in vars(block)
