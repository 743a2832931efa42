"""Where a folder in the official release layout has a task's examples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from xprompt.tasks.task import Task

Part = Literal["train", "validation", "few_shot"]  # few_shot: the official 32 training examples


def official_file(task: Task, part: Part) -> str:
    """Return the file of a part, below the release's folder."""
    return {
        "train": f"{task.folder}/train.jsonl",
        "validation": f"{task.folder}/val.jsonl",
        "few_shot": f"fewglue/{task.folder}/train.jsonl",
    }[part]


def part_files(task: Task, folder: Path, part: Part) -> list[Path]:
    """Return the files that hold a part: the release's, or else the hub's tables `task/part*.parquet`; [] for none."""
    file = folder / official_file(task, part)
    if task.folder and os.path.isfile(file):  # False too where a path is too long to be one
        return [file]
    return [] if part == "few_shot" else sorted((folder / task.name).glob(f"{part}*.parquet"))
