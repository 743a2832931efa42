"""The validated settings of training and pruning: which there are, and the values they may take."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from xprompt.config.methods import METHODS
from xprompt.errors import ConfigError

Protocol = Literal["paper", "held_out"]
Mode = Literal["zero", "drop"]
Level = Literal["both", "token", "piece"]
Initialiser = Literal["vocab", "common", "uniform", "labels", "first"]


def _known_method(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"not a method; known: {', '.join(METHODS)}")
    return name


MethodName = Annotated[str, AfterValidator(_known_method)]
PROTOCOLS: tuple[str, ...] = ("paper", "held_out")
PAPER_RATIOS: tuple[float, ...] = tuple(round(i / 10, 1) for i in range(1, 10))


class Settings(BaseModel):
    """Frozen, strict settings: an unknown field or a value out of range is a `ConfigError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            kind = type(self)
            complaints = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or kind.__name__}: {e['msg']} (given {_shorten(e['input'])})"
                for e in error.errors()
            )
            raise ConfigError(f"{kind.__name__}: {complaints}. Fields: {', '.join(kind.model_fields)}.") from error

    def replace(self, **changes: Any) -> Any:
        """Return a validated copy with these fields changed."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class TuneSettings(Settings):
    """How one prompt (or, for the fine-tuning baseline, the whole backbone) is trained.

    Source: paper §4.1 (Adafactor 0.3, weight decay 1e-5, batch 16, constant schedule, early stopping on dev).
    Differs: length is given in optimiser steps or epochs, one of the two; dropout is off unless asked for.
    """

    optimizer: Literal["adafactor", "adamw"] = "adafactor"
    learning_rate: float = Field(0.3, gt=0)
    weight_decay: float = Field(1e-5, ge=0)
    schedule: Literal["constant", "linear"] = "constant"
    steps: int | None = Field(None, ge=0, description="optimiser steps")
    epochs: float | None = Field(None, gt=0, description="passes over the training data")
    batch_size: int = Field(16, ge=1, description="examples an optimiser step, over all its micro-batches")
    accumulation: int = Field(1, ge=1, description="micro-batches one step is split into")
    eval_every: int | None = Field(None, ge=1, description="steps between evaluations; None: once an epoch")
    patience: int | None = Field(None, ge=1, description="evaluations without a new best before stopping")
    eval_batch_size: int = Field(64, ge=1)
    dropout: bool = Field(False, description="whether the backbone's dropout is active while tuning")
    objective: Literal["label_scores", "generation"] = "label_scores"
    max_grad_norm: float | None = Field(None, gt=0)
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, same numbers"
    )

    @model_validator(mode="after")
    def _check_lengths(self) -> TuneSettings:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"give exactly one of steps and epochs, not steps={self.steps}, epochs={self.epochs}")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulation {self.accumulation}: "
                "every micro-batch must be the same size"
            )
        return self

    def num_steps(self, num_examples: int) -> int:
        """Return the optimiser steps for a training set of `num_examples`."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * -(-num_examples // self.batch_size)))


class PruneSettings(Settings):
    """Which masks are tried, and how the rewound prompts are retrained. Source: paper §3.2, §3.3."""

    level: Level = "both"
    token_ratios: tuple[float, ...] = PAPER_RATIOS
    piece_ratios: tuple[float, ...] = PAPER_RATIOS
    mode: Mode = "zero"
    importance_limit: int | None = Field(None, ge=1, description="training examples scored; None: all")
    retune: TuneSettings = TuneSettings(epochs=100)
    search: Literal["grid", "linear", "halving"] = Field(
        "grid",
        description="retrain every pair of ratios; the token ratios and then, at the best of them, the piece ratios; "
        "or, of held_out runs alone (paper means grid), every pair, with the worse stopped early",
    )
    rescore_pieces: bool = Field(
        False, description="score pieces again once tokens are pruned; else both levels come from one pass"
    )
    side_by_side: int | None = Field(
        None, ge=1, description="candidates in one pass; None: as many as memory holds (never changes a result)"
    )

    @model_validator(mode="after")
    def _check_ratios(self) -> PruneSettings:
        for name in ("token_ratios", "piece_ratios"):
            ratios = getattr(self, name)
            if not ratios or any(not 0 <= r < 1 for r in ratios):
                raise ValueError(f"{name} {ratios} must be one or more prune ratios in [0, 1)")
        return self

    def grid(self) -> list[tuple[float, float]]:
        """Return all (token ratio, piece ratio) pairs of the search, in order."""
        tokens = self.token_ratios if self.level != "piece" else (0.0,)
        pieces = self.piece_ratios if self.level != "token" else (0.0,)
        return [(t, p) for t in tokens for p in pieces]

    @property
    def num_candidates(self) -> int:
        """Return how many candidates the search re-trains, equal masks counted apart."""
        if self.search == "linear" and self.level == "both":
            return len(self.token_ratios) + len(self.piece_ratios)
        return len(self.grid())
