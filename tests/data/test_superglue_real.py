"""The real release, where a copy is at hand: the paper's counts. Never part of the project, so skipped elsewhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import NO_SUPERGLUE, SUPERGLUE
from xprompt.data.loading import load_task
from xprompt.tasks.metrics import majority
from xprompt.tasks.superglue import TASKS
from xprompt.tasks.task import Task

pytestmark = pytest.mark.skipif(not SUPERGLUE.is_dir(), reason=NO_SUPERGLUE)
EVERY = pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))


def needs(file: Path) -> None:
    if not file.is_file():
        pytest.skip(f"the release here has no {'/'.join(file.parts[-3:])}")


@EVERY
@pytest.mark.parametrize("split", ["train", "dev"])
def test_counts_are_the_papers(task: Task, split: str):
    needs(SUPERGLUE / task.folder / {"train": "train.jsonl", "dev": "val.jsonl"}[split])
    splits = load_task(task.name, SUPERGLUE, require_train=False, require_validation=False)
    data = splits.train if split == "train" else splits.validation
    assert len(data) == getattr(task.statistics, split)
    assert set(data.labels) == set(range(len(task.label_words)))
    assert all(task.render(record) for record in data)


@EVERY
def test_the_official_few_shot_file_has_32_questions(task: Task):
    needs(SUPERGLUE / "fewglue" / task.folder / "train.jsonl")
    train = load_task(task.name, SUPERGLUE, few_shot="official", require_validation=False).train
    assert len(set(train.groups)) == 32
    assert len(train) == (154 if task.name == "multirc" else 32)


@EVERY
def test_a_held_out_part_is_near_its_share(task: Task):
    needs(SUPERGLUE / task.folder / "train.jsonl")
    train = load_task(task.name, SUPERGLUE, require_validation=False).train
    held = load_task(task.name, SUPERGLUE, require_validation=False).hold_out(0.1)
    assert held.selection is not None
    assert len(held.selection) + len(held.train) == len(train)
    assert abs(len(held.selection) / len(train) - 0.1) < 0.005
    whole, part = Counter(train.labels), Counter(held.selection.labels)
    assert all(abs(part[i] / len(held.selection) - whole[i] / len(train)) < 0.03 for i in whole)
    block = task.block_field
    if block:
        sides = [{example.fields[block] for example in side} for side in (held.train, held.selection)]
        assert all(sides) and sides[0].isdisjoint(sides[1])


def test_majority_of_cb_is_the_known_one():
    needs(SUPERGLUE / "CB" / "train.jsonl")
    splits = load_task("cb", SUPERGLUE)
    got = majority(splits.task, splits.train.labels, splits.validation.labels, splits.validation.groups)
    assert got == pytest.approx({"accuracy": 0.5, "macro_f1": 2 / 9})
