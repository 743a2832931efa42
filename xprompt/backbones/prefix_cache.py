"""Run a prompt that many rows share once through a frozen decoder-only LM, and the rows on top of its keys and values.

Equal to running [P; X] whole up to rounding (a test compares values and gradients in float64), which `causal` does
wherever dropout is active or activations are recomputed.
Shapes: B batch, C prompts, S positions run now, A all positions so far, H embedding width.
"""

# A decoder-only LM looks only back, so that a prompt in front sees nothing of the input: its states are the same in
# every row. With P prompt tokens and T source tokens that is P of P + T positions of every forward and backward pass,
# a quarter with 20 and 60. And where label words share their first piece and each label's whole string is scored, the
# input's own keys and values serve all strings.

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

from xprompt.backbones.base import expand_prompts
from xprompt.backbones.gradient_checkpointing import is_recomputed


@dataclass(frozen=True)
class CacheState:
    """What a sequence leaves behind once it was run.

    Attributes:
        hidden: (B, S, H), the last states of the positions run now.
        attention_mask: (B, A), 1 where a position exists, earlier sequences included.
        key_values: keys and values of all A positions, one pair a layer.
    """

    hidden: Float[Tensor, "B S H"]
    attention_mask: Int[Tensor, "B A"]
    key_values: tuple[tuple[Tensor, Tensor], ...]


class PrefixCache:
    """A frozen decoder-only LM with full attention in every layer, run one sequence after another.

    Attributes:
        is_supported: whether the model gives the same states this way, measured on construction.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model.base_model
        self.blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        self.is_supported = (
            "position_ids" in inspect.signature(self.model.forward).parameters
            and all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
            and self._is_exact()
        )

    @property
    def applies(self) -> bool:
        """Whether prompts are shared now: not where dropout is active or a block is recomputed, nor on a GPU.

        There a small model's pass takes as long as its kernels take to be started, and this makes two of one: on an
        H200 a tuning step of SmolLM2's shape took 153 to 228 ms in place of 75 to 99, with 16 to 144 rows. Larger
        models were not measured.
        """
        may = self.is_supported and not self.model.training and not any(map(is_recomputed, self.blocks))
        return may and self.model.device.type != "cuda"

    def run(
        self, embeddings: Float[Tensor, "B S H"], mask: Int[Tensor, "B S"], past: CacheState | None = None
    ) -> CacheState:
        """Run a sequence, alone or after the past of the same rows; `mask` covers this sequence only."""
        cache: Any = DynamicCache() if past is None else DynamicCache(past.key_values)
        mask = mask if past is None else torch.cat([past.attention_mask, mask], dim=1)  # (B, A)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -embeddings.shape[1] :]  # (B, S)
        hidden = self.model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state  # (B, S, H)
        return CacheState(hidden, mask, tuple((layer.keys, layer.values) for layer in cache.layers))

    @staticmethod
    def expand(state: CacheState, prompt_index: Int[Tensor, " B"]) -> CacheState:
        """Copy the state of C prompts to the B rows that they stand in front of.

        The rows' gradients are summed in float32 at least, as those of prompts expanded before the model are.

        Args:
            state: of C prompts.
            prompt_index: (B,), which prompt stands in front of each row, in [0, C).
        """

        def expand(tensor: Tensor) -> Tensor:  # (C, …) → (B, …)
            wide = torch.promote_types(tensor.dtype, torch.float32)
            return expand_prompts(tensor.to(wide), prompt_index).to(tensor.dtype)

        key_values = tuple((expand(keys), expand(values)) for keys, values in state.key_values)
        return CacheState(expand_prompts(state.hidden, prompt_index), state.attention_mask[prompt_index], key_values)

    @torch.no_grad()
    def _is_exact(self) -> bool:
        """Measure whether two sequences in a row give the states of the whole: no setting says it reliably."""
        table = self.model.get_input_embeddings()
        ids = torch.arange(2 * 6, device=table.weight.device).view(2, 6) % table.weight.shape[0]  # (2, 6)
        mask, embeddings = torch.ones_like(ids), table(ids)  # (2, 6), (2, 6, H)
        try:
            whole = self.run(embeddings, mask).hidden[:, 2:]  # (2, 4, H)
            past = self.run(embeddings[:, :2], mask[:, :2])
            continued = self.run(embeddings[:, 2:], mask[:, 2:], past).hidden  # (2, 4, H)
        except (TypeError, ValueError, AttributeError, RuntimeError, IndexError):
            return False  # a model without a cache, or with one of its own kind
        error = (whole.float() - continued.float()).norm() / whole.float().norm()
        return bool(error < (1e-3 if embeddings.dtype in (torch.float32, torch.float64) else 3e-2))
