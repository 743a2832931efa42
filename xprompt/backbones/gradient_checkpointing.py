"""Gradient checkpointing: drop a block's activations and recompute them in the backward pass.

No number changes: a block's mode stays as it is, and with it all dropout; a recomputed block draws the same random
numbers.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from xprompt.errors import BackboneError

#: Call a function and keep its inputs only.
recompute = functools.partial(checkpoint, use_reentrant=False)


@contextlib.contextmanager
def recomputing(model: nn.Module, active: bool) -> Iterator[None]:
    """Recompute the model's blocks in backward passes whose forward was inside this context.

    transformers' own switch works in training mode only, which turns on the dropout that many architectures apply in
    the block itself (BART, OPT, …). So each block's forward is replaced, and no flag is set.

    Raises:
        BackboneError: the model has no such blocks.
    """
    if not active:
        yield
        return
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise BackboneError(
            f"{type(model).__name__} has no blocks that can be recomputed: tune it with gradient_checkpointing=False."
        )
    replaced = [(block, vars(block).get("forward")) for block in blocks]
    for block in blocks:
        block.forward = functools.partial(recompute, block.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block, forward in replaced:
            del block.forward
            if forward is not None:  # accelerate puts one there
                block.forward = forward


def is_recomputed(block: Any) -> bool:
    """Return whether a block's activations are recomputed now."""
    forward = vars(block).get("forward")
    return isinstance(forward, functools.partial) and forward.func is checkpoint
