"""A frozen language model that a soft prompt can be put in front of: `Backbone.join`, label scores, losses, generation.

Training, evaluation and generation all build their input here. (A decoder-only LM that runs a shared prompt once joins
the two in its cache of keys and values: `prefix_cache`.)
Shapes: B batch, T source tokens, P prompt tokens, S = P + T, H embedding width, C prompts, L labels, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from xprompt.backbones.fingerprint import fingerprint, sample, weights_digest
from xprompt.backbones.positions import max_positions
from xprompt.config.settings import Objective
from xprompt.data.batching import Batch
from xprompt.data.splits import TaskDataset
from xprompt.data.tokenization import TokenizedDataset, encode
from xprompt.errors import BackboneError, ConfigError, did_you_mean, shown
from xprompt.tasks.example import data_error
from xprompt.tasks.metrics import NO_LABEL
from xprompt.tasks.task import Task

IGNORE_INDEX = -100
OBJECTIVES: tuple[str, ...] = get_args(Objective)
_LARGE_LOGIT = 2.0**12  # where every soft cap in use (30 to 50) has bent it; float16 ends at 2**16


def expand_prompts(tensor: Float[Tensor, "C ..."], prompt_index: Int[Tensor, " B"]) -> Float[Tensor, "B ..."]:
    """Copy the tensor of each row's prompt to the row: row b gets `tensor[prompt_index[b]]`.

    Indexing gives the same values, but on a CPU with several threads it adds up the rows' gradients in any order: no
    two runs would be alike. Here they are summed in the order of the rows.

    Args:
        tensor: (C, …), one entry a prompt.
        prompt_index: (B,), in [0, C).
    """
    flat = tensor.flatten(1)  # (C, n)
    return F.embedding(prompt_index.to(tensor.device), flat).unflatten(1, tensor.shape[1:])  # (B, …)


@dataclass(frozen=True)
class Verbalizer:
    """A task's label words as token ids of one tokenizer.

    Attributes:
        sequences: the ids of each label word, in label order, as they follow the input.
        first: (L,) the first id of each, where those differ; else None, and labels are scored by whole-string
            likelihood.
    """

    sequences: tuple[tuple[int, ...], ...]
    first: Int[Tensor, " L"] | None

    @property
    def longest(self) -> int:
        """Return how many tokens the longest word has."""
        return max(map(len, self.sequences))

    @property
    def max_new_tokens(self) -> int:
        """Return how many tokens a generated label may take: those of the longest word and what closes it; 8 at least.

        A text that is cut at a word's length would match though the model goes on.
        """
        return max(8, 1 + self.longest)

    def targets(self, labels: Int[Tensor, " B"], end: int | None) -> Int[Tensor, "B S"]:
        """Return each example's label string, closed by `end`, padded with −100."""
        closing = [] if end is None else [end]
        rows = [[*self.sequences[i], *closing] for i in labels.tolist()]
        width = max(map(len, rows))
        return torch.tensor([r + [IGNORE_INDEX] * (width - len(r)) for r in rows], device=labels.device)


