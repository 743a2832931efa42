"""Exact importance scores of both levels, against one plain forward-backward pass, and against the naive loop."""

from __future__ import annotations

import torch

from xprompt.backbones.base import Backbone
from xprompt.backbones.subnormals import subnormals_as_zero
from xprompt.bench.harness import interleave
from xprompt.bench.rows import Findings, throughput
from xprompt.bench.sizes import Size
from xprompt.data.batching import batches
from xprompt.data.splits import TaskDataset
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.pruning.importance import Importance, importance

BATCH = 32


def plain_pass(backbone: Backbone, prompt: SoftPrompt, data: TaskDataset, batch_size: int = BATCH) -> torch.Tensor:
    """Return the prompt's gradient (P, H) of the summed loss over the data: what one training pass computes."""
    encoded, verbalizer = backbone.encode(data), backbone.verbalizer(data.task)
    values = prompt().detach().to(backbone.device).requires_grad_()
    total = torch.zeros_like(values)
    with subnormals_as_zero(backbone.device):  # as in training, and in `importance`
        for batch in batches(encoded, batch_size, seed=None):
            loss = backbone.loss(values.expand(len(batch), -1, -1), batch, verbalizer).sum()
            total += torch.autograd.grad(loss, values)[0]
    return total


def one_at_a_time(backbone: Backbone, prompt: SoftPrompt, data: TaskDataset) -> Importance:
    """Score importance by its definition: a forward and a backward pass per example, with respect to the masks."""
    encoded, verbalizer = backbone.encode(data), backbone.verbalizer(data.task)
    values = prompt().detach().to(backbone.device)
    token = values.new_zeros(len(values), dtype=torch.float64)
    piece = values.new_zeros(len(values), prompt.pieces, dtype=torch.float64)
    with subnormals_as_zero(backbone.device):
        for batch in batches(encoded, 1, seed=None):
            gamma = values.new_ones(len(values)).requires_grad_()
            zeta = values.new_ones(len(values), prompt.pieces).requires_grad_()
            wide = zeta.repeat_interleave(values.shape[1] // prompt.pieces, dim=1)
            loss = backbone.loss(gamma[:, None] * wide * values, batch, verbalizer).sum()
            by_token, by_piece = torch.autograd.grad(loss, (gamma, zeta))
            token += by_token.abs()
            piece += by_piece.abs()
    return Importance((token / len(data)).float().cpu(), (piece / len(data)).float().cpu(), len(data))


def measure(backbone: Backbone, size: Size, hardware: str) -> Findings:
    """Measure the scores' throughput against the plain pass over the same data, and the loop over some of it."""
    found = Findings()
    prompt = SoftPrompt.init(backbone, size.length)
    data = size.splits(train=size.examples, selection=1).train
    few = data[: size.few]
    sides = {
        "ours": lambda: importance(backbone, prompt, data, batch_size=BATCH),
        "plain pass": lambda: plain_pass(backbone, prompt, data),
        "one at a time": lambda: one_at_a_time(backbone, prompt, few),
    }
    work = {"ours": float(len(data)), "plain pass": float(len(data)), "one at a time": float(len(few))}
    seconds = interleave(sides, size.rounds, device=backbone.device)
    found.timings("importance", backbone.name, hardware, seconds, work, "examples")
    for name, baseline in (("importance_pass", "plain pass"), ("importance_naive", "one at a time")):
        found.rows.append(throughput(name, backbone.name, hardware, seconds, work, baseline=baseline, ours="ours"))
    ours, naive = importance(backbone, prompt, few, batch_size=BATCH), one_at_a_time(backbone, prompt, few)
    gap = {level: float((getattr(ours, level) - getattr(naive, level)).abs().max() / getattr(naive, level).max())
           for level in ("token", "piece")}  # fmt: skip
    found.facts.append({"name": "importance", "backbone": backbone.name, "hardware": hardware, "largest_gap": gap})
    return found
