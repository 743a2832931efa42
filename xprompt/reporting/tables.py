"""Tables as people read them, made from tidy rows or from the tasks' declarations, and their three file forms.

Owns the layout of each table. Never averages (`statistics` does) and never chooses a file's place (`layout` does).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from xprompt.config.methods import METHODS
from xprompt.config.settings import PROTOCOLS
from xprompt.reporting import published, wording
from xprompt.reporting.statistics import (
    AVERAGE,
    Interval,
    differences,
    protocol_differences,
    summarize,
    with_average,
)
from xprompt.tasks.registry import get_task
from xprompt.tasks.superglue import TASKS


def _ordered(found: Sequence[str], known: Sequence[str]) -> list[str]:
    return [name for name in known if name in found] + [name for name in found if name not in known]


def _summary(rows: pd.DataFrame, protocol: str) -> tuple[pd.DataFrame, list[str], list[str]]:
    summary = summarize(with_average(rows[rows["protocol"] == protocol]))
    own = [name for name in summary["task"].unique() if name not in (*TASKS, AVERAGE)]
    tasks = _ordered(list(summary["task"].unique()), [*TASKS, *own, AVERAGE])
    methods = _ordered(list(summary["method"].unique()), list(METHODS))
    return summary, tasks, methods


def main_results(rows: pd.DataFrame, protocol: str = "held_out") -> pd.DataFrame:
    """Return Tab 1: a row a task and the average, a column a method, each cell mean ± half the 95 % interval.

    Args:
        rows: tidy rows of one profile.
        protocol: the rows to show, "held_out" or "paper".

    The column `seeds` holds the number behind a row's cells, or "fewest–most" where they differ. A task `out_of_reach`
    has a * behind its name.
    Source: paper Tab 1. Differs: intervals, the majority class and the matched budget beside the paper's methods.
    """
    summary, tasks, methods = _summary(rows, protocol)
    starred = out_of_reach(rows, protocol)
    lines = []
    for task in tasks:
        of_task = summary[summary["task"] == task].set_index("method")
        line = {"task": wording.task(task) + (" *" if task in starred else "")}
        for method in methods:
            known = method in of_task.index
            line[wording.method(method)] = wording.cell(_interval(of_task.loc[method])) if known else ""
        fewest, most = of_task["n"].min(), of_task["n"].max()
        lines.append({**line, "seeds": str(most) if fewest == most else f"{fewest}–{most}"})
    return pd.DataFrame(lines)


def out_of_reach(rows: pd.DataFrame, protocol: str = "held_out") -> list[str]:
    """Return the tasks on which not even full fine-tuning is shown to beat the majority class, over two or more seeds.

    On such a task a difference between two prompts says nothing about them.
    """
    found = differences(rows[rows["protocol"] == protocol], [("fine_tuning", "majority")])
    return [
        row["task"]
        for row in found.to_dict("records")
        if row["verdict"] in ("below", "not told apart") and row["task"] != AVERAGE
    ]


def against_paper(rows: pd.DataFrame, protocol: str = "held_out") -> pd.DataFrame:
    """Return a row per method and task: the paper's number, ours, the difference and our seeds.

    The paper's cells are for T5-XXL on SuperGLUE; where they were not to be had they stay empty.
    """
    summary, tasks, methods = _summary(rows, protocol)
    by_key = summary.set_index(["method", "task"])
    lines = []
    for method in methods:
        for task in tasks:
            if (method, task) not in by_key.index:
                continue
            ours = _interval(by_key.loc[(method, task)])
            paper = published.tab1(method, task)
            lines.append(
                {
                    "method": wording.method(method),
                    "task": wording.task(task),
                    "paper (T5-XXL)": "" if paper is None else f"{paper:.2f}",
                    "ours": wording.cell(ours),
                    "difference": "" if paper is None else wording.points(ours.mean - paper, signed=True),
                    "seeds": str(ours.n),
                }
            )
    return pd.DataFrame(lines)


def difference_table(differences: pd.DataFrame) -> pd.DataFrame:
    """Return paired differences as shown: comparison, task, protocol, points, 95 % interval, seeds, verdict."""
    return pd.DataFrame(
        {
            "comparison": f"{wording.method(row['a'])} − {wording.method(row['b'])}",
            "task": wording.task(row["task"]),
            "protocol": row["protocol"],
            "points": wording.points(row["mean"], signed=True),
            "95 % interval": wording.span(row["low"], row["high"]),
            "seeds": str(row["n"]),
            "verdict": row["verdict"],
        }
        for row in differences.to_dict("records")
    )


def protocols(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per method and task that both protocols were run for: the two scores and their paired difference.

    Args:
        rows: tidy rows of one profile. No line is made where no method was run by both.
    """
    summary = summarize(with_average(rows)).to_dict("records")
    cells = {(row["protocol"], row["method"], row["task"]): wording.cell(_interval(row)) for row in summary}
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


def stages(prompts: Mapping[str, Any], measured: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Return a row per stage of one prompt: what survives, its parameters, and its metrics in points.

    Args:
        prompts: stage → a soft prompt, for `surviving_tokens`, `surviving_pieces` and `num_params`.
        measured: stage → metric → fraction in [0, 1].
    """
    return pd.DataFrame(
        {
            "stage": stage,
            "tokens": str(int(prompts[stage].surviving_tokens.sum())),
            "pieces": str(int(prompts[stage].surviving_pieces.sum())),
            "parameters": str(prompts[stage].num_params),
            **{wording.METRICS.get(name, name): wording.points(100 * value) for name, value in found.items()},
        }
        for stage, found in measured.items()
    )


def task_statistics(counts: Mapping[str, tuple[int, int]]) -> pd.DataFrame:
    """Return Tab 9: the paper's train and dev counts, those of the source in hand, and the metrics.

    Args:
        counts: task → (train, validation) of a loaded source; tasks in the order to show.
    """
    lines = []
    for name, (train, validation) in counts.items():
        task = get_task(name)
        lines.append(
            {
                "task": wording.task(name),
                "paper train": str(task.statistics.train),
                "paper dev": str(task.statistics.dev),
                "train": str(train),
                "validation": str(validation),
                "metrics": ", ".join(wording.METRICS.get(metric, metric) for metric in task.metrics),
            }
        )
    return pd.DataFrame(lines)


def templates(names: Sequence[str]) -> pd.DataFrame:
    """Return Tab 10: each task's template, verbalizer, and the field that a long source is cut in."""
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
    """Return exported prompts beside ours, one a row: backbone's kind, largest logit difference, predictions, vectors.

    Args:
        compared: name → what `xprompt.prompts.peft.compare_with_peft` returned.
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


def to_markdown(table: pd.DataFrame) -> str:
    """Return the table in Markdown; the first column to the left, the others to the right."""
    rows = [[str(value).replace("|", "\\|") for value in row] for row in table.itertuples(index=False)]
    head = [str(column) for column in table.columns]
    rule = [":--", *["--:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, rule, *rows])


_PLAIN = {"±": r"$\pm$", "−": "$-$", "–": "--", "²": "$^2$"}


def to_latex(table: pd.DataFrame, caption: str) -> str:
    """Return the table in LaTeX (booktabs), escaped, with its caption."""
    safe = re.sub(r"([%&#_])", r"\\\1", caption)
    layout = "l" + "r" * (len(table.columns) - 1)
    text = table.to_latex(index=False, escape=True, caption=safe, column_format=layout)
    for mark, code in _PLAIN.items():
        text = text.replace(mark, code)
    return text


def _interval(row: Any) -> Interval:
    return Interval(float(row["mean"]), float(row["low"]), float(row["high"]), int(row["n"]))
