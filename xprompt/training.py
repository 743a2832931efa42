"""One loop that trains a prompt, C prompts side by side, or (the baseline) the whole backbone.

Owns the steps, the batches and when candidates are evaluated. Never prunes, never picks between methods.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from xprompt.architectures import wrap
from xprompt.backbone import Backbone
from xprompt.candidate import Candidate, History
from xprompt.data import Splits, TaskData
from xprompt.encoding import Batch, Encoded, batches
from xprompt.errors import ConfigError, DataError
from xprompt.evaluation import evaluate_many, prompt_rows, repeat
from xprompt.memory import choose_width, is_out_of_memory
from xprompt.prompts import SoftPrompt
from xprompt.settings import TuneSettings

log = logging.getLogger("xprompt")
_QUIET = 15.0  # seconds between two lines of progress


class TuneResult(NamedTuple):
    """The best checkpoint on the selection split, and how it came about."""

    prompt: SoftPrompt
    history: History


class FineTuneResult(NamedTuple):
    """A fine-tuned copy of the backbone at its best checkpoint, and how it came about."""

    backbone: Backbone
    history: History


def tune(
    backbone: Backbone,
    prompt: SoftPrompt,
    splits: Splits,
    settings: TuneSettings,
    *,
    seed: int = 0,
    progress: bool = False,
) -> TuneResult:
    """Tune a copy of the prompt in front of the frozen backbone.

    Args:
        splits: trained on `train`; checkpoints are chosen on `selection`, or on `validation` where nothing was held
            out (the paper's protocol).
        seed: of the data order.

    Returns:
        (prompt, history): the best checkpoint, step 0 and the last step among them. The prompt given is unchanged.

    Source: paper §3.1, §4.1.
    """
    return tune_many(backbone, [prompt], splits, [settings], seeds=[seed], progress=progress)[0]


def tune_many(
    backbone: Backbone,
    prompts: Sequence[SoftPrompt],
    splits: Splits,
    settings: Sequence[TuneSettings],
    *,
    seeds: Sequence[int] | None = None,
    width: int | None = None,
    rungs: Mapping[int, int] | None = None,
    progress: bool = False,
    describe: str = "tuning",
) -> list[TuneResult]:
    """Tune copies of C prompts side by side in front of the frozen backbone.

    Each has its own optimiser, schedule, masks, data order, early stopping and best checkpoint, and gets the same
    numbers as if it were tuned alone: rows of a batch do not see one another, and the sum of C losses has each
    prompt's own gradient.

    Args:
        settings: one for each prompt; objective, batch sizes, accumulation and dropout must agree.
        seeds: of the data orders; candidates with the same seed share their batches. Default: all 0.
        width: candidates in one forward and backward pass; None: as many as memory holds. Where it runs out all the
            same, the width is halved and the pass done again. Never changes a result.
        rungs: step → how many go on after it: the best on the selection split so far, of equals the lower loss. The
            others keep what they have (successive halving). Each is an evaluation of all that are left.
    """
    candidates = []
    for prompt, one in zip(prompts, settings, strict=True):
        own = prompt.clone().to(backbone.device)
        candidates.append(Candidate(own, list(own.parameters()), one, own.clone))
    loop = _Loop(backbone, candidates, splits, list(seeds or [0] * len(candidates)), progress, describe)
    loop.width, loop.rungs = width, dict(rungs or {})
    loop.run()
    return [TuneResult(c.best, c.history) for c in candidates]


def fine_tune(
    backbone: Backbone, splits: Splits, settings: TuneSettings, *, seed: int = 0, progress: bool = False
) -> FineTuneResult:
    """Train every weight of a copy of the backbone, without a prompt: the paper's upper baseline.

    The backbone given is unchanged. Source: paper §4.1 (fine-tuning).
    """
    model = copy.deepcopy(backbone.model)
    own = wrap(model, backbone.tokenizer, name=backbone.name, max_source=backbone.max_source)
    model.requires_grad_(True)
    snapshot = lambda: {k: v.detach().clone() for k, v in model.state_dict().items()}  # noqa: E731
    candidate = Candidate(None, list(model.parameters()), settings, snapshot)
    _Loop(own, [candidate], splits, [seed], progress, "fine-tuning").run()
    model.load_state_dict(candidate.best)
    model.requires_grad_(False)
    return FineTuneResult(own, candidate.history)


class _Loop:
    """The steps and evaluations of C candidates, all on the same frozen backbone and the same splits."""

    def __init__(
        self,
        backbone: Backbone,
        candidates: list[Candidate],
        splits: Splits,
        seeds: list[int],
        progress: bool,
        describe: str,
    ) -> None:
        if len({(s.objective, s.batch_size, s.accumulation, s.eval_batch_size, s.dropout)
                for s in (c.settings for c in candidates)}) > 1:  # fmt: skip
            raise ConfigError(
                "prompts tuned side by side must agree in objective, batch_size, accumulation, eval_batch_size and "
                "dropout: tune those that differ apart."
            )
        if not len(splits.train):
            raise DataError(f"{splits.task.name} has no training examples in {splits.source}: nothing to tune on.")
        self.backbone, self.candidates, self.seeds = backbone, candidates, seeds
        self.settings = candidates[0].settings
        self.selection: TaskData = splits.selection if splits.selection is not None else splits.validation
        self.train, self.held = backbone.encode(splits.train), backbone.encode(self.selection)
        self.verbalizer = backbone.verbalizer(splits.task)
        self.progress, self.describe = progress, describe
        self.width: int | None = 1
        self.rungs: dict[int, int] = {}
        self.logged = time.perf_counter()
        for candidate in candidates:
            candidate.start(len(self.train), self.selection.split, self.train.num_cut)

    def run(self) -> None:
        streams = {seed: _stream(self.train, self.settings.batch_size, seed) for seed in set(self.seeds)}
        steps = max(c.total for c in self.candidates)
        bar = tqdm(total=steps, desc=self.describe, unit="step", disable=not self.progress, leave=False)
        started = time.perf_counter()
        self._evaluate(0, started, bar)
        for step in range(1, steps + 1):
            active = [(c, s) for c, s in zip(self.candidates, self.seeds, strict=True) if not c.done]
            if not active:
                break
            drawn = {seed: next(streams[seed]) for seed in {s for _, s in active}}
            self._step([c for c, _ in active], [drawn[s] for _, s in active])
            bar.update()
            self._evaluate(step, started, bar)
        bar.close()

    def _step(self, active: list[Candidate], drawn: list[Batch]) -> None:
        """One optimiser step of every active candidate, over `accumulation` micro-batches."""
        losses = [torch.zeros((), device=self.backbone.device)] * len(active)
        if self.width is None:
            self.width = self._choose_width(len(active))
        with self.backbone.dropout(self.settings.dropout):
            for part in range(self.settings.accumulation):
                done = 0
                while done < len(active):
                    group = slice(done, done + self.width)
                    try:
                        means = self._pass(active[group], drawn[group], part)
                    except RuntimeError as error:
                        if not is_out_of_memory(error) or self.width == 1:
                            raise
                        self.width //= 2  # nothing was changed yet: the same candidates, in a smaller group
                        continue
                    for place, mean in enumerate(means, start=done):
                        losses[place] = losses[place] + mean
                    done += len(means)
        for candidate, loss in zip(active, losses, strict=True):
            candidate.step(loss)

    def _pass(self, group: list[Candidate], drawn: list[Batch], part: int) -> list[Tensor]:
        """Add one micro-batch's gradients to each candidate of the group, all or none; return their losses' parts."""
        pieces = [_micro(batch, part, self.settings.accumulation) for batch in drawn]
        sizes = [len(piece) for piece in pieces]
        if not sum(sizes):
            return [torch.zeros((), device=self.backbone.device)] * len(group)
        rows, mask = prompt_rows([c.prompt for c in group], sizes, self.backbone.device)
        merged = _merge(pieces, self.train.pad_id)
        each = self.backbone.loss(rows, merged, self.verbalizer, mask, self.settings.objective)
        # Every candidate's own mean over its whole batch: micro-batches add up to exactly one step.
        means = [loss.sum() / len(batch) for loss, batch in zip(each.split(sizes), drawn, strict=True)]
        learned = [parameter for candidate in group for parameter in candidate.parameters]
        gradients = torch.autograd.grad(torch.stack(means).sum(), learned, allow_unused=True)
        for parameter, gradient in zip(learned, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return [mean.detach() for mean in means]

    def _choose_width(self, at_most: int) -> int:
        longest = max(len(c.prompt()) for c in self.candidates if c.prompt is not None)
        size = self.settings.batch_size // self.settings.accumulation
        batch = next(batches(self.train, len(self.train), seed=None))
        largest = Batch(*(t[-size:] for t in (batch.input_ids, batch.attention_mask, batch.labels, batch.index)))
        return choose_width(self.backbone, longest, largest, self.verbalizer, self.settings.objective, at_most)

    def _evaluate(self, step: int, started: float, bar: Any) -> None:
        due = [c for c in self.candidates if not c.done and (c.due(step) or step in self.rungs)]
        if not due:
            return
        found = evaluate_many(
            self.backbone, [c.prompt for c in due], self.selection, encoded=self.held,
            batch_size=max(1, self.settings.eval_batch_size // len(due)), objective=self.settings.objective,
        )  # fmt: skip
        for candidate, one in zip(due, found, strict=True):
            candidate.record(step, one, time.perf_counter() - started)
        if step in self.rungs:
            left = sorted((c for c in self.candidates if not c.done), key=lambda c: c.standing, reverse=True)
            for candidate in left[self.rungs[step] :]:
                candidate.stop()
        best = f"{100 * max(c.history.best_score for c in self.candidates):.1f}"
        bar.set_postfix({self.selection.split: best})
        now = time.perf_counter()
        if now - self.logged >= _QUIET:  # where no bar is seen: a batch job, a notebook executed from a terminal
            self.logged = now
            log.info(
                "%s: step %d, best on %s %s, %.0f s", self.describe, step, self.selection.split, best, now - started
            )


def _stream(encoded: Encoded, batch_size: int, seed: int) -> Iterator[Batch]:
    """Batches for ever, every epoch in an order of its own."""
    epoch = 0
    while True:
        yield from batches(encoded, batch_size, seed=seed, epoch=epoch)
        epoch += 1


def _micro(batch: Batch, part: int, parts: int) -> Batch:
    """The part-th of `parts` micro-batches; a short batch's last ones may be empty."""
    if parts == 1:
        return batch
    size = -(-len(batch) // parts)
    cut = slice(part * size, (part + 1) * size)
    return Batch(batch.input_ids[cut], batch.attention_mask[cut], batch.labels[cut], batch.index[cut])


def _merge(parts: list[Batch], pad_id: int) -> Batch:
    """The candidates' batches as one, padded to the longest."""
    if all(part is parts[0] for part in parts):
        return repeat(parts[0], len(parts))
    longest = max(part.input_ids.shape[1] for part in parts)

    def widened(tensor: Tensor, value: int) -> Tensor:
        return nn.functional.pad(tensor, (0, longest - tensor.shape[1]), value=value)

    return Batch(
        torch.cat([widened(p.input_ids, pad_id) for p in parts]),
        torch.cat([widened(p.attention_mask, 0) for p in parts]),
        torch.cat([p.labels for p in parts]),
        torch.cat([p.index for p in parts]),
    )
