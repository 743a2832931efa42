"""How many candidates one forward and backward pass can hold.

Owns the prediction of a pass's memory and the choice of the width that follows from it. Never trains: `loop` runs
passes of that width, and halves it where memory runs out all the same.
"""

from __future__ import annotations

import torch

from xprompt.backbones.base import Backbone, Verbalizer
from xprompt.backbones.devices import free_bytes
from xprompt.data.batching import CPU_ROWS, Batch
from xprompt.training.live_bytes import LiveBytes

#: Of the memory that is free, what a pass may count on: the rest is for workspaces and other programs and, on a CPU,
#: for holes in the C library's heap (nano's passes take 1.7 times what is alive in them, SmolLM2's 1.3 times).
SHARE = {"cpu": 0.5, "cuda": 0.8}


def predict_bytes(
    backbone: Backbone, length: int, batch: Batch, verbalizer: Verbalizer, objective: str = "label_scores"
) -> int:
    """Bytes that one candidate's batch needs at the peak of a forward and backward pass, counted on a real one.

    Weights are not among them, since all candidates share those; C candidates need C times as much.

    Args:
        length: prompt tokens P.
        batch: the longest there will be.
    """
    prompt = torch.zeros(
        1, length, backbone.hidden_size, device=backbone.device, dtype=backbone.dtype, requires_grad=True
    )
    prompt_index = torch.zeros(len(batch), dtype=torch.long, device=backbone.device)
    with LiveBytes(apart=[*backbone.model.parameters(), *backbone.model.buffers()]) as live:
        loss = backbone.loss(prompt, batch, verbalizer, objective=objective, prompt_index=prompt_index)
        torch.autograd.grad(loss.sum(), prompt)
    return live.peak


def choose_width(
    backbone: Backbone,
    length: int,
    batch: Batch,
    verbalizer: Verbalizer,
    objective: str = "label_scores",
    at_most: int = 1,
) -> int:
    """How many candidates to put into one pass: 1 to `at_most`, as many as memory holds.

    On a CPU the passes stay at `CPU_ROWS` rows.
    """
    if backbone.device.type == "cpu":
        at_most = min(at_most, max(1, CPU_ROWS // len(batch)))
    if at_most <= 1:
        return 1
    each = predict_bytes(backbone, length, batch, verbalizer, objective)
    shard = SHARE.get(backbone.device.type, min(SHARE.values()))
    return max(1, min(at_most, int(shard * free_bytes(backbone.device) / each)))


def is_out_of_memory(error: Exception) -> bool:
    """Whether a pass failed for want of memory, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
