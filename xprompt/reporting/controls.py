"""What separates XPrompt from prompt tuning, a step at a time: more steps, a choice among candidates, pruning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xprompt.config.run_config import RunConfig
from xprompt.config.settings import PROTOCOLS, PruneSettings
from xprompt.reporting import wording
from xprompt.reporting.figures import method_style
from xprompt.reporting.forest import draw_difference
from xprompt.reporting.panels import panels
from xprompt.reporting.rows import tasks_in, tidy
from xprompt.reporting.statistics import corrected, differences
from xprompt.runs.grid import grid

MATCHED = "prompt_tuning_matched"
BUDGET = "prompt tuning (same steps)"
#: Each step, the first two of them together, and XPrompt against all that it adds to.
CONTROL_PAIRS = (
    (BUDGET, "prompt_tuning"),  # more steps
    (MATCHED, BUDGET),  # the best of as many candidates
    (MATCHED, "prompt_tuning"),  # both of these
    ("xprompt", MATCHED),  # pruning
    ("xprompt", BUDGET),
    ("xprompt", "prompt_tuning"),
)


def control_configs(
    profile: str, tasks: Any, seeds: Any, protocols: Sequence[str] = PROTOCOLS, **choices: Any
) -> list[RunConfig]:
    """Return prompt tuning, the same given XPrompt's steps, the same with as many candidates, and XPrompt.

    Where the search has a single candidate, the second and the third are one.

    Args:
        choices: as of `grid`.
    """
    methods = ["prompt_tuning", MATCHED, "xprompt"]
    configs = grid(profile, tasks, methods, seeds, protocols, **choices)
    matched = [config for config in configs if config.method == MATCHED and config.prune.num_candidates > 1]
    return configs + [config.replace(prune=one_candidate(config.prune)) for config in matched]


def one_candidate(prune: PruneSettings) -> PruneSettings:
    """Return settings of a search with a single candidate: retraining's steps, and nothing to choose from."""
    return prune.replace(
        level="both", search="grid", token_ratios=prune.token_ratios[:1], piece_ratios=prune.piece_ratios[:1]
    )


def control_rows(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return tidy rows in which the matched budget with one candidate is the method `BUDGET`."""
    records = list(records)
    single = {r["run"] for r in records if r["method"] == MATCHED and len(r["details"]["candidates"]) == 1}
    rows = tidy(records)
    return rows.assign(method=rows["method"].where(~rows["run"].isin(single), BUDGET))


def control_gaps(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the differences of `CONTROL_PAIRS` under each protocol, with Holm's verdicts over all of them."""
    return corrected(differences(rows, CONTROL_PAIRS))


def control_statements(gaps: pd.DataFrame) -> list[str]:
    """Say what each step adds under each protocol, on average over the tasks, or on the one task there is."""
    return wording.statements(gaps)


def control_figure(gaps: pd.DataFrame) -> Figure:
    """Draw every difference with its interval, a panel for each task and the average, both protocols in each.

    A mark is filled where Holm's verdict over the whole table is significant; circle: held_out, square: paper.
    """
    tasks = tasks_in(gaps)
    names = [f"{wording.method(a)}\n− {wording.method(b)}" for a, b in CONTROL_PAIRS]
    figure, axes = panels(len(tasks), 2.6, 3.2, sharey=True, names=names)
    marks = dict(zip(PROTOCOLS, ((method_style("prompt_tuning")[0], "s"), (method_style("xprompt")[0], "o")),
                     strict=True))  # fmt: skip
    for panel, task in zip(axes, tasks, strict=True):
        panel.axvline(0, color="0.3", lw=1)
        for row in gaps[gaps["task"] == task].to_dict("records"):
            y = CONTROL_PAIRS.index((row["a"], row["b"])) + (0.14 if row["protocol"] == "paper" else -0.14)
            draw_difference(panel, row, y, marks[row["protocol"]])
        panel.set(title=wording.task(task), xlabel="points")
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.tick_params(axis="y", labelsize=9)
        panel.grid(False, axis="y")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    for protocol in dict.fromkeys(gaps["protocol"]):
        colour, marker = marks[protocol]
        axes[0].plot([], [], marker, color=colour, label=wording.PROTOCOLS[protocol])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", frameon=False, fontsize=10)
    return figure
