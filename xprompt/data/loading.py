"""Load a task: raw examples of its source become splits of examples, whole and without repeats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from xprompt.data.readers import Split, read, read_few_shot
from xprompt.data.splits import (
    Splits,
    TaskDataset,
    check_whole,
    hold_out_validation,
    limit,
    sample,
    warn_of_missing_labels,
)  # fmt: skip
from xprompt.signatures import check_arguments
from xprompt.tasks.example import Example, RawExample, data_error
from xprompt.tasks.registry import get_task
from xprompt.tasks.task import Task

__all__ = ["Splits", "TaskDataset", "load_task"]


@check_arguments
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
        name: a task's name, the path of a declaration (see `xprompt.CustomTask`), or a `Task`.
        source: "nano", "hub", or a folder (see `xprompt.data.readers.read`); a custom task has its own files.
        seed: chooses the few-shot sample, and nothing else.
        few_shot: a number of training examples to sample uniformly (MultiRC: of questions, as the official
            files count), or "official" for `fewglue/TASK/train.jsonl` in the folder.
        limit_train: at most so many training examples: a fixed random part, the same for every seed.
        limit_validation: the same for the validation split. Questions stay whole under either limit.
        revision: a commit or tag of the hub's dataset.
        require_train: False gives an empty training split where the source has none.
        require_validation: False gives an empty validation split where the source has none.

    Raises:
        ConfigError: an unknown task, or a declaration that makes no sense.
        DataError: a source, split or line that is not as the task needs it; names file, line and field.

    Example:
        >>> import xprompt as xp
        >>> xp.load_task("rte", limit_train=100, limit_validation=50).hold_out(0.2)
        Splits(rte from nano: train 80, selection 20, validation 50)
    """
    task = name if isinstance(name, Task) else get_task(name)
    if task.files is None and not task.folder:
        raise data_error(
            f"load_task, task {task.name!r}",
            "a task in memory, which has no files",
            "one whose examples can be read",
            "take the splits that task_from returned, or write the examples beside a task.json and give its path",
        )
    check_whole("seed", seed, 0)
    if few_shot == "official":
        train = make_dataset(task, "train", read_few_shot(task, source))
    else:
        train = _split(task, source, "train", revision, require_train)
    if task.files is not None and task.files.validation_share is not None:
        train, validation = hold_out_validation(train, task.files.validation_share, task.files.validation_seed)
    else:
        validation = _split(task, source, "validation", revision, require_validation)
    if few_shot not in (None, "official"):
        train = sample(train, few_shot, seed)
    train, validation = limit(train, limit_train), limit(validation, limit_validation)
    warn_of_missing_labels(train, validation, stacklevel=4)  # the wrapper of check_arguments lies between
    if task.files is not None:
        recorded = f"own:{task.name}"  # as in records of earlier runs
    else:
        recorded = f"hub@{revision}" if source == "hub" and revision else str(source)
    return Splits(task, train, validation, recorded)


def _split(task: Task, source: str | Path, split: Split, revision: str | None, required: bool) -> TaskDataset:
    raw_examples = read(task, source, split, revision)
    if raw_examples is None and required:
        file, remedy = {
            "train": (
                "train",
                "take few_shot='official' (--set few_shot=official); load_task(require_train=False) "
                "gives validation alone",
            ),
            "validation": ("val", "load the rest alone by load_task(require_validation=False)"),
        }[split]
        raise data_error(
            f"Source {str(source)!r}",
            f"no {split} split for {task.name}",
            f"{task.folder}/{file}.jsonl or {task.name}/{split}*.parquet",
            f"add the file, or {remedy}",
        )
    return TaskDataset(task, split, ()) if raw_examples is None else make_dataset(task, split, raw_examples)


def make_dataset(task: Task, split: str, raw_examples: Sequence[RawExample]) -> TaskDataset:
    """Return raw examples as a split; an empty split and an `idx` used twice are errors."""
    seen: dict[str, str] = {}
    examples: list[Example] = []
    for raw in raw_examples:
        for example in task.examples(raw):
            if example.uid in seen:
                raise data_error(
                    f"{raw.where}, field 'idx'",
                    f"{example.uid}, used before at {seen[example.uid]}",
                    "a different idx for each example",
                    "renumber or remove the repeated ones",
                )
            seen[example.uid] = raw.where
            examples.append(example)
    if not examples:
        raise data_error(
            f"{task.name}, split {split}",
            "a source without a single example",
            "at least one",
            "fetch the file again, or choose another source",
        )
    return TaskDataset(task, split, tuple(examples))
