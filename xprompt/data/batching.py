"""Which examples a step works on: the endless stream of batches, their micro-batches, a process's share, a merge.

Owns how batches are drawn, cut and put together. Never encodes text, never adds a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from xprompt.data.tokenization import TokenizedDataset
from xprompt.distributed import ProcessGroup
from xprompt.tasks.example import fault

POOL = 16
"""Batches sorted by length together while training: tighter buckets would correlate with what is in them."""
CPU_ROWS = 64
"""Rows that keep two CPU cores busy: past them a pass only leaves the cache, and gets slower (measured on nano)."""


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded on the right; `index` says which of the `TokenizedDataset` they are."""

    input_ids: torch.Tensor  # (B, T) long
    attention_mask: torch.Tensor  # (B, T) long, 1 on tokens and 0 on padding
    labels: torch.Tensor  # (B,) long
    index: torch.Tensor  # (B,) long

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in vars(self).items()})


def batches(encoded: TokenizedDataset, batch_size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
    """Yield every example exactly once, in batches of like length; a last, short batch is kept.

    Args:
        encoded: the split.
        batch_size: examples a batch, >= 1; the last has what is left over.
        seed: None for evaluation (by length, always the same order); a number, 0 included, for training:
            shuffled, bucketed within pools of `POOL` batches, the batches shuffled again, the left-over drawn
            at random.
        epoch: with a seed, each epoch has its own order; the same (seed, epoch) always the same one.
    """
    if batch_size < 1:
        raise fault("Batching", f"batch_size={batch_size}", "at least 1", "choose a positive batch size")
    lengths = np.array([len(row) for row in encoded.ids], dtype=np.int64)
    for chosen in _order(lengths, batch_size, seed, epoch):
        yield _collate(encoded, chosen)


def infinite_batches(encoded: TokenizedDataset, batch_size: int, seed: int, start: int = 0) -> Iterator[Batch]:
    """Batches for ever, every epoch in an order of its own, from the start-th on."""
    epoch, skipped = divmod(start, -(-len(encoded) // batch_size))
    yield from islice(batches(encoded, batch_size, seed=seed, epoch=epoch), skipped, None)
    while True:
        epoch += 1
        yield from batches(encoded, batch_size, seed=seed, epoch=epoch)


def micro_batch(batch: Batch, part: int, parts: int) -> Batch:
    """The part-th of `parts` micro-batches; a short batch's last ones may be empty."""
    if parts == 1:
        return batch
    size = -(-len(batch) // parts)
    return slice_rows(batch, slice(part * size, (part + 1) * size))


def shard(batch: Batch, group: ProcessGroup) -> Batch:
    """The examples of a batch that are this process's: every world_size-th row of a batch ordered by length."""
    return batch if group.world_size == 1 else slice_rows(batch, slice(group.rank, None, group.world_size))


def repeat(batch: Batch, times: int) -> Batch:
    """The batch, `times` over."""
    return (
        batch
        if times == 1
        else Batch(
            *(
                t.repeat(times, *[1] * (t.dim() - 1))
                for t in (batch.input_ids, batch.attention_mask, batch.labels, batch.index)
            )
        )
    )


def concat(parts: list[Batch], pad_id: int) -> Batch:
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


def slice_rows(batch: Batch, rows: slice) -> Batch:
    """Those examples of a batch, at the width it has."""
    return Batch(batch.input_ids[rows], batch.attention_mask[rows], batch.labels[rows], batch.index[rows])


def _order(lengths: np.ndarray, batch_size: int, seed: int | None, epoch: int) -> Iterator[np.ndarray]:
    """Yield the positions of each batch, by length within it."""
    total = len(lengths)

    def by_length(positions: np.ndarray) -> np.ndarray:
        return positions[np.argsort(lengths[positions], kind="stable")]

    if seed is None:
        order = by_length(np.arange(total))
        yield from (order[i : i + batch_size] for i in range(0, total, batch_size))
        return
    rng = np.random.default_rng([seed, epoch])
    order, whole, pool = rng.permutation(total), total - total % batch_size, POOL * batch_size
    bucketed = [by_length(order[i : min(i + pool, whole)]) for i in range(0, whole, pool)]
    full: Sequence[np.ndarray] = list(np.concatenate(bucketed).reshape(-1, batch_size)) if bucketed else []
    yield from (full[i] for i in rng.permutation(len(full)))
    if whole < total:
        yield by_length(order[whole:])


def _collate(encoded: TokenizedDataset, chosen: np.ndarray) -> Batch:
    rows = [encoded.ids[i] for i in chosen]
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max())
    return Batch(
        input_ids=torch.tensor([row + [encoded.pad_id] * (width - len(row)) for row in rows]),
        attention_mask=(torch.arange(width) < lengths[:, None]).long(),
        labels=torch.tensor([encoded.labels[i] for i in chosen], dtype=torch.long),
        index=torch.tensor(chosen, dtype=torch.long),
    )
