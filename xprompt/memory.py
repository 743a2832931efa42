"""How many candidates one forward and backward pass can hold.

Owns the prediction of a pass's memory and the choice of the width that follows from it. Never trains: `loop` runs
passes of that width, and halves it where memory runs out all the same.
"""

from __future__ import annotations

import torch

from xprompt.backbone import Backbone, Verbalizer
from xprompt.encoding import Batch
from xprompt.feeding import CPU_ROWS
from xprompt.footprint import free_bytes

#: Of the memory that is free, what a pass may count on: the rest is for workspaces and for other programs.
SHARE = 0.8


def predict_bytes(
    backbone: Backbone, length: int, batch: Batch, verbalizer: Verbalizer, objective: str = "label_scores"
) -> int:
    """Bytes that one candidate's batch keeps for its backward pass, counted on a real forward pass.

    Weights are not among them, since all candidates share those; C candidates need C times as much.

    Args:
        length: prompt tokens P.
        batch: the longest there will be.
    """
    shared = {parameter.untyped_storage().data_ptr() for parameter in backbone.model.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in shared:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows = torch.zeros(
        len(batch), length, backbone.hidden_size, device=backbone.device, dtype=backbone.dtype, requires_grad=True
    )
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = backbone.loss(rows, batch, verbalizer, objective=objective)
    del loss  # held until here, so that no storage was freed and its address used again
    return sum(kept.values())


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
    return max(1, min(at_most, int(SHARE * free_bytes(backbone.device) / each)))


def is_out_of_memory(error: Exception) -> bool:
    """Whether a pass failed for want of memory, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
