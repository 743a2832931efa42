"""One set of trained values: its optimiser and schedule, when it is evaluated, when it stops, what it keeps.

Owns the state of one candidate and its history. Never runs the backbone: `training` hands it losses and evaluations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from xprompt.config.settings import TuneSettings
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.training.evaluation import Evaluation
from xprompt.training.optimizer import make_optimizer


@dataclass
class History:
    """What happened while one prompt was trained.

    Attributes:
        entries: one an evaluation: step, train_loss (mean since the last; None at step 0), selection_loss,
            selection_score and metrics (in [0, 1]), seconds since the start.
        selection_split: the split checkpoints were chosen on.
        best_step: of the checkpoint that was kept; the earliest where several are equal.
        num_cut: training sources that were longer than the limit.
    """

    selection_split: str
    entries: list[dict[str, Any]] = field(default_factory=list)
    best_step: int = 0
    best_score: float = float("-inf")
    stopped_early: bool = False
    num_cut: int = 0


class Candidate:
    """One set of trained values with an optimiser of its own."""

    def __init__(
        self,
        prompt: SoftPrompt | None,
        parameters: list[nn.Parameter],
        settings: TuneSettings,
        snapshot: Callable[[], Any],
    ) -> None:
        self.prompt, self.parameters, self.settings, self.snapshot = prompt, parameters, settings, snapshot
        self.optimizer = make_optimizer(parameters, settings)
        self.history = History("")
        self.best: Any = None
        self.total = 0
        self.done = False
        self.running: Tensor | None = None  # summed loss since the last evaluation, left on the device
        self.running_steps = 0
        self.waited = 0

    def start(self, num_examples: int, split: str, num_cut: int) -> None:
        self.total = self.settings.num_steps(num_examples)
        self.every = self.settings.eval_every or -(-num_examples // self.settings.batch_size)
        self.history = History(split, num_cut=num_cut)
        total = max(1, self.total)
        falling = self.settings.schedule == "linear"
        self.schedule = LambdaLR(self.optimizer, lambda step: max(0.0, 1 - step / total) if falling else 1.0)

    def step(self, loss: Tensor) -> None:
        if self.settings.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.running = loss if self.running is None else self.running + loss
        self.running_steps += 1

    def due(self, step: int) -> bool:
        return not self.done and (step == 0 or step % self.every == 0 or step >= self.total)

    def record(self, step: int, found: Evaluation, seconds: float) -> None:
        train_loss = None if self.running is None else float(self.running) / self.running_steps
        self.running, self.running_steps = None, 0
        self.history.entries.append(
            {
                "step": step,
                "train_loss": train_loss,
                "selection_loss": found.loss,
                "selection_score": found.score,
                "metrics": found.metrics,
                "seconds": round(seconds, 3),
            }
        )
        if found.score > self.history.best_score:
            self.history.best_score, self.history.best_step = found.score, step
            self.best, self.waited = self.snapshot(), 0
        else:
            self.waited += 1
        if self.settings.patience is not None and self.waited >= self.settings.patience:
            self.history.stopped_early = step < self.total
            self.done = True
        self.done = self.done or step >= self.total

    @property
    def standing(self) -> tuple[float, float]:
        """What candidates are compared by before they are done: the best score so far, then the last loss."""
        return self.history.best_score, -self.history.entries[-1]["selection_loss"]

    def stop(self) -> None:
        """Go no further; what was the best so far is kept."""
        self.done = self.history.stopped_early = True

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that steps and evaluations have changed: tensors, and JSON values."""
        tensors = {f"parameter.{i}": p.detach() for i, p in enumerate(self.parameters)}
        numbers: dict[str, Any] = {}
        for i, parameter in enumerate(self.parameters):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                (tensors if isinstance(value, Tensor) else numbers)[f"optimizer.{i}.{name}"] = value
        best = {"": self.best.embeddings.detach()} if isinstance(self.best, SoftPrompt) else self.best or {}
        tensors |= {f"best.{name}": value for name, value in best.items()}
        if self.running is not None:
            tensors["running"] = self.running
        schedule = {name: value for name, value in self.schedule.state_dict().items() if name != "lr_lambdas"}
        return tensors, {
            "history": asdict(self.history),
            "done": self.done,
            "running_steps": self.running_steps,
            "waited": self.waited,
            "schedule": schedule,
            "rates": [group["lr"] for group in self.optimizer.param_groups],
            "optimizer": numbers,
        }

    def load_state_dict(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, to the last bit. After `start`, before any step."""
        device = self.parameters[0].device
        self.optimizer.state.clear()
        # Not by the optimiser's own load_state_dict, which rounds a float32 state to its parameter's bfloat16.
        for name, value in (tensors | facts["optimizer"]).items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                place, _, key = rest.partition(".")
                moved = value.to(device) if isinstance(value, Tensor) and key != "step" else value
                self.optimizer.state[self.parameters[int(place)]][key] = moved
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters):
                parameter.copy_(tensors[f"parameter.{i}"])
        best = {name.removeprefix("best."): t.to(device) for name, t in tensors.items() if name.startswith("best.")}
        if self.prompt is not None and best:
            self.best = self.prompt.clone()
            self.best.embeddings.data.copy_(best[""])
        else:
            self.best = best or None
        self.running = tensors["running"].to(device) if "running" in tensors else None
        self.history = History(**facts["history"])
        self.done, self.waited, self.running_steps = facts["done"], facts["waited"], facts["running_steps"]
        self.schedule.load_state_dict(facts["schedule"] | {"lr_lambdas": [None]})
        for group, rate in zip(self.optimizer.param_groups, facts["rates"], strict=True):
            group["lr"] = rate
