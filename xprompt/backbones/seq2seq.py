"""The two kinds of backbone, encoder-decoder and decoder-only, and loading either by name.

Owns where each kind reads its label from. Never joins prompt and input: `backbone` does, for both.
"""

from __future__ import annotations

import importlib.util
import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from xprompt.backbones.base import NOT_THERE, Backbone
from xprompt.backbones.malloc import keep_freed_memory
from xprompt.backbones.prefix_cache import FrozenCausal, Reading
from xprompt.backbones.pretrained import choose_device, choose_dtype, load_model
from xprompt.backbones.t5_fast_path import FrozenT5
from xprompt.data.tokenization import Batch
from xprompt.errors import BackboneError


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
        self, prompt: Tensor | None, batch: Batch, prompt_mask: Tensor | None = None, owner: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        embeddings, mask = self.join(prompt, batch, prompt_mask, owner)
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
        self, prompt: Tensor | None, batch: Batch, prompt_mask: Tensor | None = None, owner: Tensor | None = None
    ) -> Reading | tuple[Tensor, Tensor]:
        """The joined input, still to be run; or, where rows share their prompt, what is left once it was run."""
        if prompt is not None and (prompt.dim() == 2 or owner is not None) and self._by_pieces.fits:
            return self._read(prompt, batch, prompt_mask, owner)
        return self._aligned(*self.join(prompt, batch, prompt_mask, owner))

    def _read(self, prompt: Tensor, batch: Batch, prompt_mask: Tensor | None, owner: Tensor | None) -> Reading:
        """[P; X] with each prompt run once: what `join` puts before the input stands before it in the cache."""
        inputs, mask = self._aligned(*self.join(None, batch))
        if owner is None:
            owner = torch.zeros(len(inputs), dtype=torch.long, device=self.device)
        vectors = prompt if prompt.dim() == 3 else prompt[None]
        there = mask.new_ones(vectors.shape[:2]) if prompt_mask is None else prompt_mask.to(mask)
        read = self._by_pieces.run(vectors.to(inputs.dtype), there)
        return self._by_pieces.run(inputs, mask, self._by_pieces.spread(read, owner))

    def _first_hidden(self, context: Reading | tuple[Tensor, Tensor]) -> Tensor:
        return (context.states if isinstance(context, Reading) else self._states(*context))[:, -1]

    def _log_likelihood(self, context: Reading | tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        there = (targets != NOT_THERE).long()
        after = self.model.get_input_embeddings()(targets.clamp(min=0))
        # Targets are right-padded; a padded target position is masked and, being last, changes nothing before it.
        if isinstance(context, Reading):
            following = self._by_pieces.run(after, there, context).states
            return self._string_score(torch.cat([context.states[:, -1:], following[:, :-1]], dim=1), targets)
        embeddings, mask = context
        states = self._states(torch.cat([embeddings, after], dim=1), torch.cat([mask, there], dim=1))
        return self._string_score(states[:, embeddings.shape[1] - 1 : -1], targets)

    def _reference_logits(self, batch: Batch) -> Tensor:
        return self.model(input_ids=batch.input_ids.to(self.device), use_cache=False).logits[:, -1]


def load_backbone(
    name: str = "nano",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    max_source: int | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> Backbone:
    """Load a frozen backbone. On a CPU, the process keeps freed memory from then on (`allocation`).

    Args:
        name: "nano" (embedded), "smollm2" (from a Python package), a local folder, or a hub id.
        device: default: the first GPU, else the CPU.
        dtype: default: bfloat16 on a GPU, float32 elsewhere.
        revision: of a hub model.
        max_source: longest source in tokens, without the prompt; default 256.
        device_map: spread the backbone over several devices as accelerate does: "auto", "balanced", "sequential", or
            module → device; in place of `device`. All weights must fit: none may go to disk or wait in memory.

    Raises:
        BackboneError: one sentence naming what was given, what was needed, and the fix.
    """
    chosen = choose_device(device)
    if device_map is not None and (device is not None or importlib.util.find_spec("accelerate") is None):
        raise BackboneError(
            f"device_map {device_map!r} was given: leave out device, which says the same, and install accelerate."
        )
    if chosen.type == "cpu":
        keep_freed_memory()
    model, tokenizer = load_model(
        name, dtype=choose_dtype(dtype, name, chosen), revision=revision, device=chosen, device_map=device_map
    )
    if device_map is None:
        torch.nn.Module.to(model, chosen)
    elif any(tensor.is_meta for tensor in model.state_dict().values()):
        raise BackboneError(
            f"{name} does not fit these devices: device_map {device_map!r} leaves weights to memory or disk, from "
            "where every step would fetch them. Use more or larger devices, or dtype='bfloat16'."
        )
    return wrap(model, tokenizer, name=name, max_source=max_source)


def wrap(model: PreTrainedModel, tokenizer: Any, *, name: str = "", max_source: int | None = None) -> Backbone:
    """Make a backbone of a model and tokenizer that are already in memory. The model is frozen in place."""
    kind: type[Backbone] = Seq2SeqBackbone if model.config.is_encoder_decoder else DecoderBackbone
    return kind(model, tokenizer, name=name, max_source=max_source or 256)
