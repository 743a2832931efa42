"""A report's manifest: which runs each table and figure comes from, with the files' digests and its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xprompt.errors import StoreError
from xprompt.files import parse_json, sha256, write_atomically

FORMAT = 2
_UNSEALED = 1  # of 0.1.0, which wrote no sha256


def read_manifest(path: Path) -> dict[str, Any]:
    """Return a manifest, an empty one where there is none. Raises `StoreError` where it is damaged."""
    if not path.exists():
        return {"items": {}, "notebooks": {}}
    try:
        manifest = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise ValueError("it is no JSON object")
        seal = manifest.pop("sha256", None)
        if manifest.get("format") not in (_UNSEALED, FORMAT):
            raise ValueError(f"format {manifest.get('format')!r}, not {FORMAT}")
        if (seal is not None or manifest["format"] == FORMAT) and seal != _seal(manifest):
            raise ValueError("it does not match its own sha256")
        if not isinstance(manifest.get("notebooks"), dict) or not all(map(_is_item, manifest["items"].values())):
            raise ValueError("an item has no notebook, files or runs")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        way_out = "a folder is in its place, move that away" if path.is_dir() else "delete it; runs are kept"
        raise StoreError(f"{path} is not whole ({error}): {way_out}.") from error
    return manifest


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest with its own sha256, by which damage is seen."""
    body = {"format": FORMAT, **{name: value for name, value in manifest.items() if name not in ("format", "sha256")}}
    write_atomically(path, json.dumps(body | {"sha256": _seal(body)}, indent=1, ensure_ascii=False) + "\n")


def _is_item(item: Any) -> bool:
    return isinstance(item, dict) and "notebook" in item and all(
        isinstance(names := item.get(part), list) and all(isinstance(name, str) for name in names)
        for part in ("files", "runs")
    )  # fmt: skip


def _seal(manifest: Mapping[str, Any]) -> str:
    return sha256(json.dumps(manifest, sort_keys=True, ensure_ascii=False).encode())
