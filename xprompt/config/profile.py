"""The form of a profile: a backbone with the settings that suit it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from xprompt.config.pattern import Pattern
from xprompt.config.settings import (
    LARGEST,
    MOST,
    MOST_TOKENS,
    Dtype,
    Initialiser,
    MethodName,
    PruneSettings,
    Settings,
    TuneSettings,
)  # fmt: skip


class Profile(Settings):
    """A backbone with the settings that suit it."""

    name: str
    about: str
    backbone: str
    source: str = Field("hub", description='"nano", "hub" or a folder in the official release layout')
    max_source: int = Field(256, ge=8, le=MOST_TOKENS, description="longest source, in tokens, without the prompt")
    length: int = Field(20, ge=1, le=MOST_TOKENS, description="prompt tokens P")
    pieces: int = Field(16, ge=1, le=MOST_TOKENS, description="pieces K a token")
    threads: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="CPU threads a run makes use of, so that several run in parallel; None: all",
    )
    init: Initialiser = "vocab"
    dtype: Dtype | None = Field(None, description="of the frozen backbone; None: bfloat16 on a GPU, float32 elsewhere")
    tune: TuneSettings
    fine_tune: TuneSettings
    prune: PruneSettings
    learning_rates: dict[MethodName, Annotated[float, Field(gt=0, le=LARGEST)]] = Field(
        {}, description="of baselines, where it is not the one in tune or fine_tune"
    )
    few_shot: Annotated[int, Field(ge=1, le=MOST)] | Literal["official"] | None = None
    limit_train: int | None = Field(None, ge=1, le=MOST)
    limit_validation: int | None = Field(None, ge=1, le=MOST)
    selection: float = Field(0.2, gt=0, lt=1, description="share of train that protocol held_out selects on")
    selection_limit: int = Field(1000, ge=1, le=MOST)
    patterns: dict[str, Pattern] = Field({}, description="task → its pattern, where the paper's is not used")
    default_tasks: tuple[str, ...] = ("wic", "boolq", "cb")
    default_seeds: int = Field(3, ge=1, le=MOST_TOKENS)
    default_methods: tuple[MethodName, ...] = (
        "majority",
        "fine_tuning",
        "prompt_tuning",
        "prompt_tuning_matched",
        "xprompt",
    )

    def __repr__(self) -> str:
        prompt = f"{self.length} tokens in {self.pieces} pieces"
        length = f"{self.tune.steps} steps" if self.tune.steps is not None else f"{self.tune.epochs:g} epochs"
        return f"Profile({self.name}: {self.about:.200}; backbone {self.backbone:.80}; {prompt}; {length})"
