"""The settings that name one run: two runs with equal settings are the same run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from xprompt.config.methods import get_method
from xprompt.config.pattern import Pattern
from xprompt.config.profile import Profile
from xprompt.config.profiles import PROFILES, get_profile
from xprompt.config.settings import (
    Initialiser,
    MethodName,
    Protocol,
    PruneSettings,
    Settings,
    TuneSettings,
)


class RunConfig(Settings):
    """Everything that names one run. Fields left out are filled from the profile, and are then part of its name.

    `pattern` is the profile's for this task where it has one; "paper" means the template that the task declares.
    """

    task: str
    profile: str = "nano"
    method: MethodName = "xprompt"
    seed: int = Field(0, ge=0)
    protocol: Protocol = "held_out"
    backbone: str = ""
    revision: str | None = None
    source: str = ""
    max_source: int = Field(0, ge=8)
    length: int = Field(0, ge=1)
    pieces: int = Field(0, ge=1)
    # These defaults are never used: the chosen profile's are filled in before validation. Nor are the zeros.
    init: Initialiser = Field(default_factory=lambda: PROFILES["nano"].init)
    tune: TuneSettings = Field(default_factory=lambda: PROFILES["nano"].tune)
    fine_tune: TuneSettings = Field(default_factory=lambda: PROFILES["nano"].fine_tune)
    prune: PruneSettings = Field(default_factory=lambda: PROFILES["nano"].prune)
    pattern: Pattern | Literal["paper"] = "paper"
    few_shot: int | Literal["official"] | None = None
    limit_train: int | None = None
    limit_validation: int | None = None
    selection: float = Field(0.0, gt=0, lt=1)
    selection_limit: int = Field(0, ge=1)
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_from_profile(cls, values: dict[str, Any]) -> dict[str, Any]:
        profile = get_profile(values.get("profile", "nano"))
        filled = dict(values)
        for name in cls.model_fields.keys() & Profile.model_fields.keys():
            if filled.get(name) in (None, ""):
                filled[name] = getattr(profile, name)
        if not filled.get("pattern"):
            filled["pattern"] = profile.patterns.get(filled.get("task", ""), "paper")
        return filled

    @model_validator(mode="after")
    def _search_by_grid_in_paper_protocol(self) -> RunConfig:
        if self.protocol == "paper" and self.prune.search != "grid":
            object.__setattr__(self, "prune", self.prune.replace(search="grid"))
        return self

    @property
    def parent(self) -> RunConfig | None:
        """The run that this one starts from; None where it starts from nothing."""
        parent = get_method(self.method).parent
        return None if parent is None else self.replace(method=parent)

    def settings(self) -> dict[str, Any]:
        """Return all settings as plain JSON values."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """Return the settings that this method's result depends on, of which the run ID is a hash.

        A prompt-tuning run is the same run whatever grid a later XPrompt run searches, however many candidates are
        trained in one pass, and whether activations are kept or recomputed. Where its data and its backbone lie does
        not matter either: what they hold does, and their fingerprints go into the run ID beside these settings. The
        paper's pattern is left out, so that run IDs are the same as before there were others.
        """
        values = self.settings()
        del values["source"], values["backbone"]
        if self.pattern == "paper":
            del values["pattern"]
        for unused in {"tune", "fine_tune", "prune"} - get_method(self.method).settings:
            del values[unused]
        if "prune" in values:
            del values["prune"]["side_by_side"]
        for tuning in (values.get("tune"), values.get("fine_tune"), values.get("prune", {}).get("retune")):
            if tuning is not None:
                tuning.pop("gradient_checkpointing", None)
        return values
