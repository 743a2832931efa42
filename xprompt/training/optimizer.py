"""The optimisers that prompts are tuned with."""

from __future__ import annotations

import torch
from torch import nn

from xprompt.config.settings import TuneSettings


def make_optimizer(parameters: list[nn.Parameter], settings: TuneSettings) -> torch.optim.Optimizer:
    """Return Adafactor with scaling, relative step and warm-up off (Lester et al., 2021), or AdamW."""
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    from transformers.optimization import Adafactor  # imports PEFT, a second that only training pays for

    return Adafactor(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay,
        scale_parameter=False, relative_step=False, warmup_init=False,
    )  # fmt: skip
