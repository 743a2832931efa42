"""The checksums that a packaged checkpoint carries, so that a damaged copy is never used."""

from __future__ import annotations

from pathlib import Path

from xprompt.errors import BackboneError
from xprompt.files import sha256, write_atomically

NAME = "SHA256SUMS"
#: What a model's numbers depend on.
_COVERED = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def write(folder: Path) -> Path:
    """Write the SHA-256 of a checkpoint's files beside them, as `sha256sum --check SHA256SUMS` reads it."""
    write_atomically(folder / NAME, "".join(f"{sha256(folder / name)}  {name}\n" for name in _COVERED))
    return folder / NAME


def verify(folder: Path) -> None:
    """Check a checkpoint's files against its checksums.

    Raises:
        BackboneError: a file is missing or differs, or the checksums themselves cannot be read.
    """
    try:
        lines = [line.split(maxsplit=1) for line in (folder / NAME).read_text(encoding="ascii").splitlines()]
        expected = {name: digest for digest, name in lines}
    except (OSError, ValueError) as error:
        raise _damaged(folder / NAME, f"it cannot be read ({error})") from error
    for name in _COVERED:
        if name not in expected:
            raise _damaged(folder / NAME, f"it has no line for {name}")
        try:
            found = sha256(folder / name)
        except OSError as error:
            raise _damaged(folder / name, f"it cannot be read ({error})") from error
        if found != expected[name]:
            raise _damaged(folder / name, f"its SHA-256 is {found}, {NAME} says {expected[name]}")


def _damaged(file: Path, reason: str) -> BackboneError:
    return BackboneError(
        f"{file} is not the file that was packaged: {reason}. Install xprompt again, or restore the file with "
        "`git checkout`; after pretraining, `python -m xprompt.nano.pretrain` writes both."
    )
