"""Baselines by PEFT's own classes, trained with our loop: LoRA, P-Tuning, and prompt tuning.

LoRA changes the backbone's layers, so that PEFT wraps a copy of them around the same weights; the others make a prompt
in front of the frozen one.
"""

from __future__ import annotations

import warnings
from typing import Any

import peft
import torch
from jaxtyping import Float
from torch import Tensor, nn

from xprompt.backbones.base import Backbone
from xprompt.backbones.devices import random_state_kept
from xprompt.backbones.loading import copy_modules, wrap
from xprompt.errors import BackboneError
from xprompt.methods.base import MethodContext, MethodResult, entries, summary
from xprompt.methods.prompt_encoder import count, initial_prompt, seeded, train, tune_encoder
from xprompt.prompts.peft import PEFT_TASKS
from xprompt.prompts.soft_prompt import SoftPrompt

#: LoRA's rank and scale: PEFT's default rank, and twice it, as in its examples.
RANK, ALPHA = 8, 16


def lora(context: MethodContext) -> MethodResult:
    """Train low-rank updates of the attention's queries and values (Hu et al., 2021), by the settings of prompt tuning.

    Differs: the paper has no LoRA; dropout in the updates is off, as everywhere here.
    """
    source = context.backbone
    config = peft.LoraConfig(task_type=PEFT_TASKS[source.kind], r=RANK, lora_alpha=ALPHA, lora_dropout=0.0)
    with seeded(context):
        try:
            model = wrapped_by_peft(copy_modules(source.model), config)
        except ValueError as error:  # it knows no layers of this architecture to adapt
            raise BackboneError(
                f"PEFT's LoRA does not know the architecture {source.model.config.model_type!r} of {source.name} "
                f"({' '.join(str(error).split())[:120]}). Fix: leave lora out of methods, or take a T5 or a Llama."
            ) from error
    adapted = wrap(model.get_base_model(), source.tokenizer, name=source.name, max_source=source.max_source)
    parameters = _unfreeze(adapted.model, "lora_")
    history = train(context, adapted, parameters, "LoRA")
    return MethodResult(  # of the updates beside the weights: merged in bfloat16, most of them would be rounded away
        context.report(None, adapted), count(parameters), entries("lora", history),
        details=summary(history) | {"rank": RANK, "alpha": ALPHA}, num_cut=history.num_cut,
    )  # fmt: skip


def p_tuning(context: MethodContext) -> MethodResult:
    """Tune a prompt that a bidirectional LSTM and two linear layers make of P trained vectors.

    Source: Liu et al. (2021), GPT Understands, Too; each direction of the LSTM is half as wide as an embedding.
    Differs: the backbone is frozen, and the prompt stands in front of the input alone.
    """
    return _p_tuning(context, "LSTM", max(1, context.backbone.hidden_size // 2), "P-Tuning")


def p_tuning_mlp(context: MethodContext) -> MethodResult:
    """Tune a prompt that three linear layers make of P trained vectors: PEFT's default prompt encoder.

    Source: Liu et al. (2021), in the form of NVIDIA NeMo. Differs: as `p_tuning`.
    """
    return _p_tuning(context, "MLP", context.backbone.hidden_size, "P-Tuning MLP")


def _p_tuning(context: MethodContext, kind: str, hidden: int, describe: str) -> MethodResult:
    config = peft.PromptEncoderConfig(
        task_type=PEFT_TASKS[context.backbone.kind], num_virtual_tokens=context.config.length,
        token_dim=context.backbone.hidden_size, num_transformer_submodules=1, num_layers=1, num_attention_heads=1,
        encoder_reparameterization_type=kind, encoder_hidden_size=hidden,
    )  # fmt: skip
    with seeded(context):
        encoder = VirtualTokens(peft.PromptEncoder(config), context.config.length)
    return tune_encoder(context, encoder, describe, {"encoder": kind, "encoder_hidden_size": hidden})


def prompt_tuning_peft(context: MethodContext) -> MethodResult:
    """Tune PEFT's `PromptEmbedding`, from the same initial vectors as `prompt_tuning` and by the same settings."""
    return tune_encoder(context, prompt_embedding(context.backbone, initial_prompt(context)), "prompt tuning (PEFT)")


def prompt_embedding(backbone: Backbone, start: SoftPrompt) -> VirtualTokens:
    """Return PEFT's prompt with these initial values, (P, H), as `get_peft_model` makes it for the backbone."""
    length, width = start.embeddings.shape
    config = peft.PromptTuningConfig(
        task_type=PEFT_TASKS[backbone.kind], num_virtual_tokens=length, token_dim=width, num_transformer_submodules=1,
        num_layers=1, num_attention_heads=1,
    )  # fmt: skip
    with random_state_kept():  # PEFT draws initial values, which these replace
        embedding: Any = wrapped_by_peft(backbone.model, config).prompt_encoder["default"]
    encoder = VirtualTokens(embedding, length)
    with torch.no_grad():
        embedding.embedding.weight.copy_(start.embeddings)
    return encoder


class VirtualTokens(nn.Module):
    """Call one of PEFT's prompt encoders, in float32 as every soft prompt is, for all of its virtual tokens.

    Args:
        encoder: from token numbers, (P,), to vectors, (P, …).
    """

    numbers: Tensor

    def __init__(self, encoder: nn.Module, length: int) -> None:
        super().__init__()
        self.encoder = encoder.float().requires_grad_(True)
        self.register_buffer("numbers", torch.arange(length))

    def forward(self) -> Float[Tensor, "P ..."]:
        """Return what the encoder makes of the token numbers 0 … P − 1."""
        return self.encoder(self.numbers)


def wrapped_by_peft(model: nn.Module, config: Any) -> Any:
    """Return PEFT's model around this one."""
    with warnings.catch_warnings():  # PEFT reads an attribute of the model that transformers deprecates
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(model, config)


def _unfreeze(model: nn.Module, part: str) -> list[nn.Parameter]:
    """Make exactly the parameters whose name contains `part` trainable, and return them."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part in name)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
