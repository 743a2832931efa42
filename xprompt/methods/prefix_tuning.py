"""Prefix-Tuning and P-Tuning v2: trained keys and values in front of every self-attention layer, the backbone frozen.

PEFT's prefix tuning reaches only the decoder of an encoder-decoder. Here both halves have a prefix; with a
decoder-only LM the numbers are PEFT's.
B: examples; P: prefix positions; S: input positions; H: embedding width; N: heads of keys and values, D: width of one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import peft
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from xprompt.backbones.base import Backbone
from xprompt.backbones.causal import DecoderBackbone
from xprompt.backbones.loading import copy_modules
from xprompt.backbones.seq2seq import Seq2SeqBackbone
from xprompt.data.batching import Batch
from xprompt.errors import BackboneError
from xprompt.methods.base import MethodContext, MethodResult, entries, summary
from xprompt.methods.peft_baselines import VirtualTokens
from xprompt.methods.prompt_encoder import count, seeded, train
from xprompt.prompts.peft import PEFT_TASKS

_KEYS_AND_VALUES = re.compile(r"\.(SelfAttention\.[kv]|self_attn\.[kv]_proj)$")  # of T5's kind; of BART's and Llama's


def prefix_tuning(context: MethodContext) -> MethodResult:
    """Tune a prefix that two layers (`reparametrisation`) make of P trained vectors, and that is kept without them.

    Source: Li and Liang (2021), §4.3. Differs: the encoder and the decoder of an encoder-decoder each have one, its
    cross-attention has none; initial values are random, as PEFT's are.
    """
    return _tune_prefix(context, True, "Prefix-Tuning")


def p_tuning_v2(context: MethodContext) -> MethodResult:
    """Tune every layer's keys and values themselves: deep prompts.

    Source: Liu et al. (2022), P-Tuning v2, without reparametrisation. Differs: labels are scored by their words, as
    for every method here, and not by a classification head.
    """
    return _tune_prefix(context, False, "P-Tuning v2")


def _tune_prefix(context: MethodContext, reparametrised: bool, describe: str) -> MethodResult:
    with seeded(context):
        prefixed = add_prefix(context.backbone, context.config.length, reparametrised)
    parameters = list(prefixed.prefix.parameters())
    history = train(context, prefixed, parameters, describe)
    kept = sum(values.numel() for values in prefixed.prefix())
    return MethodResult(
        context.report(None, prefixed), count(parameters), entries(context.config.method, history),
        details=summary(history) | {"prefix_params": kept}, num_cut=history.num_cut,
    )  # fmt: skip


def add_prefix(backbone: Backbone, length: int, reparametrised: bool = False) -> PrefixedSeq2Seq | PrefixedDecoder:
    """Return the backbone with a trainable prefix; the one given is unchanged, and shares its weights with it.

    Args:
        length: prefix positions P.
        reparametrised: make the prefix by two layers of PEFT's `PrefixEncoder`, the first as wide as an embedding.

    Raises:
        BackboneError: its layers have keys and values of different widths, under unknown names or of another kind.
    """
    kind = PrefixedSeq2Seq if backbone.kind == "seq2seq" else PrefixedDecoder
    return kind(backbone, length, reparametrised)


class Prefix(nn.Module):
    """Make the keys and values of P positions for every layer, by one of PEFT's encoders for each stack of layers.

    Args:
        widths: stack → width of the keys and values of each of its layers.
    """

    def __init__(self, backbone: Backbone, widths: dict[str, list[int]], length: int, reparametrised: bool) -> None:
        super().__init__()
        self.stacks = nn.ModuleDict()
        for stack, layers in widths.items():
            if not layers or len(set(layers)) > 1:
                raise BackboneError(
                    f"{backbone.name} ({type(backbone.model).__name__}) has self-attention keys and values of widths "
                    f"{layers} in its {stack}: a prefix needs one width. Use a model of T5's, BART's or Llama's kind."
                )
            config = peft.PrefixTuningConfig(
                task_type=PEFT_TASKS[backbone.kind], num_virtual_tokens=length, token_dim=layers[0],
                num_layers=len(layers), num_attention_heads=1, num_transformer_submodules=1,
                prefix_projection=reparametrised, encoder_hidden_size=backbone.hidden_size,
            )  # fmt: skip
            self.stacks[stack] = VirtualTokens(peft.PrefixEncoder(config), length)
        self.depths = {stack: len(layers) for stack, layers in widths.items()}
        self.to(backbone.device)

    def forward(self) -> list[Float[Tensor, "P D"]]:
        """Return each layer's keys, then its values, (P, N · D), stack by stack."""
        made = ((encoder(), self.depths[stack]) for stack, encoder in self.stacks.items())  # (P, layers · 2 · N · D)
        return [part for flat, depth in made for part in flat.chunk(2 * depth, dim=1)]


