"""Tables as people read them, from tidy rows or from the tasks' declarations, and as Markdown and LaTeX."""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from xprompt.config.run_config import RunConfig
from xprompt.config.settings import PROTOCOLS
from xprompt.reporting import paper, wording
from xprompt.reporting.rows import AVERAGE, methods_in, tasks_in, tidy
from xprompt.reporting.statistics import (
    NO_DIFFERENCE,
    Interval,
    differences,
    protocol_differences,
    summarize,
    with_average,
)
from xprompt.tasks.registry import get_task
from xprompt.units import align_columns


def main_results(rows: pd.DataFrame, protocol: str = "held_out") -> pd.DataFrame:
    """Return Tab 1: a row per task and for the average, a column per method; a cell is mean ± half the 95 % interval.

    Args:
        rows: tidy rows of one profile.
        protocol: the rows to show, "held_out" or "paper".

    The column `seeds` holds the number of seeds behind a row's cells, or "fewest–most" where they differ. A task of
    `unsolved_tasks` has a * behind its name.
    Source: paper Tab 1. Differs: intervals, and more methods than the paper's.
    """
    cells = _cells(rows, protocol)
    starred = unsolved_tasks(rows, protocol)
    lines = []
    for task in tasks_in(cells):
        of_task = cells[cells["task"] == task].set_index("method")
        line = {"task": wording.task(task) + (" *" if task in starred else "")}
        for method in methods_in(cells):
            line[wording.method(method)] = of_task["cell"].get(method, "")
        fewest, most = of_task["n"].min(), of_task["n"].max()
        lines.append({**line, "seeds": str(most) if fewest == most else f"{fewest}–{most}"})
    return pd.DataFrame(lines)


def so_far(records: Sequence[Mapping[str, Any]], configs: Sequence[RunConfig]) -> str:
    """Return Tab 1 of a grid that is going on as a text, with the seeds behind each task and what is still to come.

    Args:
        records: those that are done, of the first run's protocol.
        configs: all runs of the grid.
    """
    table = main_results(tidy(records), configs[0].protocol)
    wanted = len({config.seed for config in configs})
    table["seeds"] += f" of {wanted}"
    done = Counter(task for task, _ in {(record["task"], record["seed"]) for record in records})
    tasks = [get_task(task).name for task in dict.fromkeys(config.task for config in configs)]
    seeds = [f"{wording.task(task)} {done[task]} of {wanted}" for task in tasks]
    return f"Tab 1 so far:\n{to_text(table)}\nSeeds done: {', '.join(seeds)}"


def unsolved_tasks(rows: pd.DataFrame, protocol: str = "held_out") -> list[str]:
    """Return the tasks on which not even full fine-tuning is significantly above the majority class.

    On such a task a difference between two prompts means nothing. A task with a single seed is never among them.
    """
    gaps = differences(rows[rows["protocol"] == protocol], [("fine_tuning", "majority")])
    unsolved = gaps["verdict"].isin(["below", NO_DIFFERENCE]) & (gaps["task"] != AVERAGE)
    return list(gaps.loc[unsolved, "task"])


def against_paper(rows: pd.DataFrame, protocol: str = "held_out") -> pd.DataFrame:
    """Return a row per method and task: the paper's number, ours, the difference and our seeds.

    The paper's cells are for T5-XXL on SuperGLUE; those that we do not have stay empty. Where the paper has one metric
    of a task with two, ours is that metric too, and the task's name says which.
    """
    cells, metrics = _cells(rows, protocol), paper.metrics()
    for task, metric in metrics.items():
        alone = rows[(rows["task"] == task) & (rows["metric"] == metric)].assign(metric="score")
        if len(alone):
            cells = pd.concat([cells[cells["task"] != task], _cells(alone, protocol)])
    by_key = {(row["method"], row["task"]): row for row in cells.to_dict("records")}
    lines = []
    for method, task in itertools.product(methods_in(cells), tasks_in(cells)):
        if (method, task) not in by_key:
            continue
        ours, theirs = by_key[(method, task)], paper.tab1(method, task)
        of = f" ({wording.METRICS.get(metrics[task], metrics[task])})" if task in metrics else ""
        lines.append(
            {
                "method": wording.method(method),
                "task": wording.task(task) + of,
                "paper (T5-XXL)": "" if theirs is None else f"{theirs:.2f}",
                "ours": ours["cell"],
                "difference": "" if theirs is None else wording.points(ours["mean"] - theirs, signed=True),
                "seeds": str(ours["n"]),
            }
        )
    return pd.DataFrame(lines)


def difference_table(differences: pd.DataFrame) -> pd.DataFrame:
    """Return paired differences as shown: comparison, task, protocol, points, 95 % interval, seeds, verdict.

    Where `corrected` was applied, Holm's verdicts over the table are the last column.
    """
    return pd.DataFrame(
        {
            "comparison": f"{wording.method(row['a'])} − {wording.method(row['b'])}",
            "task": wording.task(row["task"]),
            "protocol": row["protocol"],
            "points": wording.points(row["mean"], signed=True),
            "95 % interval": wording.span(row["low"], row["high"]),
            "seeds": str(row["n"]),
            "verdict": row["verdict"],
            **({"verdict (Holm)": row["verdict_holm"]} if "verdict_holm" in row else {}),
        }
        for row in differences.to_dict("records")
    )


