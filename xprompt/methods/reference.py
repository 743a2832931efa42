"""The two baselines that train nothing: the majority class, and the backbone without a prompt."""

from __future__ import annotations

from xprompt.methods.base import MethodContext, MethodResult
from xprompt.tasks import metrics
from xprompt.training.evaluation import Evaluation


def majority(context: MethodContext) -> MethodResult:
    """Always answer the commonest training label."""
    splits, reported = context.splits, context.splits.validation
    answers = [metrics.commonest(splits.task, splits.train.labels)] * len(reported)
    scores = metrics.compute(splits.task, answers, reported.labels, reported.groups)
    return MethodResult(Evaluation(scores, metrics.score(scores), float("nan"), tuple(answers)), num_params=0)


def zero_shot(context: MethodContext) -> MethodResult:
    """Score the label words without a prompt."""
    return MethodResult(context.report(None), num_params=0)
