"""From examples to token ids, the one path for training and evaluation; inputs that are too long are cut."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xprompt.config.pattern import fields_in
from xprompt.data.splits import TaskDataset, check_whole
from xprompt.tasks.example import Example, data_error
from xprompt.tasks.task import Task


@dataclass(frozen=True)
class TokenizedDataset:
    """A split as token ids, in its original order; N examples.

    Args:
        ids: N lists of token ids, each of 1 to `max_source`, special tokens and suffix included.
        labels: (N,) positions in the task's label set.
        groups: (N,) the examples of one group are scored as one.
        num_cut: how many examples lost part of their cut field.
        pad_id: the token id that batches are padded with.
    """

    task: Task
    ids: list[list[int]]
    labels: list[int]
    groups: list[str]
    num_cut: int
    pad_id: int

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        longest = max(map(len, self.ids), default=0)
        size = f"{len(self):,} examples of up to {longest} tokens, {self.num_cut:,} cut"
        return f"TokenizedDataset({self.task.name}: {size})"


def encode(data: TaskDataset, tokenizer: Any, max_source: int, suffix: str = "") -> TokenizedDataset:
    """Tokenise a split; an input above the limit loses tokens of its task's cut field, and of nothing else.

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
        raise data_error(
            "Encoding",
            f"the slow tokenizer {type(tokenizer).__name__}",
            "a fast one, which knows offsets",
            "use AutoTokenizer on a folder with a tokenizer.json",
        )
    check_whole("max_source", max_source, 1)
    texts = [data.task.render(example) + suffix for example in data]
    ids = [list(row) for row in tokenizer(texts, verbose=False)["input_ids"]] if texts else []
    controls = _control_tokens(tokenizer)
    shown = fields_in(data.task.template)
    typed = {i for i, example in enumerate(data) if any(controls.search(example.fields[name]) for name in shown)}
    for i in sorted(typed):
        ids[i] = _encode_as_text(texts[i], tokenizer, controls, data.task, data[i])
    too_long = [i for i, row in enumerate(ids) if len(row) > max_source]
    for i in too_long:
        as_text = {"split_special_tokens": True} if i in typed else {}
        offsets = tokenizer(texts[i], return_offsets_mapping=True, verbose=False, **as_text)["offset_mapping"]
        ids[i] = _cut(ids[i], offsets, data.task, data[i], max_source)
    pad_id = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    return TokenizedDataset(data.task, ids, data.labels, data.groups, len(too_long), pad_id)


def _control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Return what finds a tokenizer's control tokens, such as `</s>`, in a text."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = {str(token) for token in (*tokenizer.all_special_tokens, *(token for token in added if token.special))}
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)")  # never where none


def _encode_as_text(text: str, tokenizer: Any, controls: re.Pattern[str], task: Task, example: Example) -> list[int]:
    """Return the token ids of an input in whose fields someone typed a control token: there it is text like any other.

    Raises `DataError` where the template has control tokens too, which stay such, or the tokenizer cannot do that.
    """
    encoded = tokenizer(text, split_special_tokens=True, return_offsets_mapping=True, verbose=False)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    offsets = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    if controls.search(task.template) or any(token in special and first < last for token, (first, last) in offsets):
        shown = ((name, example.fields[name]) for name in fields_in(task.template))
        field, found = next((name, hit) for name, value in shown if (hit := controls.search(value)))
        raise data_error(
            f"{task.name} example {example.uid}, field '{field}'",
            f"{found.group()!r}, a control token of the tokenizer",
            "a text without control tokens",
            "remove it from the text, or write it otherwise",
        )
    return list(encoded["input_ids"])


def _cut(
    ids: list[int], offsets: Sequence[tuple[int, int]], task: Task, example: Example, max_source: int
) -> list[int]:
    """Return the ids without the excess, which is taken from the cut field on the side that the task names."""
    start, end = task.cut_span(example)
    space = task.render(example)[:start].endswith(" ")  # some tokenizers count it to the word that follows
    inside = [t for t, (first, last) in enumerate(offsets) if start - space <= first and start < last <= end]
    excess = len(ids) - max_source
    if excess > len(inside):
        raise data_error(
            f"{task.name} example {example.uid}",
            f"a limit of {max_source} tokens for an input of {len(ids)}",
            f"at least {len(ids) - len(inside)}, since only '{task.cut_field}' is ever cut",
            "raise max_source",
        )
    dropped = set(inside[:excess] if task.cut_side == "start" else inside[-excess:])
    return [token for t, token in enumerate(ids) if t not in dropped]
