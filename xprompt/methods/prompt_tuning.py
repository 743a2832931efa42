"""Prompt tuning (Lester et al., 2021), and its two controls: the matched budget and the surviving length."""

from __future__ import annotations

import torch

from xprompt.methods.base import MethodContext, MethodResult, entries, summary
from xprompt.methods.ratio_search import matched_schedule, retrain
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.streams import stream_seed
from xprompt.training.tune import tune


def prompt_tuning(context: MethodContext, length: int | None = None) -> MethodResult:
    """Tune a prompt of `length` tokens (default: the settings') from its initialisation. Source: paper §3.1."""
    config, backbone, task = context.config, context.backbone, context.splits.task
    length = config.length if length is None else length
    initial = SoftPrompt.init(backbone, length, config.init, config.seed, pieces=config.pieces, task=task)
    if config.rounding:
        move_last_bits(initial, stream_seed(config.seed, "rounding", config.rounding))
    return tune_from(context, initial)


@torch.no_grad()
def move_last_bits(prompt: SoftPrompt, seed: int) -> None:
    """Move every entry of the prompt, (P, H), to one of its two neighbours among floating-point numbers, drawn by seed.

    Runs that differ in this alone show what rounding does to a result.
    """
    values = prompt.embeddings  # (P, H)
    up = torch.rand(values.shape, generator=torch.Generator().manual_seed(seed)) < 0.5  # (P, H)
    bound = torch.where(up, torch.inf, -torch.inf).to(values)  # (P, H)
    values.copy_(torch.nextafter(values, bound))


def tune_from(context: MethodContext, initial: SoftPrompt, seconds_before: float = 0.0) -> MethodResult:
    """Tune a prompt from these values; what it has pruned stays pruned.

    Args:
        seconds_before: that the initial prompt took.
    """
    config = context.config
    tuned, history = tune(
        context.backbone, initial, context.splits, config.tune, seed=config.seed, progress=context.progress,
        callbacks=context.callbacks,
    )  # fmt: skip
    return MethodResult(
        context.report(tuned), tuned.num_params, entries("prompt_tuning", history),
        {"init_prompt": initial, "tuned_prompt": tuned}, summary(history), history.num_cut, seconds_before,
    )  # fmt: skip


def matched_budget(context: MethodContext) -> MethodResult:
    """Tune the tuned prompt further with XPrompt's steps, candidates, and looks at the selection split.

    Nothing is pruned; the candidates differ in their data order, and the best on the selection split is kept.

    Differs: the paper has no such control.
    """
    config, tuned = context.config, context.tuned()
    steps = config.prune.retune.num_steps(len(context.splits.train))
    count, schedule = matched_schedule(config.pruning, steps, tuned.prompt.length, tuned.prompt.pieces)
    seeds = [stream_seed(config.seed, "matched candidates", i) for i in range(count)]
    results = retrain(
        context.backbone, [tuned.prompt] * count, context.splits, config.pruning, seeds=seeds, schedule=schedule,
        progress=context.progress, describe="matched", callbacks=context.callbacks,
    )  # fmt: skip
    best = max(results, key=lambda result: result.history.best_score)
    candidates = [{"selection_score": result.history.best_score} for result in results]
    return MethodResult(
        context.report(best.prompt), best.prompt.num_params, entries("matched", best.history),
        {"tuned_prompt": best.prompt}, {"candidates": candidates, **summary(best.history)}, tuned.num_cut,
        tuned.seconds,
    )  # fmt: skip


def surviving_length(context: MethodContext) -> MethodResult:
    """Tune a new prompt of as many tokens as survived XPrompt, the parent run. Source: paper §5.3."""
    return prompt_tuning(context, length=context.parent.record["details"]["surviving_tokens"])
