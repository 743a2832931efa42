"""What a method is given, what it hands back, and how its function is found."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from xprompt.backbones.base import Backbone
from xprompt.config.methods import get_method
from xprompt.config.run_config import RunConfig
from xprompt.data.splits import Splits
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.training.callbacks import Callbacks
from xprompt.training.candidate import History
from xprompt.training.evaluation import Evaluation, evaluate_many


class ParentRun(Protocol):
    """The finished run that a method starts from."""

    @property
    def record(self) -> dict[str, Any]:
        """What the run found."""

    def load_prompt(self, stage: str = "") -> SoftPrompt:
        """Load the prompt as it was after a stage."""


@dataclass
class MethodResult:
    """What a method hands back to be recorded.

    Attributes:
        report: metrics on the split that is reported.
        num_params: trained parameters that are left.
        history: one entry an evaluation while training, each with its stage.
        prompts: stage → prompt, in order; the last is the method's result.
        details: JSON values for the record.
        num_cut: training sources that were longer than the limit.
        seconds_before: seconds of the prompt tuning that it started from.
    """

    report: Evaluation
    num_params: int
    history: list[dict[str, Any]] = field(default_factory=list)
    prompts: dict[str, SoftPrompt] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    num_cut: int = 0
    seconds_before: float = 0.0


@dataclass(frozen=True)
class MethodContext:
    """What every method works with.

    Attributes:
        config: the run's settings.
        backbone: frozen; a method that trains weights copies it.
        splits: train, validation and, under "held_out", selection.
        parent: the run that the method's declaration names, done already; None where it names none.
        progress: whether to show bars.
        callbacks: of the run's training loops.
    """

    config: RunConfig
    backbone: Backbone
    splits: Splits
    parent: ParentRun | None = None
    progress: bool = False
    callbacks: Callbacks = field(default_factory=Callbacks)

    def report(self, prompt: SoftPrompt | None, backbone: Backbone | None = None) -> Evaluation:
        """Evaluate on the split that is reported."""
        return evaluate_many(
            backbone or self.backbone, [prompt], self.splits.validation,
            batch_size=self.config.tune.eval_batch_size, objective=self.config.tune.objective,
        )[0]  # fmt: skip

    def tuned(self) -> TunedPrompt:
        """Load the tuned prompt of the parent, a prompt-tuning run of the same settings."""
        assert self.parent is not None, "the method's declaration names no parent"
        record = self.parent.record
        prompt = self.parent.load_prompt("tuned_prompt").to(self.backbone.device)
        return TunedPrompt(prompt, record["seconds"]["total"], record["counts"]["cut"])


@dataclass(frozen=True)
class TunedPrompt:
    """The prompt that pruning starts from, the seconds it took, and the training sources that were cut for it."""

    prompt: SoftPrompt
    seconds: float
    num_cut: int


def entries(stage: str, history: History) -> list[dict[str, Any]]:
    """Return a history's entries for a record, each with its stage."""
    return [{"stage": stage, **entry} for entry in history.entries]


def summary(history: History) -> dict[str, Any]:
    """Return what a history says beside its entries."""
    return {name: value for name, value in asdict(history).items() if name != "entries"}


def load_method(name: str) -> Callable[[MethodContext], MethodResult]:
    """Return the function of a method by its declaration. Raises `ConfigError` for an unknown name."""
    module, _, function = get_method(name).function.partition(":")
    return getattr(importlib.import_module(f"xprompt.methods.{module}"), function)
