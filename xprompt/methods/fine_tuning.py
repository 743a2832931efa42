"""Full fine-tuning, the paper's upper baseline: every weight of a copy of the backbone is trained, without a prompt."""

from __future__ import annotations

from xprompt.methods.base import MethodContext, MethodResult, entries, summary
from xprompt.training.tune import fine_tune


def fine_tuning(context: MethodContext) -> MethodResult:
    """Fine-tune the whole backbone. Source: paper §4.1."""
    config = context.config
    tuned, history = fine_tune(
        context.backbone, context.splits, config.fine_tune, seed=config.seed, progress=context.progress,
        callbacks=context.callbacks,
    )  # fmt: skip
    return MethodResult(
        context.report(None, tuned), tuned.num_params, entries("fine_tuning", history), details=summary(history),
        num_cut=history.num_cut,
    )  # fmt: skip
