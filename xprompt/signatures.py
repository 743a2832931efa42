"""Arguments in the wrong order, or of the wrong kind, refused in one sentence before anything is computed."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar, Union

from xprompt.errors import ConfigError, shown

P = ParamSpec("P")
R = TypeVar("R")

#: Where an object of a kind comes from.
_SOURCES = {
    "Backbone": "xp.load_backbone(…)", "HasVocabulary": "a backbone, xp.load_backbone(…)",
    "SoftPrompt": "xp.SoftPrompt.init(backbone)", "Splits": "xp.load_task(…)",
    "TaskDataset": "splits.train or splits.validation", "Importance": "xp.importance(backbone, prompt, splits.train)",
    "TuneSettings": "xp.TuneSettings(…) or xp.PROFILES[…].tune", "RunConfig": "xp.RunConfig(task=…)",
    "PruneSettings": "xp.PruneSettings(…) or xp.PROFILES[…].prune",
}  # fmt: skip


def check_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Let a public function refuse an object of another kind than its annotation names, as where two are swapped.

    Looked at are parameters annotated with classes of this package, and all that are given an object of this package.
    What numbers and texts may be is left to the function. The call then raises `ConfigError`, which names the
    argument, what was given, what was expected and the order.
    """
    names = [name for name in inspect.signature(function).parameters if name not in ("cls", "self")]
    bound = int(next(iter(inspect.signature(function).parameters)) in ("cls", "self"))

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        hints = _hints(function)
        for name, value in [*zip(names, args[bound:], strict=False), *kwargs.items()]:
            if name in hints and not _fits(value, hints[name]):
                raise ConfigError(
                    f"{function.__qualname__}: {name} takes {_worded(hints[name])}, and was given {shown(value)}. "
                    f"Its arguments are ({', '.join(names)})."
                )
        return function(*args, **kwargs)

    return wrapper


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, tuple[type, ...]]:
    """Return the classes that each parameter takes; a parameter that takes anything else besides is left out."""
    hints = {name: tuple(_leaves(hint)) for name, hint in typing.get_type_hints(function).items()}
    return {name: kinds for name, kinds in hints.items() if all(map(_is_class, kinds))}


def _is_class(kind: Any) -> bool:
    """Return whether `isinstance` can tell; of a protocol it can where it is `runtime_checkable`."""
    unchecked = getattr(kind, "_is_protocol", False) and not getattr(kind, "_is_runtime_protocol", False)
    return isinstance(kind, type) and kind is not Any and not unchecked


def _leaves(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin in (Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _leaves(part)
    elif origin is typing.Literal:
        yield str
    else:
        yield origin or annotation


def _worded(kinds: tuple[type, ...]) -> str:
    names = dict.fromkeys("None" if kind is type(None) else kind.__name__ for kind in kinds)
    sources = [_SOURCES[name] for name in names if name in _SOURCES]
    return " or ".join(names) + (f" ({sources[0]})" if len({*names} - {"None"}) == len(sources) == 1 else "")


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, kinds):
        return True
    return not any(kind.__module__.startswith("xprompt.") for kind in (*kinds, type(value)))
