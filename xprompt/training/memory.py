"""How many candidates one forward and backward pass can hold, from the bytes that one of them is counted to need."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from xprompt.backbones.base import Backbone, Verbalizer
from xprompt.backbones.devices import free_bytes
from xprompt.data.batching import CPU_ROWS, Batch

#: Of the memory that is free, what a pass may count on: the rest is for workspaces and other programs and, on a CPU,
#: for holes in the C library's heap (nano's passes take 1.7 times what is alive in them, SmolLM2's 1.3 times).
SHARE = {"cpu": 0.5, "cuda": 0.8}


def choose_width(
    backbone: Backbone,
    length: int,
    batch: Batch,
    verbalizer: Verbalizer,
    objective: str = "label_scores",
    at_most: int = 1,
) -> int:
    """Return how many candidates to put into one pass: 1 to `at_most`, as many as memory holds.

    On a CPU a pass stays at `CPU_ROWS` rows. Arguments as `predict_bytes`'.
    """
    if backbone.device.type == "cpu":
        at_most = min(at_most, max(1, CPU_ROWS // len(batch)))
    if at_most <= 1:
        return 1
    each = predict_bytes(backbone, length, batch, verbalizer, objective)
    share = SHARE.get(backbone.device.type, min(SHARE.values()))
    return max(1, min(at_most, int(share * free_bytes(backbone.device) / each)))


def predict_bytes(
    backbone: Backbone, length: int, batch: Batch, verbalizer: Verbalizer, objective: str = "label_scores"
) -> int:
    """Return the bytes that one candidate's batch needs at the peak of a forward and backward pass, by doing one.

    Weights are not counted, since all candidates share them; C candidates need C times as much.

    Args:
        length: prompt tokens P.
        batch: the longest there will be, (B, T).
    """
    prompt = torch.zeros(
        1, length, backbone.hidden_size, device=backbone.device, dtype=backbone.dtype, requires_grad=True
    )  # (1, P, H)
    prompt_index = torch.zeros(len(batch), dtype=torch.long, device=backbone.device)  # (B,)
    with LiveBytes(except_for=[*backbone.model.parameters(), *backbone.model.buffers()]) as live:
        loss = backbone.loss(prompt, batch, verbalizer, objective=objective, prompt_index=prompt_index)  # (B,)
        torch.autograd.grad(loss.sum(), prompt)
    return live.peak


class LiveBytes(TorchDispatchMode):
    """Count the bytes of every storage that is made inside a `with` block, the backward pass's too.

    A storage counts from the operation that makes it until nothing refers to it; views and changes in place make none.
    Allocators are not asked: what they round blocks to, and the holes in between, come on top.

    Args:
        except_for: tensors whose storages are not counted, such as weights.

    Attributes:
        now, peak: bytes alive at this moment, and the most there were.
    """

    def __init__(self, except_for: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {_address(tensor): 0 for tensor in except_for}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor) and _address(leaf) not in self._sizes:
                self._add(leaf.untyped_storage())
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._sizes[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, address: int) -> None:
        self.now -= self._sizes.pop(address)


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
