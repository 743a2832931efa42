"""Tab 7: a target task's prompt started from a source task's, whole (TaskTransfer) or pruned (XPrompt Transfer)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from xprompt.config.run_config import RunConfig
from xprompt.errors import ConfigError, shown
from xprompt.reporting import wording
from xprompt.reporting.rows import tidy
from xprompt.runs.grid import grid
from xprompt.tasks.registry import get_task

#: Without a source and with one; the differences a − b that Tab 7 is about.
ALONE, WITH_SOURCE = ("prompt_tuning", "xprompt"), ("task_transfer", "xprompt_transfer")
TRANSFER_PAIRS = (
    ("xprompt_transfer", "task_transfer"),
    ("task_transfer", "prompt_tuning"),
    ("xprompt_transfer", "xprompt"),
)


def transfer_configs(profile: str, pairs: Sequence[Sequence[str]], seeds: Any, **choices: Any) -> list[RunConfig]:
    """Return the runs of every source → target pair, with those of the target alone.

    Args:
        pairs: (source, target), names of tasks.
        choices: as of `grid`. A quick report has the first pair alone.

    Raises `ConfigError` where a pair is none, and as `grid`.
    """
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or pair[0] == pair[1]:
            raise ConfigError(f"pair {shown(pair)}: give a source task and another target task.")
    if not pairs:
        raise ConfigError("no pairs: give one or more of a source task and a target task.")
    configs: list[RunConfig] = []
    for source, target in pairs[:1] if choices.get("quick") else pairs:
        for methods, sources in ((ALONE, ()), (WITH_SOURCE, (source,))):
            runs = grid(profile, [target], methods, seeds, source_tasks=sources, **choices)
            configs += [run for run in runs if run not in configs]
    return configs


def pair_rows(records: Iterable[Mapping[str, Any]], pairs: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Return tidy rows in which every source → target pair is a task, with the target's own runs in each."""
    records, found = list(records), []
    for source, target in ((get_task(source).name, get_task(target).name) for source, target in pairs):
        part = [
            record
            for record in records
            if record["task"] == target and list(record["config"].get("source_tasks", [source])) == [source]
        ]
        found.append(tidy(part).assign(task=f"{wording.task(source)} → {wording.task(target)}"))
    return pd.concat(found, ignore_index=True)


def transfer_statements(gaps: pd.DataFrame) -> list[str]:
    """Say what the average over the pairs shows, and on how many pairs the pruned source is ahead.

    Args:
        gaps: of `TRANSFER_PAIRS`, as `differences` returns them.
    """
    first = gaps[(gaps["a"] == "xprompt_transfer") & (gaps["b"] == "task_transfer") & gaps["task"].str.contains("→")]
    ahead = int((first["mean"] > 0).sum())
    by_chance = f"{int(first['verdict'].isin(['above', 'below']).sum())} of the differences significant"
    return [
        *wording.statements(gaps, "pairs"),
        f"XPrompt transfer is ahead of task transfer on {ahead} of {len(first)} pairs, {by_chance}.",
    ]
