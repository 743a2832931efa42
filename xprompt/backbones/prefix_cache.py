"""What a frozen decoder-only LM has to compute only once: the states of a prompt that many rows of a batch share.

Owns a second way through such a model, by its own cache of keys and values, equal to running [P; X] whole up to
rounding (a test holds the two together in float64, values and gradients). Never trains weights: where dropout is
active or activations are computed again, `architectures` runs the whole sequence.

A decoder-only LM looks only back, so that a prompt in front sees nothing of the input: its states are the same in
every row. With P prompt tokens and T source tokens that is P of P + T positions of every forward and backward pass,
a quarter with 20 and 60. And where label words share their first piece and each label's whole string is scored, the
input's own keys and values serve all strings.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer

from xprompt.backbones.spreading import expand_prompts


@dataclass(frozen=True)
class Reading:
    """A sequence that was run.

    Attributes:
        states: (B, S, H), the last states of what was run now.
        mask: (B, …), 1 on what is there, whatever was run before included.
        cache: keys and values of all of it, one pair a layer.
    """

    states: Float[Tensor, "B S H"]
    mask: Int[Tensor, "B T"]
    cache: tuple[tuple[Tensor, Tensor], ...]


class FrozenCausal:
    """A decoder-only LM with full attention in every layer, run piece by piece."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model.base_model
        self.blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        self.usable = (
            "position_ids" in inspect.signature(self.model.forward).parameters
            and all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
            and self._agrees()
        )

    @property
    def fits(self) -> bool:
        """Whether the prompt's states may be shared now: not where dropout is active or a block is computed again."""
        return self.usable and not self.model.training and not any(block.training for block in self.blocks)

    def run(
        self, embeddings: Float[Tensor, "B S H"], mask: Int[Tensor, "B S"], after: Reading | None = None
    ) -> Reading:
        """Run a sequence, alone or as what follows a reading of the same rows; `mask` is its own part of it."""
        width = embeddings.shape[1]
        cache: Any = DynamicCache() if after is None else DynamicCache(after.cache)
        whole = mask if after is None else torch.cat([after.mask, mask], dim=1)
        positions = (whole.cumsum(dim=1) - 1).clamp(min=0)[:, -width:]
        states = self.model(
            inputs_embeds=embeddings,
            attention_mask=whole,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return Reading(states, whole, tuple((layer.keys, layer.values) for layer in cache.layers))

    @staticmethod
    def expand_prompts(reading: Reading, prompt_index: Int[Tensor, " B"]) -> Reading:
        """A reading of C prompts → of the B rows that they stand in front of; `prompt_index` says which, in [0, C).

        The rows' gradients are summed in float32 at least, as those of prompts that are spread before the model are.
        """

        def of_rows(tensor: Tensor) -> Tensor:
            wide = torch.promote_types(tensor.dtype, torch.float32)
            return expand_prompts(tensor.to(wide), prompt_index).to(tensor.dtype)

        cache = tuple((of_rows(keys), of_rows(values)) for keys, values in reading.cache)
        return Reading(expand_prompts(reading.states, prompt_index), reading.mask[prompt_index], cache)

    @torch.no_grad()
    def _agrees(self) -> bool:
        """Whether this model gives the same states piece by piece: measured, since no setting says it reliably."""
        table = self.model.get_input_embeddings()
        ids = torch.arange(2 * 6, device=table.weight.device).view(2, 6) % table.weight.shape[0]
        mask = torch.ones_like(ids)
        embeddings = table(ids)
        try:
            whole = self.run(embeddings, mask).states[:, 2:]
            first = self.run(embeddings[:, :2], mask[:, :2])
            pieces = self.run(embeddings[:, 2:], mask[:, 2:], first).states
        except (TypeError, ValueError, AttributeError, RuntimeError, IndexError):
            return False  # a model with a cache, or without one, of its own kind
        apart = (whole.float() - pieces.float()).norm() / whole.float().norm()
        return bool(apart < (1e-3 if embeddings.dtype in (torch.float32, torch.float64) else 3e-2))
