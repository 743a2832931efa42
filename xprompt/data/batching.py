"""Which examples a step works on: the endless stream of batches, their micro-batches, a process's share, a merge.

Owns how batches are drawn, cut and put together. Never encodes text, never adds a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from xprompt.data.tokenization import Batch, Encoded, batches
from xprompt.distributed import Workers

CPU_ROWS = 64
"""Rows that keep two CPU cores busy: past them a pass only leaves the cache, and gets slower (measured on nano)."""


def stream(encoded: Encoded, batch_size: int, seed: int, start: int = 0) -> Iterator[Batch]:
    """Batches for ever, every epoch in an order of its own, from the start-th on."""
    epoch, skipped = divmod(start, -(-len(encoded) // batch_size))
    yield from islice(batches(encoded, batch_size, seed=seed, epoch=epoch), skipped, None)
    while True:
        epoch += 1
        yield from batches(encoded, batch_size, seed=seed, epoch=epoch)


def micro(batch: Batch, part: int, parts: int) -> Batch:
    """The part-th of `parts` micro-batches; a short batch's last ones may be empty."""
    if parts == 1:
        return batch
    size = -(-len(batch) // parts)
    return cut(batch, slice(part * size, (part + 1) * size))


def share(batch: Batch, workers: Workers) -> Batch:
    """The examples of a batch that are this process's: every count-th, as a batch is ordered by length; maybe none."""
    return batch if workers.count == 1 else cut(batch, slice(workers.rank, None, workers.count))


def repeat(batch: Batch, times: int) -> Batch:
    """The batch, `times` over."""
    return batch if times == 1 else Batch(*(t.repeat(times, *[1] * (t.dim() - 1)) for t in (
        batch.input_ids, batch.attention_mask, batch.labels, batch.index)))  # fmt: skip


def merge(parts: list[Batch], pad_id: int) -> Batch:
    """The candidates' batches as one, padded to the longest."""
    if all(part is parts[0] for part in parts):
        return repeat(parts[0], len(parts))
    longest = max(part.input_ids.shape[1] for part in parts)

    def widened(tensor: Tensor, value: int) -> Tensor:
        return nn.functional.pad(tensor, (0, longest - tensor.shape[1]), value=value)

    return Batch(
        torch.cat([widened(p.input_ids, pad_id) for p in parts]),
        torch.cat([widened(p.attention_mask, 0) for p in parts]),
        torch.cat([p.labels for p in parts]),
        torch.cat([p.index for p in parts]),
    )


def cut(batch: Batch, rows: slice) -> Batch:
    """Those examples of a batch, at the width it has."""
    return Batch(batch.input_ids[rows], batch.attention_mask[rows], batch.labels[rows], batch.index[rows])
