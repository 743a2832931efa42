"""Several processes that work on one run, each on its shard of every batch, and sums over them.

A process that works alone gets the whole batch and its own numbers back.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as group
from torch import Tensor

from xprompt.errors import ConfigError

_BUCKET = 2**24  # values sent at once
#: How long the others wait for the main process, also while it waits for a run that another job has locked.
_PATIENCE = datetime.timedelta(days=2)


@dataclass(frozen=True)
class ProcessGroup:
    """A process among those that share a run: `rank` of `world_size`, 0 of 1 where it is alone."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, to the last bit the same one in each."""
        if self.world_size == 1:
            return
        buckets: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            kind = tensor.dtype, tensor.device
            bucket = buckets.setdefault(kind, [])
            if bucket and sum(t.numel() for t in bucket) + tensor.numel() > _BUCKET:
                _sum_bucket(buckets.pop(kind))
                bucket = buckets.setdefault(kind, [])
            bucket.append(tensor)
        for bucket in buckets.values():
            _sum_bucket(bucket)

    def broadcast_from_main(self, answer: bool) -> bool:
        """Return the main process's answer in every process."""
        if self.world_size == 1:
            return answer
        flag = torch.tensor(int(answer))
        group.broadcast(flag, src=0)
        return bool(flag)

    def all_equal(self, number: int) -> bool:
        """Return whether every process has the same number."""
        extremes = torch.tensor([number, -number])  # maxima: the largest, and minus the smallest
        if self.world_size > 1:
            group.all_reduce(extremes, op=group.ReduceOp.MAX)
        return int(extremes[0]) == -int(extremes[1])

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.all_equal(0)


_current = ProcessGroup()


def process_group() -> ProcessGroup:
    """Return the group that this process works in; a group of one outside `join_processes`."""
    return _current


@contextlib.contextmanager
def join_processes() -> Iterator[ProcessGroup]:
    """Join the processes that `accelerate launch` or `torchrun` started, for a block; alone where neither did.

    Each process takes the GPU of its local rank, where there are any. Sums go by NCCL between GPUs and by gloo
    between CPUs. Raises `ConfigError` where their number in the environment is none.
    """
    global _current
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal():
        raise ConfigError(f"WORLD_SIZE={size!r}: needed a number of processes, as a launcher sets it; unset it.")
    if int(size) < 2 or "RANK" not in os.environ:
        yield _current
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    group.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    _current = ProcessGroup(group.get_rank(), group.get_world_size())
    try:
        yield _current
    finally:
        _current = ProcessGroup()
        group.destroy_process_group()


def _sum_bucket(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    group.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))
