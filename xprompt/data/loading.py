"""From a source's lines to splits of records.

Owns loading and what must hold of a whole split. Never opens a file (`sources` does), never tokenises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from xprompt.data.readers import Split, read, read_few_shot
from xprompt.data.splits import Splits, TaskDataset, limit, sample
from xprompt.tasks.example import Example, RawExample, fault
from xprompt.tasks.registry import get_task
from xprompt.tasks.task import Task

__all__ = ["Splits", "TaskDataset", "load_task"]


def load_task(
    name: str | Path | Task,
    source: str | Path = "nano",
    *,
    seed: int = 0,
    few_shot: int | Literal["official"] | None = None,
    limit_train: int | None = None,
    limit_validation: int | None = None,
    revision: str | None = None,
    require_train: bool = True,
    require_validation: bool = True,
) -> Splits:
    """Load a task's training and validation splits.

    Args:
        name: a task's name, the path of a declaration (see `xprompt.tasks.custom.OwnTask`), or a `Task`.
        source: "nano", "hub", or a folder (see `xprompt.data.readers.read`); a declared task has its own files.
        seed: chooses the few-shot sample, and nothing else.
        few_shot: a number of training examples to sample uniformly (MultiRC: of questions, as the official
            files count), or "official" for `fewglue/TASK/train.jsonl` in the folder.
        limit_train: at most so many training records: a fixed random part, the same for every seed.
        limit_validation: the same for the validation split. Questions stay whole under either limit.
        revision: a commit or tag of the hub's dataset.
        require_train: False gives an empty training split where the source has none.
        require_validation: False gives an empty validation split where the source has none.

    Raises:
        ConfigError: an unknown task, or a declaration that cannot be meant.
        DataError: a source, split or line that is not as the task needs it; names file, line and field.
    """
    task = name if isinstance(name, Task) else get_task(name)
    if few_shot == "official":
        train = _data(task, "train", read_few_shot(task, source))
    else:
        train = _split(task, source, "train", revision, require_train)
    if task.files is not None and task.files.share is not None:
        train, validation = _parted(train, task.files.share, task.files.seed)
    else:
        validation = _split(task, source, "validation", revision, require_validation)
    if few_shot not in (None, "official"):
        train = sample(train, few_shot, seed)
    train, validation = limit(train, limit_train), limit(validation, limit_validation)
    if task.files is not None:
        place = f"own:{task.name}"
    else:
        place = f"hub@{revision}" if source == "hub" and revision else str(source)
    return Splits(task, train, validation, place)


def _parted(data: TaskDataset, share: float, seed: int) -> tuple[TaskDataset, TaskDataset]:
    """Set a share apart for validation: by the declaration's seed alone, so that all runs report on the same rows."""
    parted = Splits(data.task, data, TaskDataset(data.task, "validation", ()), "").hold_out(share, seed)
    assert parted.selection is not None
    return parted.train, replace(parted.selection, split="validation")


def _split(task: Task, source: str | Path, split: Split, revision: str | None, required: bool) -> TaskDataset:
    lines = read(task, source, split, revision)
    if lines is None and required:
        file, way = {
            "train": ("train", "take few_shot='official', or pass require_train=False to evaluate only"),
            "validation": ("val", "pass require_validation=False to train only"),
        }[split]
        raise fault(
            f"Source {str(source)!r}",
            f"no {split} split for {task.name}",
            f"{task.folder}/{file}.jsonl or {task.name}/{split}*.parquet",
            f"add the file, or {way}",
        )
    return TaskDataset(task, split, ()) if lines is None else _data(task, split, lines)


def _data(task: Task, split: str, lines: Sequence[RawExample]) -> TaskDataset:
    """Return lines as records; an empty split and a name used twice are errors."""
    seen: dict[str, str] = {}
    records: list[Example] = []
    for line in lines:
        for record in task.records(line):
            if record.uid in seen:
                raise fault(
                    f"{line.where}, field 'idx'",
                    f"{record.uid}, used before at {seen[record.uid]}",
                    "an idx of its own for each example",
                    "renumber or remove the repeated ones",
                )
            seen[record.uid] = line.where
            records.append(record)
    if not records:
        raise fault(
            f"{task.name}, split {split}",
            "a source without a single example",
            "at least one",
            "fetch the file again, or choose another source",
        )
    return TaskDataset(task, split, tuple(records))