class _Prefixed(Backbone):
    """What both kinds share: label scores and losses as of any backbone, and generation with the prefix."""

    prefix: Prefix
    length: int

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor | None,
        batch: Batch,
        prompt_mask: Tensor | None = None,
        max_new_tokens: int = 8,
        prompt_index: Tensor | None = None,
    ) -> list[str]:
        """Generate greedily after each input; return one text a row."""
        self._check_prompt(None, batch, max_new_tokens if self.kind == "decoder" else 0)
        context = self._context(None, batch)
        end = self.model.generation_config.eos_token_id  # one, several or none: where `Backbone.generate` stops
        ends = torch.tensor([] if end is None else end, dtype=torch.long, device=self.device)
        pad = next((i for i in (self.tokenizer.pad_token_id, self._end) if i is not None), 0)
        ids = torch.zeros(len(batch), 0, dtype=torch.long, device=self.device)  # (B, tokens so far)
        done = torch.zeros(len(batch), dtype=torch.bool, device=self.device)  # (B,)
        while ids.shape[1] < max_new_tokens and not done.all():
            best = self._head(self._next_hidden(context, ids), None).argmax(dim=1)  # (B,)
            ids = torch.cat([ids, torch.where(done, pad, best)[:, None]], dim=1)
            done |= torch.isin(best, ends)
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _check_length(self, prompt: int, source: int, follows: int = 0) -> None:
        """Refuse as of any backbone; in place of a prompt stands the prefix, whose positions count as one's do."""
        super()._check_length(self.length, source, follows)

    def _next_hidden(self, context: Any, ids: Int[Tensor, "B G"]) -> Float[Tensor, "B H"]:
        """Return the state that predicts the token after those generated so far."""
        raise NotImplementedError


