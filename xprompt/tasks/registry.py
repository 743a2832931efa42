"""Find a task by its name, or a custom one by the path of its declaration."""

from __future__ import annotations

from pathlib import Path

from xprompt.errors import ConfigError, did_you_mean
from xprompt.tasks.custom import DECLARATION, OwnTask
from xprompt.tasks.superglue import TASKS
from xprompt.tasks.task import Statistics, Task


def get_task(name: str | Path) -> Task:
    """Return a task by its name, or an own one by the path of its declaration, `task.json`.

    Raises:
        ConfigError: an unknown name, or a declaration that cannot be meant.
        DataError: the declaration's files of examples are not there.
    """
    if name in TASKS:
        return TASKS[str(name)]
    path = Path(name).expanduser()
    if path.suffix != ".json":
        raise ConfigError(
            f"Unknown task {str(name)!r}; needed one of {', '.join(TASKS)}. "
            f"Fix: name one of these, or give the path of a custom task ({DECLARATION})."
            f"{did_you_mean(str(name), TASKS)}"
        )
    return _own(OwnTask.load(path), path)


def _own(declared: OwnTask, path: Path) -> Task:
    if declared.name.lower() in (*TASKS, "average", "all"):
        raise ConfigError(f"{path.parent.name}/{path.name}: the name {declared.name!r} is taken; choose another.")
    return Task(
        declared.name,
        "",
        declared.template,
        tuple(declared.verbalizer),
        tuple(declared.verbalizer.values()),
        metrics=declared.metrics,
        cut_field=declared.cut_column,
        statistics=Statistics(0, 0),
        parse=declared.parse,
        cut_side=declared.cut_side,
        together=declared.group,
        label_field=declared.label,
        files=declared.files(path.parent),
    )
