"""Records to token ids to batches: the cut at a named place, length buckets, right padding.

Owns the only path from text to ids, for training and evaluation alike. Never adds a prompt or a label.
Shapes: B examples, T source tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from xprompt.data.splits import TaskData
from xprompt.tasks.example import Record, fault
from xprompt.tasks.superglue import Task

POOL = 16
"""Batches sorted by length together while training: tighter buckets would correlate with what is in them."""


@dataclass(frozen=True)
class Encoded:
    """A split as token ids, in its original order.

    Args:
        ids: N lists of token ids, each of 1 to `max_source`, special tokens and suffix included.
        labels: (N,) positions in the task's label set.
        groups: (N,) what is judged together.
        num_cut: how many examples lost part of their cut field.
        pad_id: what batches are padded with.
    """

    task: Task
    ids: list[list[int]]
    labels: list[int]
    groups: list[str]
    num_cut: int
    pad_id: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded on the right; `index` says which of the `Encoded` they are."""

    input_ids: torch.Tensor  # (B, T) long
    attention_mask: torch.Tensor  # (B, T) long, 1 on tokens and 0 on padding
    labels: torch.Tensor  # (B,) long
    index: torch.Tensor  # (B,) long

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in vars(self).items()})


def encode(data: TaskData, tokenizer: Any, max_source: int, suffix: str = "") -> Encoded:
    """Tokenise a split; an input above the limit gives up tokens of its task's cut field, of nothing else.

    Special tokens are the tokenizer's own (T5 appends `</s>`; most decoder-only tokenizers append nothing).

    Args:
        data: the split.
        tokenizer: a fast Hugging Face tokenizer.
        max_source: tokens an input may have, special tokens and suffix included, the prompt not; >= 1.
        suffix: follows the rendered template, such as " Answer:"; never cut.

    Raises:
        DataError: an input that is over the limit even without its cut field; a tokenizer without offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise fault(
            "Encoding",
            f"the slow tokenizer {type(tokenizer).__name__}",
            "a fast one, which knows offsets",
            "use AutoTokenizer on a folder with a tokenizer.json",
        )
    texts = [data.task.render(record) + suffix for record in data]
    ids = [list(row) for row in tokenizer(texts, verbose=False)["input_ids"]] if texts else []
    too_long = [i for i, row in enumerate(ids) if len(row) > max_source]
    for i in too_long:
        offsets = tokenizer(texts[i], return_offsets_mapping=True, verbose=False)["offset_mapping"]
        ids[i] = _cut(ids[i], offsets, data.task, data[i], max_source)
    pad_id = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    return Encoded(data.task, ids, data.labels, data.groups, len(too_long), pad_id)


def _cut(ids: list[int], offsets: Sequence[tuple[int, int]], task: Task, record: Record, max_source: int) -> list[int]:
    """Return the ids less as many of the cut field's tokens as are too many, from the side the task says."""
    start, end = task.cut_span(record)
    space = task.render(record)[:start].endswith(" ")  # some tokenizers count it to the word that follows
    inside = [t for t, (first, last) in enumerate(offsets) if start - space <= first and start < last <= end]
    excess = len(ids) - max_source
    if excess > len(inside):
        raise fault(
            f"{task.name} example {record.uid}",
            f"a limit of {max_source} tokens for an input of {len(ids)}",
            f"at least {len(ids) - len(inside)}, since only '{task.cut_field}' is ever cut",
            "raise max_source",
        )
    lost = set(inside[:excess] if task.cut_side == "start" else inside[-excess:])
    return [token for t, token in enumerate(ids) if t not in lost]


def batches(encoded: Encoded, batch_size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
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


def _collate(encoded: Encoded, chosen: np.ndarray) -> Batch:
    rows = [encoded.ids[i] for i in chosen]
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max())
    return Batch(
        input_ids=torch.tensor([row + [encoded.pad_id] * (width - len(row)) for row in rows]),
        attention_mask=(torch.arange(width) < lengths[:, None]).long(),
        labels=torch.tensor([encoded.labels[i] for i in chosen], dtype=torch.long),
        index=torch.tensor(chosen, dtype=torch.long),
    )
