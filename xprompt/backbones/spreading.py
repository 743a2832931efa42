"""From C tensors side by side to the rows that each stands for.

Owns that one step, and the order of sums in its backward pass. Indexing, `tensor[owner]`, would give the same values,
but on a CPU with several threads it adds up the rows' gradients as they come: no two runs would be alike. Never joins a
prompt and an input: `backbone` does.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def expand_prompts(tensor: Float[Tensor, "C ..."], prompt_index: Int[Tensor, " B"]) -> Float[Tensor, "B ..."]:
    """Row b is a copy of the tensor of `owner[b]`, in [0, C); C's gradients are summed in the order of the rows."""
    return F.embedding(prompt_index.to(tensor.device), tensor.flatten(1)).unflatten(1, tensor.shape[1:])
