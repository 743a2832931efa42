"""What was run, as facts of the run records, and what a reader must know before trusting the numbers.

No score is computed here: every number was written by a run.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xprompt.reporting import wording
from xprompt.reporting.claims import averages
from xprompt.reporting.layout import MAIN, Report
from xprompt.reporting.rows import tidy, whole
from xprompt.reporting.statistics import differences

NOT_VERSIONS = {
    "hardware", "system", "threads", "device", "dtype", "dropout", "git_revision", "git_dirty", "started",
    "processes", "backbone_params", "backbone_fingerprint", "data_fingerprint", "random_streams", "code",
}  # fmt: skip
UNKNOWN = "unknown"  # version of the code
FEW = 100
"""The page warns where fewer examples than these were selected on."""
QUICK = (
    "A quick run: few examples and steps, one task, one seed. It shows that everything works; its numbers mean nothing."
)


def complete(report: Report, **settings: Any) -> dict[str, Any]:
    """Update the manifest with facts from the run records it names, and return it.

    Adds each item's seconds and the versions of the code that made its records, and over all records the versions,
    hardware, git revisions, tasks, methods, seeds (those of the main results, where there are any), protocols, sources,
    examples, and when the first and last run started.

    Args:
        report: one whose notebooks have been executed.
        settings: written into the manifest as they are, such as profile="nano".
    """

    def completed(manifest: dict[str, Any]) -> dict[str, Any]:
        names = {run for item in manifest["items"].values() for run in item["runs"]}
        records = {name: record for name in sorted(names) if (record := report.store.get(name)) is not None}
        items = {
            key: {**item, **_of_item([records[run] for run in item["runs"] if run in records])}
            for key, item in manifest["items"].items()
        }
        runs = summarize_runs(records, items.get(MAIN, {}).get("runs", ()))
        return {**manifest, **settings, "items": items, "runs": runs}

    return report.change(completed)


def summarize_runs(records: Mapping[str, Mapping[str, Any]], main: Iterable[str] = ()) -> dict[str, Any]:
    """Return the facts of some runs, as the manifest holds them under "runs".

    Args:
        records: run ID → record.
        main: IDs of the runs behind the main results; where there are any, the seeds are theirs alone, since trials
            with another seed add nothing to the intervals, and so is the smallest selection split.
    """
    facts = _facts(list(records.values()))
    if chosen := [records[run] for run in main if run in records]:
        fewest = min(record["counts"]["selection"] for record in chosen)
        facts |= {
            "seeds": (seeds := _distinct(record["seed"] for record in chosen)),
            "other_seeds": [seed for seed in facts["seeds"] if seed not in seeds],
            "fewest_selected_on": fewest,
            **_ends(chosen),
        }
        rows, pair = tidy(_of_one_protocol(chosen)), ("xprompt", "prompt_tuning")
        gap = averages(differences(rows, [pair]), whole(rows)).get(pair)
        facts["half_interval"] = None if gap is None or gap.n < 2 else round(gap.half, 2)
    return facts


def caveats(manifest: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know before trusting the numbers, a sentence each, as far as the manifest tells."""
    facts, sentences = manifest["runs"], []
    if manifest.get("quick"):
        sentences.append(QUICK)
    if mixed := [item for item, entry in manifest["items"].items() if len(entry.get("codes", [])) > 1]:
        sentences.append(mixed_codes(facts["codes"], f"The records behind {', '.join(mixed)}"))
    if "nano" in facts["sources"]:
        sentences.append(
            "The tasks are generated, in SuperGLUE's formats; a score here is not a score on SuperGLUE, and the "
            "paper's numbers are shown for orientation only."
        )
        sentences.append(
            "Model and tasks were made, and made again, after looking at runs on the validation splits: some 15 % of "
            "most tasks hangs on words that fine-tuning learns and a prompt hardly can, so that the gap between the "
            "two is by design."
        )
    if len(facts["seeds"]) == 1:
        sentences.append("One seed: there is no interval, and no difference between methods is decided.")
    elif (half := facts.get("half_interval")) is not None:
        sentences.append(
            f"{len(facts['seeds'])} seeds: the interval of XPrompt − prompt tuning reaches {wording.points(half)} "
            "points to either side; an effect that is smaller does not show."
        )
    if facts["seeds"]:
        sentences.append(
            "Intervals are Student-t over seeds with the examples fixed: they do not cover what another validation "
            "set of the same size would change. Of many comparisons, one in twenty is wrong by chance."
        )
    if (fewest := facts.get("fewest_selected_on")) and fewest < FEW:
        sentences.append(f"Checkpoints and candidates were selected on as few as {fewest} examples: partly by chance.")
    last, tuned = facts.get("best_at_last_step") or (0, 0)
    if measured := manifest["items"].get("beyond-budget", {}).get("table", {}).get("statements"):
        sentences += measured
    elif 2 * last > tuned:
        sentences.append(
            f"{last} of {tuned} prompt-tuning runs are best at their last step: with longer tuning scores may rise "
            "and the order of the methods may change."
        )
    if left := not_retrained_sentence(facts.get("not_retrained") or {}):
        sentences.append(left)
    mildest, searched = facts.get("mildest_pruning") or (0, 0)
    if 2 * mildest > searched:
        sentences.append(
            f"In {mildest} of {searched} XPrompt runs the search chooses the lowest prune ratios it was given: lower "
            "ones were not tried."
        )
    if "paper" in facts["protocols"]:
        sentences.append("The paper's protocol selects and reports on the same split: its numbers are optimistic.")
    if facts["cut"]:
        sentences.append(f"{facts['cut']} sources, summed over all runs, were longer than the limit and were cut.")
    if any(state["dirty"] for state in facts["git"]):
        sentences.append("Some runs come from a working tree with changes that were not committed.")
    if len(facts["hardware"]) > 1:
        sentences.append("The runs come from more than one machine; each record names its own.")
    failed = [name for name, notebook in manifest["notebooks"].items() if notebook["status"] != "done"]
    if failed:
        sentences.append(f"Not finished: {', '.join(failed)}. Their tables and figures are missing or out of date.")
    return sentences


