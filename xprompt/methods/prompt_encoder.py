"""Tune a module that makes the prompt, and train other small weights beside a frozen backbone, by our loop.

Batches, losses, checkpoints, early stopping and scores are those of every other method.
P: prompt tokens; H: embedding width; B: examples; L: labels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xprompt.backbones.base import Backbone
from xprompt.backbones.devices import random_state_kept
from xprompt.data.batching import Batch
from xprompt.data.splits import TaskDataset
from xprompt.data.tokenization import TokenizedDataset
from xprompt.methods.base import MethodContext, MethodResult, entries, summary
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.streams import stream_seed
from xprompt.training.candidate import Candidate, History
from xprompt.training.loop import Loop
from xprompt.training.tune import check_tunable


@Backbone.register
class EncodedBackbone:
    """Put the prompt that a module makes in front of every input; everything else is the backbone's own.

    Args:
        backbone: frozen; unchanged.
        encoder: called without arguments, it returns the prompt's vectors, (P, H).
    """

    def __init__(self, backbone: Backbone, encoder: nn.Module) -> None:
        self._backbone, self.encoder = backbone, encoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def encode(self, data: TaskDataset, prompt_length: int = 0, follows: int = 0) -> TokenizedDataset:
        """Render and tokenise a split, with room for the prompt; see `Backbone.encode`."""
        return self._backbone.encode(data, len(self.encoder()), follows)

    def loss(self, prompt: None, batch: Batch, *rest: Any, **options: Any) -> Float[Tensor, " B"]:
        """Return the loss of each example; see `Backbone.loss`."""
        return self._backbone.loss(self.encoder(), batch, *rest, **options)

    def label_scores(self, prompt: None, batch: Batch, *rest: Any, **options: Any) -> Float[Tensor, "B L"]:
        """Return the score of each label; see `Backbone.label_scores`."""
        return self._backbone.label_scores(self.encoder(), batch, *rest, **options)

    def generate(self, prompt: None, batch: Batch, *rest: Any, **options: Any) -> list[str]:
        """Return the greedy text after each input; see `Backbone.generate`."""
        return self._backbone.generate(self.encoder(), batch, *rest, **options)


def tune_encoder(
    context: MethodContext, encoder: nn.Module, describe: str, details: dict[str, Any] | None = None
) -> MethodResult:
    """Tune a module that makes the prompt, and return the prompt it ends with, which XPrompt can prune.

    Args:
        encoder: called without arguments, it returns the vectors, (P, H); it is moved to the backbone's device.
        describe: the method, in bars and logs.
        details: JSON values for the record.
    """
    config = context.config
    encoder.to(context.backbone.device)
    initial = materialise(encoder, config.pieces)
    check_tunable(context.backbone, initial)
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    history = train(context, EncodedBackbone(context.backbone, encoder), parameters, describe)
    tuned = materialise(encoder, config.pieces)
    return MethodResult(
        context.report(tuned), count(parameters), entries(config.method, history),
        {"init_prompt": initial, "tuned_prompt": tuned},
        summary(history) | {"prompt_params": tuned.num_params} | (details or {}), history.num_cut,
    )  # fmt: skip


@torch.no_grad()
def materialise(encoder: nn.Module, pieces: int) -> SoftPrompt:
    """Return the soft prompt that a module makes now, with nothing pruned."""
    return SoftPrompt(encoder(), pieces=pieces)


def initial_prompt(context: MethodContext) -> SoftPrompt:
    """Return the prompt that prompt tuning by the same settings starts from."""
    config = context.config
    return SoftPrompt.init(
        context.backbone, config.length, config.init, config.seed, pieces=config.pieces, task=context.splits.task
    )


def train(context: MethodContext, backbone: Any, parameters: list[nn.Parameter], describe: str) -> History:
    """Train these parameters by the method's settings, and leave them at their best checkpoint.

    Args:
        backbone: what scores the examples with the parameters as they are.
    """

    def snapshot() -> dict[str, Tensor]:
        return {str(i): parameter.detach().clone() for i, parameter in enumerate(parameters)}

    candidate = Candidate(None, parameters, context.config.training, snapshot)
    loop = Loop(backbone, [candidate], context.splits, [context.config.seed], context.progress, describe)
    loop.run(context.callbacks)
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(candidate.best[str(i)])
    return candidate.history


def count(parameters: list[nn.Parameter]) -> int:
    """Return how many values are trained."""
    return sum(parameter.numel() for parameter in parameters)


@contextlib.contextmanager
def seeded(context: MethodContext) -> Iterator[None]:
    """Draw a module's initial values from torch's own generator by the run's seed, and restore the generator after."""
    with random_state_kept():
        torch.manual_seed(stream_seed(context.config.seed, "adapter"))
        yield
