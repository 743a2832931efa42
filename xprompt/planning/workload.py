"""What one run takes: its steps, operations and memory, estimated from its settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from xprompt.config.methods import get_method
from xprompt.config.run_config import RunConfig
from xprompt.config.settings import PruneSettings, TuneSettings
from xprompt.methods.masking import DRAWS
from xprompt.methods.race import most_raced, num_left
from xprompt.methods.ratio_search import halving_schedule
from xprompt.planning.footprint import Footprint
from xprompt.tasks.example import data_error

#: Factor on the memory counted, for workspaces and what the allocator cannot use.
MARGIN = 1.1
#: Copies of the weights while fine-tuning, beside the frozen ones: trained, gradients, the best checkpoint, and the
#: next best one while it is copied.
COPIES = 4


@dataclass(frozen=True)
class Sizes:
    """A task's examples and source tokens; `counted` on the data, or published."""

    train: int
    validation: int
    mean_tokens: int
    longest_tokens: int
    counted: bool


@dataclass(frozen=True)
class RunEstimate:
    """One run, and what it takes.

    Attributes:
        candidates: prompts (when fine-tuning, models) that it trains; 0 where it trains nothing.
        steps: optimiser steps per candidate, at most: early stopping may end sooner.
        operations: floating-point operations of the whole run, at most.
        memory: peak bytes on the device, with one candidate in a pass (or `prune.side_by_side`).
        recomputed: the same with gradient checkpointing.
    """

    config: RunConfig
    candidates: int
    steps: int
    operations: float
    memory: int
    recomputed: int


def plan_run(config: RunConfig, footprint: Footprint, sizes: Sizes, dtype: torch.dtype) -> RunEstimate:
    """Estimate one run: prompt tuning, an adapter, fine-tuning, a search, or evaluation alone."""
    train, selection = _split(config, sizes)
    prompt = config.length
    candidates, steps, operations, settings = 0, 0, 0.0, config.training
    work = get_method(config.method).work
    learns = work == "fine_tuning"
    adapts = work == "adapter"  # the weights stay frozen: of their gradients nothing is computed or kept
    weights = footprint.parameters * dtype.itemsize
    if learns:
        dtype = torch.promote_types(dtype, torch.float32)  # at least, beside the frozen weights
        candidates, prompt = 1, 0
        steps, operations = _training(footprint, settings, 1, None, train, selection, sizes.mean_tokens, True)
    elif work in ("prompt_tuning", "adapter"):
        candidates, prompt = 1, 0 if adapts else prompt
        steps, operations = _training(footprint, settings, 1, None, train, selection, sizes.mean_tokens + prompt)
    elif work in ("search", "retraining"):
        settings, candidates = config.prune.retune, config.pruning.num_candidates
        length = sizes.mean_tokens + prompt
        steps, operations = _training(
            footprint, settings, candidates, config.pruning, train, selection, length, races=work == "search"
        )
        if work == "search":
            scored = min(train, config.prune.importance_limit or train)
            passes = 1 + len(config.pruning.token_ratios) * config.pruning.rescore_pieces
            operations += passes * footprint.operations(scored, length, "tune")
    elif work == "masks":
        length = sizes.mean_tokens + prompt
        scored = min(train, config.prune.importance_limit or train)
        entries = {"token": 1, "piece": config.pieces, "both": 1 + config.pieces}[config.pruning.level]
        masked = config.length * entries * sizes.validation  # each left out alone
        if config.method == "masking":
            looked_at = selection + (config.protocol != "paper") * sizes.validation
            masked = len(config.pruning.token_ratios) * (DRAWS + 2) * looked_at
        operations += footprint.operations(scored, length, "tune") + footprint.operations(masked, length, "evaluate")
    else:
        prompt = 0
    length = sizes.longest_tokens + prompt
    if work != "none":
        operations += footprint.operations(sizes.validation, sizes.mean_tokens + prompt, "evaluate")
    rows = settings.batch_size // settings.accumulation * max(1, min(candidates, config.prune.side_by_side or 1))
    # Evaluation keeps nothing for a backward pass: one layer's values at a time.
    passing = footprint.one_layer(settings.eval_batch_size, length, dtype)
    held = [passing, passing]
    if candidates or work == "masks":  # which need importance
        for i, recompute in enumerate((False, True)):
            kept = footprint.activations(rows, length, dtype, learns=learns or adapts, recompute=recompute)
            held[i] = max(held[i], kept)
    if learns:
        copies = COPIES + (2 if settings.optimizer == "adamw" else 0)
        weights += copies * footprint.parameters * dtype.itemsize
    if settings.gradient_checkpointing:
        held[0] = held[1]
    memory, recomputed = (math.ceil(MARGIN * (weights + kept)) for kept in held)
    return RunEstimate(config, candidates, steps, operations, memory, recomputed)


def _training(
    footprint: Footprint,
    settings: TuneSettings,
    candidates: int,
    search: PruneSettings | None,
    train: int,
    selection: int,
    length: int,
    learns: bool = False,
    races: bool = False,
) -> tuple[int, float]:
    """Steps per candidate, and the operations of all candidates, evaluations on the selection split included.

    Args:
        search: how candidates are compared and dropped; None where there is one.
        races: whether a race's masks are scored untrained; its control retrains as many and scores none.
    """
    steps = settings.num_steps(train)
    every = settings.eval_every or math.ceil(train / settings.batch_size)
    raced = 0
    if search and search.search == "race":
        raced, candidates = races * most_raced(candidates, selection), num_left(candidates)
    schedule = halving_schedule(candidates, steps) if search and search.stops_early else {}
    done = _candidate_steps(candidates, steps, schedule)
    evaluated = (candidates + math.ceil(done / every)) * selection + raced
    trained = done * min(settings.batch_size, train)
    return steps, (
        footprint.operations(
            trained, length, "fine_tune" if learns else "tune", recompute=settings.gradient_checkpointing
        )
        + footprint.operations(evaluated, length, "evaluate")
    )


def _candidate_steps(candidates: int, steps: int, schedule: Mapping[int, int]) -> int:
    """Steps over all candidates, of which the schedule lets so many go on after a step."""
    total, left, done = 0, candidates, 0
    for step, kept in schedule.items():
        total, left, done = total + left * (step - done), kept, step
    return total + left * (steps - done)


def _split(config: RunConfig, sizes: Sizes) -> tuple[int, int]:
    """Examples trained on, and examples that checkpoints are selected on; as `Splits.hold_out` divides, or refuses."""
    shots = None if sizes.counted else _shots(config)  # of MultiRC they are questions, counted where the data are here
    train = min(n for n in (sizes.train, config.limit_train, shots) if n is not None)
    if config.protocol == "paper":
        return train, sizes.validation
    held = min(max(1, round(config.selection * train)), config.selection_limit)
    if train == held:
        raise data_error(
            f"Holding out from {config.task}'s training split",
            f"{train} examples, {held} wanted",
            "some examples on both sides",
            "load more training examples, or hold out a smaller share",
        )
    return train - held, held


def _shots(config: RunConfig) -> int | None:
    return 32 if config.few_shot == "official" else config.few_shot