class PrefixedSeq2Seq(_Prefixed, Seq2SeqBackbone):
    """An encoder-decoder with a prefix in the self-attention of both halves.

    P positions go in front of the input and of the decoder's input. Their keys and values are replaced by the prefix in
    every layer, so that nothing else of them is seen; position biases, masks and recomputed activations are the
    model's own.
    """

    def __init__(self, source: Backbone, length: int, reparametrised: bool = False) -> None:
        vars(self).update(vars(source))
        self.model = copy_modules(source.model)  # hooks are its own, weights are shared
        self._fast_path = type(self._fast_path)(self.model)
        stacks = {"encoder": self.model.get_encoder(), "decoder": self.model.get_decoder()}
        found = {stack: _keys_and_values(module) for stack, module in stacks.items()}
        widths = {stack: [linear.out_features for linear in linears[::2]] for stack, linears in found.items()}
        self.prefix, self.length = Prefix(source, widths, length, reparametrised), length
        self._values: list[Tensor] = []  # of the pass under way: each layer's keys and values, (P, N · D)
        for place, linear in enumerate(itertools.chain.from_iterable(found.values())):
            linear.register_forward_hook(self._replace(place))

    def _replace(self, place: int) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def replace(module: nn.Module, inputs: Any, output: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
            values = self._values[place].to(output).expand(len(output), -1, -1)  # (B, P, N · D)
            return torch.cat([values, output[:, self.length :]], dim=1)

        return replace

    def _context(
        self, prompt: Tensor | None, batch: Batch, prompt_mask: Tensor | None = None, prompt_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the encoder's states of the input, (B, T, H), and its mask: the decoder sees no prefix position."""
        self._values = self.prefix()
        blank = torch.zeros(self.length, self.hidden_size, device=self.device, dtype=self.dtype)  # (P, H)
        states, mask = super()._context(blank, batch)  # (B, P + T, H), (B, P + T)
        return states[:, self.length :], mask[:, self.length :]

    def _first_hidden(self, context: tuple[Tensor, Tensor]) -> Tensor:
        return self._decode(context, self._start_ids(len(context[0])))[:, 0]  # (B, H)

    def _decode(self, context: tuple[Tensor, Tensor], ids: Tensor) -> Tensor:
        states, mask = context
        inputs = self.model.get_input_embeddings()(ids)  # (B, label tokens, H)
        blank = inputs.new_zeros(len(ids), self.length, self.hidden_size)  # (B, P, H)
        hidden = self.model.get_decoder()(
            inputs_embeds=torch.cat([blank, inputs], dim=1), encoder_hidden_states=states, encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state  # fmt: skip
        return hidden[:, self.length :]  # (B, label tokens, H)

    def _next_hidden(self, context: tuple[Tensor, Tensor], ids: Tensor) -> Tensor:
        return self._decode(context, torch.cat([self._start_ids(len(ids)), ids], dim=1))[:, -1]


class PrefixedDecoder(_Prefixed, DecoderBackbone):
    """A decoder-only LM with a prefix as the past of its cache, as PEFT has it: keys are not rotated by their place."""

    def __init__(self, source: Backbone, length: int, reparametrised: bool = False) -> None:
        vars(self).update(vars(source))
        if not self._prefix_cache.is_supported:
            raise BackboneError(
                f"{source.name} ({type(source.model).__name__}) does not give the same result from a cache of keys and "
                "values, which a prefix is: use a Llama-like model with full attention in every layer."
            )
        widths = [linear.out_features for linear in _keys_and_values(source.model)[::2]]
        self.prefix, self.length = Prefix(source, {"decoder": widths}, length, reparametrised), length
        config = source.model.config
        self._heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads

    def _context(
        self, prompt: Tensor | None, batch: Batch, prompt_mask: Tensor | None = None, prompt_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._align(*self.join(None, batch))  # (B, T, H), (B, T): still to be run

    def _run(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Return the last states (B, S, H) of a whole sequence after the prefix."""
        cache: Any = DynamicCache()
        made = (
            values.to(embeddings).unflatten(1, (self._heads, -1)).transpose(0, 1).expand(len(mask), -1, -1, -1)
            for values in self.prefix()
        )  # each (B, N, P, D)
        cache.layers = [_FixedLayer(keys, values) for keys, values in zip(made, made, strict=True)]
        mask = torch.cat([mask.new_ones(len(mask), self.length), mask], dim=1)  # (B, P + S)
        return self.model.base_model(
            inputs_embeds=embeddings, attention_mask=mask, past_key_values=cache, use_cache=True,
            position_ids=(mask.cumsum(dim=1) - 1)[:, self.length :],
        ).last_hidden_state  # fmt: skip

    def _next_hidden(self, context: tuple[Tensor, Tensor], ids: Tensor) -> Tensor:
        embeddings, mask = context
        generated = self.model.get_input_embeddings()(ids)  # (B, G, H)
        hidden = self._run(torch.cat([embeddings, generated], dim=1), torch.cat([mask, torch.ones_like(ids)], dim=1))
        return hidden[:, -1]


class _FixedLayer(DynamicLayer):
    """A cache's layer that never grows, so that a recomputed block finds what it found the first time."""

    def __init__(self, keys: Float[Tensor, "B N P D"], values: Float[Tensor, "B N P D"]) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the prefix's keys and values, then those given."""
        assert self.keys is not None and self.values is not None, "there from the start"
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def _keys_and_values(module: nn.Module) -> list[Any]:
    """Return the projections to keys and to values of each self-attention layer, one after the other."""
    return [part for name, part in module.named_modules() if _KEYS_AND_VALUES.search(name)]
