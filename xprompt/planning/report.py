"""A forecast as text for the terminal, with every assumption it rests on."""

from __future__ import annotations

from itertools import groupby

from xprompt.planning.forecast import CHARACTERS_PER_TOKEN, Forecast, advise, efficiency
from xprompt.planning.workload import COPIES, MARGIN, RunEstimate
from xprompt.units import align_columns, readable_duration, readable_size


def describe(plan: Forecast) -> str:
    """Return the text: machine, backbone, data, runs, hours, assumptions, and whether everything fits."""
    parts = [_facts(plan), _table(plan), _total(plan), _basis(plan), _verdict(plan)]
    return "\n\n".join(parts)


def _facts(plan: Forecast) -> str:
    machine = plan.machine
    dtype = str(machine.dtype).removeprefix("torch.")
    download = readable_size(4 * plan.footprint.parameters)
    hub = "" if plan.local else f"; {download} to download (float32), unless in the cache"
    changed = ", ".join(f"{name}={value}" for name, value in plan.changes.items())
    lines = [
        f"Plan of profile {plan.profile}: the main table's {len(plan.runs)} runs with {plan.runs[0].config.backbone}, "
        f"protocol {plan.runs[0].config.protocol}. Nothing is downloaded.",
        "",
        *([f"Settings  {changed}"] if changed else []),
        f"Machine   {machine.name}, {dtype}: {readable_size(machine.free)} of memory free, "
        f"{machine.rate / 1e9:,.0f} billion operations per second in matrix products (measured)",
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
    head = ["task", "method", "seeds", "candidates", "steps each", "memory", "recomputed", "per seed", "all seeds"]
    rows = [head]
    ordered = sorted(plan.runs, key=lambda run: list(plan.sizes).index(run.config.task))
    for task, runs in groupby(ordered, key=lambda run: run.config.task):
        of_method: dict[str, list[RunEstimate]] = {}
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
    return align_columns(rows, left=2)


def _total(plan: Forecast) -> str:
    days = f" ({plan.seconds / 86400:,.0f} days)" if plan.seconds > 2 * 86400 else ""
    return (
        f"All runs, one after another: {readable_duration(plan.seconds)}{days} at most; early stopping, and "
        "finished runs in the report's folder, make it less."
    )


def _basis(plan: Forecast) -> str:
    speed = (
        f"{plan.rate / 1e9:,.0f} billion operations per second, timed on a step of this backbone"
        if plan.timed
        else f"{efficiency(plan.machine.device.type, plan.footprint.parameters):.2g} of the matrix rate above (an "
        "assumption about whole steps)"
    )
    return "\n".join(
        [
            "Assumptions",
            "- Operations: counted by torch on a forward pass, and a backward pass where something is trained or "
            "scored; one label token per example; no padding.",
            f"- Speed: {speed}.",
            f"- Tokens: characters / {CHARACTERS_PER_TOKEN}, at most max_source; the prompt's are added.",
            f"- Memory: weights ({COPIES} copies while fine-tuning, and AdamW's two), and what one candidate's longest "
            f"batch keeps for its backward pass, plus {MARGIN - 1:.0%}. More candidates share a pass only where "
            "memory is left.",
            "- Recomputed: the memory with gradient_checkpointing=True, which takes a third to a half longer.",
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