class Backbone(ABC):
    """A frozen LM, its tokenizer, and the conventions of its kind.

    Attributes:
        name, kind ("seq2seq" or "decoder"), model, tokenizer, max_source (tokens).
        fingerprint: 16 hex digits over weights, configuration and tokenizer; part of every run ID.
        weights_digest: 16 hex digits over the weights alone.
        max_positions: how many tokens prompt, source and label may have together; None where there is no limit.
    """

    kind: str
    suffix: str = ""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, *, name: str = "", max_source: int = 256) -> None:
        self.model = model.eval().requires_grad_(False)
        self.model.generation_config = _greedy(model.generation_config)
        self.tokenizer = tokenizer
        self.name = str(name) or model.config.name_or_path or type(model).__name__
        self.max_source = max_source
        self.max_positions = max_positions(model)
        self._check_tokenizer()
        self._check_finite()
        self._check_kind()
        self.update_fingerprint()
        self._head_scale = 1.0
        self._head_scale = self._find_head_scale()
        self._check_padding()

    def __repr__(self) -> str:
        size = f"{self.num_params:,} parameters, {self.hidden_size} wide"
        return f"{type(self).__name__}({self.name[-100:]}: {size}, {str(self.dtype)[6:]} on {self.device})"

    @property
    def device(self) -> torch.device:
        """Device of the input embeddings, where inputs go."""
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.model.get_input_embeddings().weight.dtype

    @property
    def hidden_size(self) -> int:
        """Width H of an input embedding."""
        return self.model.get_input_embeddings().weight.shape[1]

    @property
    def num_params(self) -> int:
        """Number of parameters of the language model."""
        return sum(p.numel() for p in self.model.parameters())

    def update_fingerprint(self) -> None:
        """Compute `weights_digest` and `fingerprint` from the weights as they are now: call it after training them."""
        self.weights_digest = weights_digest(self.model)
        self.fingerprint = fingerprint(self.weights_digest, self.model, self.tokenizer)

    def embedding_rows(self) -> Float[Tensor, "V H"]:
        """Return the input embeddings as the model sees them (some models scale theirs), one row a vocabulary entry."""
        table = self.model.get_input_embeddings()
        return table(torch.arange(table.weight.shape[0], device=self.device))

    def encode(
        self, data: TaskDataset, prompt_length: int = 0, follows: int = 0, *, max_source: int | None = None
    ) -> TokenizedDataset:
        """Render and tokenise a split. Sources over `max_source` tokens are cut in the task's cut field.

        Args:
            prompt_length: P of the longest prompt that goes in front; 0 where it is not known yet.
            follows: positions that a label takes behind the source, as `label_positions` says.
            max_source: None: the backbone's own.

        Raises:
            DataError: a text with a token that the model has no embedding for.
            BackboneError: prompt, source and label are longer than the model has positions for.
        """
        longest = self.max_source if max_source is None else max_source
        encoded = encode(data, self.tokenizer, longest, suffix=self.suffix)
        rows = self.model.get_input_embeddings().weight.shape[0]
        for example, ids in zip(data, encoded.ids, strict=True):
            beyond = [token for token in ids if token >= rows]
            if beyond:
                raise data_error(
                    f"{data.task.name} example {example.uid}",
                    f"the token {self.tokenizer.convert_ids_to_tokens(beyond[0])!r} of id {beyond[0]}",
                    f"an id below {rows}, the rows of {self.name}'s embedding table",
                    "take the text out, or give the model and tokenizer of one checkpoint",
                )
        self._check_length(prompt_length, max(map(len, encoded.ids), default=0), follows)
        return encoded

    def label_positions(self, verbalizer: Verbalizer, objective: str = "label_scores") -> int:
        """Return how many positions a label may take behind the source, scored or generated.

        0 in an encoder-decoder, whose labels stand in the decoder, and where their first ids are scored.
        """
        if self.kind == "seq2seq":
            return 0
        if objective == "generation":
            return verbalizer.max_new_tokens
        return 0 if verbalizer.first is not None else verbalizer.longest + (self._end is not None)

    @contextlib.contextmanager
    def dropout(self, active: bool) -> Iterator[None]:
        """Make the dropout state explicit for a block; off otherwise."""
        if not active and not self.model.training:  # to set every module at every step takes time
            yield
            return
        self.model.train(active)
        try:
            yield
        finally:
            self.model.eval()

    def join(
        self, prompt: Tensor | None, batch: Batch, prompt_mask: Tensor | None = None, prompt_index: Tensor | None = None
    ) -> tuple[Float[Tensor, "B S H"], Int[Tensor, "B S"]]:
        """Put the prompt in front of the input: [P; X].

        Args:
            prompt: (P, H) for all rows, (B, P, H) for each, or, with `prompt_index`, (C, P, H); None for no prompt.
            prompt_mask: (B, P), with `prompt_index` (C, P): 1 where a position exists. Prompts with fewer positions
                leave their *first* ones out, so that the others stand next to the input and relative positions are
                those of the physically shorter prompt.
            prompt_index: (B,) which of C prompts stands in front of each row, in [0, C).

        Returns:
            embeddings (B, P + T, H) and attention mask (B, P + T).

        Raises:
            BackboneError: a prompt of another width than H, or more tokens than the model has positions for.

        Source: paper §3.1.
        """
        self._check_prompt(prompt, batch)
        ids = batch.input_ids.to(self.device)  # (B, T)
        mask = batch.attention_mask.to(self.device)  # (B, T)
        inputs = self.model.get_input_embeddings()(ids)  # (B, T, H)
        if prompt is None:
            return inputs, mask
        if prompt_index is not None:
            rows = expand_prompts(prompt, prompt_index)  # (B, P, H)
            prompt_mask = None if prompt_mask is None else prompt_mask[prompt_index]  # (B, P)
        else:
            rows = prompt if prompt.dim() == 3 else prompt.expand(len(ids), -1, -1)  # (B, P, H)
        if prompt_mask is None:
            prompt_mask = mask.new_ones(rows.shape[:2])  # (B, P)
        embeddings = torch.cat([rows.to(inputs.dtype), inputs], dim=1)  # (B, P + T, H)
        return embeddings, torch.cat([prompt_mask.to(mask), mask], dim=1)  # (B, P + T)

    def label_scores(
        self,
        prompt: Tensor | None,
        batch: Batch,
        verbalizer: Verbalizer,
        prompt_mask: Tensor | None = None,
        prompt_index: Tensor | None = None,
    ) -> Float[Tensor, "B L"]:
        """Score every label of every example; the largest is the prediction.

        Scores are logits of the label words' first ids where those differ, else log-likelihoods of the label strings.
        `prompt`, `prompt_mask` and `prompt_index` as in `join`.

        Returns:
            (B, L), float32 at least.

        Raises `BackboneError` as `join`; whole label strings count as tokens too.
        """
        self._check_prompt(prompt, batch, self.label_positions(verbalizer))
        context = self._context(prompt, batch, prompt_mask, prompt_index)
        if verbalizer.first is not None:
            return self._head(self._first_hidden(context), verbalizer.first)  # (B, L)
        scores = []
        for label in range(len(verbalizer.sequences)):
            labels = torch.full((len(batch),), label, device=self.device)  # (B,)
            scores.append(self._log_likelihood(context, verbalizer.targets(labels, self._end)))  # (B,)
        return torch.stack(scores, dim=1)  # (B, L)

    def loss(
        self,
        prompt: Tensor | None,
        batch: Batch,
        verbalizer: Verbalizer,
        prompt_mask: Tensor | None = None,
        objective: str = "label_scores",
        prompt_index: Tensor | None = None,
    ) -> Float[Tensor, " B"]:
        """Return each example's loss (B,).

        As "label_scores": −log p(label | [P; X]) among the labels; as "generation": −log p of the label string.

        Raises:
            ConfigError: another objective.
            BackboneError: as `join`; a label that is written counts as tokens too.
        """
        check_objective(objective)
        labels = batch.labels.to(self.device)  # (B,)
        if objective == "label_scores":
            scores = self.label_scores(prompt, batch, verbalizer, prompt_mask, prompt_index)  # (B, L)
            return F.cross_entropy(scores, labels, reduction="none")
        self._check_prompt(prompt, batch, self.label_positions(verbalizer, objective))
        context = self._context(prompt, batch, prompt_mask, prompt_index)
        return -self._log_likelihood(context, verbalizer.targets(labels, self._end))

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor | None,
        batch: Batch,
        prompt_mask: Tensor | None = None,
        max_new_tokens: int = 8,
        prompt_index: Tensor | None = None,
    ) -> list[str]:
        """Generate greedily after each input, joined as for training and scoring; return one text a row.

        Raises:
            BackboneError: input and text are longer than the model has positions for.
        """
        self._check_prompt(prompt, batch, max_new_tokens if self.kind == "decoder" else 0)
        embeddings, mask = self._align(*self.join(prompt, batch, prompt_mask, prompt_index))
        out = self.model.generate(
            inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
        )  # fmt: skip
        return [text.strip() for text in self.tokenizer.batch_decode(out, skip_special_tokens=True)]

    def verbalizer(self, task: Task) -> Verbalizer:
        """Return the task's label words in this backbone's tokens.

        Raises:
            BackboneError: two words become the same tokens, or one becomes none or an unknown token.
        """
        sequences = tuple(tuple(self._label_ids(word)) for word in task.label_words)
        if len(set(sequences)) < len(sequences) or not all(sequences):
            raise BackboneError(
                f"{self.name} cannot distinguish the label words of {task.name}: {task.label_words} become "
                f"{sequences}. Choose other label words."
            )
        unknown = self.tokenizer.unk_token_id
        lost = [word for word, ids in zip(task.label_words, sequences, strict=True) if unknown in ids]
        if unknown is not None and lost:
            raise BackboneError(
                f"{self.name} has no tokens for {', '.join(map(repr, lost))}, a label word of {task.name}: it becomes "
                f"{self.tokenizer.unk_token}, which stands for any unknown text. Choose other label words."
            )
        tables = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        rows = min(table.weight.shape[0] for table in tables)
        for word, ids in zip(task.label_words, sequences, strict=True):
            if max(ids) >= rows:
                raise BackboneError(
                    f"{self.name} has {rows} embeddings, and {word!r}, a label word of {task.name}, becomes the ids "
                    f"{list(ids)}. Choose another label word, or give the model and tokenizer of one checkpoint."
                )
        first = [ids[0] for ids in sequences]
        distinct = len(set(first)) == len(first)
        return Verbalizer(sequences, torch.tensor(first, device=self.device) if distinct else None)

    def _head(self, hidden: Float[Tensor, "B H"], columns: Int[Tensor, " L"] | None) -> Float[Tensor, "B L"]:
        """Return logits of those columns of the head only, in float32 at least; of all V where None."""
        head = self.model.get_output_embeddings()
        columns = None if columns is None else columns.to(head.weight.device)  # (L,)
        weight = head.weight if columns is None else head.weight[columns]  # (L, H)
        logits = F.linear(hidden.to(weight.device) * self._head_scale, weight)  # (B, L)
        bias = getattr(head, "bias", None)
        if bias is not None:
            logits = logits + (bias if columns is None else bias[columns])
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).to(self.device)

    @torch.no_grad()
    def _find_head_scale(self) -> float:
        """Find what multiplies the last hidden state before the head, by the model's own logits.

        Some models scale (T5 with a tied head by H^-1/2, the LM-adapted ones not at all), which no setting says
        reliably across versions; a wrong guess would change every score.

        Raises:
            BackboneError: logits that are not finite, or that are no multiple of the head's linear map.
        """
        config = self.model.config.get_text_config()
        known = [1.0, self.hidden_size**-0.5, getattr(config, "logit_scale", None)]
        if getattr(config, "logits_scaling", None):
            known.append(1 / config.logits_scaling)
        probe = self._probe([[self._end or 1] * 2])  # 0 is often the padding, of an embedding of zeros
        hidden = self._first_hidden(self._context(None, probe))  # (1, H)
        expected = self._reference_logits(probe).double().to(self.device)  # (1, V)
        if not expected.isfinite().all():
            raise BackboneError(
                f"{self.name} gives logits that are not finite in {self.dtype}: its weights are damaged or overflow. "
                "Use another dtype, or get the checkpoint again."
            )
        bias = getattr(self.model.get_output_embeddings(), "bias", None)
        offset = 0.0 if bias is None else bias.double().to(self.device)
        unscaled, expected = self._head(hidden, None).double() - offset, expected - offset  # (1, V), (1, V)
        measured = ((unscaled * expected).sum() / unscaled.square().sum()).item()
        error = (expected - measured * unscaled).norm() / expected.norm()
        if not error <= self._tolerance or not self._is_linear(probe, expected, offset):
            raise BackboneError(
                f"the output head of {self.name} ({type(self.model).__name__}) does more than one linear map of the "
                "last hidden state: it is not supported. Use a T5 or a Llama-like model."
            )
        nearest = min((scale for scale in known if scale), key=lambda scale: abs(measured / scale - 1))
        return nearest if abs(measured / nearest - 1) < self._tolerance / 10 else measured

    def _is_linear(self, probe: Batch, logits: Float[Tensor, "B V"], offset: Tensor | float) -> bool:
        """Tell whether the model's own logits grow with the head's input: a soft cap bends only large ones."""
        largest = float(logits.abs().max())
        factor = 2.0 ** round(math.log2(_LARGE_LOGIT / largest)) if largest else 1.0  # a power of two rounds nothing
        handle = self.model.get_output_embeddings().register_forward_pre_hook(lambda _, given: (given[0] * factor,))
        try:
            grown = self._reference_logits(probe).double().to(self.device) - offset  # (1, V)
        finally:
            handle.remove()
        return bool((grown - factor * logits).norm() <= self._tolerance * (factor * logits).norm())

    def _check_prompt(self, prompt: Tensor | None, batch: Batch, follows: int = 0) -> None:
        """Refuse a prompt, (…, P, H), of another width, and more tokens than the model has positions for."""
        if prompt is not None and prompt.shape[-1] != self.hidden_size:
            raise BackboneError(
                f"the prompt is {prompt.shape[-1]} wide, {self.name} needs {self.hidden_size}: "
                "it was made for another backbone."
            )
        self._check_length(0 if prompt is None else prompt.shape[-2], batch.input_ids.shape[1], follows)

    def _check_length(self, prompt: int, source: int, follows: int = 0) -> None:
        """Refuse more tokens than the model has positions for, before any forward pass. Lengths in tokens."""
        if self.max_positions is not None and prompt + source + follows > self.max_positions:
            label = f", {follows} for the label" if follows else ""
            room = self.max_positions - prompt - follows
            fix = f"max_source={room}" if room > 0 else "a shorter prompt"
            raise BackboneError(
                f"{self.name} has {self.max_positions} positions, and {prompt + source + follows} tokens were given "
                f"({prompt} of the prompt, {source} of the longest source{label}): load it with {fix}, or choose a "
                "backbone with more positions."
            )

    def _check_tokenizer(self) -> None:
        """Refuse a tokenizer that speaks of embeddings the model does not have."""
        rows = self.model.get_input_embeddings().weight.shape[0]
        entries = int(getattr(self.tokenizer, "vocab_size", 0))
        special = {name: getattr(self.tokenizer, name, None) for name in ("pad_token_id", "eos_token_id")}
        beyond = {name: value for name, value in special.items() if value is not None and value >= rows}
        if entries > rows or beyond:
            given = f"{entries:,} entries" if entries > rows else ", ".join(f"{n}={v}" for n, v in beyond.items())
            raise BackboneError(
                f"the tokenizer of {self.name} has {given}, the model {rows:,} embeddings: they are not of one "
                "checkpoint. Give the tokenizer that the model was trained with."
            )

    @torch.no_grad()
    def _check_finite(self) -> None:
        """Refuse weights that are infinite or not numbers; of over a million in a tensor, every n-th is looked at."""
        for name, weight in self.model.named_parameters():
            if weight.is_floating_point() and not sample(weight).isfinite().all():
                raise BackboneError(
                    f"{self.name} has weights that are not finite in {self.dtype}, first in {name}: they are damaged "
                    "or overflow. Use another dtype, or get the checkpoint again."
                )

    @torch.no_grad()
    def _check_padding(self) -> None:
        """Refuse a model whose scores depend on what else is in the batch, found by a padded row beside itself alone.

        Raises:
            BackboneError: padding reaches the label's state, as in recurrent models that take no attention mask.
        """
        count = self.model.get_input_embeddings().weight.shape[0]
        ids = [(7 * i + 3) % count for i in range(12)]
        alone = self._first_hidden(self._context(None, self._probe([ids[:5]])))  # (1, H)
        padded = self._first_hidden(self._context(None, self._probe([ids[:5], ids])))[:1]  # (1, H)
        apart = float((alone.float() - padded.float()).norm() / alone.float().norm())
        if math.isnan(apart):
            raise BackboneError(
                f"{self.name} ({type(self.model).__name__}) gives no number for a padded row in {self.dtype}: use "
                "another dtype, as 'float32'."
            )
        if not apart <= self._tolerance:
            raise BackboneError(
                f"{self.name} ({type(self.model).__name__}) gives another result for a row that is padded (it moves by "
                f"{100 * apart:.1f} %): scores would depend on the batch. Use a model that respects its attention mask."
            )

    def _probe(self, rows: list[list[int]]) -> Batch:
        """Return rows of token ids as a batch, padded on the right as every batch is."""
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=self.device)  # (B, T)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.device)  # (B, T)
        return Batch(input_ids=ids, attention_mask=mask, labels=ids[:, 0], index=ids[:, 0])

    @property
    def _tolerance(self) -> float:
        """What rounding may move a state or logits by, as a share of their norm."""
        return 1e-4 if self.dtype in (torch.float32, torch.float64) else 5e-2

    def _string_score(self, hidden: Float[Tensor, "B S H"], targets: Int[Tensor, "B S"]) -> Float[Tensor, " B"]:
        logits = self._head(hidden.flatten(0, 1), None)  # (B · S, V)
        nll = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none")  # (B · S,)
        return -nll.view(targets.shape).sum(dim=1)  # (B,)

    @property
    def _end(self) -> int | None:
        return self.tokenizer.eos_token_id

    def _align(self, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Move the joined input to where this kind of model wants it."""
        return embeddings, mask

    def keeps_zeros(self) -> bool:
        """Return whether a token of zeros behind nothing but zeros has a zero state, where gradients end."""
        return False

    def _check_kind(self) -> None:  # noqa: B027
        """Refuse a model that reads its input in another way than its kind does."""

    @abstractmethod
    def _label_ids(self, word: str) -> list[int]: ...

    @abstractmethod
    def _context(
        self, prompt: Tensor | None, batch: Batch, prompt_mask: Tensor | None = None, prompt_index: Tensor | None = None
    ) -> Any:
        """Compute all of the forward that does not depend on the label."""

    @abstractmethod
    def _first_hidden(self, context: Any) -> Float[Tensor, "B H"]:
        """Return the state that predicts the first label token."""

    @abstractmethod
    def _log_likelihood(self, context: Any, targets: Int[Tensor, "B S"]) -> Float[Tensor, " B"]:
        """Return log p of each row's target string (−100: padding)."""

    @abstractmethod
    def _reference_logits(self, batch: Batch) -> Float[Tensor, "B V"]:
        """Return the model's own logits at the first label position."""


def _greedy(config: GenerationConfig) -> GenerationConfig:
    """Keep a model's special tokens and nothing else: beams, penalties or forced tokens would change what is scored."""
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    return GenerationConfig(**{name: getattr(config, name) for name in tokens})


def check_objective(objective: str) -> None:
    """Raise `ConfigError` where the objective is none of `OBJECTIVES`."""
    if objective not in OBJECTIVES:
        raise ConfigError(
            f"objective {shown(objective)} was given: choose {' or '.join(map(repr, OBJECTIVES))}."
            f"{did_you_mean(objective, OBJECTIVES)}"
        )


def exact_labels(texts: Sequence[str], task: Task) -> list[int]:
    """Return the label whose word each generated text is, to the letter; `NO_LABEL` where it is none.

    Args:
        texts: without outer white space, as `Backbone.generate` returns them.
    """
    labels = {word.strip(): label for label, word in enumerate(task.label_words)}
    return [labels.get(text, NO_LABEL) for text in texts]
