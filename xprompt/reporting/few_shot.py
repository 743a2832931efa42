"""Tab 2: training sets of 32 examples, the official ones and those that a seed draws."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from xprompt.config.run_config import RunConfig
from xprompt.data.release import part_files
from xprompt.errors import ConfigError, shown
from xprompt.files import path_of
from xprompt.reporting import paper, wording
from xprompt.reporting.by_seed import gap_cell
from xprompt.reporting.facts import not_retrained, not_retrained_sentence
from xprompt.reporting.rows import methods_in, tasks_in, tidy
from xprompt.reporting.statistics import differences, interval, with_average
from xprompt.runs.grid import choose_tasks, grid
from xprompt.tasks.registry import get_task

OFFICIAL = "official"


def few_shot_configs(
    profile: str,
    tasks: Any,
    methods: Sequence[str],
    seeds: Any,
    samples: Sequence[int | str],
    *,
    data_dir: str = "",
    **choices: Any,
) -> list[RunConfig]:
    """Return a grid of runs for every kind of sample; the official one only of tasks that `data_dir` has it for.

    Args:
        samples: numbers of examples that the seed draws, or "official".
        data_dir, choices: as of `grid`.

    Raises `ConfigError` where no run is left.
    """
    configs = []
    for sample in samples:
        names = [name for name in choose_tasks(tasks, profile) if sample != OFFICIAL or has_official(name, data_dir)]
        if names:
            configs += grid(profile, names, methods, seeds, data_dir=data_dir, few_shot=sample, **choices)
    if not configs:
        raise ConfigError(
            f"samples {shown(list(samples))}: no run is left; the official examples need data_dir with a folder "
            "fewglue, or give a number of examples that the seed draws, such as 32."
        )
    return configs


def has_official(task: str, data_dir: str) -> bool:
    """Return whether a folder in the release layout has the official 32 examples of a task."""
    return bool(data_dir) and bool(part_files(get_task(task), path_of(data_dir), "few_shot"))


def sample_rows(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return tidy rows with a column `sample`, such as "official 32" or "32 by seed"."""
    records = list(records)
    names = {
        record["run"]: "official 32" if record["config"]["few_shot"] == OFFICIAL
        else f"{record['config']['few_shot']} by seed"
        for record in records
    }  # fmt: skip
    rows = tidy(records)
    return rows.assign(sample=rows["run"].map(names))


def sizes(samples: Iterable[str]) -> str:
    """Write how many training examples samples have, such as "32", or "16 and 32" where there are several numbers.

    Args:
        samples: of the column `sample` of `sample_rows`.
    """
    numbers = dict.fromkeys(number for sample in samples for number in re.findall(r"\d+", sample))
    return " and ".join(sorted(numbers, key=int))


def sample_gaps(rows: pd.DataFrame) -> pd.DataFrame:
    """Return XPrompt less prompt tuning, as `differences` does, with the column `sample`."""
    return pd.concat(
        [
            differences(part.drop(columns="sample"), [("xprompt", "prompt_tuning")]).assign(sample=sample)
            for sample, part in rows.groupby("sample", sort=False)
        ],
        ignore_index=True,
    )


def few_shot_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return Tab 2: a row per sample and task, a column per method, XPrompt's gain, and the paper's numbers.

    Args:
        rows: as `sample_rows` returns them.
    """
    known, all_gaps, lines = paper.numbers()["tab2"], sample_gaps(rows), []
    for sample, of_sample in rows.groupby("sample", sort=False):
        part, as_paper = with_average(of_sample.drop(columns="sample")), sizes([str(sample)]) == "32"
        gaps = all_gaps[all_gaps["sample"] == sample]
        for task in tasks_in(part):
            of_task = part[part["task"] == task]
            scores = {m: of_task[of_task["method"] == m]["value"].to_numpy() for m in methods_in(rows)}
            number, gain = known["xprompt"].get(task), known["xprompt minus prompt_tuning"].get(task)
            lines.append(
                {
                    "training examples": sample,
                    "task": wording.task(task),
                    **{wording.method(m): wording.cell(interval(v)) if v.size else "" for m, v in scores.items()},
                    "XPrompt − prompt tuning": gap_cell(gaps, "xprompt", "prompt_tuning", task),
                    "paper, XPrompt": "" if number is None or not as_paper else f"{number:.2f}",
                    "paper, gain": "" if gain is None or not as_paper else f"{gain:+.2f}",
                    "seeds": str(of_task["seed"].nunique()),
                }
            )
    return pd.DataFrame(lines)


def few_shot_statements(rows: pd.DataFrame, records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say what XPrompt gains by sample, how scores scatter, on how few examples was selected, what was retrained."""
    sentences = []
    gaps = sample_gaps(rows)
    for sample, of_sample in gaps.groupby("sample", sort=False):
        sentences += [f"{_described(sample)}: {sentence}" for sentence in wording.statements(of_sample)]
    for sample, spread in spreads(rows).items():
        sentences.append(
            f"{_described(sample)}: prompt tuning's score has a standard deviation of {wording.points(spread)} points "
            "over seeds (mean over the tasks)."
        )
    records = list(records)
    fewest = min(record["counts"]["selection"] for record in records)
    sentences.append(f"Checkpoints and candidates were selected on as few as {fewest} examples.")
    left = not_retrained_sentence(not_retrained(records))
    return [*sentences, left] if left else sentences


def spreads(rows: pd.DataFrame, method: str = "prompt_tuning") -> dict[str, float]:
    """Return sample → a method's standard deviation over seeds in points, mean over the tasks; needs two seeds.

    That of the official examples is of training alone; where the seed draws them, of the sample too.
    """
    scores = rows[(rows["metric"] == "score") & (rows["method"] == method)]
    by_task = scores.groupby(["sample", "task"], sort=False)["value"].std(ddof=1).dropna()
    return {str(sample): float(part.mean()) for sample, part in by_task.groupby(level="sample", sort=False)}


def _described(sample: object) -> str:
    """Name a sample of `sample_rows` as a sentence begins with it."""
    number = str(sample).removesuffix(" by seed")
    return "The official 32 examples" if number == "official 32" else f"{number} examples drawn by the seed"
