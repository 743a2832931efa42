"""What a method is given, what it returns, and how its function is found by its declaration."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
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
        """Return the run's record."""

    def load_prompt(self, stage: str = "") -> SoftPrompt:
        """Load the prompt as it was after a stage; "": the last."""


@dataclass
class MethodResult:
    """What a method returns, to be recorded.

    Attributes:
        report: evaluation on the split that is reported.
        num_params: trained parameters; of a pruned prompt, those that survive.
        history: one entry an evaluation while training, each with its stage.
        prompts: stage → prompt, in order; the last is the method's result.
        details: JSON values for the record.
        num_cut: training sources that were longer than the limit.
        seconds_before: seconds of the prompt tuning that it starts from.
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
        config: of the run.
        backbone: frozen; a method that trains weights copies it.
        splits: train, validation and, under "held_out", selection.
        parents: the finished runs that the method's declaration names, in the order of the source tasks.
        progress: whether to show bars.
        callbacks: of the run's training loops.
    """

    config: RunConfig
    backbone: Backbone
    splits: Splits
    parents: Sequence[ParentRun] = ()
    progress: bool = False
    callbacks: Callbacks = field(default_factory=Callbacks)

    @property
    def parent(self) -> ParentRun:
        """Return the one run that the method starts from."""
        (parent,) = self.parents
        return parent

    def report(self, prompt: SoftPrompt | None, backbone: Backbone | None = None) -> Evaluation:
        """Evaluate on the split that is reported, by the objective that was trained; `backbone`: not the context's own.

        Raises `NotFiniteError`.
        """
        settings = self.config.training
        evaluations = evaluate_many(
            backbone or self.backbone, [prompt], self.splits.validation,
            batch_size=settings.eval_batch_size, objective=settings.objective,
        )  # fmt: skip
        return evaluations[0].require_finite(self.splits.validation.split)

    def tuned(self) -> TunedPrompt:
        """Load the tuned prompt of the parent, a prompt-tuning run of the same settings."""
        record = self.parent.record
        seconds = record["seconds"].get("with_prompt_tuning", record["seconds"]["total"])
        prompt = self.parent.load_prompt("tuned_prompt").to(self.backbone.device)
        return TunedPrompt(prompt, seconds, record["counts"]["cut"])


@dataclass(frozen=True)
class TunedPrompt:
    """The prompt that pruning starts from, the seconds it took with what it came from, and the sources cut for it."""

    prompt: SoftPrompt
    seconds: float
    num_cut: int


def entries(stage: str, history: History) -> list[dict[str, Any]]:
    """Return a history's entries for a record, each with its stage."""
    return [{"stage": stage, **entry} for entry in history.entries]


def summary(history: History) -> dict[str, Any]:
    """Return a history without its entries, for a record."""
    facts = {name: value for name, value in asdict(history).items() if name != "entries"}
    return facts if history.diverged else {name: value for name, value in facts.items() if name != "diverged"}


def load_method(name: str) -> Callable[[MethodContext], MethodResult]:
    """Return the function of a method by its declaration. Raises `ConfigError` for an unknown name."""
    module, _, function = get_method(name).function.partition(":")
    return getattr(importlib.import_module(f"xprompt.methods.{module}"), function)
