"""The two kinds of backbone, encoder-decoder and decoder-only, and loading either by name.

Owns where each kind reads its label from. Never joins prompt and input: `backbone` does, for both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from xprompt.backbones.base import Backbone
from xprompt.backbones.t5_fast_path import FrozenT5
from xprompt.data.batching import Batch


class Seq2SeqBackbone(Backbone):
    """An encoder-decoder LM (T5 first): the prompt goes in front of the *encoder* input. Source: paper §3.1."""

    kind = "seq2seq"

    def __init__(self, model: PreTrainedModel, tokenizer: Any, *, name: str = "", max_source: int = 256) -> None:
        self._short_way = FrozenT5(model)
        super().__init__(model, tokenizer, name=name, max_source=max_source)

    def _label_ids(self, word: str) -> list[int]:
        return list(self.tokenizer(word, add_special_tokens=False).input_ids)

    @property
    def _start(self) -> int:
        return self.model.config.decoder_start_token_id

    def _context(
        self, prompt: Tensor | None, batch: Batch, prompt_mask: Tensor | None = None, prompt_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        embeddings, mask = self.join(prompt, batch, prompt_mask, prompt_index)
        if self._short_way.fits:
            return self._short_way.encode(embeddings, mask), mask
        return self.model.get_encoder()(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state, mask

    def _first_hidden(self, context: tuple[Tensor, Tensor]) -> Tensor:
        if self._short_way.fits:
            return self._short_way.first_hidden(*context)
        start = torch.full((len(context[0]), 1), self._start, device=self.device)
        return self._decode(context, start)[:, 0]

    def _decode(self, context: tuple[Tensor, Tensor], ids: Tensor) -> Tensor:
        states, mask = context
        return self.model.get_decoder()(
            input_ids=ids, encoder_hidden_states=states, encoder_attention_mask=mask, use_cache=False
        ).last_hidden_state

    def _log_likelihood(self, context: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        before = torch.cat([targets.new_full((len(targets), 1), self._start), targets[:, :-1]], dim=1)
        return self._string_score(self._decode(context, before.clamp(min=0)), targets)

    def _reference_logits(self, batch: Batch) -> Tensor:
        start = torch.full((len(batch.input_ids), 1), self._start, device=self.device)
        states = self._context(None, batch)[0]
        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), decoder_input_ids=start, use_cache=False
        ).logits[:, 0]