def protocols(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per method and task that were run by both protocols: the two scores and their paired difference.

    Args:
        rows: tidy rows of one profile. The table is empty where no method was run by both.
    """
    cells = _cells(rows).set_index(["protocol", "method", "task"])["cell"]
    return pd.DataFrame(
        {
            "method": wording.method(row["method"]),
            "task": wording.task(row["task"]),
            **{protocol: cells[(protocol, row["method"], row["task"])] for protocol in PROTOCOLS},
            "paper − held_out": wording.points(row["mean"], signed=True),
            "95 % interval": wording.span(row["low"], row["high"]),
            "seeds": str(row["n"]),
        }
        for row in protocol_differences(rows).sort_values("method", kind="stable").to_dict("records")
    )


def candidates(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row per run that chose among candidates: their number, and the scores in points of those retrained.

    Args:
        records: run records; those without candidates are left out, and where any chose among several, those with
            a single one too. Scores are on the split that a run selected on: the best, median and worst of the
            candidates that were retrained at all, so that untrained masks do not widen what may be luck.
    """
    lines = []
    for record in records:
        found = record["details"].get("candidates", [])
        retrained = [candidate for candidate in found if candidate.get("last_step", 1) > 0]  # a matched one always is
        scores = sorted(
            100 * candidate["selection_score"]
            for candidate in retrained or found
            if candidate["selection_score"] is not None  # one that a race dropped has none
        )
        if not scores:
            continue
        middle = statistics.median(scores)
        numbers = {"best": scores[-1], "median": middle, "worst": scores[0], "best − median": scores[-1] - middle}
        lines.append(
            {
                "method": wording.method(record["method"]),
                "task": wording.task(record["task"]),
                "seed": str(record["seed"]),
                "protocol": record["protocol"],
                "candidates": str(len(found)),
                "retrained": str(len(retrained)),
                **{name: wording.points(value) for name, value in numbers.items()},
            }
        )
    lines.sort(key=lambda line: (line["protocol"], line["method"]))
    return pd.DataFrame([line for line in lines if line["candidates"] != "1"] or lines)


def stages(prompts: Mapping[str, Any], measured: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Return a row per stage of one prompt: surviving tokens and pieces, parameters, and metrics in points.

    Args:
        prompts: stage → soft prompt.
        measured: stage → metric → fraction in [0, 1].
    """
    return pd.DataFrame(
        {
            "stage": stage,
            "tokens": str(int(prompts[stage].surviving_tokens.sum())),
            "pieces": str(int(prompts[stage].surviving_pieces.sum())),
            "parameters": str(prompts[stage].num_params),
            **{wording.METRICS.get(name, name): wording.points(100 * value) for name, value in metrics.items()},
        }
        for stage, metrics in measured.items()
    )


def task_statistics(counts: Mapping[str, tuple[int, int]]) -> pd.DataFrame:
    """Return Tab 9: each task's numbers of examples in the paper and in the loaded source, and its metrics.

    Args:
        counts: task → (train, validation) of the loaded source; tasks in the order to show.
    """
    return pd.DataFrame(
        {
            "task": wording.task(name),
            "paper train": str(get_task(name).statistics.train),
            "paper dev": str(get_task(name).statistics.dev),
            "train": str(train),
            "validation": str(validation),
            "metrics": ", ".join(wording.METRICS.get(metric, metric) for metric in get_task(name).metrics),
        }
        for name, (train, validation) in counts.items()
    )


def templates(names: Sequence[str]) -> pd.DataFrame:
    """Return Tab 10: each task's template, its label words, and the field that is cut where a source is too long."""
    return pd.DataFrame(
        {
            "task": wording.task(name),
            "template": get_task(name).template,
            "label words": " / ".join(get_task(name).label_words),
            "cut": get_task(name).cut_field,
        }
        for name in names
    )


def take_home(compared: Mapping[str, Mapping[str, float]], kind: str) -> pd.DataFrame:
    """Return a row per prompt exported to PEFT: kind of backbone, largest logit difference, predictions, tokens.

    Args:
        compared: name → the dictionary that `xprompt.prompts.peft.compare_with_peft` returns.
        kind: "seq2seq" or "decoder".
    """
    return pd.DataFrame(
        {
            "prompt": name,
            "backbone": {"seq2seq": "encoder-decoder", "decoder": "decoder-only"}.get(kind, kind),
            "max logit difference": f"{row['max logit difference']:.1e}",
            "same predictions (%)": wording.points(100 * row["same predictions"]),
            "virtual tokens": str(int(row["virtual tokens"])),
        }
        for name, row in compared.items()
    )


def to_text(table: pd.DataFrame) -> str:
    """Return the table for a terminal, its first column aligned to the left, the others to the right."""
    return align_columns([list(table.columns), *table.to_numpy().tolist()])


def to_markdown(table: pd.DataFrame) -> str:
    """Return the table in Markdown, its first column aligned to the left, the others to the right."""
    rows = [[str(value).replace("|", "\\|") for value in row] for row in table.itertuples(index=False)]
    head = [str(column) for column in table.columns]
    rule = [":--", *["--:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, rule, *rows])


_LATEX = {"±": r"$\pm$", "−": "$-$", "–": "--", "²": "$^2$"}


def to_latex(table: pd.DataFrame, caption: str) -> str:
    """Return the table in LaTeX (booktabs), escaped, with its caption."""
    safe = re.sub(r"([%&#_])", r"\\\1", caption)
    layout = "l" + "r" * (len(table.columns) - 1)
    text = table.to_latex(index=False, escape=True, caption=safe, column_format=layout)
    for mark, code in _LATEX.items():
        text = text.replace(mark, code)
    return text


def _cells(rows: pd.DataFrame, protocol: str | None = None) -> pd.DataFrame:
    """Return `summarize` of the scores and their average, of one protocol or of all, each with its text as `cell`."""
    summary = summarize(with_average(rows if protocol is None else rows[rows["protocol"] == protocol]))
    numbers = zip(summary["mean"], summary["low"], summary["high"], summary["n"], strict=True)
    return summary.assign(cell=[wording.cell(Interval(*row)) for row in numbers])
