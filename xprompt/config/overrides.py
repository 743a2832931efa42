"""Single settings of a run by their dotted names, as `--set` gives them: "tune.steps" → 400."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xprompt.config.methods import get_method
from xprompt.config.run_config import RunConfig
from xprompt.config.settings import Settings
from xprompt.errors import ConfigError


def override(config: RunConfig, given: Mapping[str, Any]) -> RunConfig:
    """Return the settings with those changed that `given` names with a dot, the ones of a group together.

    So their order does not matter, and what several values must agree in is checked when all are there. Names without
    a dot are left out: others are filled in from some of them, so that they are given as the settings are made.

    Raises `ConfigError` for a name or a value that there is not.
    """
    parts: dict[tuple[str, ...], dict[str, Any]] = {}
    for name, value in given.items():
        *groups, last = name.split(".")
        if groups:
            parts.setdefault(tuple(groups), {})[last] = value
    for path, changes in parts.items():
        config = _changed(config, path, changes)
    return config.replace()


def without_dot(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are given whole, which `override` leaves out."""
    return {name: value for name, value in given.items() if "." not in name}


def _changed(settings: Any, path: Sequence[str], changes: Mapping[str, Any]) -> Any:
    """The settings with changes in the group at that path; of "steps" and "epochs", what is set replaces the other."""
    if path:
        name, *rest = path
        inner = getattr(settings, name, None)
        if not isinstance(inner, Settings):
            whole = f": set it whole, --set '{name}={{…}}'" if hasattr(settings, name) else ""
            raise ConfigError(
                f"--set {'.'.join([*path, *changes])}: {type(settings).__name__} has no settings named {name!r}{whole}."
            )
        return settings.model_copy(update={name: _changed(inner, rest, changes)})
    others = {"steps": "epochs", "epochs": "steps"}
    unset = {others[name]: None for name in others if name in changes and hasattr(settings, name)}
    return settings.replace(**{**unset, **changes})


def check_used(methods: Sequence[str], protocol: str, given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where none of the methods depends on a setting: it would be dropped in silence."""
    for name, value in given.items():
        reasons = [_why_unused(method, protocol, name) for method in methods]
        if all(reasons):
            raise ConfigError(f"--set {name}={value!s:.80}: {reasons[0]}.")
        levels = name == "prune.level" or (name == "prune" and isinstance(value, dict) and "level" in value)
        fixed = [level for level in (get_method(method).level for method in methods) if level]
        if levels and len(fixed) == len(methods):
            raise ConfigError(
                f"--set {name}={value!s:.80}: {methods[0]} prunes at the level {fixed[0]} whatever prune.level is; "
                "leave it out, or take --method xprompt."
            )


def _why_unused(method: str, protocol: str, name: str) -> str:
    """Return why a method does not depend on a setting, and what to do; "" where it does."""
    declared, group = get_method(method), name.partition(".")[0]
    if declared.work in ("none", "evaluation", "adapter", "fine_tuning") and name in ("length", "pieces", "init"):
        return f"{method} has no soft prompt; leave it out"
    if protocol == "paper" and name in ("selection", "selection_limit"):
        return "protocol paper holds nothing out of train; leave it out"
    reported = declared.work == "evaluation" and name == "tune.objective"  # by it, though nothing is tuned
    if group in ("tune", "fine_tune", "prune") and group not in declared.settings and not reported:
        counts = " and ".join(sorted(declared.settings)) or "neither tune, fine_tune nor prune"
        return f"{method} does not depend on {group} but on {counts}; leave it out, or name another method"
    return ""
