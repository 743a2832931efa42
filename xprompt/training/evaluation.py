"""Predictions and metrics of one prompt, or of C prompts side by side.

Owns the one way a prompt is evaluated, while tuning and after. Never trains, never chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from xprompt.backbones.base import Backbone, exact_labels
from xprompt.data.batching import CPU_ROWS, batches, repeat, shard
from xprompt.data.splits import TaskDataset
from xprompt.data.tokenization import TokenizedDataset
from xprompt.distributed import process_group
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.prompts.stacking import stack
from xprompt.tasks import metrics


@dataclass(frozen=True)
class Evaluation:
    """Of one prompt on one split: metrics in [0, 1], their mean, the mean loss, and the predictions in data order."""

    metrics: dict[str, float]
    score: float
    loss: float
    predictions: tuple[int, ...]


def evaluate(
    backbone: Backbone,
    prompt: SoftPrompt | None,
    data: TaskDataset,
    *,
    batch_size: int = 64,
    objective: str = "label_scores",
) -> dict[str, float]:
    """The task's metrics, each in [0, 1], of this prompt (None: no prompt) on this split."""
    return evaluate_many(backbone, [prompt], data, batch_size=batch_size, objective=objective)[0].metrics


def predict(backbone: Backbone, prompt: SoftPrompt | None, data: TaskDataset, *, batch_size: int = 64) -> list[int]:
    """Predicted label of each example, in the data's order."""
    return list(evaluate_many(backbone, [prompt], data, batch_size=batch_size)[0].predictions)


@torch.no_grad()
def evaluate_many(
    backbone: Backbone,
    prompts: Sequence[SoftPrompt | None],
    data: TaskDataset,
    *,
    encoded: TokenizedDataset | None = None,
    batch_size: int = 64,
    objective: str = "label_scores",
) -> list[Evaluation]:
    """Evaluate C prompts (or, alone, None) in one pass over the split; equal ones, as before any step, count as one.

    Processes that share a run each take their share of every batch, and all of them get the whole result.

    Args:
        encoded: `backbone.encode(data)`, where it is at hand already.
        batch_size: rows a batch at most (on a CPU no more than `CPU_ROWS`, which is faster), each example with every
            prompt; but always a whole example.
        objective: "label_scores" compares the label words; "generation" generates and matches their text.
    """
    encoded = backbone.encode(data) if encoded is None else encoded
    verbalizer = backbone.verbalizer(data.task)
    prompts, place = _distinct(prompts)
    count = len(prompts)
    predicted = torch.zeros(count, len(data), dtype=torch.long)
    losses = torch.zeros(count, dtype=torch.float64, device=backbone.device)
    outcomes: list[tuple[torch.Tensor, torch.Tensor]] = []
    rows = min(batch_size, CPU_ROWS) if backbone.device.type == "cpu" else batch_size
    for whole in batches(encoded, max(1, rows // count), seed=None):
        batch = shard(whole, process_group())
        if not len(batch):
            continue
        vectors, prompt_mask, prompt_index = prompt_rows(prompts, [len(batch.labels)] * count, backbone.device)
        shared = repeat(batch, count)
        if objective == "generation":
            texts = backbone.generate(vectors, shared, prompt_mask, prompt_index=prompt_index)
            labels = torch.tensor(exact_labels(texts, data.task))
            loss = backbone.loss(vectors, shared, verbalizer, prompt_mask, objective, prompt_index)
        else:
            scores = backbone.label_scores(vectors, shared, verbalizer, prompt_mask, prompt_index)
            labels = scores.argmax(dim=1)
            loss = F.cross_entropy(scores, shared.labels.to(scores.device), reduction="none")
        losses += loss.double().view(count, -1).sum(dim=1)
        outcomes.append((batch.index, labels.view(count, -1)))
    for index, labels in outcomes:  # only here is the device waited for
        predicted[:, index] = labels.cpu()
    process_group().all_reduce([predicted, losses])
    results = []
    for row, loss in zip(predicted.tolist(), (losses / len(data)).tolist(), strict=True):
        found = metrics.compute(data.task, row, data.labels, data.groups)
        results.append(Evaluation(found, metrics.score(found), loss, tuple(row)))
    return [results[i] for i in place]


def _distinct(prompts: Sequence[SoftPrompt | None]) -> tuple[list[SoftPrompt | None], list[int]]:
    """The first of every group of equal prompts, and for each prompt its place among them."""
    different: list[SoftPrompt | None] = []
    vectors: list[torch.Tensor | None] = []
    place = []
    for prompt in prompts:
        own = None if prompt is None else prompt()
        at = next((i for i, other in enumerate(vectors) if _equal(own, other)), len(different))
        if at == len(different):
            different.append(prompt)
            vectors.append(own)
        place.append(at)
    return different, place


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def prompt_rows(
    prompts: Sequence[SoftPrompt | None], sizes: Sequence[int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | tuple[None, None, None]:
    """C prompts, (C, Q, H), where each has a vector, (C, Q), and whose each row is, (ΣB,); three None without prompts.

    Args:
        sizes: how many rows each prompt stands in front of, one after another.
    """
    if prompts[0] is None:
        return None, None, None
    vectors, prompt_mask = stack([p for p in prompts if p is not None])
    prompt_index = torch.repeat_interleave(torch.arange(len(prompts)), torch.tensor(list(sizes))).to(device)
    return vectors.to(device), prompt_mask.to(device), prompt_index
