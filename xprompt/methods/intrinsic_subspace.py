"""An intrinsic task subspace: decompose the prompts of several tasks, then tune a few coordinates on another task.

N: source tasks; D ≤ N: dimensions of the subspace; P: prompt tokens; H: embedding width.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xprompt.errors import ConfigError, StoreError
from xprompt.methods.base import MethodContext, MethodResult, ParentRun
from xprompt.methods.prompt_encoder import initial_prompt, tune_encoder
from xprompt.prompts.soft_prompt import SoftPrompt


class SubspacePrompt(nn.Module):
    """Make a prompt of D coordinates: origin + Σ zᵢ · directionᵢ. It starts at the mean of the source prompts.

    Args:
        origin: (P, H), where the source prompts began.
        sources: N tuned prompts, each (P, H).

    Attributes:
        directions: (D, P, H), orthogonal. In every one the sources' coordinates have a mean square of 1.
        explained: (D,), each direction's share of the sources' squared distance from the origin; they sum to 1.

    Raises:
        ConfigError: the sources differ from the origin in shape, or not at all in value.
    """

    origin: Tensor
    directions: Tensor

    def __init__(self, origin: Float[Tensor, "P H"], sources: Sequence[Float[Tensor, "P H"]]) -> None:
        super().__init__()
        if any(source.shape != origin.shape for source in sources):
            raise ConfigError(
                f"source prompts of shapes {[tuple(s.shape) for s in sources]} for a prompt of {tuple(origin.shape)}: "
                "tune all of them with the same length on the same backbone."
            )
        moved = torch.stack([source - origin for source in sources]).detach().flatten(1).double()  # (N, P · H)
        _, sizes, directions = torch.linalg.svd(moved, full_matrices=False)  # (N,), (N, P · H)
        kept = sizes > 1e-6 * sizes.max()  # (N,)
        if not kept.any():
            raise ConfigError("no source prompt was moved by its tuning: tune them for longer or at a higher rate.")
        sizes, directions = sizes[kept], directions[kept]
        scaled = directions * sizes[:, None] / len(sources) ** 0.5  # (D, P · H)
        mean = (moved.mean(dim=0) @ directions.T) / (sizes / len(sources) ** 0.5)  # (D,)
        self.explained = sizes.square() / sizes.square().sum()
        self.register_buffer("origin", origin.detach().clone())
        self.register_buffer("directions", scaled.to(origin.dtype).view(-1, *origin.shape))
        self.coordinates = nn.Parameter(mean.to(origin.dtype))  # (D,)

    def forward(self) -> Float[Tensor, "P H"]:
        """Return the prompt's vectors."""
        return self.origin + torch.einsum("d,dph->ph", self.coordinates, self.directions)


def intrinsic_subspace(context: MethodContext) -> MethodResult:
    """Tune coordinates in the space that the source tasks' tuned prompts span.

    Where every source's best checkpoint is its first, the space is one point: the initial prompt is the result, nothing
    is tuned, and a `UserWarning` says so.

    Raises:
        ConfigError: init="labels", where sources start apart, and a source's run has not kept what it started from.

    Source: Qin et al. (2021), Exploring Universal Intrinsic Task Subspace via Prompt Tuning. Differs: the decomposition
    is linear, by singular vectors, of a handful of prompts; theirs is an auto-encoder trained on a hundred tasks.
    """
    initial = initial_prompt(context)
    origin = initial.embeddings.detach().cpu()
    sources = [parent.load_prompt("tuned_prompt").masked().detach().cpu() for parent in context.parents]
    if context.config.init == "labels":  # each began at the label words of its task: how far it moved counts
        sources = [origin + (source - _begun(parent)) for source, parent in zip(sources, context.parents, strict=True)]
    if all(torch.equal(source, origin) for source in sources):
        return _one_point(context, initial)
    encoder = SubspacePrompt(origin, sources)
    result = tune_encoder(
        context, encoder, "intrinsic subspace",
        {
            "source_tasks": [parent.record["task"] for parent in context.parents],
            "dimensions": len(encoder.explained),
            "explained": [round(share, 4) for share in encoder.explained.tolist()],
        },
    )  # fmt: skip
    result.details["coordinates"] = encoder.coordinates.detach().tolist()
    result.seconds_before = _seconds(context)
    return result


def _begun(parent: ParentRun) -> Tensor:
    """Return the vectors, (P, H), that a source's tuning began with."""
    try:
        return parent.load_prompt("init_prompt").masked().detach().cpu()
    except StoreError as error:
        raise ConfigError(
            f"init='labels' starts each source task from its label words, and the run of {parent.record['task']} has "
            "no init_prompt: do that run again with force=True, or choose init='vocab'."
        ) from error


def _one_point(context: MethodContext, initial: SoftPrompt) -> MethodResult:
    tasks = [parent.record["task"] for parent in context.parents]
    warnings.warn(
        f"{context.splits.task.name}: no prompt of {', '.join(tasks)} was moved by its tuning, so that there are no "
        "coordinates to tune; the initial prompt is reported. Fix: tune the sources for longer or at a higher rate.",
        stacklevel=2,
    )
    return MethodResult(
        context.report(initial), 0, prompts={"init_prompt": initial, "tuned_prompt": initial},
        details={
            "source_tasks": tasks, "dimensions": 0, "explained": [], "coordinates": [],
            "prompt_params": initial.num_params,
        },
        seconds_before=_seconds(context),
    )  # fmt: skip


def _seconds(context: MethodContext) -> float:
    return sum(parent.record["seconds"]["total"] for parent in context.parents)
