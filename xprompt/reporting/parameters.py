"""Tab 3: how many parameters survive pruning, counted from the masks, beside the paper's numbers; rows, table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from xprompt.errors import ConfigError
from xprompt.reporting import paper, wording
from xprompt.reporting.by_seed import over_seeds, overall
from xprompt.reporting.rows import AVERAGE

_RUN = ("profile", "backbone", "task", "seed", "protocol")


def parameter_rows(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row for each task and seed that has an XPrompt run and its prompt tuning.

    Columns: profile, backbone, task, seed, protocol, prompt_params (of prompt tuning), model_params, params (of
    XPrompt, from its masks), tokens and pieces (that survive), share (percent of prompt tuning's), gain (points over
    prompt tuning), run, tuned_run.

    Raises `ConfigError` where no task and seed has both.
    """
    records = list(records)
    tuned = {tuple(r[name] for name in _RUN): r for r in records if r["method"] == "prompt_tuning"}
    lines = []
    for record in records:
        before = tuned.get(tuple(record[name] for name in _RUN))
        if record["method"] != "xprompt" or before is None:
            continue
        details = record["details"]
        kept = np.asarray(details["token_mask"])[:, None] * np.asarray(details["piece_mask"])  # (P, K)
        params = round(before["num_params"] * kept.mean())  # all pieces are equally wide
        lines.append(
            {
                **{name: record[name] for name in _RUN},
                "prompt_params": before["num_params"], "model_params": record["provenance"]["backbone_params"],
                "params": params, "tokens": int(kept.any(axis=1).sum()), "pieces": int(kept.sum()),
                "share": 100 * params / before["num_params"], "gain": 100 * (record["score"] - before["score"]),
                "run": record["run"], "tuned_run": before["run"],
            }
        )  # fmt: skip
    if not lines:
        raise ConfigError("no task and seed has both an XPrompt run and its prompt tuning: run the two first.")
    return pd.DataFrame(lines)


def parameter_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return Tab 3: a row a task and the average; the paper's cells are empty where we do not have them."""
    known = paper.numbers()["tab3"]
    low, high = paper.kept()
    gain = known["wsc, xprompt at 15 percent minus prompt_tuning"]
    names = ("params", "share", "tokens", "pieces", "gain")
    spans = {name: over_seeds(rows, name) for name in names}
    prompt, model = rows["prompt_params"].iloc[0], rows["model_params"].iloc[0]
    return pd.DataFrame(
        {
            "task": wording.task(task),
            "prompt tuning": f"{prompt:,}",
            "% of the model": f"{100 * prompt / model:.2g}",
            "XPrompt": wording.cell(spans["params"][task], 0),
            "% of prompt tuning": wording.cell(spans["share"][task]),
            "paper (%)": {"wsc": f"{low:g}", AVERAGE: f"{low:g} and {high:g}"}.get(task, ""),
            "tokens": wording.cell(spans["tokens"][task]),
            "pieces": wording.cell(spans["pieces"][task]),
            "gain": wording.cell(spans["gain"][task]),
            "paper, gain": wording.points(gain, signed=True) if task == "wsc" else "",
            "seeds": str(spans["share"][task].n),
        }
        for task in spans["share"]
    )


def parameter_statements(rows: pd.DataFrame) -> list[str]:
    """Say how much of the prompt XPrompt keeps, and of the model prompt tuning trains, beside the paper."""
    known = paper.numbers()["tab3"]
    low, high = paper.kept()
    of_model = 100 * rows["prompt_params"].iloc[0] / rows["model_params"].iloc[0]
    return [
        f"XPrompt keeps {wording.with_span(overall(rows, 'share').within(0, 100))} % of the prompt's parameters on "
        "average, "
        f"{rows['share'].min():.1f} to {rows['share'].max():.1f} % in single runs; the paper: {low:g} and {high:g} %.",
        f"The whole prompt has {of_model:.2g} % of this backbone's parameters; in the paper "
        f"{known['prompt tuning, percent of the model']:g} %.",
    ]
