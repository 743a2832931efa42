"""Which examples a run sees: splits, few-shot samples, limits, and the held-out part, each by seed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import overload

from xprompt import html
from xprompt.errors import shown
from xprompt.streams import stream_seed
from xprompt.tasks.example import Example, data_error
from xprompt.tasks.task import Task


@dataclass(frozen=True)
class TaskDataset(Sequence[Example]):
    """The examples of one split, in the source's order."""

    task: Task
    split: str
    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def __repr__(self) -> str:
        return f"TaskDataset({self.task.name} {self.split}: {len(self):,} examples, {self._counts():.200})"

    def _counts(self) -> str:
        counts = Counter(self.labels)
        return ", ".join(f"{label} {counts[i]:,}" for i, label in enumerate(self.task.label_values))

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> TaskDataset: ...
    def __getitem__(self, index: int | slice) -> Example | TaskDataset:
        """Return an example, or for a slice the split cut down to it."""
        return replace(self, examples=self.examples[index]) if isinstance(index, slice) else self.examples[index]

    @property
    def labels(self) -> list[int]:
        """(N,) labels, as positions in the task's label set."""
        return [example.label for example in self.examples]

    @property
    def groups(self) -> list[str]:
        """(N,) groups: the examples of one are scored as one."""
        return [example.group for example in self.examples]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the task's declaration and every example."""
        task = self.task
        parts: list[list[object]] = [
            [task.name, task.template, task.label_words, task.metrics, task.cut_field, task.cut_side]
        ]
        if not task.folder:  # SuperGLUE's labels are fixed, and runs of it keep the IDs they had before this was here
            parts.append([task.label_values])
        parts += [[e.uid, e.group, dict(e.fields), e.label] for e in self.examples]
        return _sha256(json.dumps(part, sort_keys=True) for part in parts)

    def take(self, indices: Iterable[int], split: str | None = None) -> TaskDataset:
        """Return the examples at these positions, in the source's order, whatever the order given."""
        return TaskDataset(self.task, split or self.split, tuple(self.examples[i] for i in sorted(indices)))


@dataclass(frozen=True)
class Splits:
    """A task's data: to train on, to report on, and (once held out) to select on."""

    task: Task
    train: TaskDataset
    validation: TaskDataset
    source: str
    selection: TaskDataset | None = None

    @property
    def parts(self) -> dict[str, TaskDataset]:
        """The splits there are, by name."""
        named = {"train": self.train, "selection": self.selection, "validation": self.validation}
        return {name: data for name, data in named.items() if data is not None}

    @property
    def selected_on(self) -> TaskDataset:
        """Return what checkpoints and ratios are chosen on: the part held out, or else what is reported on."""
        return self.validation if self.selection is None else self.selection

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(data):,}" for name, data in self.parts.items())
        return f"Splits({self.task.name} from {self.source:.80}: {sizes})"

    def _repr_html_(self) -> str:
        """Show the counts, and one example where it may be shown: a report's notebooks are passed on, most data not."""
        labels = self.task.label_values
        rows = []
        for name, data in self.parts.items():
            counts = Counter(data.labels)
            rows.append([name, f"{len(data):,}", *(f"{counts[i]:,}" for i in range(len(labels)))])
        page = html.table([["split", "examples", *labels], *rows], f"{self.task.title}, from {self.source}")
        if self.train.examples and (self.source == "nano" or "XPROMPT_REPORT" not in os.environ):
            example = self.train[0]
            page += html.text(f"{self.task.render(example)}\n→ {self.task.label_text(example.label)}")
        return page

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the fingerprints of the splits."""
        parts = (self.train, self.selection, self.validation)
        return _sha256("none" if part is None else part.fingerprint for part in parts)

    def hold_out(self, fraction: float = 0.1, seed: int = 0, at_most: int | None = None) -> Splits:
        """Move a stratified part of the training split into `selection`.

        Labels keep their shares as near as whole blocks allow, and each that has two examples has one there, where
        there is room. A block, which stays on one side, is all examples with one input text; where the task names a
        `block_field` (MultiRC: the paragraph; WSC: the sentence), all with one such text.

        Args:
            fraction: of the training examples, 0 < fraction < 1.
            seed: chooses which; 0 is a seed.
            at_most: upper limit in examples.

        Raises:
            DataError: already held out, a value outside its range, or too few blocks to fill both sides.

        Warns where a side lacks a label.
        """
        parts = self._divide(fraction, seed, at_most)
        warn_of_missing_labels(parts.train, parts.selection)
        return parts

    def _divide(self, fraction: float, seed: int, at_most: int | None = None) -> Splits:
        where = f"Holding out from {self.task.name}'s training split"
        if self.selection is not None:
            raise data_error(
                where,
                "splits that have a selection part",
                "splits without one",
                "hold out once, from what load_task returned",
            )
        check_whole("seed", seed, 0)
        most = max(1, len(self.train)) if at_most is None else at_most
        if not isinstance(fraction, (int, float)) or not 0 < fraction < 1 or not isinstance(most, Integral) or most < 1:
            raise data_error(
                where,
                f"fraction={shown(fraction)}, at_most={shown(at_most)}",
                "0 < fraction < 1 and at_most >= 1",
                "choose values in these ranges",
            )
        wanted = max(1, round(fraction * len(self.train)))
        wanted = min(wanted, most)
        blocks: dict[str, list[int]] = defaultdict(list)
        for i, example in enumerate(self.train):
            field = self.task.block_field
            blocks[example.fields[field] if field else self.task.render(example)].append(i)
        quota = _shares_of_each(Counter(self.train.labels), wanted, fewest=2)
        held_out: list[int] = []
        for block in _shuffled(blocks.values(), stream_seed(seed, "hold-out")):
            need = Counter(self.train[i].label for i in block)
            if all(quota[label] >= count for label, count in need.items()):
                quota.subtract(need)
                held_out += block
        if not 0 < len(held_out) < len(self.train):
            raise data_error(
                where,
                f"{len(self.train)} examples in {len(blocks)} blocks, {wanted} wanted",
                "some examples on both sides, with every block whole",
                "load more training examples with different texts, or hold out a larger share (its limit, too)",
            )
        rest = set(range(len(self.train))) - set(held_out)
        return replace(self, train=self.train.take(rest), selection=self.train.take(held_out, "selection"))


def hold_out_validation(data: TaskDataset, share: float, seed: int) -> tuple[TaskDataset, TaskDataset]:
    """Hold out a share for validation by the declaration's seed alone, so that all runs report on the same rows."""
    splits = Splits(data.task, data, TaskDataset(data.task, "validation", ()), "")._divide(share, seed)
    assert splits.selection is not None
    return splits.train, replace(splits.selection, split="validation")


