"""The settings that name one run: two runs with equal settings are the same run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from xprompt.config.methods import Method, get_method
from xprompt.config.pattern import Pattern
from xprompt.config.profile import Profile
from xprompt.config.profiles import PROFILES, get_profile
from xprompt.config.settings import (
    LARGEST,
    MOST,
    MOST_SEED,
    MOST_TOKENS,
    Dtype,
    Initialiser,
    MethodName,
    Protocol,
    PruneSettings,
    Settings,
    TuneSettings,
)
from xprompt.errors import ConfigError, shown


class RunConfig(Settings):
    """Everything that names one run. Fields left out are filled from the profile, and are then part of its name.

    `pattern` is the profile's for this task where it has one; "paper" means the template that the task declares.
    `source_tasks` are those whose prompts a method of transfer starts from; all their other settings are the run's.
    `learning_rates` maps a baseline's method to its rate, in place of the one in `tune` or `fine_tune`; methods that it
    does not name have the profile's, and with {} none has a rate of its own.
    """

    task: str
    source_tasks: tuple[str, ...] = ()
    profile: str = "nano"
    method: MethodName = "xprompt"
    seed: int = Field(0, ge=0, le=MOST_SEED)
    protocol: Protocol = "held_out"
    backbone: str = ""
    revision: str | None = None
    source: str = ""
    max_source: int = Field(0, ge=8, le=MOST_TOKENS)
    length: int = Field(0, ge=1, le=MOST_TOKENS)
    pieces: int = Field(0, ge=1, le=MOST_TOKENS)
    # These defaults are never used: the chosen profile's are filled in before validation. Nor are the zeros.
    init: Initialiser = Field(default_factory=lambda: PROFILES["nano"].init)
    tune: TuneSettings = Field(default_factory=lambda: PROFILES["nano"].tune)
    fine_tune: TuneSettings = Field(default_factory=lambda: PROFILES["nano"].fine_tune)
    prune: PruneSettings = Field(default_factory=lambda: PROFILES["nano"].prune)
    learning_rates: dict[MethodName, Annotated[float, Field(gt=0, le=LARGEST)]] = {}
    pattern: Pattern | Literal["paper"] = "paper"
    few_shot: Annotated[int, Field(ge=1, le=MOST)] | Literal["official"] | None = None
    limit_train: int | None = Field(None, ge=1, le=MOST)
    limit_validation: int | None = Field(None, ge=1, le=MOST)
    rounding: int = Field(
        0, ge=0, le=MOST_TOKENS, description="0: none; n: draw n of the initial prompt moved in its last bits"
    )
    selection: float = Field(0.0, gt=0, lt=1)
    selection_limit: int = Field(0, ge=1, le=MOST)
    dtype: Dtype | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_from_profile(cls, values: dict[str, Any]) -> dict[str, Any]:
        name, task = values.get("profile", "nano"), values.get("task")
        if not isinstance(name, str):
            return values  # refused with all other wrong types, where each field is checked
        profile = get_profile(name)
        filled = dict(values)
        for name in [*(cls.model_fields.keys() & Profile.model_fields.keys()), "pattern"]:
            if _is_left_out(filled, name, cls.model_fields[name].annotation):
                paper = profile.patterns.get(task, "paper") if isinstance(task, str) else "paper"
                filled[name] = paper if name == "pattern" else getattr(profile, name)
        if isinstance(filled["learning_rates"], Mapping) and filled["learning_rates"]:  # the others keep the profile's
            filled["learning_rates"] = {**profile.learning_rates, **filled["learning_rates"]}
        return filled

    @model_validator(mode="after")
    def _check_learning_rates(self) -> RunConfig:
        for name in self.learning_rates:
            if not get_method(name).takes_learning_rate:
                raise ValueError(
                    f"learning_rates names {name}, whose rate is that of tune, fine_tune or prune.retune: set it there"
                )
        return self

    def __repr__(self) -> str:
        named = f"{self.task[-100:]!r}, method={self.method!r}, profile={self.profile!r}, seed={self.seed}"
        return f"RunConfig({named}, protocol={self.protocol!r}, backbone={self.backbone[-100:]!r}, …)"

    def replace(self, /, **changes: Any) -> RunConfig:
        """Return a validated copy with these fields changed, of the same profile.

        Raises `ConfigError` where the profile is another one: all other settings are this one's.
        """
        if changes.get("profile", self.profile) != self.profile:
            raise ConfigError(
                f"RunConfig: profile {shown(changes['profile'])} cannot take the place of {self.profile}, whose "
                "settings all others are: make a new one, RunConfig(profile=...)."
            )
        return super().replace(**changes)

    @property
    def training(self) -> TuneSettings:
        """Return how the method trains: `tune` or `fine_tune`, at the method's own learning rate where it has one."""
        settings = self.fine_tune if "fine_tune" in self._declaration.settings else self.tune
        rate = self.learning_rates.get(self.method)
        return settings if rate is None else settings.replace(learning_rate=rate)

    @model_validator(mode="after")
    def _check_source_tasks(self) -> RunConfig:
        few, many = next((m.num_sources for m in (self._declaration, *self._ancestors) if m.num_sources), (0, 0))
        given = self.source_tasks
        if not few <= len(given) <= many or len(set(given)) < len(given) or self.task in given:
            needed = ("none" if not many else "one") if many < 2 else f"{few} or more different ones"
            other = f", other than its own ({self.task})" if many else ""
            raise ValueError(
                f"{self.method} starts from the prompts of source_tasks: it needs {needed}{other}, not {list(given)}"
            )
        return self

    @model_validator(mode="after")
    def _check_rounding(self) -> RunConfig:
        if self.rounding and "prompt_tuning" not in (self.method, *(method.name for method in self._ancestors)):
            raise ValueError(
                f"rounding={self.rounding} moves the initial prompt of prompt tuning, and {self.method} does not start "
                "from one; leave it at 0"
            )
        return self

    @model_validator(mode="after")
    def _check_objectives(self) -> RunConfig:
        tuned, retrained, weights = self.tune.objective, self.prune.retune.objective, self.fine_tune.objective
        if self.method == "fine_tuning" and weights != tuned:
            raise ValueError(
                f"fine_tuning is compared with prompts by one objective, and fine_tune.objective={weights!r}, "
                f"tune.objective={tuned!r} were given; set both to one of them"
            )
        if {"tune", "prune"} <= self._declaration.settings and tuned != retrained:
            raise ValueError(
                f"{self.method} tunes, retrains and reports by one objective, and tune.objective={tuned!r}, "
                f"prune.retune.objective={retrained!r} were given; set both to one of them"
            )
        return self

    @property
    def parents(self) -> list[RunConfig]:
        """The runs that this one starts from: one of the same task, or one of each source task."""
        parent = self._declaration.parent
        if parent is None:
            return []
        if not self._declaration.num_sources:
            return [self.replace(method=parent)]
        return self.source_configs(parent)

    def source_configs(self, method: str = "prompt_tuning") -> list[RunConfig]:
        """Return a method's runs of the source tasks, by the same settings; each task has its own pattern."""
        return [self.replace(method=method, task=task, source_tasks=(), pattern=None) for task in self.source_tasks]

    @property
    def pruning(self) -> PruneSettings:
        """Return how the method prunes: `prune` at its declaration's level; no search of protocol paper stops early."""
        level, by_grid = self._declaration.level, self.protocol == "paper" and self.prune.stops_early
        changes = ({} if level is None else {"level": level}) | ({"search": "grid"} if by_grid else {})
        return self.prune.replace(**changes) if changes else self.prune

    @property
    def _declaration(self) -> Method:
        return get_method(self.method)

    @property
    def _ancestors(self) -> list[Method]:
        """Return the methods that it starts from, the nearest first."""
        methods, method = [], self._declaration
        while method.parent is not None:
            method = get_method(method.parent)
            methods.append(method)
        return methods

    def settings(self) -> dict[str, Any]:
        """Return all settings as plain JSON values."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """Return the settings that this method's result depends on, of which the run ID is a hash.

        A prompt-tuning run is the same run whatever grid a later XPrompt run searches, however many candidates are
        trained in one pass, and whether activations are kept or recomputed. Where its data and its backbone lie does
        not matter either: what they hold does, and their fingerprints go into the run ID beside these settings. The
        paper's pattern is left out, so that run IDs are the same as before there were others. A method's own learning
        rate stands in the settings that it trains by, however it was given; zero-shot, which trains by none, has its
        objective alone, where that is not the default.
        """
        values = self.settings()
        del values["source"], values["backbone"]
        rates = values.pop("learning_rates")
        if self.method in rates:
            group = "fine_tune" if "fine_tune" in self._declaration.settings else "tune"
            values[group] = self.training.model_dump(mode="json")
        if inherited := {name: rate for name, rate in rates.items() if get_method(name) in self._ancestors}:
            values["learning_rates"] = inherited
        if self.pattern == "paper":
            del values["pattern"]
        if not self.source_tasks:
            del values["source_tasks"]
        if not self.rounding:
            del values["rounding"]
        values["prune"] = self.pruning.model_dump(mode="json")
        if self._declaration.work == "evaluation" and self.tune.objective != "label_scores":
            values["objective"] = self.tune.objective
        for unused in {"tune", "fine_tune", "prune"} - self._declaration.settings:
            del values[unused]
        if "prune" in values:
            del values["prune"]["side_by_side"]
            for added in ("rescore_pieces", "draw"):  # later than the first runs, whose names stay
                if not values["prune"][added]:
                    del values["prune"][added]
        for tuning in (values.get("tune"), values.get("fine_tune"), values.get("prune", {}).get("retune")):
            if tuning is not None:
                tuning.pop("gradient_checkpointing", None)
        return values


def _is_left_out(values: Mapping[str, Any], name: str, annotation: Any) -> bool:
    """Whether a field is the profile's: it is not given, or is empty. None is a value where a field may be None."""
    if name not in values:
        return True
    value = values[name]
    return (value is None and type(None) not in get_args(annotation)) or (isinstance(value, str) and not value)
