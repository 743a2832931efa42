"""Decoder-only language models: where the prompt goes and where the label is read."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from xprompt.backbones.base import IGNORE_INDEX, Backbone
from xprompt.backbones.prefix_cache import CacheState, PrefixCache
from xprompt.backbones.zero_states import stop_gradients_at_zero_states
from xprompt.data.batching import Batch
from xprompt.errors import BackboneError


class DecoderBackbone(Backbone):
    """A decoder-only LM: [P; X] and an answer cue, right-aligned, the label read at the last position.

    Differs: the paper has no decoder-only backbone.
    """

    kind = "decoder"
    suffix = "\nAnswer:"

    def __init__(self, model: PreTrainedModel, tokenizer: Any, *, name: str = "", max_source: int = 256) -> None:
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._prefix_cache = PrefixCache(model.eval())
        stop_gradients_at_zero_states(model)
        super().__init__(model, tokenizer, name=name, max_source=max_source)

    @torch.no_grad()
    def _check_kind(self) -> None:
        """Refuse a model that looks ahead, as BERT does: its scores of a label would depend on what follows.

        Raises:
            BackboneError: another last token moves the states before it.
        """
        table = self.model.get_input_embeddings()
        ids = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]], device=self.device) % table.weight.shape[0]  # (2, 4)
        one, other = self._run(table(ids), torch.ones_like(ids))[:, :3].double()  # (3, H), (3, H)
        if not (one - other).norm() <= self._tolerance * one.norm():
            raise BackboneError(
                f"{self.name} ({type(self.model).__name__}) looks ahead: it fills blanks and does not write from left "
                "to right. Use an encoder-decoder (as T5) or a decoder-only language model (as Llama)."
            )

    def _label_ids(self, word: str) -> list[int]:
        """Return a label's ids as they follow the answer cue: some tokenizers put a mark before every first word."""
        cue, whole = (
            list(self.tokenizer(text, add_special_tokens=False).input_ids)
            for text in (self.suffix, f"{self.suffix} {word}")
        )
        if whole[: len(cue)] == cue:
            return whole[len(cue) :]
        return list(self.tokenizer(" " + word, add_special_tokens=False).input_ids)

    def _align(self, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Move every row's padding to its front: causal positions, and generation, then need no special case."""
        order = torch.argsort(mask, dim=1, stable=True)  # (B, S)
        return embeddings.gather(1, order[..., None].expand_as(embeddings)), mask.gather(1, order)

    def _run(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Return the last states (B, S, H) of a whole sequence."""
        options: dict[str, Any] = {"use_cache": False}
        if self._takes_positions:
            options["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return self.model.base_model(inputs_embeds=embeddings, attention_mask=mask, **options).last_hidden_state

    @torch.no_grad()
    def keeps_zeros(self) -> bool:
        """Return whether a token of zeros behind nothing but zeros has a zero state, where gradients end."""
        zeros = torch.zeros(1, 1, self.hidden_size, device=self.device, dtype=self.dtype)  # (1, 1, H)
        return not self._run(zeros, torch.ones(1, 1, dtype=torch.long, device=self.device)).any()

    def _context(
        self, prompt: Tensor | None, batch: Batch, prompt_mask: Tensor | None = None, prompt_index: Tensor | None = None
    ) -> CacheState | tuple[Tensor, Tensor]:
        """Return the joined input, still to be run; or, where rows share their prompt, the state after it was run."""
        if (
            prompt is not None
            and prompt.shape[-2]  # one with no token left has nothing to run
            and (prompt.dim() == 2 or prompt_index is not None)
            and self._prefix_cache.applies
        ):
            return self._run_prompt_once(prompt, batch, prompt_mask, prompt_index)
        return self._align(*self.join(prompt, batch, prompt_mask, prompt_index))  # (B, S, H), (B, S)

    def _run_prompt_once(
        self, prompt: Tensor, batch: Batch, prompt_mask: Tensor | None, prompt_index: Tensor | None
    ) -> CacheState:
        """Run [P; X], each prompt once: what `join` puts before the input stands before it in the cache."""
        inputs, mask = self._align(*self.join(None, batch))  # (B, T, H), (B, T)
        if prompt_index is None:
            prompt_index = torch.zeros(len(inputs), dtype=torch.long, device=self.device)  # (B,)
        prompts = prompt if prompt.dim() == 3 else prompt[None]  # (C, P, H)
        prompt_mask = mask.new_ones(prompts.shape[:2]) if prompt_mask is None else prompt_mask.to(mask)  # (C, P)
        past = self._prefix_cache.expand(self._prefix_cache.run(prompts.to(inputs.dtype), prompt_mask), prompt_index)
        return self._prefix_cache.run(inputs, mask, past)

    def _first_hidden(self, context: CacheState | tuple[Tensor, Tensor]) -> Tensor:
        return (context.hidden if isinstance(context, CacheState) else self._run(*context))[:, -1]  # (B, H)

    def _log_likelihood(self, context: CacheState | tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        target_mask = (targets != IGNORE_INDEX).long()  # (B, label tokens)
        labels = self.model.get_input_embeddings()(targets.clamp(min=0))  # (B, label tokens, H)
        # Targets are right-padded; a padded target position is masked and, being last, changes nothing before it.
        if isinstance(context, CacheState):
            hidden = self._prefix_cache.run(labels, target_mask, context).hidden  # (B, label tokens, H)
            return self._string_score(torch.cat([context.hidden[:, -1:], hidden[:, :-1]], dim=1), targets)
        embeddings, mask = context
        hidden = self._run(torch.cat([embeddings, labels], dim=1), torch.cat([mask, target_mask], dim=1))
        return self._string_score(hidden[:, embeddings.shape[1] - 1 : -1], targets)  # (B,)

    def _reference_logits(self, batch: Batch) -> Tensor:
        return self.model(input_ids=batch.input_ids.to(self.device), use_cache=False).logits[:, -1]  # (B, V)
