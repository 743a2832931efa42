"""The memory that a piece of tensor work holds at its peak, whatever device it runs on.

Owns the count of storages from the operation that makes them until nothing refers to them. Never asks an allocator:
what its blocks are rounded to, and the holes between them, come on top.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Inside a `with` block, count the bytes of every storage that is made there, the backward pass's too.

    Views and changes in place make none. The count is of one device where the work is on one.

    Args:
        apart: tensors whose storages are not counted, such as weights.

    Attributes:
        now, peak: bytes alive at this moment, and the most there were.
    """

    def __init__(self, apart: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, int] = {_address(tensor): 0 for tensor in apart}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor) and _address(leaf) not in self._known:
                self._add(leaf.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._known[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, address: int) -> None:
        self.now -= self._known.pop(address)


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
