"""Records to token ids to batches: the cut at a named place, length buckets, right padding.

Owns the only path from text to ids, for training and evaluation alike. Never adds a prompt or a label.
Shapes: B examples, T source tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xprompt.data.splits import TaskDataset
from xprompt.tasks.example import Example, fault
from xprompt.tasks.task import Task


@dataclass(frozen=True)
class TokenizedDataset:
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


def encode(data: TaskDataset, tokenizer: Any, max_source: int, suffix: str = "") -> TokenizedDataset:
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
    return TokenizedDataset(data.task, ids, data.labels, data.groups, len(too_long), pad_id)


def _cut(ids: list[int], offsets: Sequence[tuple[int, int]], task: Task, record: Example, max_source: int) -> list[int]:
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
