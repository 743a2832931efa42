"""A forecast as a text for the terminal, with every assumption it rests on.

Owns the wording of `python -m xprompt plan`. Never reckons: see `planning`.
"""

from __future__ import annotations

from itertools import groupby

from xprompt.config.profiles import get_profile
from xprompt.planning.forecast import CHARACTERS_PER_TOKEN, EFFICIENCY, Forecast, advise
from xprompt.planning.workload import COPIES, MARGIN, PlannedRun
from xprompt.units import readable_duration, readable_size


def describe(plan: Forecast) -> str:
    """Return the whole text: machine, backbone, data, runs, hours, what they rest on, and whether it all fits."""
    parts = [_facts(plan), _table(plan), _total(plan), _basis(plan), _verdict(plan)]
    return "\n\n".join(parts)


def _facts(plan: Forecast) -> str:
    profile, machine = get_profile(plan.profile), plan.machine
    dtype = str(machine.dtype).removeprefix("torch.")
    download = readable_size(4 * plan.footprint.parameters)
    hub = "" if plan.local else f"; {download} to download (float32), unless in the cache"
    lines = [
        f"Plan of profile {plan.profile}: the main table's {len(plan.runs)} runs with {profile.backbone}, protocol "
        f"{plan.runs[0].config.protocol}. Nothing is downloaded for it.",
        "",
        f"Machine   {machine.name}, {dtype}: {readable_size(machine.free)} of memory free, "
        f"{machine.rate / 1e9:,.0f} billion operations a second in matrix products (measured)",
        f"Backbone  {plan.footprint.parameters:,} parameters: {readable_size(plan.weights)} in {dtype}{hub}",
    ]
    for task, sizes in plan.sizes.items():
        known = "counted" if sizes.counted else "published counts"
        lines.append(
            f"Data      {task}: {sizes.train:,} training, {sizes.validation:,} validation examples ({known}); a source "
            f"of {sizes.mean_tokens} tokens on average, {sizes.longest_tokens} at most (assumed)"
        )
    return "\n".join(lines)


def _table(plan: Forecast) -> str:
    head = ["task", "method", "seeds", "candidates", "steps each", "memory", "recomputed", "a seed", "all seeds"]
    rows = [head]
    ordered = sorted(plan.runs, key=lambda run: list(plan.sizes).index(run.config.task))
    for task, runs in groupby(ordered, key=lambda run: run.config.task):
        of_method: dict[str, list[PlannedRun]] = {}
        for run in runs:
            of_method.setdefault(run.config.method, []).append(run)
        for method, same in of_method.items():
            seconds = sum(run.operations for run in same) / plan.rate
            one = same[0]
            rows.append(
                [
                    task,
                    method,
                    str(len(same)),
                    str(one.candidates),
                    f"{one.steps:,}",
                    readable_size(one.memory) + ("" if plan.holds(one) else " !"),
                    readable_size(one.recomputed),
                    readable_duration(seconds / len(same)),
                    readable_duration(seconds),
                ]
            )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            text.ljust(w) if i < 2 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _total(plan: Forecast) -> str:
    days = f" ({plan.seconds / 86400:,.0f} days)" if plan.seconds > 2 * 86400 else ""
    return (
        f"All runs, one after another: {readable_duration(plan.seconds)}{days} at most; early stopping, and runs "
        "that are in the report's folder already, make it less."
    )


def _basis(plan: Forecast) -> str:
    speed = (
        f"{plan.rate / 1e9:,.0f} billion operations a second, timed on a step of this backbone"
        if plan.timed
        else f"{EFFICIENCY[plan.machine.device.type]:g} of the matrix rate above (an assumption about whole steps)"
    )
    return "\n".join(
        [
            "What this rests on",
            "- Operations: for each weight in a matrix product and each token that meets it 4 while a prompt is tuned "
            "or scored, 6 while fine-tuning, 2 while evaluating; attention's own products beside them; one label "
            "token an example; no padding.",
            f"- Speed: {speed}.",
            f"- Tokens: characters / {CHARACTERS_PER_TOKEN}, at most max_source; the prompt's come on top.",
            f"- Memory: weights ({COPIES} copies while fine-tuning, and AdamW's two), what the longest batch of one "
            f"candidate keeps for its backward pass, {MARGIN - 1:.0%} over. More candidates go into a pass only where "
            "memory is left.",
            "- recomputed: the memory with gradient_checkpointing=True, which takes a third to a half longer.",
        ]
    )


def _verdict(plan: Forecast) -> str:
    if not plan.too_large:
        return "It fits this machine's memory."
    machine, worst = plan.machine, max(plan.too_large, key=lambda run: run.memory)
    if plan.weights > machine.memory:
        what, needed, free = "loading the weights", plan.weights, machine.memory
    else:
        what, needed, free = f"{worst.config.method} on {worst.config.task}", worst.memory, machine.free
    why = f"{what} needs {readable_size(needed)}, and {readable_size(free)} is free"
    return f"It does NOT fit this machine's memory: {why}. To make it fit: " + "; ".join(advise(plan)) + "."
