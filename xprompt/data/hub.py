"""Whether anybody answers at the hub, asked before its clients retry for half a minute."""

from __future__ import annotations

import socket
import urllib.request
from urllib.parse import urlsplit

from huggingface_hub import constants

_SECONDS = 3.0


def reachable() -> bool:
    """Return whether the hub, or the proxy to it, takes a connection within a few seconds."""
    hub = urlsplit(constants.ENDPOINT)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(hub.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(hub.hostname or ""):
        hub = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        port = hub.port or (443 if hub.scheme == "https" else 1080 if hub.scheme.startswith("socks") else 80)
        socket.create_connection((hub.hostname or "", port), timeout=_SECONDS).close()
    except ValueError:  # a port that is no number: the client says what is wrong with the address
        return True
    except OSError:
        return False
    return True
