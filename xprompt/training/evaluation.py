"""Evaluate one prompt, or C prompts in parallel: the one way to do it, while tuning and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from xprompt.backbones.base import Backbone, check_objective, exact_labels
from xprompt.data.batching import CPU_ROWS, batches, repeat, shard
from xprompt.data.splits import TaskDataset, check_whole
from xprompt.data.tokenization import TokenizedDataset
from xprompt.distributed import process_group
from xprompt.errors import NotFiniteError
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.prompts.stacking import stack
from xprompt.signatures import check_arguments
from xprompt.tasks import metrics


@dataclass(frozen=True)
class Evaluation:
    """One prompt's results on one split.

    Attributes:
        metrics: the task's, each in [0, 1].
        score: their mean.
        loss: mean over the examples.
        predictions: label of each example, in the data's order.
        losses: of each example, in the same order; their mean is `loss`, but for its rounding.
    """

    metrics: dict[str, float]
    score: float
    loss: float
    predictions: tuple[int, ...]
    losses: tuple[float, ...] = ()

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {100 * value:.1f}" for name, value in self.metrics.items())
        return f"Evaluation({scores}; loss {self.loss:.4g}; {len(self.predictions):,} examples)"

    def require_finite(self, split: str) -> Evaluation:
        """Return the evaluation. Raises `NotFiniteError` where its loss is not finite."""
        if not math.isfinite(self.loss):
            raise NotFiniteError(
                f"the loss on the {split} split is {self.loss}: the prompt or the backbone holds values that are not "
                "finite, or they overflow in the backbone's dtype. Load them again, or use bfloat16 or float32."
            )
        return self


@check_arguments
def evaluate(
    backbone: Backbone,
    prompt: SoftPrompt | None,
    data: TaskDataset,
    *,
    batch_size: int = 64,
    objective: str = "label_scores",
) -> dict[str, float]:
    """Return the task's metrics, each in [0, 1], of this prompt (None: no prompt) on this split.

    Raises `NotFiniteError` where the loss is not finite: the labels would be chosen by chance.

    Example:
        >>> import xprompt as xp
        >>> backbone, splits = xp.load_backbone("nano"), xp.load_task("rte", limit_validation=32)
        >>> xp.evaluate(backbone, xp.SoftPrompt.init(backbone, length=4), splits.validation)
        {'accuracy': 0...}
    """
    evaluations = evaluate_many(backbone, [prompt], data, batch_size=batch_size, objective=objective)
    return evaluations[0].require_finite(data.split).metrics


@check_arguments
def predict(backbone: Backbone, prompt: SoftPrompt | None, data: TaskDataset, *, batch_size: int = 64) -> list[int]:
    """Return the predicted label of each example, in the data's order."""
    evaluations = evaluate_many(backbone, [prompt], data, batch_size=batch_size)
    return list(evaluations[0].require_finite(data.split).predictions)


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

    In bfloat16 and float16 each has a pass of its own. The rounding of a row's scores depends on the rows beside it,
    and there it decides labels: what a checkpoint is chosen by would not be what it scores alone.

    Processes that share a run each take a shard of every batch, and all of them return the whole result.

    Args:
        encoded: `backbone.encode(data)`, where it is at hand already.
        batch_size: rows a batch at most (on a CPU no more than `CPU_ROWS`, which is faster), each example with every
            prompt; but always a whole example.
        objective: "label_scores" compares the label words; "generation" generates and matches their text.

    Raises:
        ConfigError: another objective.
        DataError: `batch_size` is no whole number of at least 1.
    """
    check_objective(objective)
    check_whole("batch_size", batch_size, 1)
    if encoded is None:
        encoded = backbone.encode(data, max((p.num_vectors for p in prompts if p is not None), default=0))
    verbalizer = backbone.verbalizer(data.task)
    prompts, index = _distinct(prompts)
    num_prompts = len(prompts)  # C
    if num_prompts > 1 and backbone.dtype.itemsize < 4:
        alone = [
            evaluate_many(backbone, [prompt], data, encoded=encoded, batch_size=batch_size, objective=objective)
            for prompt in prompts
        ]
        return [alone[i][0] for i in index]
    predicted = torch.zeros(num_prompts, len(data), dtype=torch.long)  # (C, N)
    losses_of = torch.zeros(num_prompts, len(data), dtype=torch.float64)  # (C, N)
    loss_sums = torch.zeros(num_prompts, dtype=torch.float64, device=backbone.device)  # (C,)
    on_device: list[tuple[torch.Tensor, ...]] = []
    rows = min(batch_size, CPU_ROWS) if backbone.device.type == "cpu" else batch_size
    for whole in batches(encoded, max(1, rows // num_prompts), seed=None):
        batch = shard(whole, process_group())  # B examples
        if not len(batch):
            continue
        # (C, P, H), (C, P), (C·B,)
        vectors, prompt_mask, prompt_index = prompt_rows(prompts, [len(batch)] * num_prompts, backbone.device)
        inputs = repeat(batch, num_prompts)  # (C·B, T)
        if objective == "generation":
            texts = backbone.generate(vectors, inputs, prompt_mask, verbalizer.max_new_tokens, prompt_index)
            labels = torch.tensor(exact_labels(texts, data.task))  # (C·B,)
            losses = backbone.loss(vectors, inputs, verbalizer, prompt_mask, objective, prompt_index)  # (C·B,)
        else:
            scores = backbone.label_scores(vectors, inputs, verbalizer, prompt_mask, prompt_index)  # (C·B, labels)
            labels = scores.argmax(dim=1)  # (C·B,)
            losses = F.cross_entropy(scores, inputs.labels.to(scores.device), reduction="none")  # (C·B,)
        losses = losses.double().view(num_prompts, -1)  # (C, B)
        loss_sums += losses.sum(dim=1)
        on_device.append((batch.index, labels.view(num_prompts, -1), losses))
    for columns, labels, losses in on_device:  # only here the CPU waits for the device
        predicted[:, columns], losses_of[:, columns] = labels.cpu(), losses.cpu()
    process_group().all_reduce([predicted, loss_sums, losses_of])
    results = []
    for i, loss in enumerate((loss_sums / len(data)).tolist()):
        predictions = predicted[i].tolist()
        values = metrics.compute(data.task, predictions, data.labels, data.groups)
        results.append(
            Evaluation(values, metrics.score(values), loss, tuple(predictions), tuple(losses_of[i].tolist()))
        )
    return [results[i] for i in index]


def prompt_rows(
    prompts: Sequence[SoftPrompt | None], sizes: Sequence[int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | tuple[None, None, None]:
    """Return what a pass over C prompts' batches needs; three None without prompts.

    Args:
        sizes: rows of each prompt's batch; the batches come one after another.

    Returns:
        (vectors, prompt_mask, prompt_index): (C, P, H), padded in front; (C, P), where a prompt has a vector; (B,),
        the prompt in front of each of the B = Σ sizes rows.
    """
    if prompts[0] is None:
        return None, None, None
    vectors, prompt_mask = stack([p for p in prompts if p is not None])
    prompt_index = torch.repeat_interleave(torch.arange(len(prompts)), torch.tensor(list(sizes))).to(device)
    return vectors.to(device), prompt_mask.to(device), prompt_index


def _distinct(prompts: Sequence[SoftPrompt | None]) -> tuple[list[SoftPrompt | None], list[int]]:
    """Return the first of every group of equal prompts, and for each prompt its index among them."""
    distinct: list[SoftPrompt | None] = []
    distinct_vectors: list[torch.Tensor | None] = []
    index = []
    for prompt in prompts:
        vectors = None if prompt is None else prompt()  # (P, H)
        equal = (i for i, other in enumerate(distinct_vectors) if _equal(vectors, other))
        first = next(equal, len(distinct))
        if first == len(distinct):
            distinct.append(prompt)
            distinct_vectors.append(vectors)
        index.append(first)
    return distinct, index


def _equal(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)
