"""Structured prompt tuning: a small hypernetwork makes the prompt from a trained latent vector.

P: prompt tokens; H: embedding width; D: width of the latent; R: rank.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xprompt.methods.base import MethodContext, MethodResult
from xprompt.methods.prompt_encoder import initial_prompt, seeded, tune_encoder

#: Width of the latent vector, rank of the low-rank form, and width of the layered form's hidden layer.
LATENT, RANK, HIDDEN = 16, 4, 32


class HyperPrompt(nn.Module):
    """Make a prompt as its initial vectors plus what a hypernetwork makes of a latent vector, nothing at first.

    Args:
        start: the initial vectors, (P, H), which are not trained.
    """

    start: Tensor

    def __init__(self, start: Float[Tensor, "P H"], latent: int = LATENT) -> None:
        super().__init__()
        self.register_buffer("start", start.detach().clone())
        self.latent = nn.Parameter(torch.randn(latent))  # (D,)

    def forward(self) -> Float[Tensor, "P H"]:
        """Return the prompt's vectors."""
        return self.start + self.offset().view(self.start.shape)

    def offset(self) -> Tensor:
        """Return what is added to the initial vectors, P · H values."""
        raise NotImplementedError


class LinearPrompt(HyperPrompt):
    """One linear map: the offset is W z. With a latent of one number that is not trained, this is prompt tuning."""

    def __init__(self, start: Float[Tensor, "P H"], latent: int = LATENT) -> None:
        super().__init__(start, latent)
        self.last = _nothing_at_first(nn.Linear(latent, start.numel(), bias=False))

    def offset(self) -> Tensor:
        """Return W z."""
        return self.last(self.latent)


class LowRankPrompt(HyperPrompt):
    """A product of two matrices, each linear in the latent: the offset, (P, H), has rank R at most."""

    def __init__(self, start: Float[Tensor, "P H"], latent: int = LATENT, rank: int = RANK) -> None:
        super().__init__(start, latent)
        self.left = nn.Linear(latent, len(start) * rank, bias=False)
        self.last = _nothing_at_first(nn.Linear(latent, rank * start.shape[1], bias=False))

    def offset(self) -> Tensor:
        """Return A(z) B(z)."""
        left = self.left(self.latent).view(len(self.start), -1)  # (P, R)
        return left @ self.last(self.latent).view(left.shape[1], -1)


class LayeredPrompt(HyperPrompt):
    """Two layers with tanh between them."""

    def __init__(self, start: Float[Tensor, "P H"], latent: int = LATENT, hidden: int = HIDDEN) -> None:
        super().__init__(start, latent)
        self.first = nn.Linear(latent, hidden)
        self.last = _nothing_at_first(nn.Linear(hidden, start.numel(), bias=False))

    def offset(self) -> Tensor:
        """Return W₂ tanh(W₁ z + b)."""
        return self.last(torch.tanh(self.first(self.latent)))


def structured_linear(context: MethodContext) -> MethodResult:
    """Tune a latent and a linear hypernetwork.

    Source: Liu, Lee and Yih (2022), Structured Prompt Tuning. Differs: the forms and sizes are our reading of its idea;
    the prompt starts from the same vectors as prompt tuning's.
    """
    return _tune(context, LinearPrompt, "structured prompt, linear")


def structured_low_rank(context: MethodContext) -> MethodResult:
    """Tune a latent and two linear maps whose product is the offset, by far the fewest values. Source: as above."""
    return _tune(context, LowRankPrompt, "structured prompt, low rank")


def structured_layered(context: MethodContext) -> MethodResult:
    """Tune a latent and a hypernetwork of two layers. Source: as above."""
    return _tune(context, LayeredPrompt, "structured prompt, layered")


def _tune(context: MethodContext, form: type[HyperPrompt], describe: str) -> MethodResult:
    start = initial_prompt(context).embeddings.cpu()
    with seeded(context):
        encoder = form(start)
    return tune_encoder(context, encoder, describe, {"latent": LATENT})


def _nothing_at_first(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    return linear
