"""Decoder-only language models: where the prompt goes and where the label is read."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from xprompt.backbones.base import IGNORE_INDEX, Backbone
from xprompt.backbones.prefix_cache import FrozenCausal, Reading
from xprompt.data.batching import Batch


class DecoderBackbone(Backbone):
    """A decoder-only LM: [P; X] and an answer cue, right-aligned, the label read at the last position.

    Differs: the paper has no decoder-only backbone.
    """

    kind = "decoder"
    suffix = "\nAnswer:"

    def __init__(self, model: PreTrainedModel, tokenizer: Any, *, name: str = "", max_source: int = 256) -> None:
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._by_pieces = FrozenCausal(model.eval())
        super().__init__(model, tokenizer, name=name, max_source=max_source)

    def _label_ids(self, word: str) -> list[int]:
        return list(self.tokenizer(" " + word, add_special_tokens=False).input_ids)

    def _aligned(self, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Move every row's padding to its front: causal positions, and generation, then need no special case."""
        order = torch.argsort(mask, dim=1, stable=True)
        return embeddings.gather(1, order[..., None].expand_as(embeddings)), mask.gather(1, order)

    def _states(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        options: dict[str, Any] = {"use_cache": False}
        if self._takes_positions:
            options["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return self.model.base_model(inputs_embeds=embeddings, attention_mask=mask, **options).last_hidden_state

    def _context(
        self, prompt: Tensor | None, batch: Batch, prompt_mask: Tensor | None = None, prompt_index: Tensor | None = None
    ) -> Reading | tuple[Tensor, Tensor]:
        """The joined input, still to be run; or, where rows share their prompt, what is left once it was run."""
        if prompt is not None and (prompt.dim() == 2 or prompt_index is not None) and self._by_pieces.fits:
            return self._read(prompt, batch, prompt_mask, prompt_index)
        return self._aligned(*self.join(prompt, batch, prompt_mask, prompt_index))

    def _read(self, prompt: Tensor, batch: Batch, prompt_mask: Tensor | None, prompt_index: Tensor | None) -> Reading:
        """[P; X] with each prompt run once: what `join` puts before the input stands before it in the cache."""
        inputs, mask = self._aligned(*self.join(None, batch))
        if prompt_index is None:
            prompt_index = torch.zeros(len(inputs), dtype=torch.long, device=self.device)
        vectors = prompt if prompt.dim() == 3 else prompt[None]
        prompt_mask = mask.new_ones(vectors.shape[:2]) if prompt_mask is None else prompt_mask.to(mask)
        read = self._by_pieces.run(vectors.to(inputs.dtype), prompt_mask)
        return self._by_pieces.run(inputs, mask, self._by_pieces.expand_prompts(read, prompt_index))

    def _first_hidden(self, context: Reading | tuple[Tensor, Tensor]) -> Tensor:
        return (context.states if isinstance(context, Reading) else self._states(*context))[:, -1]

    def _log_likelihood(self, context: Reading | tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        target_mask = (targets != IGNORE_INDEX).long()
        after = self.model.get_input_embeddings()(targets.clamp(min=0))
        # Targets are right-padded; a padded target position is masked and, being last, changes nothing before it.
        if isinstance(context, Reading):
            following = self._by_pieces.run(after, target_mask, context).states
            return self._string_score(torch.cat([context.states[:, -1:], following[:, :-1]], dim=1), targets)
        embeddings, mask = context
        states = self._states(torch.cat([embeddings, after], dim=1), torch.cat([mask, target_mask], dim=1))
        return self._string_score(states[:, embeddings.shape[1] - 1 : -1], targets)

    def _reference_logits(self, batch: Batch) -> Tensor:
        return self.model(input_ids=batch.input_ids.to(self.device), use_cache=False).logits[:, -1]
