"""Whether the hub can help with a name at all: cached here, or reachable; asked before its client retries."""

from __future__ import annotations

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from xprompt.data.hub import reachable
from xprompt.errors import did_you_mean
from xprompt.nano.sizes import SIZES

EMBEDDED = (*SIZES, "smollm2")


def fault_offline(name: str, revision: str | None, local: bool = False) -> str | None:
    """Return why a hub id cannot be had, where it is not in the cache and nobody answers at the hub; else None.

    Args:
        local: whether the hub is not to be asked at all.
    """
    try:
        cached = isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)
    except HFValidationError:
        return None  # no hub id: the client says so at once
    if cached:
        return None
    if local:
        return _not_here(name) + (
            f"and a plan asks nobody: download it first (`hf download {name} config.json`), or give a local folder"
        )
    return None if constants.HF_HUB_OFFLINE or reachable() else not_reached(name)


def not_reached(name: str) -> str:
    """Return what to do where the hub is out of reach."""
    return _not_here(name) + (
        "and the hub cannot be reached: take nano (embedded) or smollm2 (a Python package), give a local folder, or "
        "connect once"
    )


def _not_here(name: str) -> str:
    hint = did_you_mean(name, EMBEDDED).replace(" Did", " (did").replace("?", "?)")
    return f"there is no such folder here{hint}, it is not in the local cache, "