def warn_of_missing_labels(*parts: TaskDataset | None, stacklevel: int = 3) -> None:
    """Warn, once, where a part lacks a label that another has, or has one label alone.

    Args:
        stacklevel: whose line the warning names, as in `warnings.warn`; 3 is the caller of the function that calls.
    """
    filled = [part for part in parts if part]
    counts = Counter(label for part in filled for label in part.labels)
    faults = []
    for part in filled:
        values = part.task.label_values
        missing = [f"{values[i]!r} ({counts[i]} in other splits)" for i in sorted(set(counts) - set(part.labels))]
        if missing or len(counts) == 1:
            lack = f"no example of label {', '.join(missing)}" if missing else f"no label but {values[min(counts)]!r}"
            faults.append(f"split {part.split} ({len(part)} examples) has {lack}")
    if faults:
        warnings.warn(
            f"{filled[0].task.name}: {'; '.join(faults)}. What is trained or scored there says nothing about labels "
            "that it lacks. Fix: give more examples of each label.",
            stacklevel=stacklevel,
        )


def check_whole(name: str, value: object, least: int) -> None:
    """Raise `DataError` where a value is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise data_error(name, shown(value), f"at least {least}, a whole number", "choose another value")


def sample(data: TaskDataset, shots: object, seed: int) -> TaskDataset:
    """Return `shots` groups drawn uniformly, without replacement."""
    groups = sorted(set(data.groups))
    number = int(shots) if isinstance(shots, Integral) and not isinstance(shots, bool) else 0
    if not 0 < number <= len(groups):
        raise data_error(
            f"few_shot for {data.task.name}",
            shown(shots),
            f"'official' or 1 to {len(groups)}",
            "ask for as many as the training split has, or fewer",
        )
    chosen = set(random.Random(stream_seed(seed, "few-shot sample")).sample(groups, number))
    return data.take(i for i, example in enumerate(data) if example.group in chosen)


def stratified_sample(data: TaskDataset, most: int | None, seed: int) -> TaskDataset:
    """Return at most `most` examples drawn without replacement, each label's share as near the whole's as can be.

    Every label has at least one example where `most` allows it.
    """
    if most is None or len(data) <= most:
        return data
    members: dict[int, list[int]] = defaultdict(list)  # label → positions
    for i, label in enumerate(data.labels):
        members[label].append(i)
    quota = _shares_of_each(Counter(data.labels), most, fewest=1)
    rng = random.Random(stream_seed(seed, "importance sample"))
    return data.take(i for label in sorted(members) for i in rng.sample(members[label], quota[label]))


def limit(data: TaskDataset, most: int | None) -> TaskDataset:
    """Return a fixed random part of at most `most` examples, groups whole."""
    if most is None:
        return data
    check_whole(f"Limit on {data.task.name}'s {data.split} split", most, 1)
    if len(data) <= most:
        return data
    members: dict[str, list[int]] = defaultdict(list)
    for i, example in enumerate(data):
        members[example.group].append(i)
    kept: list[int] = []
    for group in _shuffled(members.values(), stream_seed(0, "limit")):
        if len(kept) + len(group) <= most:
            kept += group
    if not kept:
        raise data_error(
            f"Limit on {data.task.name}'s {data.split} split",
            str(most),
            f"at least {min(map(len, members.values()))}, the smallest group",
            "raise the limit",
        )
    return data.take(kept)


def _shares(counts: Counter[int], total: int) -> Counter[int]:
    """Divide `total` in proportion to `counts`: whole numbers that sum to it, largest remainders first."""
    exact = {label: total * count / counts.total() for label, count in sorted(counts.items())}
    shares = Counter({label: int(share) for label, share in exact.items()})
    by_remainder = sorted(exact, key=lambda label: int(exact[label]) - exact[label])
    shares.update(by_remainder[: total - shares.total()])
    return shares


def _shares_of_each(counts: Counter[int], total: int, fewest: int) -> Counter[int]:
    """Divide as `_shares` does, with one or more for each count of `fewest` or more, where the total is enough."""
    shares = _shares(counts, total)
    for label in sorted(counts):
        if not shares[label] and counts[label] >= fewest and total >= len(counts):
            shares[max(shares, key=lambda other: shares[other])] -= 1
            shares[label] = 1
    return shares


def _shuffled(blocks: Iterable[list[int]], seed: int) -> list[list[int]]:
    order = list(blocks)
    random.Random(seed).shuffle(order)
    return order


def _sha256(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()
