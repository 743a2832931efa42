"""The validated settings of training and pruning: which there are, and the values they may take."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from xprompt.config.methods import METHODS
from xprompt.errors import ConfigError, did_you_mean, shown

Protocol = Literal["paper", "held_out"]
Mode = Literal["zero", "drop"]
Level = Literal["both", "token", "piece"]
Dtype = Literal["float32", "bfloat16", "float16", "float64"]
Initialiser = Literal["vocab", "common", "uniform", "labels", "first"]


def _known_method(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"not a method; known: {', '.join(METHODS)}.{did_you_mean(name, METHODS)}")
    return name


MethodName = Annotated[str, AfterValidator(_known_method)]
# Ceilings, all far above what a machine can do: a number beyond one is a slip.
MOST = 10**9  # of anything counted: steps, examples, evaluations
MOST_TOKENS = 10**6  # of a prompt, a batch's examples, a source
MOST_SEED = 2**63 - 1  # the largest whole number that a table's column holds
LARGEST = 3.4e38  # float32 holds nothing larger
PROTOCOLS: tuple[str, ...] = ("paper", "held_out")
"""On what checkpoints and ratios are selected: the split that is reported, or a part of train."""
Objective = Literal["label_scores", "generation"]
PAPER_RATIOS: tuple[float, ...] = tuple(round(i / 10, 1) for i in range(1, 10))


class Settings(BaseModel):
    """Frozen, strict settings: an unknown field, another type or a value out of range is a `ConfigError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            kind = type(self)
            complaints = "; ".join(kind._complaint(detail) for detail in error.errors())
            raise ConfigError(f"{kind.__name__}: {complaints}. Fields: {', '.join(kind.model_fields)}.") from error

    def __setattr__(self, name: str, value: Any) -> None:
        raise ConfigError(
            f"{type(self).__name__}: {name} cannot be assigned, settings are frozen. Fix: take the copy that "
            f"settings.replace({name}=...) returns."
        )

    def replace(self, /, **changes: Any) -> Any:
        """Return a validated copy with these fields changed."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    @field_validator("*", mode="before")
    @classmethod
    def _check_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic would convert in silence, as "20" or True for a number, and text that no file holds."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        allowed = list(_parts(annotation))
        numeric = (int in allowed or float in allowed) and bool not in allowed
        words = [part for part in allowed if isinstance(part, str)]
        keys = list(value) if isinstance(value, dict) else []
        items = (
            list(value.values()) if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        )
        if annotation is bool and not isinstance(value, bool):
            raise ValueError("Input should be true or false, not a text or a number")
        if isinstance(value, (set, frozenset)):
            raise ValueError("Input should be a list, which has an order")
        for item in items if numeric else ():
            is_text_or_truth = isinstance(item, (bool, str)) or getattr(item, "dtype", None) == "bool"
            if is_text_or_truth and not (isinstance(item, str) and item in words):
                raise ValueError("Input should be a number, not a text or a truth value")
        for item in (*keys, *items):
            if isinstance(item, bytes):
                raise ValueError("Input should be a text, not bytes")
            if isinstance(item, str) and NO_TEXT.search(item):
                raise ValueError("Input should be a text without NUL or half a surrogate pair")
        return value

    @classmethod
    def _complaint(cls, detail: ErrorDetails) -> str:
        """Return what is wrong with one field: its path, the rule, what was given, the range where there is one."""
        path = ".".join(name for name in map(str, detail["loc"]) if re.fullmatch(r"\w+", name))  # no union's branches
        limits = cls.model_fields[path].metadata if path in cls.model_fields else []
        found = [f"{word} {getattr(x, name):,}" for name, word in _LIMITS.items() for x in limits if hasattr(x, name)]
        needed = f"; needed {' and '.join(found)}" if found else ""
        rule = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            rule += did_you_mean(str(detail["loc"][-1]), cls.model_fields)
        elif detail["type"] == "literal_error" and isinstance(detail["input"], str):
            rule += did_you_mean(detail["input"], re.findall(r"'([^']+)'", detail["ctx"]["expected"]))
        return f"{path or cls.__name__}: {rule} (given {shown(detail['input'])}{needed})"


_LIMITS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
#: What no text file can hold: NUL, and half of a surrogate pair.
NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield every type and every literal value that an annotation is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


class TuneSettings(Settings):
    """How one prompt (or, for the fine-tuning baseline, the whole backbone) is trained.

    Source: paper §4.1 (Adafactor 0.3, weight decay 1e-5, batch 16, constant schedule, early stopping on dev).
    Differs: length is given in optimiser steps or epochs, one of the two; dropout is off unless asked for.
    """

    optimizer: Literal["adafactor", "scaled_adafactor", "adamw"] = Field(
        "adafactor", description="scaled_adafactor: the rate is times each parameter's root mean square, as in T5"
    )
    learning_rate: float = Field(0.3, gt=0, le=LARGEST)
    weight_decay: float = Field(1e-5, ge=0, le=LARGEST)
    schedule: Literal["constant", "linear"] = "constant"
    steps: int | None = Field(None, ge=0, le=MOST, description="optimiser steps")
    epochs: float | None = Field(None, gt=0, le=MOST_TOKENS, description="passes over the training data")
    batch_size: int = Field(16, ge=1, le=MOST_TOKENS, description="examples a step, over all its micro-batches")
    accumulation: int = Field(1, ge=1, le=MOST_TOKENS, description="micro-batches one step is split into")
    eval_every: int | None = Field(None, ge=1, le=MOST, description="steps between evaluations; None: once an epoch")
    patience: int | None = Field(None, ge=1, le=MOST, description="evaluations without a new best before stopping")
    eval_batch_size: int = Field(64, ge=1, le=MOST)
    dropout: bool = Field(False, description="whether the backbone's dropout is active while tuning")
    objective: Objective = "label_scores"
    max_grad_norm: float | None = Field(None, gt=0, le=LARGEST)
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, the same numbers up to rounding"
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

    def scaled(self, times: float) -> TuneSettings:
        """Return settings of `times` the length, in steps or epochs as it is given.

        Where length and `eval_every` are both in steps, both are scaled, and there are as many evaluations. Where the
        length is in epochs, or one evaluation comes an epoch, the interval stays, and their number is scaled.
        """
        if self.steps is None:
            assert self.epochs is not None
            return self.replace(epochs=self.epochs * times)
        every = None if self.eval_every is None else max(1, round(self.eval_every * times))
        return self.replace(steps=round(self.steps * times), eval_every=every)

    def num_steps(self, num_examples: int) -> int:
        """Return the optimiser steps for a training set of `num_examples`."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * -(-num_examples // self.batch_size)))


class PruneSettings(Settings):
    """Which masks are tried, and how the rewound prompts are retrained. Source: paper §3.2, §3.3."""

    level: Level = "both"
    token_ratios: tuple[float, ...] = Field(PAPER_RATIOS, min_length=1, max_length=1000)
    piece_ratios: tuple[float, ...] = Field(PAPER_RATIOS, min_length=1, max_length=1000)
    mode: Mode = "zero"
    importance_limit: int | None = Field(None, ge=1, le=MOST, description="training examples scored; None: all")
    retune: TuneSettings = TuneSettings(epochs=100)
    search: Literal["grid", "linear", "halving", "race"] = Field(
        "grid",
        description="retrain every pair of ratios; the token ratios and then, at the best of them, the piece ratios; "
        "or, of held_out runs alone (paper means grid), every pair, with the worse stopped early (halving), or raced "
        "untrained first and only the better retrained (race)",
    )
    rescore_pieces: bool = Field(
        False, description="score pieces again once tokens are pruned; else both levels come from one pass"
    )
    draw: int = Field(
        0, ge=0, le=MOST, description="which random mask, of the control that draws one; others ignore it"
    )
    side_by_side: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="candidates in one pass, results depend on it by rounding alone; None: what memory holds",
    )

    @model_validator(mode="after")
    def _check_ratios(self) -> PruneSettings:
        for name in ("token_ratios", "piece_ratios"):
            ratios = getattr(self, name)
            if any(not 0 <= r < 1 for r in ratios):
                raise ValueError(f"{name} {ratios} must be one or more prune ratios in [0, 1)")
        return self

    def grid(self) -> list[tuple[float, float]]:
        """Return all (token ratio, piece ratio) pairs of the search, in order."""
        tokens = self.token_ratios if self.level != "piece" else (0.0,)
        pieces = self.piece_ratios if self.level != "token" else (0.0,)
        return [(t, p) for t in tokens for p in pieces]

    @property
    def stops_early(self) -> bool:
        """Return whether the search stops the worse candidates before their last step."""
        return self.search in ("halving", "race")

    @property
    def num_candidates(self) -> int:
        """Return how many candidates the search tries, equal masks counted apart."""
        if self.search == "linear" and self.level == "both":
            return len(self.token_ratios) + len(self.piece_ratios)
        return len(self.grid())


def dotted(settings: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Return nested settings as texts by their dotted names, as "tune.steps" → "200"; what is unset is left out."""
    texts: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            texts |= dotted(value, f"{above}{name}.")
        elif value is not None:
            texts[above + name] = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return texts
