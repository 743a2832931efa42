"""Task transfer: prompt tuning on one task from a prompt of another (paper Tab 7).

XPrompt transfer is XPrompt, which starts from the prompt that `task_transfer_pruned` leaves.
"""

from __future__ import annotations

from xprompt.methods.base import MethodContext, MethodResult
from xprompt.methods.prompt_tuning import tune_from


def task_transfer(context: MethodContext) -> MethodResult:
    """Tune from the source task's tuned prompt. Source: paper Tab 7 (TaskTransfer); SPoT, Vu et al. (2022)."""
    return _transfer(context, "tuned_prompt")


def task_transfer_pruned(context: MethodContext) -> MethodResult:
    """Tune from the source task's pruned and retrained prompt; what was pruned there stays pruned.

    Source: paper Tab 7, the start of XPrompt transfer.
    """
    return _transfer(context, "rewound_prompt")


def _transfer(context: MethodContext, stage: str) -> MethodResult:
    source = context.parent.load_prompt(stage).to(context.backbone.device)
    result = tune_from(context, source, context.parent.record["seconds"]["with_prompt_tuning"])
    result.details["source_task"] = context.parent.record["task"]
    return result
