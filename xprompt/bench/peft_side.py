"""PEFT's prompt tuning on our frozen backbone, written as in PEFT's examples: its batches, its loss, its loop.

Set beyond PEFT's defaults, so that both sides do the same computation: the same weights, starting prompt, optimiser and
schedule; on a CPU the same floating-point mode; dropout off; one set of prompt rows for an encoder-decoder (the default
stores a second, unused set, which Adafactor's factored moments would mix in).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xprompt.backbones.base import IGNORE_INDEX, Backbone
from xprompt.backbones.devices import random_state_kept
from xprompt.backbones.subnormals import subnormals_as_zero
from xprompt.config.settings import TuneSettings
from xprompt.data.batching import batches
from xprompt.data.splits import Splits
from xprompt.data.tokenization import TokenizedDataset
from xprompt.errors import BackboneError
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.training.optimizer import make_optimizer


class PeftPrompt:
    """A PEFT model over a backbone's language model, with the loop that a user of PEFT writes around it.

    Args:
        backbone: shared with our side: PEFT wraps the model and copies no weight.
        prompt: (P, H); its values are where every `tune` starts.
        splits: tuned on `train`, evaluated on `selection`.

    Raises:
        ImportError: PEFT is not installed.
        BackboneError: label words that share their first id, which the loss over label words cannot distinguish.
    """

    def __init__(self, backbone: Backbone, prompt: SoftPrompt, splits: Splits) -> None:
        import peft

        seq2seq = backbone.kind == "seq2seq"
        config = peft.PromptTuningConfig(
            task_type="SEQ_2_SEQ_LM" if seq2seq else "CAUSAL_LM", num_virtual_tokens=prompt.length,
            num_transformer_submodules=1,
        )  # fmt: skip
        # PEFT reads an attribute of the model that transformers deprecates, and draws initial values nobody uses.
        with warnings.catch_warnings(), random_state_kept():
            warnings.simplefilter("ignore", FutureWarning)
            model: Any = peft.get_peft_model(backbone.model, config)
        self.model = model.eval()
        self.weight: nn.Parameter = self.model.prompt_encoder["default"].embedding.weight
        self.start = prompt().detach().clone()
        self.backbone, self.splits, self.seq2seq = backbone, splits, seq2seq
        self.reset()
        self.verbalizer = backbone.verbalizer(splits.task)
        if self.verbalizer.first is None:
            raise BackboneError(
                f"{backbone.name} gives {splits.task.name}'s label words one first id: choose another task."
            )
        self.columns = self.verbalizer.first
        end = backbone.tokenizer.eos_token_id
        self.strings = [[*ids, end] for ids in self.verbalizer.sequences]

    def reset(self) -> None:
        """Restore the starting prompt."""
        with torch.no_grad():
            self.weight.copy_(self.start)
        self.weight.grad = None

    def orders(self, encoded: TokenizedDataset, batch_size: int, seed: int, bucketed: bool) -> Iterator[Sequence[int]]:
        """Yield batches without end, as positions: shuffled as a loader draws them, or in our length buckets."""
        epoch = 0
        while True:
            if bucketed:
                yield from (batch.index.tolist() for batch in batches(encoded, batch_size, seed=seed, epoch=epoch))
            else:
                order = np.random.default_rng([seed, epoch]).permutation(len(encoded))
                yield from (order[i : i + batch_size].tolist() for i in range(0, len(order), batch_size))
            epoch += 1

    def loss(self, encoded: TokenizedDataset, chosen: Sequence[int], objective: str) -> Tensor:
        """Return the mean loss: "label_scores" among the label words, "generation" over the label string's tokens.

        The latter is a mean over *tokens*, as the models of transformers return it: where all label strings are
        equally long it is proportional to ours, which is a mean over examples of the sum over tokens.
        """
        labels = torch.tensor([encoded.labels[i] for i in chosen], device=self.backbone.device)
        if objective == "generation":
            return self.model(**self._with_labels(encoded, chosen)).loss
        return F.cross_entropy(self.scores(encoded, chosen), labels)

    def scores(self, encoded: TokenizedDataset, chosen: Sequence[int]) -> Tensor:
        """Return (B, L): the logits of the label words' first ids at the first label position."""
        ids, mask = self._inputs([encoded.ids[i] for i in chosen], encoded.pad_id)
        if self.seq2seq:
            first = ids.new_full((len(ids), 1), self.backbone.model.config.decoder_start_token_id)
            logits = self.model(input_ids=ids, attention_mask=mask, decoder_input_ids=first).logits[:, 0]
        else:
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            last = self.start.shape[0] + mask.sum(dim=1) - 1
            logits = logits[torch.arange(len(ids), device=ids.device), last]
        return logits[:, self.columns].float()

    @torch.no_grad()
    def predict(self, encoded: TokenizedDataset, batch_size: int, *, bucketed: bool = False) -> list[int]:
        """Return predicted labels in the data's order; batches in that order too, or by length."""
        plain = (list(range(i, min(i + batch_size, len(encoded)))) for i in range(0, len(encoded), batch_size))
        by_length = (batch.index.tolist() for batch in batches(encoded, batch_size, seed=None))
        found = torch.zeros(len(encoded), dtype=torch.long, device=self.backbone.device)
        for chosen in by_length if bucketed else plain:
            found[chosen] = self.scores(encoded, chosen).argmax(dim=1)
        return found.tolist()

    def tune(self, settings: TuneSettings, *, seed: int = 0, bucketed: bool = False, as_used: bool = False) -> Tensor:
        """Tune from the starting prompt as `xprompt.tune` does with these settings; return the last step's prompt.

        The same work around the steps as ours: the splits are tokenised, and with "label_scores" the prompt is
        evaluated on the selection split before the first and after the last step. Subnormal numbers are taken for zero
        as on our side, which anyone can have by a line; `as_used`: they are kept, as by PEFT's users.
        """
        with contextlib.nullcontext() if as_used else subnormals_as_zero(self.backbone.device):
            return self._tune(settings, seed, bucketed)

    def _tune(self, settings: TuneSettings, seed: int, bucketed: bool) -> Tensor:
        self.reset()
        train = self.backbone.encode(self.splits.train)
        held = self.backbone.encode(self.splits.selected_on)
        optimizer = make_optimizer([self.weight], settings)
        total = settings.num_steps(len(train))
        falling = settings.schedule == "linear"
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: max(0.0, 1 - n / total) if falling else 1.0)
        checked = settings.objective == "label_scores"
        if checked:
            self.predict(held, settings.eval_batch_size, bucketed=bucketed)
        order = self.orders(train, settings.batch_size, seed, bucketed)
        for _ in range(total):
            self.loss(train, next(order), settings.objective).backward()
            if settings.max_grad_norm is not None:
                nn.utils.clip_grad_norm_([self.weight], settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        if checked:
            self.predict(held, settings.eval_batch_size, bucketed=bucketed)
        return self.weight.detach()

    def _inputs(self, rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
        pad = nn.utils.rnn.pad_sequence
        ids = [torch.tensor(row) for row in rows]
        mask = pad([torch.ones_like(row) for row in ids], batch_first=True)
        return pad(ids, batch_first=True, padding_value=pad_id).to(self.backbone.device), mask.to(self.backbone.device)

    def _with_labels(self, encoded: TokenizedDataset, chosen: Sequence[int]) -> dict[str, Any]:
        sources, strings = [encoded.ids[i] for i in chosen], [self.strings[encoded.labels[i]] for i in chosen]
        if self.seq2seq:
            ids, mask = self._inputs(sources, encoded.pad_id)
            return {"input_ids": ids, "attention_mask": mask, "labels": self._inputs(strings, IGNORE_INDEX)[0]}
        both = [[*source, *string] for source, string in zip(sources, strings, strict=True)]
        silent = [[IGNORE_INDEX] * len(source) + string for source, string in zip(sources, strings, strict=True)]
        ids, mask = self._inputs(both, encoded.pad_id)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": self._inputs(silent, IGNORE_INDEX)[0],
            "use_cache": False,
        }
