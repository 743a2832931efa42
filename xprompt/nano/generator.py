"""The generated examples of the seven tasks, in the JSON form of the official release."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from xprompt.errors import DataError
from xprompt.nano import causes, claims, pronouns, senses

#: task → (generator, size of train, size of validation); MultiRC's sizes count questions.
TASKS: dict[str, tuple[Callable[..., list[dict]], int, int]] = {
    "boolq": (claims.boolq, 8000, 1000),
    "cb": (claims.cb, 8000, 1000),
    "copa": (causes.copa, 4000, 1000),
    "multirc": (claims.multirc, 3600, 500),
    "rte": (claims.rte, 8000, 1000),
    "wic": (senses.wic, 8000, 1000),
    "wsc": (pronouns.wsc, 4000, 1000),
}


def raw_examples(task: str, split: Literal["train", "validation"], seed: int = 0) -> list[dict]:
    """Return the examples of a split, each a new dict in the official release's JSON form of the task.

    The same arguments give the same examples on every machine. Splits of any two seeds share no passage between train
    and validation. In some COPA lines, one in 400, the other choice is a cause or an effect as well: who swam in the
    lake got wet.

    Raises:
        DataError: an unknown task or split.
    """
    if task not in TASKS:
        raise DataError(f"nano has no task {task!r}; it has {', '.join(TASKS)}")
    if split not in ("train", "validation"):
        raise DataError(f"nano has no split {split!r}; ask for 'train' or 'validation'")
    return copy.deepcopy(list(_lines(task, split, seed)))


@lru_cache(maxsize=32)
def _lines(task: str, split: Literal["train", "validation"], seed: int) -> tuple[dict, ...]:
    generate, train, validation = TASKS[task]
    size = train if split == "train" else validation
    if task == "multirc":
        return tuple(generate(split, size, seed))
    kept: dict[str, dict] = {}
    for line in generate(split, size + size // 8, seed):  # the smaller worlds repeat themselves now and then
        kept.setdefault(json.dumps({k: v for k, v in line.items() if k != "idx"}), line)
    return tuple({**line, "idx": number} for number, line in enumerate(list(kept.values())[:size]))
