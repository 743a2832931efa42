"""The steps and evaluations of C candidates on one frozen backbone: batches in, losses and gradients, updates.

Owns what one step is, and when candidates are evaluated. Never prunes, and never keeps a result: each candidate does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import torch
from torch import Tensor
from tqdm.auto import tqdm

from xprompt.backbones.base import Backbone
from xprompt.backbones.gradient_checkpointing import recomputing
from xprompt.data.batching import Batch, batches, concat, infinite_batches, micro_batch, shard, slice_rows
from xprompt.data.splits import Splits, TaskDataset
from xprompt.distributed import process_group
from xprompt.errors import ConfigError, DataError
from xprompt.training.callbacks import Callbacks, Checkpointer
from xprompt.training.candidate import Candidate
from xprompt.training.evaluation import evaluate_many, prompt_rows
from xprompt.training.memory import choose_width, is_out_of_memory

log = logging.getLogger("xprompt")
_QUIET = 15.0  # seconds between two lines of progress


class Loop:
    """C candidates, all on the same frozen backbone and the same splits; `training` says what the arguments are.

    Raises `ConfigError` where candidates differ in what a pass is made of, `DataError` without training examples.
    """

    def __init__(
        self,
        backbone: Backbone,
        candidates: list[Candidate],
        splits: Splits,
        seeds: list[int],
        progress: bool,
        describe: str,
        halving_schedule: Mapping[int, int] | None = None,
    ) -> None:
        if len({(s.objective, s.batch_size, s.accumulation, s.eval_batch_size, s.dropout, s.gradient_checkpointing)
                for s in (c.settings for c in candidates)}) > 1:  # fmt: skip
            raise ConfigError(
                "prompts tuned side by side must agree in objective, batch_size, accumulation, eval_batch_size, "
                "dropout and gradient_checkpointing: tune those that differ apart."
            )
        if not len(splits.train):
            raise DataError(f"{splits.task.name} has no training examples in {splits.source}: nothing to tune on.")
        self.backbone, self.candidates, self.seeds = backbone, candidates, seeds
        self.settings, self.halving_schedule = candidates[0].settings, dict(halving_schedule or {})
        self.selection: TaskDataset = splits.selection if splits.selection is not None else splits.validation
        self.train, self.held = backbone.encode(splits.train), backbone.encode(self.selection)
        self.verbalizer = backbone.verbalizer(splits.task)
        self.describe = describe
        self.steps = 0
        for candidate in candidates:
            candidate.start(len(self.train), self.selection.split, self.train.num_cut)
            self.steps = max(self.steps, candidate.total)
        self.bar = tqdm(total=self.steps, desc=describe, unit="step", disable=not progress, leave=False)
        self.logged = time.perf_counter()

    def run(self, callbacks: Callbacks, width: int | None = 1) -> None:
        """Train every candidate to its end, from the start or from where an interruption left them."""
        made_of = {"seeds": self.seeds, "rungs": list(self.halving_schedule.items()), "selection": self.selection.split}
        self.journey = Checkpointer(
            callbacks, self.describe, self.candidates, self.backbone, [self.train, self.held], made_of
        )  # fmt: skip
        self.at = at = self.journey.start(width)
        self.bar.update(at.step)
        streams = {s: infinite_batches(self.train, self.settings.batch_size, s, at.step) for s in set(self.seeds)}
        try:
            if not at.evaluated:
                self._evaluate()
            while at.step < self.steps:
                active = [(c, s) for c, s in zip(self.candidates, self.seeds, strict=True) if not c.done]
                if not active:
                    break
                drawn = {seed: next(streams[seed]) for seed in {s for _, s in active}}
                self._step([c for c, _ in active], [drawn[s] for _, s in active])
                self.bar.update()
                self._evaluate()
                self.journey.keep(at)
        except KeyboardInterrupt:
            self.journey.keep(at, interrupted=True)
            raise
        finally:
            self.bar.close()
            self.journey.end()

    def _step(self, active: list[Candidate], drawn: list[Batch]) -> None:
        """One optimiser step of every active candidate, over `accumulation` micro-batches."""
        at, losses = self.at, [torch.zeros((), device=self.backbone.device)] * len(active)
        model, settings = self.backbone.model, self.settings
        if at.width is None:
            with recomputing(model, settings.gradient_checkpointing):
                at.width = self._choose_width(len(active))
        with self.backbone.dropout(settings.dropout), recomputing(model, settings.gradient_checkpointing):
            for part in range(settings.accumulation):
                done = 0
                while done < len(active):
                    group = slice(done, done + at.width)
                    try:
                        means = self._pass(active[group], drawn[group], part)
                    except RuntimeError as error:
                        if not is_out_of_memory(error) or at.width == 1:
                            raise
                        at.width //= 2  # nothing was changed yet: the same candidates, in a smaller group
                        continue
                    for place, mean in enumerate(means, start=done):
                        losses[place] = losses[place] + mean
                    done += len(means)
        _sum_over_workers([p for c in active for p in c.parameters], losses)
        at.amid = True
        for candidate, loss in zip(active, losses, strict=True):
            candidate.step(loss)
        self.journey.stepped(at)
        at.step, at.evaluated, at.amid = at.step + 1, False, False

    def _pass(self, group: list[Candidate], drawn: list[Batch], part: int) -> list[Tensor]:
        """Add one micro-batch's gradients to each candidate of the group, all or none; return their losses' parts."""
        own = {id(b): shard(micro_batch(b, part, self.settings.accumulation), process_group()) for b in drawn}
        pieces = [own[id(batch)] for batch in drawn]
        sizes = [len(piece) for piece in pieces]
        if not sum(sizes):
            return [torch.zeros((), device=self.backbone.device)] * len(group)
        vectors, prompt_mask, prompt_index = prompt_rows([c.prompt for c in group], sizes, self.backbone.device)
        merged = concat(pieces, self.train.pad_id)
        each = self.backbone.loss(vectors, merged, self.verbalizer, prompt_mask, self.settings.objective, prompt_index)
        # Of every candidate's mean over its whole batch: micro-batches and processes add up to exactly one step.
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
        largest = slice_rows(batch, slice(-size, None))  # ordered by length
        return choose_width(self.backbone, longest, largest, self.verbalizer, self.settings.objective, at_most)

    def _evaluate(self) -> None:
        """Evaluate the candidates that are due after this step; record, and drop those that a rung leaves behind."""
        at, step = self.at, self.at.step
        due = [
            i for i, c in enumerate(self.candidates) if not c.done and (c.due(step) or step in self.halving_schedule)
        ]
        if due:
            found = evaluate_many(
                self.backbone, [self.candidates[i].prompt for i in due], self.selection, encoded=self.held,
                batch_size=self.settings.eval_batch_size, objective=self.settings.objective,
            )  # fmt: skip
            at.amid = True
            for i, one in zip(due, found, strict=True):
                self.candidates[i].record(step, one, self.journey.seconds)
            if step in self.halving_schedule:
                left = sorted((c for c in self.candidates if not c.done), key=lambda c: c.standing, reverse=True)
                for candidate in left[self.halving_schedule[step] :]:
                    candidate.stop()
        at.evaluated, at.amid = True, False
        if due:
            self.journey.evaluated(due)
            self._say(step)

    def _say(self, step: int) -> None:
        best = f"{100 * max(c.history.best_score for c in self.candidates):.1f}"
        self.bar.set_postfix({self.selection.split: best})
        now = time.perf_counter()
        if now - self.logged >= _QUIET:  # where no bar is seen: a batch job, a notebook executed from a terminal
            self.logged = now
            log.info(
                "%s: step %d, best on %s %s, %.0f s",
                self.describe, step, self.selection.split, best, self.journey.seconds,
            )  # fmt: skip


def _sum_over_workers(parameters: list[Tensor], losses: list[Tensor]) -> None:
    """Each process's part of the gradients and losses → the whole. One without a gradient anywhere stays so."""
    if process_group().world_size == 1:
        return
    has = torch.tensor([float(p.grad is not None) for p in parameters])
    process_group().all_reduce([has])
    learned = [p for p, number in zip(parameters, has.tolist(), strict=True) if number]
    for parameter in learned:
        if parameter.grad is None:  # this process had no example of the batch
            parameter.grad = torch.zeros_like(parameter)
    losses[:] = [loss.clone() for loss in losses]  # an empty share's zeros may be one tensor
    process_group().all_reduce([*(p.grad for p in learned if p.grad is not None), *losses])
