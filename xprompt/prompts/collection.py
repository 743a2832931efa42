"""Several soft prompts in one safetensors file, each with its sha256."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from xprompt.errors import StoreError
from xprompt.files import sha256, write_atomically
from xprompt.prompts.soft_prompt import SoftPrompt

_PARTS = ("embeddings", "token_mask", "piece_mask")


def save_collection(path: str | Path, prompts: Mapping[str, SoftPrompt]) -> None:
    """Write prompts to one file, whole or not at all: tensors <name>.embeddings, .token_mask and .piece_mask."""
    tensors: dict[str, Tensor] = {}
    about = {}
    for name, prompt in prompts.items():
        parts = [getattr(prompt, part).detach().cpu().contiguous() for part in _PARTS]
        tensors |= {f"{name}.{part}": tensor for part, tensor in zip(_PARTS, parts, strict=True)}
        about[name] = json.dumps({"mode": prompt.mode, "sha256": _digest(prompt.mode, parts)})
    write_atomically(Path(path), save(tensors, metadata=about))


def load_from_collection(path: str | Path, name: str) -> SoftPrompt:
    """Load one prompt, equal to the saved one to the last bit. Raises `StoreError` where it is absent or damaged."""
    if name not in names_in_collection(path):
        raise StoreError(
            f"prompt {name} is not in {path}: a published report keeps only the prompts that its notebooks read. "
            "Do the run again with force=True, or in another report folder."
        )
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()[name])
            parts = [file.get_tensor(f"{name}.{part}") for part in _PARTS]
        if _digest(about["mode"], parts) != about["sha256"]:
            raise ValueError("it does not match its sha256")
        embeddings, token_mask, piece_mask = parts  # (P, H), (P,), (P, K)
        prompt = SoftPrompt(embeddings, pieces=piece_mask.shape[1], mode=about["mode"])
        prompt.token_mask.copy_(token_mask)
        prompt.piece_mask.copy_(piece_mask)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise StoreError(f"prompt {name} in {path} is damaged ({error}): restore the file.") from error
    return prompt


def names_in_collection(path: str | Path) -> list[str]:
    """Return the names of a file's prompts, sorted; none where there is no file."""
    if not Path(path).exists():
        return []
    try:
        with safe_open(path, "pt") as file:
            return sorted(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path} is damaged ({error}): restore the file.") from error


def _digest(mode: str, parts: list[Tensor]) -> str:
    values = b"".join(part.view(torch.uint8).numpy().tobytes() for part in parts)
    return sha256(f"{mode} {[list(part.shape) for part in parts]} ".encode() + values)
