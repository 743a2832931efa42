"""The state of an unfinished training loop on disk: tensors as safetensors, the rest as JSON, checked by sha256.

Owns the files and their integrity: a state is found whole, unaltered and made by the same settings, or not at all.
Never knows what a state holds, and never reads a format that could run code.

    <folder>/state.json               {"identity", "tensors", "sha256", "facts"}; replaced at once, and last
    <folder>/<digits>.safetensors     what state.json names
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from xprompt.files import sha256

State = tuple[dict[str, Tensor], dict[str, Any]]


def save_state(folder: Path, identity: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Put a state in the place of the one before, whole or not at all.

    Args:
        identity: of the loop; a state is read by a loop with the same one only.
        tensors: of any device and dtype.
        facts: JSON values; floats keep every bit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "partial.safetensors"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
    digest = sha256(partial)
    name = f"{digest[:16]}.safetensors"
    _sync(partial)
    os.replace(partial, folder / name)
    body = {"identity": identity, "tensors": name, "sha256": digest, "facts": facts}
    body["seal"] = _seal(body)
    text = folder / "partial.json"
    text.write_text(json.dumps(body), encoding="utf-8")
    _sync(text)
    os.replace(text, folder / "state.json")
    for old in folder.glob("*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load_state(folder: Path, identity: str) -> State | None:
    """Read what `save_state` wrote: (tensors, facts); None, with a `RuntimeWarning`, where it cannot be used."""
    if not (folder / "state.json").exists():
        return None
    try:
        body = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if body.pop("seal") != _seal(body):
            raise ValueError("state.json does not match its own sha256")
        if body["identity"] != identity:
            raise ValueError("it was made with other settings, data or versions")
        if Path(body["tensors"]).name != body["tensors"]:
            raise ValueError(f"it names a file elsewhere, {body['tensors']}")
        content = (folder / body["tensors"]).read_bytes()
        if sha256(content) != body["sha256"]:
            raise ValueError(f"{body['tensors']} does not match its sha256")
        return load(content), body["facts"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        warnings.warn(
            f"the unfinished state in {folder} cannot be used ({error}); this stage starts anew.",
            RuntimeWarning, stacklevel=2,
        )  # fmt: skip
        return None


def _seal(body: dict[str, Any]) -> str:
    return sha256(json.dumps(body, sort_keys=True).encode())


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
