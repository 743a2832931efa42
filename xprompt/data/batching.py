"""Which examples a step works on: batches by length, micro-batches, a process's shard, batches joined.

Shapes: B examples, T source tokens.
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
from xprompt.streams import stream_seed
from xprompt.tasks.example import data_error

#: Batches sorted by length together while training: smaller pools would correlate length with content.
POOL = 16
#: Rows that keep two CPU cores busy: with more a pass leaves the cache and gets slower (measured on nano).
CPU_ROWS = 64


@dataclass(frozen=True)
class Batch:
    """B examples, padded on the right; `index` says which of the `TokenizedDataset` they are."""

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
    """Yield every example exactly once, in batches of similar length; a last, short batch is kept.

    Args:
        encoded: the split.
        batch_size: examples a batch, >= 1; the last has what is left over.
        seed: None for evaluation (by length, always the same order); a number, 0 included, for training:
            shuffled, bucketed within pools of `POOL` batches, the batches shuffled again, the left-over drawn
            at random.
        epoch: with a seed, each epoch has its own order; the same (seed, epoch) always the same one.
    """
    if batch_size < 1:
        raise data_error("Batching", f"batch_size={batch_size}", "at least 1", "choose a positive batch size")
    lengths = np.array([len(row) for row in encoded.ids], dtype=np.int64)
    for positions in _order(lengths, batch_size, seed, epoch):
        yield _collate(encoded, positions)


def infinite_batches(encoded: TokenizedDataset, batch_size: int, seed: int, start: int = 0) -> Iterator[Batch]:
    """Yield batches without end from number `start` on, every epoch in its own order."""
    epoch, skipped = divmod(start, -(-len(encoded) // batch_size))
    yield from islice(batches(encoded, batch_size, seed=seed, epoch=epoch), skipped, None)
    while True:
        epoch += 1
        yield from batches(encoded, batch_size, seed=seed, epoch=epoch)


def micro_batch(batch: Batch, part: int, parts: int) -> Batch:
    """Return micro-batch `part` of `parts`; a short batch's last ones may be empty."""
    if parts == 1:
        return batch
    size = -(-len(batch) // parts)
    return slice_rows(batch, slice(part * size, (part + 1) * size))


def shard(batch: Batch, group: ProcessGroup) -> Batch:
    """Return this process's rows of a batch: every world_size-th, since rows are ordered by length."""
    return batch if group.world_size == 1 else slice_rows(batch, slice(group.rank, None, group.world_size))


def repeat(batch: Batch, times: int) -> Batch:
    """Return the batch `times` over, (times · B) rows."""
    if times == 1:
        return batch
    return Batch(**{name: torch.cat([tensor] * times) for name, tensor in vars(batch).items()})


def concat(parts: list[Batch], pad_id: int) -> Batch:
    """Return batches, one a candidate, as one, padded to the longest."""
    if all(part is parts[0] for part in parts):
        return repeat(parts[0], len(parts))
    longest = max(part.input_ids.shape[1] for part in parts)

    def pad(tensor: Tensor, value: int) -> Tensor:
        return nn.functional.pad(tensor, (0, longest - tensor.shape[1]), value=value)

    return Batch(
        torch.cat([pad(part.input_ids, pad_id) for part in parts]),  # (C · B, T)
        torch.cat([pad(part.attention_mask, 0) for part in parts]),  # (C · B, T)
        torch.cat([part.labels for part in parts]),  # (C · B,)
        torch.cat([part.index for part in parts]),  # (C · B,)
    )


def slice_rows(batch: Batch, rows: slice) -> Batch:
    """Return these rows of a batch, at its width."""
    return Batch(**{name: tensor[rows] for name, tensor in vars(batch).items()})


def _order(lengths: np.ndarray, batch_size: int, seed: int | None, epoch: int) -> Iterator[np.ndarray]:
    """Yield each batch's positions in the split (B,), by length within it."""
    total = len(lengths)

    def by_length(positions: np.ndarray) -> np.ndarray:
        return positions[np.argsort(lengths[positions], kind="stable")]

    if seed is None:
        order = by_length(np.arange(total))
        yield from (order[i : i + batch_size] for i in range(0, total, batch_size))
        return
    rng = np.random.default_rng([stream_seed(seed, "data order"), epoch])
    order = rng.permutation(total)  # (N,)
    in_full_batches, pool = total - total % batch_size, POOL * batch_size
    sorted_pools = [by_length(order[i : min(i + pool, in_full_batches)]) for i in range(0, in_full_batches, pool)]
    full: Sequence[np.ndarray] = list(np.concatenate(sorted_pools).reshape(-1, batch_size)) if sorted_pools else []
    yield from (full[i] for i in rng.permutation(len(full)))
    if in_full_batches < total:
        yield by_length(order[in_full_batches:])


def _collate(encoded: TokenizedDataset, positions: np.ndarray) -> Batch:
    rows = [encoded.ids[i] for i in positions]
    lengths = torch.tensor([len(row) for row in rows])  # (B,)
    width = int(lengths.max())  # T
    return Batch(
        input_ids=torch.tensor([row + [encoded.pad_id] * (width - len(row)) for row in rows]),
        attention_mask=(torch.arange(width) < lengths[:, None]).long(),
        labels=torch.tensor([encoded.labels[i] for i in positions], dtype=torch.long),
        index=torch.tensor(positions, dtype=torch.long),
    )
