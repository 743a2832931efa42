"""The training loop: C candidates in front of one frozen backbone, from step 0 to the last evaluation.

B: examples in a pass, over all its candidates; P: prompt tokens; H: embedding width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from xprompt.backbones.base import Backbone
from xprompt.backbones.devices import random_state_kept
from xprompt.backbones.gradient_checkpointing import recomputing
from xprompt.backbones.subnormals import subnormals_as_zero
from xprompt.data.batching import Batch, batches, concat, infinite_batches, micro_batch, shard, slice_rows
from xprompt.data.splits import Splits, TaskDataset
from xprompt.distributed import process_group
from xprompt.errors import ConfigError, DataError, NotFiniteError, is_out_of_memory
from xprompt.files import path_of
from xprompt.streams import stream_seed, whole_seed
from xprompt.training.callbacks import Callback, Callbacks, ProgressBar, ProgressLog
from xprompt.training.candidate import Candidate
from xprompt.training.checkpoint import Checkpointer, TrainerState
from xprompt.training.evaluation import evaluate_many, prompt_rows
from xprompt.training.memory import choose_width

log = logging.getLogger("xprompt")


class Loop:
    """Train C candidates on the same frozen backbone and the same splits. `tune_many` describes the arguments.

    Raises:
        ConfigError: candidates differ in a setting that one pass over the backbone has to share.
        DataError: there are no training examples.
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
        shared = ("objective", "batch_size", "accumulation", "eval_batch_size", "dropout", "gradient_checkpointing")
        if len({tuple(getattr(c.settings, name) for name in shared) for c in candidates}) > 1:
            raise ConfigError(
                f"prompts tuned in parallel must agree in {', '.join(shared)}: tune those that differ separately."
            )
        if not len(splits.train):
            raise DataError(f"{splits.task.name} has no training examples in {splits.source}: nothing to tune on.")
        self.backbone, self.candidates, self.seeds = backbone, candidates, list(map(whole_seed, seeds))
        self.settings, self.halving_schedule = candidates[0].settings, dict(halving_schedule or {})
        self.selection: TaskDataset = splits.selected_on
        self.verbalizer = backbone.verbalizer(splits.task)
        follows = backbone.label_positions(self.verbalizer, self.settings.objective)
        self.train, self.encoded_selection = (
            backbone.encode(data, _longest(candidates), follows) for data in (splits.train, self.selection)
        )
        self.progress, self.describe = progress, describe
        for candidate in candidates:
            candidate.start(len(self.train), self.selection.split, self.train.num_cut)
        self.num_steps = max(candidate.num_steps for candidate in candidates)

    def run(self, callbacks: Callbacks | Sequence[Callback] | None = None, width: int | None = 1) -> None:
        """Train every candidate to its end, from step 0 or from where an interruption left it."""
        if not isinstance(callbacks, Callbacks):
            callbacks = Callbacks(list(callbacks or ()))
        self.stage = callbacks.next_stage(self.describe)
        self.callbacks = self._callbacks(callbacks)
        self.checkpointer = self._checkpointer(callbacks)
        # Candidates in one pass would share its random numbers.
        self.state = state = TrainerState(width=1 if self.settings.dropout else width)
        callbacks.resumed_seconds += self.checkpointer.restore(state)
        streams = {s: infinite_batches(self.train, self.settings.batch_size, s, state.step) for s in set(self.seeds)}
        try:
            for callback in self.callbacks:
                callback.on_train_begin(self.stage, dict(enumerate(self.candidates)))
            if not state.evaluated:
                self._evaluate()
            while state.step < self.num_steps and (active := self._active()):
                group, seeds = [self.candidates[i] for i in active], [self.seeds[i] for i in active]
                drawn = {seed: next(streams[seed]) for seed in set(seeds)}
                with subnormals_as_zero(self.backbone.device):
                    losses = self._forward_backward(group, [drawn[seed] for seed in seeds], seeds)
                self._step(group, losses)
                self._evaluate()
                self.checkpointer.save(state)
        except KeyboardInterrupt:
            self.checkpointer.save(state, interrupted=True)
            raise
        finally:
            for callback in self.callbacks:
                callback.on_train_end(self.stage)

    def _active(self) -> list[int]:
        """Return the indices of the candidates that still train."""
        return [i for i, candidate in enumerate(self.candidates) if not candidate.done]

    def _forward_backward(self, group: list[Candidate], drawn: list[Batch], seeds: list[int]) -> list[Tensor]:
        """Leave one step's gradients in every candidate's parameters; return each one's mean loss, C times ().

        The step is made of `accumulation` micro-batches, and of passes over as many candidates as memory holds.
        """
        state, settings, model = self.state, self.settings, self.backbone.model
        losses = [torch.zeros((), device=self.backbone.device)] * len(group)
        if state.width is None:
            with recomputing(model, settings.gradient_checkpointing):
                state.width = self._choose_width(len(group))
        with (
            random_state_kept(settings.dropout),
            self.backbone.dropout(settings.dropout),
            recomputing(model, settings.gradient_checkpointing),
        ):
            for part in range(settings.accumulation):
                first = 0
                while first < len(group):
                    rows = slice(first, first + state.width)
                    if settings.dropout:  # by candidate, step, micro-batch, shard: a resumed loop needs nothing more
                        index = state.step * settings.accumulation + part
                        index = index * process_group().world_size + process_group().rank
                        torch.manual_seed(stream_seed(seeds[first], "dropout", index))
                    try:
                        pass_losses = self._pass(group[rows], drawn[rows], part)
                    except RuntimeError as error:
                        if not is_out_of_memory(error) or state.width == 1:
                            raise
                        state.width //= 2  # nothing was changed yet: the same candidates, in a smaller pass
                        continue
                    for i, loss in enumerate(pass_losses, start=first):
                        losses[i] = losses[i] + loss
                    first += len(pass_losses)
        _sum_over_processes([p for candidate in group for p in candidate.parameters], losses)
        return losses

    def _pass(self, group: list[Candidate], drawn: list[Batch], part: int) -> list[Tensor]:
        """Add one micro-batch's gradients to each candidate of the group, all or none; return its part of the losses.

        Args:
            drawn: each candidate's whole batch.
            part: which micro-batch of it.
        """
        parts = {id(b): shard(micro_batch(b, part, self.settings.accumulation), process_group()) for b in drawn}
        micro_batches = [parts[id(batch)] for batch in drawn]  # candidates with the same seed share one
        sizes = [len(micro) for micro in micro_batches]
        if not sum(sizes):
            return [torch.zeros((), device=self.backbone.device)] * len(group)
        # (C, P, H), (C, P), (B,)
        vectors, prompt_mask, prompt_index = prompt_rows([c.prompt for c in group], sizes, self.backbone.device)
        inputs = concat(micro_batches, self.train.pad_id)  # (B, T)
        losses = self.backbone.loss(
            vectors, inputs, self.verbalizer, prompt_mask, self.settings.objective, prompt_index
        )  # (B,)
        # Of every candidate's mean over its whole batch: micro-batches and processes add up to exactly one step.
        means = [loss.sum() / len(batch) for loss, batch in zip(losses.split(sizes), drawn, strict=True)]  # C × ()
        parameters = [parameter for candidate in group for parameter in candidate.parameters]
        # The sum of C losses has each candidate's own gradient: no parameter is in two of them.
        gradients = torch.autograd.grad(torch.stack(means).sum(), parameters, allow_unused=True)  # as the parameters
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return [mean.detach() for mean in means]

    def _step(self, group: list[Candidate], losses: list[Tensor]) -> None:
        """Do one optimiser step of every candidate."""
        with self.state.update():
            for candidate, loss in zip(group, losses, strict=True):
                with self._others_go_on(candidate):
                    candidate.step(loss)
            self.state.step, self.state.evaluated = self.state.step + 1, False
        for callback in self.callbacks:
            callback.on_step_end(self.stage, self.state.step)

    def _evaluate(self) -> None:
        """Evaluate the candidates that are due after this step, together, and drop those that halving drops."""
        state, halving = self.state, self.state.step in self.halving_schedule
        due = [i for i in self._active() if halving or self.candidates[i].due(state.step)]
        evaluations = []
        if due:
            evaluations = evaluate_many(
                self.backbone, [self.candidates[i].prompt for i in due], self.selection,
                encoded=self.encoded_selection, batch_size=self.settings.eval_batch_size,
                objective=self.settings.objective,
            )  # fmt: skip
        with state.update():
            for i, evaluation in zip(due, evaluations, strict=True):
                with self._others_go_on(self.candidates[i]):
                    self.candidates[i].record(state.step, evaluation, state.seconds)
            if halving:
                self._halve(self.halving_schedule[state.step])
            state.evaluated = True
        looked_at = {i: self.candidates[i] for i in due if not self.candidates[i].history.diverged}
        if looked_at:
            for callback in self.callbacks:
                callback.on_evaluate(self.stage, looked_at)

    @contextmanager
    def _others_go_on(self, candidate: Candidate) -> Iterator[None]:
        """End a candidate that diverges and keep its last finite checkpoint; where it is the last one, raise."""
        try:
            yield
        except NotFiniteError as error:
            others = [other for other in self.candidates if other is not candidate]
            if not candidate.history.entries or all(other.history.diverged for other in others):
                raise
            candidate.diverge(str(error))
            log.warning("%s: candidate %d ends: %s", self.describe, self.candidates.index(candidate), error)

    def _halve(self, num_left: int) -> None:
        """Stop all but the best candidates of those that still train; of equals, the first go on."""
        ranked = sorted((self.candidates[i] for i in self._active()), key=lambda c: c.rank, reverse=True)
        for candidate in ranked[num_left:]:
            candidate.stop()

    def _choose_width(self, at_most: int) -> int:
        """Return how many candidates one pass over the largest micro-batch can hold."""
        if at_most == 1:
            return 1
        size = self.settings.batch_size // self.settings.accumulation
        by_length = next(batches(self.train, len(self.train), seed=None))
        largest = slice_rows(by_length, slice(-size, None))
        length, objective = _longest(self.candidates), self.settings.objective
        return choose_width(self.backbone, length, largest, self.verbalizer, objective, at_most)

    def _callbacks(self, callbacks: Callbacks) -> list[Callback]:
        """Return the callbacks that this process calls."""
        if not process_group().is_main:
            return []
        return [*([ProgressBar()] if self.progress else []), ProgressLog(), *callbacks.callbacks]

    def _checkpointer(self, callbacks: Callbacks) -> Checkpointer:
        identity = {
            "stage": self.stage,
            "seeds": self.seeds,
            "halving_schedule": list(self.halving_schedule.items()),
            "selection": self.selection.split,
        }
        folder = None if callbacks.folder is None else path_of(callbacks.folder) / self.stage
        data = [self.train, self.encoded_selection]
        return Checkpointer(folder, callbacks.every, self.candidates, self.backbone, data, identity)


def _longest(candidates: Sequence[Candidate]) -> int:
    """Return the vectors of the longest prompt; 0 where a module makes the prompt, or there is none."""
    return max((c.prompt.num_vectors for c in candidates if c.prompt is not None), default=0)


def _sum_over_processes(parameters: list[Tensor], losses: list[Tensor]) -> None:
    """Sum each process's part of the gradients and losses. A parameter without a gradient anywhere keeps none."""
    if process_group().world_size == 1:
        return
    has_gradient = torch.tensor([float(p.grad is not None) for p in parameters])
    process_group().all_reduce([has_gradient])
    trained = [p for p, count in zip(parameters, has_gradient.tolist(), strict=True) if count]
    for parameter in trained:
        if parameter.grad is None:  # this process had no example of the batch
            parameter.grad = torch.zeros_like(parameter)
    losses[:] = [loss.clone() for loss in losses]  # an empty shard's zeros may be one tensor
    process_group().all_reduce([*(p.grad for p in trained if p.grad is not None), *losses])