def _facts(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    origins = [record["provenance"] for record in records]
    times = _distinct(origin.get("started") for origin in origins)
    named = itertools.chain(*(origin.items() for origin in origins))
    names = dict.fromkeys(
        name for name, value in named if name not in NOT_VERSIONS and not isinstance(value, (dict, list))
    )
    versions = {name: _distinct(origin.get(name) for origin in origins) for name in names}
    git = Counter((origin.get("git_revision"), bool(origin.get("git_dirty"))) for origin in origins)
    return {
        "count": len(records),
        "codes": _codes(origins),
        "seconds": round(sum(map(_seconds, records)), 1),
        "tasks": _distinct(record["task"] for record in records),
        "methods": _distinct(record["method"] for record in records),
        "seeds": _distinct(record["seed"] for record in records),
        "protocols": _distinct(record["protocol"] for record in records),
        "backbones": _distinct(record["backbone"] for record in records),
        "backbone_params": _distinct(origin.get("backbone_params") for origin in origins),
        "sources": _distinct(record.get("source") for record in records),
        # Of each task, from the run that reports on most examples: short trials report on a few.
        "examples": {
            record["task"]: {k: v for k, v in record["counts"].items() if k != "cut"}
            for record in sorted(records, key=lambda record: record["counts"]["validation"])
        },
        "fewest_selected_on": min((record["counts"]["selection"] for record in records), default=None),
        "cut": sum(record["counts"].get("cut") or 0 for record in records),
        "versions": versions,
        "hardware": _distinct(origin.get("hardware") for origin in origins),
        "execution": _distinct(
            f"{origin.get('device')}, {origin.get('dtype')}, {wording.counted(origin.get('threads'), 'thread')}"
            for origin in origins
        ),
        "git": [{"revision": rev, "dirty": dirty, "runs": n} for (rev, dirty), n in git.most_common()],
        "started": [times[0], times[-1]] if len(times) > 1 else times,
    }


def mixed_codes(codes: Sequence[str], what: str = "Its records") -> str:
    """Return a sentence that warns of records made by several versions of the code; "" where one made them all."""
    if len(codes) < 2:
        return ""
    number = f"{len(codes)} versions" if UNKNOWN not in codes else f"{len(codes) - 1} known and an unknown version"
    return (
        f"{what} were made by {number} of the code: what looks like a difference between methods may be one between "
        "versions."
    )


def _of_item(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    origins = [record["provenance"] for record in records]
    return {"seconds": round(sum(map(_seconds, records)), 1), "codes": _codes(origins)}


def _codes(origins: Iterable[Mapping[str, Any]]) -> list[str]:
    """The digests of the code; `UNKNOWN` among them for records that have none, unless none has, as in 0.1.0."""
    codes = _distinct(origin.get("code", UNKNOWN) for origin in origins)
    return [] if codes == [UNKNOWN] else codes


def _ends(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count the runs that ended at a limit of their settings, as [count, of how many]."""
    by_method = {m: [r for r in records if r["method"] == m and r.get("details")] for m in ("prompt_tuning", "xprompt")}
    last = [r["details"]["best_step"] == r["history"][-1]["step"] for r in by_method["prompt_tuning"]]
    mildest = [
        all(r["details"][ratio] == min(r["config"]["prune"][f"{ratio}s"]) for ratio in ("token_ratio", "piece_ratio"))
        for r in by_method["xprompt"]
    ]
    return {
        "best_at_last_step": [sum(last), len(last)],
        "mildest_pruning": [sum(mildest), len(mildest)],
        "not_retrained": not_retrained(records),
    }


def not_retrained(records: Iterable[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Count, of XPrompt and of its matched budget, the runs whose best checkpoint is the one before any retraining.

    Returns method → [how many, of how many runs]; a method without runs is left out.
    """
    kept: dict[str, list[bool]] = {}
    for record in records:
        if record["method"] in ("xprompt", "prompt_tuning_matched") and "best_step" in (record.get("details") or {}):
            kept.setdefault(record["method"], []).append(record["details"]["best_step"] == 0)
    return {method: [sum(each), len(each)] for method, each in sorted(kept.items(), reverse=True)}


def not_retrained_sentence(counts: Mapping[str, Sequence[int]]) -> str:
    """Say how many prompts were reported as they were before retraining; "" where none was.

    Args:
        counts: as `not_retrained` returns them.
    """
    what = {"xprompt": "pruned and never retrained", "prompt_tuning_matched": "the tuned prompt itself"}
    said = [
        f"in {left} of {number} runs of {wording.method(method)} the prompt that is reported is {what[method]}"
        for method, (left, number) in counts.items()
        if left
    ]
    return f"I{', and '.join(said)[1:]}: no later checkpoint scored higher on the selection split." if said else ""


def _of_one_protocol(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records by the protocol that the main page shows."""
    protocols = {record["protocol"] for record in records}
    shown = "held_out" if "held_out" in protocols else min(protocols)
    return [record for record in records if record["protocol"] == shown]


def _distinct(values: Iterable[Any]) -> list[Any]:
    return sorted({value for value in values if value is not None}, key=str)


def _seconds(record: Mapping[str, Any]) -> float:
    return float(record["seconds"].get("total") or 0.0)
