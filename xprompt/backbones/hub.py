"""Whether the hub can help with a name at all: cached here, or reachable; asked before its client retries."""

from __future__ import annotations

import socket
import urllib.request
from urllib.parse import urlsplit

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from xprompt.errors import did_you_mean
from xprompt.nano.sizes import SIZES

EMBEDDED = (*SIZES, "smollm2")
_SECONDS = 3.0


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


def reachable() -> bool:
    """Return whether the hub, or the proxy to it, takes a connection within a few seconds."""
    hub = urlsplit(constants.ENDPOINT)
    proxy = urllib.request.getproxies().get(hub.scheme)
    if proxy and not urllib.request.proxy_bypass(hub.hostname or ""):
        hub = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = hub.port or (443 if hub.scheme == "https" else 80)
    try:
        socket.create_connection((hub.hostname or "", port), timeout=_SECONDS).close()
    except OSError:
        return False
    return True
