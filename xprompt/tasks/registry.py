"""Find a task by its name, or a custom one by the path of its declaration."""

from __future__ import annotations

import os
from pathlib import Path

from xprompt.errors import ConfigError, did_you_mean, shown
from xprompt.files import path_of
from xprompt.tasks.custom import DECLARATION, CustomTask, TaskFiles
from xprompt.tasks.superglue import TASKS
from xprompt.tasks.task import Task

_MOST_COMMAS = 9  # in one path


def get_task(name: str | Path) -> Task:
    """Return a task by its name, or a custom one by the path of its declaration, `task.json`, or of its folder.

    Raises:
        ConfigError: an unknown name, or a declaration that makes no sense.
        DataError: the declaration's files of examples are not there.
    """
    if not isinstance(name, (str, Path)):
        raise ConfigError(
            f"A task is named by a text or a path, not by {shown(name)}. Fix: name one of {', '.join(TASKS)}."
        )
    if str(name) in TASKS:
        return TASKS[str(name)]
    path = path_of(name)
    if _is_folder_of_task(name):
        path = path / DECLARATION
    if path.suffix != ".json":
        raise ConfigError(
            f"Unknown task {shown(str(name))}; needed one of {', '.join(TASKS)}. "
            f"Fix: name one of these, or give the path of a custom task's declaration ({DECLARATION})."
            f"{did_you_mean(str(name), TASKS)}"
        )
    declaration = CustomTask.load(path)
    return custom_task(declaration, f"{path.parent.name}/{path.name}", declaration.files(path.parent))


def split_tasks(text: str) -> list[str]:
    """Return the tasks of a comma-separated text, empty ones left out.

    A comma in the path of a declaration that is there, or of its folder, belongs to it.
    """
    parts, names = text.split(","), []
    start = 0
    while start < len(parts):
        joined = (",".join(parts[start : start + n]).strip() for n in range(_MOST_COMMAS + 1, 1, -1))
        names.append(next(filter(_is_declared, joined), parts[start].strip()))
        start += names[-1].count(",") + 1
    return [name for name in names if name]


def _is_declared(path: str) -> bool:
    return _is_folder_of_task(path) or path.endswith(".json") and os.path.isfile(path_of(path))


def _is_folder_of_task(path: str | Path) -> bool:
    return os.path.isfile(path_of(path) / DECLARATION)


def custom_task(declaration: CustomTask, where: str, files: TaskFiles | None = None) -> Task:
    """Return a declaration as a task; without files, its examples are in memory. Raises `ConfigError` for a taken name.

    Args:
        where: the declaration's place, for the error.
    """
    if declaration.name.lower() in (*TASKS, "average", "all"):
        raise ConfigError(f"{where}: the name {declaration.name!r} is taken; choose another.")
    return Task(
        declaration.name,
        title=declaration.name,
        folder="",
        template=declaration.template,
        label_values=tuple(declaration.verbalizer),
        label_words=tuple(declaration.verbalizer.values()),
        metrics=declaration.metrics,
        cut_field=declaration.cut_column,
        cut_side=declaration.cut_side,
        parse=declaration.parse,
        block_field=declaration.group,
        label_field=declaration.label,
        files=files,
    )
