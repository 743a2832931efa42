"""Several soft prompts in one safetensors file, each with its sha256."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from xprompt.errors import StoreError
from xprompt.files import write_atomically
from xprompt.prompts.soft_prompt import PARTS, SoftPrompt


def save_collection(path: str | Path, prompts: Mapping[str, SoftPrompt]) -> None:
    """Write prompts to one file, whole or not at all: tensors <name>.embeddings, .token_mask and .piece_mask.

    Raises `NotFiniteError` as `SoftPrompt.pack`, `StoreError` where the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    about = {}
    for name, prompt in prompts.items():
        packed, about[name] = prompt.pack()
        tensors |= {f"{name}.{part}": tensor for part, tensor in packed.items()}
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
            about = file.metadata()[name]
            tensors = {part: file.get_tensor(f"{name}.{part}") for part in PARTS}
        return SoftPrompt.unpack(tensors, about)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise StoreError(f"prompt {name} in {path} is damaged ({error}): restore the file.") from error


def names_in_collection(path: str | Path) -> list[str]:
    """Return the names of a file's prompts, sorted; none where there is no file."""
    if not Path(path).exists():
        return []
    try:
        with safe_open(path, "pt") as file:
            return sorted(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path} is damaged ({error}): restore the file.") from error
