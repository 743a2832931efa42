"""Structured prompts and an intrinsic task subspace, each on its own claim, and each pruned by XPrompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from xprompt.config.run_config import RunConfig
from xprompt.errors import ConfigError
from xprompt.reporting import wording
from xprompt.reporting.by_seed import gap_cell, over_seeds, overall
from xprompt.reporting.rows import methods_in, tidy, whole
from xprompt.reporting.statistics import corrected, differences
from xprompt.runs.grid import choose_seeds, choose_tasks, grid

STRUCTURED = ("structured_linear", "structured_low_rank", "structured_layered")
#: The methods whose learning rate is searched for.
SEARCHED = ("prompt_tuning", *STRUCTURED, "intrinsic_subspace")
#: What XPrompt starts from → XPrompt of it.
PRUNED = {
    "prompt_tuning": "xprompt",
    "structured_linear": "xprompt_structured",
    "intrinsic_subspace": "xprompt_subspace",
}
PRUNED_PAIRS = tuple((pruned, whole) for whole, pruned in PRUNED.items())


def subspace_configs(profile: str, tasks: Any, sources: Sequence[str], seeds: Any, **choices: Any) -> list[RunConfig]:
    """Return runs in the subspace of the sources' prompts, and XPrompt of them; a task is never its own source.

    Args:
        sources: tasks; each target has those of them that are not itself, two or more.
        choices: as of `grid`.

    Raises `ConfigError` where a task is left with fewer than two sources, and as `grid`.
    """
    configs: list[RunConfig] = []
    targets = choose_tasks(tasks, profile)[: 1 if choices.get("quick") else None]
    numbers = choose_seeds(seeds, profile)
    for target in targets:
        others = tuple(source for source in sources if source != target)
        if len(others) < 2:
            raise ConfigError(f"sources {', '.join(sources)}: {target} needs two or more that are not itself.")
        configs += grid(
            profile, [target], ["intrinsic_subspace", "xprompt_subspace"], numbers, source_tasks=others, **choices
        )
    return configs


def sensitivity(trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per method: the spread of its selection scores over learning rates, in points.

    Args:
        trials: as `xprompt.reporting.trials.trial_rows` returns them, at the same rates for every method.

    Columns: method, rates, best, worst, spread (standard deviation), each the mean over the tasks.
    """
    lines = []
    for method in methods_in(trials):
        by_rate = trials[trials["method"] == method].pivot_table(index="learning_rate", columns="task", values="score")
        lines.append((method, len(by_rate), by_rate.max().mean(), by_rate.min().mean(), by_rate.std(ddof=1).mean()))
    return pd.DataFrame(lines, columns=["method", "rates", "best", "worst", "spread"])


def structured_table(rows: pd.DataFrame, spread: pd.DataFrame) -> pd.DataFrame:
    """Return a row per form of prompt: trained values, score, gain over prompt tuning, spread over rates, pruned.

    Args:
        rows: tidy rows of one profile and protocol.
        spread: as `sensitivity` returns it.
    """
    by_method = {row["method"]: row for row in spread.to_dict("records")}
    names = ["prompt_tuning", *STRUCTURED]
    gaps = differences(rows, [*PRUNED_PAIRS, *((name, "prompt_tuning") for name in STRUCTURED)])
    judged, scores, lines = whole(gaps), rows[rows["metric"] == "score"], []
    for name in (name for name in names if name in set(rows["method"])):
        part = scores[scores["method"] == name]
        known = by_method.get(name)
        lines.append(
            {
                "prompt": wording.method(name),
                "trained values": wording.cell(overall(part, "num_params"), 0).partition(" ±")[0],
                "score": wording.cell(overall(part, "value")),
                "− prompt tuning": gap_cell(gaps, name, "prompt_tuning", judged),
                "best to worst rate": "" if known is None else _range(known["best"], known["worst"]),
                "spread over rates": "" if known is None else wording.points(known["spread"]),
                "pruned by XPrompt − it": gap_cell(gaps, PRUNED.get(name, ""), name, judged),
                "seeds": str(part["seed"].nunique()),
            }
        )
    return pd.DataFrame(lines)


