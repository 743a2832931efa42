"""Encoder-decoder language models: where the prompt goes and where the label is read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from xprompt.backbones.base import Backbone
from xprompt.backbones.t5_fast_path import FrozenT5
from xprompt.data.batching import Batch
from xprompt.errors import BackboneError


class Seq2SeqBackbone(Backbone):
    """An encoder-decoder LM (T5 first): the prompt goes in front of the *encoder* input. Source: paper §3.1."""

    kind = "seq2seq"

    def __init__(self, model: PreTrainedModel, tokenizer: Any, *, name: str = "", max_source: int = 256) -> None:
        start = getattr(model.config, "decoder_start_token_id", None)
        embeddings: Any = model.get_input_embeddings()
        rows = len(embeddings.weight)
        if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < rows:
            raise BackboneError(
                f"{name or type(model).__name__} has decoder_start_token_id={start!r} in config.json: a decoder starts "
                f"with a token id in [0, {rows}). Set it as the checkpoint's authors do (T5: 0; mBART: the language's)."
            )
        model.generation_config.decoder_start_token_id = start  # so that texts begin as labels are scored
        self._fast_path = FrozenT5(model)
        self._is_t5 = type(model) is T5ForConditionalGeneration
        super().__init__(model, tokenizer, name=name, max_source=max_source)

    def _align(self, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Move what a shorter prompt leaves out in front behind the input, so that absolute positions start at [P; X].

        T5's positions are relative: its inputs stay as they are.
        """
        if self._is_t5:
            return embeddings, mask
        order = torch.argsort(mask, dim=1, descending=True, stable=True)  # (B, S)
        return embeddings.gather(1, order[..., None].expand_as(embeddings)), mask.gather(1, order)

    def _label_ids(self, word: str) -> list[int]:
        return list(self.tokenizer(word, add_special_tokens=False).input_ids)

    def _start_ids(self, rows: int) -> Tensor:
        return torch.full((rows, 1), self.model.config.decoder_start_token_id, device=self.device)  # (B, 1)

    def _context(
        self, prompt: Tensor | None, batch: Batch, prompt_mask: Tensor | None = None, prompt_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        embeddings, mask = self._align(*self.join(prompt, batch, prompt_mask, prompt_index))  # (B, S, H), (B, S)
        if self._fast_path.applies:
            return self._fast_path.encode(embeddings, mask), mask
        encoder = self.model.get_encoder()
        return encoder(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state, mask  # (B, S, H), (B, S)

    def _first_hidden(self, context: tuple[Tensor, Tensor]) -> Tensor:
        if self._fast_path.applies:
            return self._fast_path.first_hidden(*context)
        return self._decode(context, self._start_ids(len(context[0])))[:, 0]  # (B, H)

    def _decode(self, context: tuple[Tensor, Tensor], ids: Tensor) -> Tensor:
        states, mask = context
        return self.model.get_decoder()(
            input_ids=ids, encoder_hidden_states=states, encoder_attention_mask=mask, use_cache=False
        ).last_hidden_state  # (B, label tokens, H)

    def _log_likelihood(self, context: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        shifted = torch.cat([self._start_ids(len(targets)).to(targets), targets[:, :-1]], dim=1)  # (B, label tokens)
        return self._string_score(self._decode(context, shifted.clamp(min=0)), targets)  # (B,)

    def _reference_logits(self, batch: Batch) -> Tensor:
        states, _ = self._context(None, batch)  # (B, T, H)
        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            decoder_input_ids=self._start_ids(len(states)),
            use_cache=False,
        ).logits[:, 0]  # (B, V)
