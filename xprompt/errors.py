"""The errors a user can meet; each message states what was given, what was needed, and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class XPromptError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(XPromptError, ValueError):
    """Settings that make no sense: an unknown name, a ratio outside its range, options that contradict."""


class DataError(XPromptError, ValueError):
    """A source that cannot be read as the task declares it: names the file, the line and the field."""


class BackboneError(XPromptError, RuntimeError):
    """A language model that cannot be found, loaded or used as asked."""


class NotFiniteError(XPromptError, ArithmeticError):
    """A loss, a gradient or a value that is infinite or not a number: training diverged, or its input was broken."""


class StoreError(XPromptError, RuntimeError):
    """A run record or artefact that is damaged, foreign or in use."""


def shown(value: object, most: int = 80) -> str:
    """Return a value as Python writes it, cut to `most` characters; what cannot be written is named by its type."""
    try:
        text = repr(value)
    except Exception:  # Python writes no number of more than 4,300 digits; any object's __repr__ may fail
        kind = "a whole number of thousands of digits" if isinstance(value, int) else "an unprintable value"
        return f"{kind} ({type(value).__name__})"
    return text if len(text) <= most else text[: most - 3] + "..."


class HeldError(StoreError):
    """A run that another process does at this moment."""


class MemoryLimitError(XPromptError, MemoryError):
    """A run that needs more memory than there is."""


#: What torch, its libraries, the loader of shared libraries and the system say where memory ran out, in lower case.
_OUT_OF_MEMORY = (
    "can't allocate memory", "cannot allocate memory", "out of memory", "alloc_failed", "bad_alloc",
    "can't start new thread", "failed to map segment",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception of Python, torch or the system means that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, (RuntimeError, OSError, ImportError)) and any(words in said for words in _OUT_OF_MEMORY)


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """Return a hint at the known name closest to the given one, to be appended to an error; "" where none is close."""
    close = difflib.get_close_matches(str(given), list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
