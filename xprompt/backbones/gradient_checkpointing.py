"""Gradient checkpointing: drop a block's activations and recompute them in the backward pass.

No number changes: only the blocks' own flag is set, so that dropout stays as it was, and a recomputed block draws the
same random numbers.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from xprompt.errors import BackboneError


@contextlib.contextmanager
def recomputing(model: PreTrainedModel, active: bool) -> Iterator[None]:
    """Recompute the model's blocks in backward passes whose forward was inside this block.

    transformers' blocks do so in training mode only. A frozen backbone is in evaluation mode, so the mode of the
    blocks is set, and not that of the dropout inside them. Raises `BackboneError` where the model has no such blocks.
    """
    if not active:
        yield
        return
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise BackboneError(
            f"{type(model).__name__} has no blocks that can be recomputed: tune it with gradient_checkpointing=False."
        )
    before = [(block, block.training, block.gradient_checkpointing) for block in blocks]
    for block in blocks:
        block.training = block.gradient_checkpointing = True
        block._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]
    try:
        yield
    finally:
        for block, training, checkpointing in before:
            block.training, block.gradient_checkpointing = training, checkpointing
