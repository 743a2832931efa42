"""A frozen language model that a soft prompt can be put in front of.

Owns the *only* place where prompt and input are joined, and the way from a batch to label scores and losses. (A
decoder-only LM that runs a shared prompt once joins them in its cache: `architectures`.)
Training, evaluation and generation all go through it. Never holds a prompt, never changes a weight.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from xprompt.backbones.fingerprint import fingerprint
from xprompt.backbones.spreading import expand_prompts
from xprompt.data.batching import Batch
from xprompt.data.splits import TaskDataset
from xprompt.data.tokenization import TokenizedDataset, encode
from xprompt.errors import BackboneError
from xprompt.tasks.task import Task

IGNORE_INDEX = -100


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

    def targets(self, labels: Int[Tensor, " B"], end: int | None) -> Int[Tensor, "B S"]:
        """Each example's label string, closed by `end`, padded with −100."""
        rows = [[*self.sequences[i], *([] if end is None else [end])] for i in labels.tolist()]
        width = max(map(len, rows))
        return torch.tensor([r + [IGNORE_INDEX] * (width - len(r)) for r in rows], device=labels.device)


class Backbone(ABC):
    """A frozen LM, its tokenizer, and the conventions of its kind.

    Attributes:
        name, kind ("seq2seq" or "decoder"), model, tokenizer, max_source (tokens), fingerprint (16 hex digits).
    """

    kind: str
    suffix: str = ""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, *, name: str = "", max_source: int = 256) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name or model.config.name_or_path or type(model).__name__
        self.max_source = max_source
        self.fingerprint = fingerprint(model)
        self._head_scale: float | None = None
        self._head_scale = self._find_head_scale()

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the input embeddings."""
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.model.get_input_embeddings().weight.dtype

    @property
    def hidden_size(self) -> int:
        """H, the width of an input embedding."""
        return self.model.get_input_embeddings().weight.shape[1]

    @property
    def num_params(self) -> int:
        """Parameters of the language model."""
        return sum(p.numel() for p in self.model.parameters())

    def embedding_rows(self) -> Float[Tensor, "V H"]:
        """Input embeddings as the model sees them (some models scale theirs), one row a vocabulary entry."""
        table = self.model.get_input_embeddings()
        return table(torch.arange(table.weight.shape[0], device=self.device))

    def encode(self, data: TaskDataset) -> TokenizedDataset:
        """Render and tokenise a split for this backbone. Sources over `max_source` are cut at the task's field."""
        return encode(data, self.tokenizer, self.max_source, suffix=self.suffix)

    @contextlib.contextmanager
    def dropout(self, active: bool) -> Iterator[None]:
        """Make the dropout state explicit for a block; off otherwise."""
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
            prompt: (Q, H) for all rows, (B, Q, H) for each, or, with `prompt_index`, (C, Q, H); None for no prompt.
            prompt_mask: (B, Q), with `prompt_index` (C, Q): 1 where a position exists. Prompts with fewer positions
                leave their *first* ones out, so that what is there stands next to the input and relative positions are
                those of the physically shorter prompt.
            prompt_index: (B,) which of C prompts stands in front of each row, in [0, C).

        Returns:
            embeddings (B, Q + T, H) and attention mask (B, Q + T).

        Source: paper §3.1.
        """
        ids = batch.input_ids.to(self.device)
        mask = batch.attention_mask.to(self.device)
        inputs = self.model.get_input_embeddings()(ids)
        if prompt is None:
            return inputs, mask
        if prompt.shape[-1] != self.hidden_size:
            raise BackboneError(
                f"the prompt is {prompt.shape[-1]} wide, {self.name} needs {self.hidden_size}: "
                "it was made for another backbone."
            )
        rows = prompt if prompt.dim() == 3 else prompt.expand(len(ids), -1, -1)
        if prompt_index is not None:
            rows, prompt_mask = (
                expand_prompts(prompt, prompt_index),
                None if prompt_mask is None else prompt_mask[prompt_index],
            )
        if prompt_mask is None:
            prompt_mask = mask.new_ones(rows.shape[:2])
        return torch.cat([rows.to(inputs.dtype), inputs], dim=1), torch.cat([prompt_mask.to(mask), mask], dim=1)

    def label_scores(
        self,
        prompt: Tensor | None,
        batch: Batch,
        verbalizer: Verbalizer,
        prompt_mask: Tensor | None = None,
        prompt_index: Tensor | None = None,
    ) -> Float[Tensor, "B L"]:
        """Score every label of every example; the largest is the prediction.

        Logits of the label words' first ids where those differ, else the label strings' log-likelihoods.
        `prompt`, `prompt_mask` and `prompt_index` as in `join`.
        """
        context = self._context(prompt, batch, prompt_mask, prompt_index)
        if verbalizer.first is not None:
            return self._head(self._first_hidden(context), verbalizer.first)
        scores = []
        for ids in verbalizer.sequences:
            target = torch.tensor([[*ids, *([] if self._end is None else [self._end])]], device=self.device)
            scores.append(self._log_likelihood(context, target.expand(len(batch.labels), -1)))
        return torch.stack(scores, dim=1)

    def loss(
        self,
        prompt: Tensor | None,
        batch: Batch,
        verbalizer: Verbalizer,
        prompt_mask: Tensor | None = None,
        objective: str = "label_scores",
        prompt_index: Tensor | None = None,
    ) -> Float[Tensor, " B"]:
        """Loss of each example: −log p(label | [P; X]) among the labels, or, as "generation", of the label string."""
        labels = batch.labels.to(self.device)
        if objective == "label_scores":
            return F.cross_entropy(
                self.label_scores(prompt, batch, verbalizer, prompt_mask, prompt_index), labels, reduction="none"
            )
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
        """Greedy text after each input. Same joined input as training and scoring."""
        embeddings, mask = self._aligned(*self.join(prompt, batch, prompt_mask, prompt_index))
        out = self.model.generate(
            inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
        )  # fmt: skip
        return [t.strip() for t in self.tokenizer.batch_decode(out, skip_special_tokens=True)]

    def verbalizer(self, task: Task) -> Verbalizer:
        """The task's label words in this backbone's tokens. Raises `BackboneError` where two cannot be told apart."""
        sequences = tuple(tuple(self._label_ids(word)) for word in task.label_words)
        if len(set(sequences)) < len(sequences) or not all(sequences):
            raise BackboneError(
                f"{self.name} cannot tell the label words of {task.name} apart: {task.label_words} become {sequences}. "
                "Choose other label words."
            )
        first = [s[0] for s in sequences]
        distinct = len(set(first)) == len(first)
        return Verbalizer(sequences, torch.tensor(first, device=self.device) if distinct else None)

    def _head(self, hidden: Float[Tensor, "B H"], columns: Int[Tensor, " L"] | None) -> Float[Tensor, "B L"]:
        """Logits of those columns of the head only, in float32 at least; of all of them where None."""
        head = self.model.get_output_embeddings()
        if self._head_scale is None:
            raise BackboneError(
                f"the output head of {self.name} ({type(self.model).__name__}) does more than one linear map of the "
                "last hidden state: it is not supported. Use a T5 or a Llama-like model."
            )
        weight = head.weight if columns is None else head.weight[columns.to(head.weight.device)]
        hidden = hidden.to(weight.device) * self._head_scale
        logits = F.linear(hidden, weight)
        bias = getattr(head, "bias", None)
        if bias is not None:
            logits = logits + (bias if columns is None else bias[columns])
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).to(self.device)

    @torch.no_grad()
    def _find_head_scale(self) -> float | None:
        """What multiplies the last hidden state before the head: measured against the model's own logits.

        Some models scale (T5 with a tied head by H^-1/2, the LM-adapted ones not at all), which no setting says
        reliably across versions; a wrong guess would change every score.
        """
        ids = torch.zeros(1, 2, dtype=torch.long, device=self.device) + (self.tokenizer.eos_token_id or 0)
        one = Batch(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids[:, 0], index=ids[:, 0])
        hidden = self._first_hidden(self._context(None, one))
        truth = self._reference_logits(one)
        for scale in (1.0, self.hidden_size**-0.5):
            self._head_scale = scale
            if torch.allclose(self._head(hidden, None).float(), truth.float().to(self.device), rtol=2e-2, atol=1e-3):
                return scale
        return None

    def _string_score(self, hidden: Float[Tensor, "B S H"], targets: Int[Tensor, "B S"]) -> Float[Tensor, " B"]:
        logits = self._head(hidden.flatten(0, 1), None)
        nll = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none")
        return -nll.view(targets.shape).sum(dim=1)

    @property
    def _end(self) -> int | None:
        return self.tokenizer.eos_token_id

    def _aligned(self, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return embeddings, mask

    @abstractmethod
    def _label_ids(self, word: str) -> list[int]: ...

    @abstractmethod
    def _context(
        self, prompt: Tensor | None, batch: Batch, prompt_mask: Tensor | None = None, prompt_index: Tensor | None = None
    ) -> Any:
        """Everything of the forward that does not depend on the label."""

    @abstractmethod
    def _first_hidden(self, context: Any) -> Float[Tensor, "B H"]:
        """The state that predicts the first label token."""

    @abstractmethod
    def _log_likelihood(self, context: Any, targets: Int[Tensor, "B S"]) -> Float[Tensor, " B"]:
        """Log p of each row's target string (−100: not there)."""

    @abstractmethod
    def _reference_logits(self, batch: Batch) -> Float[Tensor, "B V"]:
        """The model's own logits at the first label position."""


def exact_labels(texts: Sequence[str], task: Task) -> list[int]:
    """Labels of generated texts by exact match with the label words; −1, a wrong answer, where none matches."""
    known = {word: i for i, word in enumerate(task.label_words)}
    return [known.get(text, -1) for text in texts]
