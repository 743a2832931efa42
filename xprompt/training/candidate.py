"""A candidate: one set of trained values with its optimiser, schedule, early stopping and best checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from xprompt import html
from xprompt.config.settings import TuneSettings
from xprompt.errors import NotFiniteError
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.training.evaluation import Evaluation
from xprompt.training.optimizer import make_optimizer


@dataclass
class History:
    """What happened while one prompt was trained.

    Attributes:
        selection_split: the split that the checkpoint was chosen on.
        entries: one an evaluation: step, train_loss (mean since the last; None at step 0), selection_loss,
            selection_score and metrics (in [0, 1]), seconds since the start.
        best_step: of the checkpoint that was kept; the earliest where several are equal.
        best_score: of that checkpoint, in [0, 1].
        stopped_early: whether it ended before its last step: out of patience, dropped by successive halving, diverged.
        diverged: what was no longer finite, where that ended it while others went on; else "".
        num_cut: training sources that were longer than the limit.
    """

    selection_split: str
    entries: list[dict[str, Any]] = field(default_factory=list)
    best_step: int = 0
    best_score: float = float("-inf")
    stopped_early: bool = False
    num_cut: int = 0
    diverged: str = ""

    def __repr__(self) -> str:
        best = f"best {100 * self.best_score:.1f} at step {self.best_step} on {self.selection_split}"
        return f"History({len(self.entries)} evaluations, {best if self.entries else 'not trained'})"

    @property
    def last_step(self) -> int:
        """Return the step of the last evaluation; 0 where there was none."""
        return self.entries[-1]["step"] if self.entries else 0

    def _repr_html_(self) -> str:
        """Show the selection score at every evaluation."""
        return html.history(self.entries)


class Candidate:
    """Values that are trained together with other candidates and chosen on their own.

    Args:
        prompt: the soft prompt; None where the backbone itself, or an adapter in it, is trained.
        parameters: what the optimiser changes.
        settings: of this candidate.
        snapshot: returns a copy of the trained values, taken at every new best score.

    Attributes:
        best: the snapshot with the best score on the selection split.
        done: no further steps or evaluations.
        patience_used: evaluations since the last new best score.
    """

    def __init__(
        self,
        prompt: SoftPrompt | None,
        parameters: list[nn.Parameter],
        settings: TuneSettings,
        snapshot: Callable[[], Any],
    ) -> None:
        self.prompt, self.parameters, self.settings, self.snapshot = prompt, parameters, settings, snapshot
        surviving = None if prompt is None else prompt.surviving_entries
        self.optimizer = make_optimizer(parameters, settings, surviving)
        self.history = History("")
        self.best: Any = None
        self.num_steps = 0
        self.done = False
        self.patience_used = 0
        self.loss_sum: Tensor | None = None  # (): over the steps since the last evaluation, left on the device
        self.loss_steps = 0

    def start(self, num_examples: int, split: str, num_cut: int) -> None:
        """Set steps, schedule and history up for a training set of that many examples, selected on `split`."""
        self.num_steps = self.settings.num_steps(num_examples)
        self.eval_every = self.settings.eval_every or -(-num_examples // self.settings.batch_size)
        self.history = History(split, num_cut=num_cut)
        total, linear = max(1, self.num_steps), self.settings.schedule == "linear"
        self.schedule = LambdaLR(self.optimizer, lambda step: max(0.0, 1 - step / total) if linear else 1.0)

    def step(self, loss: Tensor) -> None:
        """Do one optimiser step with the gradients at hand; `loss`, (), is the step's mean loss.

        Raises `NotFiniteError` at the step where a loss stops being finite. On a GPU, where asking would make the CPU
        wait, it is raised at the next evaluation.
        """
        if loss.device.type == "cpu" and not torch.isfinite(loss):
            raise self._diverged(f"the training loss is {float(loss)} at step {self.schedule.last_epoch + 1}")
        if self.settings.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss_sum = loss if self.loss_sum is None else self.loss_sum + loss
        self.loss_steps += 1

    def due(self, step: int) -> bool:
        """Return whether it is evaluated after that step by its own settings."""
        return not self.done and (step == 0 or step % self.eval_every == 0 or step >= self.num_steps)

    def record(self, step: int, evaluation: Evaluation, seconds: float) -> None:
        """Add an evaluation to the history, keep the checkpoint if it is the best, and stop where it is time.

        Raises `NotFiniteError` where the losses or the values are not finite: such a checkpoint is never kept.
        """
        history = self.history
        train_loss = None if self.loss_sum is None else float(self.loss_sum) / self.loss_steps
        if train_loss is not None and not math.isfinite(train_loss):
            raise self._diverged(f"the training loss is {train_loss} before step {step}")
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters):
            raise self._diverged(f"trained values are not finite after step {step}")
        if not math.isfinite(evaluation.loss):
            raise self._diverged(f"the loss on the {history.selection_split} split is {evaluation.loss} at step {step}")
        self.loss_sum, self.loss_steps = None, 0
        history.entries.append(
            {
                "step": step,
                "train_loss": train_loss,
                "selection_loss": evaluation.loss,
                "selection_score": evaluation.score,
                "metrics": evaluation.metrics,
                "seconds": round(seconds, 3),
            }
        )
        if evaluation.score > history.best_score:
            history.best_score, history.best_step = evaluation.score, step
            self.best, self.patience_used = self.snapshot(), 0
        else:
            self.patience_used += 1
        if self.settings.patience is not None and self.patience_used >= self.settings.patience:
            history.stopped_early = step < self.num_steps
            self.done = True
        self.done = self.done or step >= self.num_steps

    def _diverged(self, what: str) -> NotFiniteError:
        """Return the error that ends a run whose numbers are no longer finite."""
        entries = self.history.entries
        last = (
            f"The last finite evaluation was at step {entries[-1]['step']} (score {entries[-1]['selection_score']:.4f})"
            if entries
            else "No evaluation was finite, not even before the first step: look at the backbone and the initial values"
        )
        return NotFiniteError(
            f"{what}. {last}. Given: {self.settings.optimizer} at a learning rate of {self.settings.learning_rate:g}, "
            f"max_grad_norm={self.settings.max_grad_norm}. Lower the learning rate or set max_grad_norm; a float16 "
            "backbone may overflow: use bfloat16 or float32."
        )

    @property
    def rank(self) -> tuple[float, float]:
        """Return what unfinished candidates are compared by, higher is better: best score so far, −last loss."""
        return self.history.best_score, -self.history.entries[-1]["selection_loss"]

    def stop(self) -> None:
        """End here, and keep the best checkpoint so far."""
        self.done = self.history.stopped_early = True

    def diverge(self, what: str) -> None:
        """End here, since the numbers are no longer finite, and keep the best checkpoint before that."""
        self.history.diverged = what
        self.optimizer.zero_grad(set_to_none=True)
        self.stop()

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that steps and evaluations have changed: (tensors, JSON values)."""
        tensors = {f"parameter.{i}": p.detach() for i, p in enumerate(self.parameters)}
        numbers: dict[str, Any] = {}
        for i, parameter in enumerate(self.parameters):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                (tensors if isinstance(value, Tensor) else numbers)[f"optimizer.{i}.{name}"] = value
        best = {"": self.best.embeddings.detach()} if isinstance(self.best, SoftPrompt) else self.best or {}
        tensors |= {f"best.{name}": value for name, value in best.items()}
        if self.loss_sum is not None:
            tensors["loss_sum"] = self.loss_sum
        schedule = {name: value for name, value in self.schedule.state_dict().items() if name != "lr_lambdas"}
        return tensors, {
            "history": asdict(self.history),
            "done": self.done,
            "loss_steps": self.loss_steps,
            "patience_used": self.patience_used,
            "schedule": schedule,
            "learning_rates": [group["lr"] for group in self.optimizer.param_groups],
            "optimizer": numbers,
        }

    def load_state_dict(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, to the last bit. Call after `start`, before any step."""
        device = self.parameters[0].device
        self.optimizer.state.clear()
        # Not by the optimiser's own load_state_dict, which rounds a float32 state to its parameter's bfloat16.
        for name, value in (tensors | facts["optimizer"]).items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, _, key = rest.partition(".")
                parameter = self.parameters[int(index)]
                moved = value.to(parameter.device) if isinstance(value, Tensor) and key != "step" else value
                self.optimizer.state[parameter][key] = moved
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters):
                parameter.copy_(tensors[f"parameter.{i}"])
        best = {name.removeprefix("best."): t.to(device) for name, t in tensors.items() if name.startswith("best.")}
        if self.prompt is not None and best:
            self.best = self.prompt.clone()
            self.best.embeddings.data.copy_(best[""])
        else:
            self.best = best or None
        self.loss_sum = tensors["loss_sum"].to(device) if "loss_sum" in tensors else None
        self.history = History(**facts["history"])
        self.done, self.loss_steps, self.patience_used = facts["done"], facts["loss_steps"], facts["patience_used"]
        self.schedule.load_state_dict(facts["schedule"] | {"lr_lambdas": [None]})
        for group, rate in zip(self.optimizer.param_groups, facts["learning_rates"], strict=True):
            group["lr"] = rate
