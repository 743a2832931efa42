"""Fig 2: what masking the least important tokens does to a tuned prompt, nothing retrained: rows, table, figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xprompt.reporting import tables, wording
from xprompt.reporting.by_seed import gap_cell, over_seeds
from xprompt.reporting.panels import PALETTE, fit, legend, line, name_left, panels
from xprompt.reporting.rows import COLUMNS, tasks_in
from xprompt.reporting.statistics import differences

#: Mask → how tables and figures name it.
MASKS = {
    "all": "all tokens", "lowest": "lowest masked", "random": "random masked", "highest": "highest masked"
}  # fmt: skip
PAIRS = tuple((MASKS[a], MASKS[b]) for a, b in (("lowest", "all"), ("lowest", "random"), ("random", "all")))
_LOOKS = {"lowest": (PALETTE[2], "o"), "random": (PALETTE[7], "s"), "highest": (PALETTE[3], "^")}
_RUN = ["profile", "backbone", "task", "seed", "protocol"]


def mask_rows(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row for each mask of the runs of method `masking`, on the split that they report.

    Columns: profile, backbone, task, seed, protocol, token_ratio, chosen (whether the run chose this ratio, on its
    selection split), masked_tokens, mask, draw, score (points), change (from the whole prompt's, points), loss (nats),
    run.
    """
    lines = []
    for record in records:
        details = record["details"]
        for entry in details["masks"]:
            if entry["split"] != record["report_split"]:
                continue
            same = {name: record[name] for name in _RUN} | {
                "token_ratio": entry["token_ratio"], "chosen": entry["token_ratio"] == details["token_ratio"],
                "masked_tokens": entry["masked_tokens"],
            }  # fmt: skip
            for mask in MASKS:
                scores, losses = (np.atleast_1d(entry[of][mask]) for of in ("score", "loss"))
                for draw, (score, loss) in enumerate(zip(scores, losses, strict=True)):
                    values = {"score": 100 * score, "change": 100 * (score - entry["score"]["all"]), "loss": loss}
                    lines.append({**same, "mask": mask, "draw": draw, **values, "run": record["run"]})
    return pd.DataFrame(lines)


def at_chosen_ratio(rows: pd.DataFrame) -> pd.DataFrame:
    """Return tidy scores at each run's chosen ratio: the column `method` is the mask, draws are averaged."""
    keys = [*_RUN, "mask", "run"]
    found = rows[rows["chosen"]].groupby(keys, as_index=False, sort=False).agg(value=("score", "mean"))
    titles = [MASKS[mask] for mask in found["mask"]]
    return found.assign(method=titles, metric="score", num_params=0)[list(COLUMNS)]


def mask_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return Fig 2 as a table: a row a task and the average, a column a mask, then what masking the lowest gains.

    Args:
        rows: as `mask_rows` makes them.
    """
    chosen = at_chosen_ratio(rows)
    gaps = differences(chosen, PAIRS)
    table = tables.main_results(chosen, chosen["protocol"].iloc[0])
    masked = over_seeds(rows[rows["chosen"] & (rows["mask"] == "lowest")], "masked_tokens")
    tasks = tasks_in(gaps)
    table.insert(1, "masked", [f"{masked[task].mean:.1f}" if task in masked else "" for task in tasks])
    for a, b in PAIRS[:2]:
        table.insert(len(table.columns) - 1, f"{a} − {b}", [gap_cell(gaps, a, b, task) for task in tasks])
    return table


def mask_statements(rows: pd.DataFrame) -> list[str]:
    """Say what masking the lowest does, on average, and how it compares with single random masks."""
    part = rows[rows["chosen"]]
    lowest = part[part["mask"] == "lowest"].set_index(["task", "seed"])["score"]
    drawn = part[part["mask"] == "random"]
    gaps = drawn["score"].to_numpy() - lowest[list(zip(drawn["task"], drawn["seed"], strict=True))].to_numpy()
    counted = (
        f"Of {len(gaps)} random masks {(gaps > 0).sum()} score above the mask of the lowest importance, "
        f"{(gaps == 0).sum()} the same and {(gaps < 0).sum()} below."
    )
    return [*wording.statements(differences(at_chosen_ratio(rows), PAIRS)), counted]


def mask_figure(rows: pd.DataFrame) -> Figure:
    """Draw Fig 2: for each task the change in score against how many tokens are masked, by which ones.

    Args:
        rows: as `mask_rows` makes them.

    Bars are 95 % intervals over seeds, cut off at the outermost dot; dots are single masks. Source: paper Fig 2.
    Differs: changes in place of scores, every ratio, the highest scores too.
    """
    tasks = tasks_in(rows)
    figure, axes = panels(len(tasks), 3.6, 3.1)
    for panel, task in zip(axes, tasks, strict=True):
        part = rows[rows["task"] == task]
        panel.axhline(0, color="0.3", lw=1)
        for place, (mask, (colour, marker)) in enumerate(_LOOKS.items()):  # no series' dots lie on another's bar
            line(panel, part[part["mask"] == mask], "masked_tokens", "change", colour, marker, MASKS[mask],
                 9 * (place - 1))  # fmt: skip
        fit(panel, part["change"])
        panel.margins(x=0.1)  # room for what stands beside the first and the last place
        panel.set(title=wording.task(task), xlabel="masked tokens", xticks=sorted(part["masked_tokens"].unique()))
    name_left(axes, "change in score (points)")
    legend(figure, axes[0])
    return figure
