"""The optimisers that prompts, and the fine-tuned backbone, are trained with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xprompt.config.settings import TuneSettings


def make_optimizer(
    parameters: list[nn.Parameter], settings: TuneSettings, surviving: Bool[Tensor, "P H"] | None = None
) -> torch.optim.Optimizer:
    """Return Adafactor at a fixed rate (Lester et al., 2021), the same with the rate scaled, or AdamW.

    Args:
        surviving: of a prompt, the entries that are not pruned; None: all are trained.
    """
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    scaled = settings.optimizer == "scaled_adafactor"
    return Adafactor(parameters, settings.learning_rate, settings.weight_decay, surviving, scaled)


class Adafactor(torch.optim.Optimizer):
    """Adafactor with a fixed learning rate and no momentum, over surviving entries alone.

    Pruned entries have a gradient of exactly zero. In statistics over all entries they would make the second moments,
    and the size that updates are clipped by, too small: with 90 % of the pieces pruned, one step at a rate of 0.3 moves
    the survivors by 0.9. Here every mean is over what survives, so that a pruned prompt trains at the rate it was
    given, and a prompt with pruned tokens trains as the physically shorter one.

    Where nothing is pruned each step is, to the last bit, that of transformers' Adafactor with `relative_step` and
    `warmup_init` off.

    Args:
        parameters: matrices are factored, vectors are not.
        lr: above 0.
        weight_decay: decoupled, times the learning rate.
        surviving: of the one matrix there is, True where an entry is trained.
        scale_parameter: the rate is times the parameter's root mean square, so that large embeddings take larger steps
            than small weights. T5 was fine-tuned so (Raffel et al., 2020); prompts are tuned without it.

    Source: Shazeer and Stern (2018), Algorithms 4 and 5; decay rate 0.8, clipping threshold 1, ε₁ = 1e-30, ε₂ = 1e-3.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        surviving: Bool[Tensor, "P H"] | None = None,
        scale_parameter: bool = False,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self._scale_parameter = scale_parameter
        self._surviving = None if surviving is None or bool(surviving.all()) else surviving

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group["lr"], group["weight_decay"])

    def _step(self, parameter: nn.Parameter, lr: float, weight_decay: float) -> None:
        wide = torch.promote_types(parameter.dtype, torch.float32)
        gradient = parameter.grad.to(wide)  # type: ignore[union-attr]
        state = self.state[parameter]
        state["step"] = state.get("step", 0) + 1
        decay = 1.0 - state["step"] ** -0.8
        square = gradient**2 + 1e-30
        if gradient.dim() < 2:
            moment = _blend(state, "exp_avg_sq", square, decay)
            update = moment.rsqrt().mul_(gradient)
            update.div_(update.norm(2).div(update.numel() ** 0.5).clamp_(min=1.0))
        elif self._surviving is None:
            rows = _blend(state, "exp_avg_sq_row", square.mean(dim=-1), decay)
            columns = _blend(state, "exp_avg_sq_col", square.mean(dim=-2), decay)
            scale = (rows / rows.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
            update = torch.mul(scale, columns.unsqueeze(-2).rsqrt()).mul_(gradient)
            update.div_(update.norm(2).div(update.numel() ** 0.5).clamp_(min=1.0))
        else:
            update = self._over_survivors(state, gradient, square, decay)
        values = parameter.to(wide)
        rate: float | Tensor = lr
        if self._scale_parameter:
            # Pruned entries keep values, after rewinding those of the tuned prompt, that the backbone never sees.
            alive = values if self._surviving is None else torch.where(self._surviving, values, 0.0)
            count = values.numel() if self._surviving is None else self._surviving.sum(dtype=wide)
            rate = lr * (alive.norm(2) / count**0.5).clamp_(min=1e-3)
        update.mul_(rate)
        if weight_decay:
            values = values.add(values, alpha=float(-weight_decay * rate))
        parameter.copy_(values.add(-update))

    def _over_survivors(
        self, state: dict[str, Any], gradient: Float[Tensor, "P H"], square: Float[Tensor, "P H"], decay: float
    ) -> Float[Tensor, "P H"]:
        assert self._surviving is not None
        mask = self._surviving.to(gradient)  # (P, H)
        in_row, in_column = mask.sum(dim=1), mask.sum(dim=0)  # (P,), (H,): how many survive
        square = square * mask
        rows = _blend(state, "exp_avg_sq_row", square.sum(dim=1) / in_row.clamp(min=1), decay)  # (P,)
        columns = _blend(state, "exp_avg_sq_col", square.sum(dim=0) / in_column.clamp(min=1), decay)  # (H,)
        mean = (rows * in_row).sum() / in_row.sum()
        moment = rows[:, None] / mean * columns[None, :]  # (P, H)
        # Where a row's and a column's gradients are tiny the product is 0 in float32, or too small to invert.
        moment = torch.where(self._surviving, moment, 1.0).clamp(min=torch.finfo(moment.dtype).tiny)
        update = moment.rsqrt() * gradient * mask
        return update / (update.norm(2) / in_row.sum().sqrt()).clamp(min=1.0)


def _blend(state: dict[str, Any], name: str, value: Tensor, decay: float) -> Tensor:
    """Update a running mean in place, and return it."""
    if name not in state:
        state[name] = torch.zeros_like(value)
    return state[name].mul_(decay).add_(value, alpha=1.0 - decay)
