"""Files written whole or not at all, and their digests."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old one or the whole new one; folders are made as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sha256(content: bytes | Path) -> str:
    """Return the SHA-256 of bytes, or of a file's content, in hexadecimal."""
    return hashlib.sha256(content.read_bytes() if isinstance(content, Path) else content).hexdigest()


def sync_file(path: Path) -> None:
    """Have the system write a file to its disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Have the system write a folder's list of names to its disk."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace_folder(folder: Path, target: Path) -> None:
    """Move a folder to `target`, on the same disk; one that is there already is deleted.

    Of several processes that replace one target, each leaves it whole. Raises `OSError` where it cannot be moved.
    """
    for _ in range(100):
        try:
            os.replace(folder, target)  # fails where a folder with files is there already, unlike for files
            break
        except OSError as error:  # another process may have moved the one there aside since
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) and not target.exists():
                raise
        aside = Path(tempfile.mkdtemp(prefix=f"{target.name}-old-", dir=folder.parent))
        with suppress(FileNotFoundError):  # another process moved it first
            os.replace(target, aside / target.name)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        raise OSError(f"{target} cannot be replaced: other processes write it again and again. Try again later.")
    sync_folder(target.parent)
