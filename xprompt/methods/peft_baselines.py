"""Baselines by PEFT's own classes, trained with our loop: LoRA, and prompt tuning.

PEFT wraps the backbone (for LoRA, which changes its layers, a copy of it); batches, losses, checkpoints and scores are
those of every other method.
"""

from __future__ import annotations

import copy
from typing import Any

import peft
import torch
from jaxtyping import Float
from torch import Tensor, nn

from xprompt.backbones.base import Backbone
from xprompt.backbones.loading import wrap
from xprompt.config.settings import TuneSettings
from xprompt.data.batching import Batch
from xprompt.methods.base import MethodContext, MethodResult, entries, summary
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.streams import stream_seed
from xprompt.training.candidate import Candidate, History
from xprompt.training.loop import Loop

#: LoRA's rank and scale: PEFT's default rank, and twice it, as in its examples.
RANK, ALPHA = 8, 16


def lora(context: MethodContext) -> MethodResult:
    """Train low-rank updates of the attention's queries and values (Hu et al., 2021), by the fine-tuning settings.

    Differs: the paper has no LoRA; dropout in the updates is off, as everywhere here.
    """
    source = context.backbone
    config = peft.LoraConfig(task_type=_task_type(source), r=RANK, lora_alpha=ALPHA, lora_dropout=0.0)
    with torch.random.fork_rng():  # the updates' initial values are drawn from torch's own generator
        torch.manual_seed(stream_seed(context.config.seed, "adapter"))
        model: Any = peft.get_peft_model(copy.deepcopy(source.model), config)
    adapted = wrap(model.get_base_model(), source.tokenizer, name=source.name, max_source=source.max_source)
    history, num_params = _train(context, adapted, _unfreeze(adapted.model, "lora_"), context.config.fine_tune, "LoRA")
    merged = wrap(model.merge_and_unload(), source.tokenizer, name=source.name, max_source=source.max_source)
    return MethodResult(
        context.report(None, merged), num_params, entries("lora", history),
        details=summary(history) | {"rank": RANK, "alpha": ALPHA}, num_cut=history.num_cut,
    )  # fmt: skip


def prompt_tuning_peft(context: MethodContext) -> MethodResult:
    """Tune PEFT's `PromptEmbedding`, from the same initial vectors as `prompt_tuning` and by the same settings."""
    config, source = context.config, context.backbone
    start = SoftPrompt.init(
        source, config.length, config.init, config.seed, pieces=config.pieces, task=context.splits.task
    )
    prompted = PromptedBackbone(source, start)
    history, _ = _train(context, prompted, prompted.parameters, config.tune, "prompt tuning (PEFT)")
    tuned = SoftPrompt(prompted.vectors().detach(), pieces=config.pieces)
    return MethodResult(
        context.report(tuned), tuned.num_params, entries("prompt_tuning_peft", history),
        {"init_prompt": start, "tuned_prompt": tuned}, summary(history), history.num_cut,
    )  # fmt: skip


class PromptedBackbone:
    """Put PEFT's prompt in front of every input of a backbone; everything else is the backbone's own.

    Args:
        backbone: frozen; unchanged.
        start: the prompt's initial values, (P, H).
    """

    def __init__(self, backbone: Backbone, start: SoftPrompt) -> None:
        length, width = start.embeddings.shape
        config = peft.PromptTuningConfig(
            task_type=_task_type(backbone), num_virtual_tokens=length, token_dim=width, num_transformer_submodules=1,
            num_layers=1, num_attention_heads=1,
        )  # fmt: skip
        self._backbone, self._model = backbone, peft.get_peft_model(backbone.model, config)
        self.parameters: list[nn.Parameter] = list(self._model.prompt_encoder.parameters())
        with torch.no_grad():
            self.parameters[0].copy_(start.embeddings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def vectors(self) -> Float[Tensor, "P H"]:
        """Return the prompt as PEFT's model returns it."""
        return self._model.get_prompt(batch_size=1)[0]

    def loss(self, prompt: None, batch: Batch, *rest: Any, **options: Any) -> Float[Tensor, " B"]:
        """Return the loss of each example; see `Backbone.loss`."""
        return self._backbone.loss(self.vectors(), batch, *rest, **options)

    def label_scores(self, prompt: None, batch: Batch, *rest: Any, **options: Any) -> Float[Tensor, "B L"]:
        """Return the score of each label; see `Backbone.label_scores`."""
        return self._backbone.label_scores(self.vectors(), batch, *rest, **options)

    def generate(self, prompt: None, batch: Batch, *rest: Any, **options: Any) -> list[str]:
        """Return the greedy text after each input; see `Backbone.generate`."""
        return self._backbone.generate(self.vectors(), batch, *rest, **options)


def _train(
    context: MethodContext, backbone: Any, parameters: list[nn.Parameter], settings: TuneSettings, describe: str
) -> tuple[History, int]:
    """Train these parameters with our loop up to their best checkpoint; return the history and how many they are."""

    def snapshot() -> dict[str, Tensor]:
        return {str(i): parameter.detach().clone() for i, parameter in enumerate(parameters)}

    candidate = Candidate(None, parameters, settings, snapshot)
    loop = Loop(backbone, [candidate], context.splits, [context.config.seed], context.progress, describe)
    loop.run(context.callbacks)
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(candidate.best[str(i)])
    return candidate.history, sum(parameter.numel() for parameter in parameters)


def _unfreeze(model: nn.Module, part: str) -> list[nn.Parameter]:
    """Make exactly the parameters whose name contains `part` trainable, and return them."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part in name)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _task_type(backbone: Backbone) -> str:
    return "SEQ_2_SEQ_LM" if backbone.kind == "seq2seq" else "CAUSAL_LM"
