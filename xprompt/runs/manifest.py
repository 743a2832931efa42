"""A report's manifest: which runs each table and figure comes from, with the files' digests and its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xprompt.errors import StoreError
from xprompt.files import parse_json, sha256, write_atomically


def read_manifest(path: Path) -> dict[str, Any]:
    """Return a manifest, an empty one where there is none. Raises `StoreError` where it is damaged."""
    if not path.exists():
        return {"format": 1, "items": {}, "notebooks": {}}
    try:
        manifest = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not {"items", "notebooks"} <= manifest.keys():
            raise ValueError("it has no items or no notebooks")
        sealed = manifest.pop("sha256", None)  # reports of 0.1.0 have none
        if sealed is not None and sealed != _seal(manifest):
            raise ValueError("it does not match its own sha256")
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is not whole ({error}): delete it; runs are kept.") from error
    return manifest


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest with its own sha256, by which damage is seen."""
    body = {name: value for name, value in manifest.items() if name != "sha256"}
    write_atomically(path, json.dumps(body | {"sha256": _seal(body)}, indent=1, ensure_ascii=False) + "\n")


def _seal(manifest: Mapping[str, Any]) -> str:
    return sha256(json.dumps(manifest, sort_keys=True, ensure_ascii=False).encode())