def structured_statements(rows: pd.DataFrame, spread: pd.DataFrame) -> list[str]:
    """Say whether structured prompts are above prompt tuning, depend less on the rate, and gain by pruning."""
    pairs = [*((name, "prompt_tuning") for name in STRUCTURED), ("xprompt_structured", STRUCTURED[0])]
    gaps = corrected(differences(rows, pairs), by="task")
    by_method = spread.set_index("method")["spread"]
    sentences = wording.statements(gaps)
    if "prompt_tuning" in by_method and len(by_method) > 1 and spread["rates"].min() > 1:
        others = [name for name in STRUCTURED if name in by_method]
        steadier = [wording.method(name) for name in others if by_method[name] < by_method["prompt_tuning"]]
        sentences.append(
            f"Over {spread['rates'].max()} learning rates (one seed) scores scatter by "
            f"{wording.points(by_method['prompt_tuning'])} points with prompt tuning; "
            f"less with {', '.join(steadier) if steadier else 'none of the structured prompts'}."
        )
    return sentences


def recovered_rows(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row per run in the subspace: its coordinates, and its score in percent of prompt tuning's of the seed.

    Columns: task, seed, coordinates, sources, recovered (percent), score and tuned (points), run, tuned_run.

    Raises `ConfigError` where no run has its prompt tuning.
    """
    records, keys = list(records), ("profile", "backbone", "task", "seed", "protocol")
    tuned = {tuple(r[key] for key in keys): r for r in records if r["method"] == "prompt_tuning"}
    lines = []
    for record in records:
        whole = tuned.get(tuple(record[key] for key in keys))
        if record["method"] == "intrinsic_subspace" and whole is not None and whole["score"] > 0:
            lines.append(
                {
                    "task": record["task"], "seed": record["seed"], "coordinates": record["num_params"],
                    "sources": list(record["config"]["source_tasks"]),
                    "recovered": 100 * record["score"] / whole["score"], "score": 100 * record["score"],
                    "tuned": 100 * whole["score"], "run": record["run"], "tuned_run": whole["run"],
                }
            )  # fmt: skip
    if not lines:
        raise ConfigError("no run in a subspace with its prompt tuning: run the two first.")
    return pd.DataFrame(lines)


def subspace_table(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row a task and the average: coordinates, scores, what is recovered of prompt tuning's, and pruned."""
    rows, found = tidy(records), recovered_rows(records)
    gaps = differences(rows, PRUNED_PAIRS)
    scores, tuned, recovered = (over_seeds(found, name) for name in ("score", "tuned", "recovered"))
    by_task = {row["task"]: row for row in found.to_dict("records")}
    return pd.DataFrame(
        {
            "task": wording.task(task),
            "sources": ", ".join(map(wording.task, by_task[task]["sources"])) if task in by_task else "",
            "coordinates": str(by_task[task]["coordinates"]) if task in by_task else "",
            "prompt tuning": wording.cell(tuned[task]),
            "in the subspace": wording.cell(scores[task]),
            "recovered (%)": wording.cell(recovered[task]),
            "pruned by XPrompt − it": gap_cell(gaps, "xprompt_subspace", "intrinsic_subspace", task),
            "seeds": str(scores[task].n),
        }
        for task in scores
    )  # fmt: skip


def subspace_statements(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how much of prompt tuning a few coordinates recover, and whether pruning that prompt gains."""
    found = recovered_rows(records)
    share = overall(found, "recovered")
    first = (
        f"Tuning coordinates alone, {found['coordinates'].max()} at most, recovers {wording.with_span(share)} % of "
        f"prompt tuning's score ({wording.seeds(share.n)}; no task is a source of its own subspace)."
    )
    gaps = differences(tidy(records), [("xprompt_subspace", "intrinsic_subspace")])
    return [first, *wording.statements(gaps)]


def _range(best: float, worst: float) -> str:
    return f"{wording.points(best)} to {wording.points(worst)}"
