"""One named random stream for each random choice of a run, so that no two choices share their numbers."""

from __future__ import annotations

import hashlib
import operator
from typing import Any, Literal, get_args

from xprompt.errors import ConfigError, shown

#: A stream's name is hashed into its seed: another spelling is another run.
Stream = Literal[
    "initialisation",
    "data order",
    "re-training order",
    "dropout",
    "hold-out",
    "few-shot sample",
    "limit",
    "importance sample",
    "race",
    "random mask",
    "matched candidates",
    "adapter",
    "rounding",
]


def stream_seed(seed: int, stream: Stream, index: int = 0) -> int:
    """Return the seed of one stream, in [0, 2⁶³): SHA-256 of the stream's name, the run's seed and the index.

    Args:
        seed: of the run; 0 is a seed like any other.
        index: of several draws of one kind, such as one for each candidate.

    Raises `ConfigError` where the seed is no whole number.
    """
    digest = hashlib.sha256(f"{stream}/{whole_seed(seed)}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def whole_seed(seed: Any) -> int:
    """Return a seed as Python's own whole number. Raises `ConfigError` where it is none, as None or 1.0."""
    try:
        return operator.index(seed)
    except TypeError:
        raise ConfigError(f"seed {shown(seed)}: give a whole number, such as 0; another one is another draw.") from None


def stream_seeds(seed: int) -> dict[str, int]:
    """Return every stream's seed of a run, for its record."""
    return {stream: stream_seed(seed, stream) for stream in get_args(Stream)}
