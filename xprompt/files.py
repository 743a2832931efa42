"""Files written whole or not at all, their digests, and JSON read strictly."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import Any, NoReturn

from xprompt.errors import DataError, StoreError, shown

_MOST_DIGITS = 4300  # of a whole number; also where Python itself refuses to write one


TEMPORARY = ".writing-"  # how the names of files start that are not whole yet
OLD = 3600.0  # seconds after which such a file counts as left behind: nothing here takes that long to write
_FIXES = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "free some room there",
    (errno.EACCES, errno.EPERM, errno.EROFS): "choose a place where you may do that",
    (errno.ENOTDIR, errno.EEXIST, errno.EISDIR): "a file stands where a folder is needed, or the other way round: "
    "move it away, or choose another folder",
    (errno.ENAMETOOLONG,): "choose a shorter path",
}


def cannot_write(path: Path, error: OSError) -> StoreError:
    """Return the error to raise where a file or folder cannot be written: the path, the reason, the fix."""
    return cannot_use(path, error, "written")


def cannot_use(path: Path, error: OSError, how: str = "read or written") -> StoreError:
    """Return the error to raise where nobody knows whether a file was to be read or written, or `how` it was to be."""
    fix = next((fix for numbers, fix in _FIXES.items() if error.errno in numbers), "look at that disk")
    return StoreError(f"{path} cannot be {how} ({error.strerror or error}): {fix}. What is finished is kept.")


def try_folder(folder: Path, room: int = 0) -> None:
    """Make a folder and write a file there, to find out at once whether that can be done.

    Args:
        room: bytes that will be needed there.

    Raises `StoreError` that names the folder, the reason and the fix.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise cannot_write(folder, error) from error
    if free < room:
        raise StoreError(
            f"{folder} is on a disk with {free / 1e6:,.0f} MB left, where {room / 1e6:,.0f} MB will be needed: free "
            "some room there, or choose another folder."
        )


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old one or the whole new one; folders are made as needed.

    Raises `StoreError` that names the path, the reason and the fix; the old file is then as it was.
    """
    try:
        _write_atomically(path, content)
    except OSError as error:
        raise cannot_write(path, error) from error


def _write_atomically(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def new_folder(parent: Path, prefix: str) -> Path:
    """Make a folder of a new name, for whom the umask lets in; `tempfile.mkdtemp` makes one for its owner alone."""
    folder = parent / f"{prefix}{secrets.token_hex(8)}"
    folder.mkdir()
    return folder


def path_of(text: str | Path) -> Path:
    """Return the path that a text names; `~` at its start is the home folder, as in a shell."""
    return Path(os.path.expanduser(text))


def holds_other_work(folder: Path) -> bool:
    """Return whether a folder has a front page or notebooks that no report wrote, and that one would replace."""
    ours = any((folder / name).exists() for name in ("manifest.json", "runs", ".book"))
    return not ours and ((folder / "index.html").exists() or any((folder / "notebooks").glob("*.ipynb")))


def state_of(place: str | Path) -> tuple[tuple[str, int, int], ...]:
    """Return paths, sizes and times of a file, or of a folder's files three levels deep; () where there is none.

    Two equal states have the same contents, as far as can be seen without reading them.
    """
    path = path_of(place).absolute()
    files = [path, *(file for depth in ("*", "*/*", "*/*/*") for file in path.glob(depth))] if path.exists() else []
    found = [(str(file), file.stat()) for file in files if file.is_file()]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in found))


def clear_temporary(folder: Path, older: float = OLD) -> None:
    """Delete what `write_atomically` left in a folder where its process was killed.

    Args:
        older: seconds since it was written last; 0 where nothing else can be writing there.
    """
    for path in folder.glob(f"{TEMPORARY}*"):
        if is_older(path, older):
            with suppress(OSError):
                path.unlink()


def is_older(path: Path, seconds: float = OLD) -> bool:
    """Return whether a file or folder was written last that long ago, or longer."""
    try:
        return time.time() - path.stat().st_mtime >= seconds
    except OSError:  # gone by now
        return False


def sha256(content: bytes | Path) -> str:
    """Return the SHA-256 of bytes, or of a file's content, in hexadecimal."""
    return hashlib.sha256(content.read_bytes() if isinstance(content, Path) else content).hexdigest()


def sync_file(path: Path) -> None:
    """Flush a file from the system's cache to its disk."""
    with path.open("r+b") as stream:  # Windows flushes only what may be written
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
    """Move a folder to `target`, on the same disk; one that is there already is deleted once the new one is in place.

    Of several processes that replace one target, each leaves it whole. Raises `OSError` where it cannot be moved; then,
    and where it is interrupted, the old one is put back.
    """
    aside: list[Path] = []
    try:
        for _ in range(100):
            try:
                os.replace(folder, target)  # fails where a folder with files is there already, unlike for files
                break
            except OSError as error:
                taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST) or target.is_symlink()
                if not taken and (os.name == "posix" or not target.exists()):  # Windows denies access to what is there
                    raise
            aside.append(new_folder(folder.parent, f"{target.name}-old-") / target.name)
            with suppress(FileNotFoundError):  # another process moved it first
                os.replace(target, aside[-1])
        else:
            raise OSError(f"{target} cannot be replaced: other processes write it again and again. Try again later.")
    except BaseException:
        for old in filter(Path.exists, aside):
            if not target.exists():
                os.replace(old, target)
        raise
    finally:
        if target.exists():
            for old in aside:
                shutil.rmtree(old.parent, ignore_errors=True)
    sync_folder(target.parent)


def inside(folder: Path, name: str) -> Path:
    """Return the path of what a file names beside itself: in `folder` or below it, links followed.

    Raises:
        DataError: a name that is empty, absolute, holds ".." or NUL, or is a link that leaves the folder.
    """
    windows = PureWindowsPath(name)  # its rules hold for "/" and "\\", and know drives
    fault = ""
    if not name.strip() or "\0" in name:
        fault = "no file's name"
    elif windows.drive or windows.root:
        fault = "absolute"
    elif ".." in windows.parts:
        fault = "one that leads upwards"
    else:
        try:
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                fault = "a link to outside"
        except (OSError, RuntimeError, ValueError):  # a circle of links, or a name too long or not writable here
            fault = "one that leads nowhere"
    if fault:
        raise DataError(
            f"{shown(name)} in {folder.name or folder} is {fault}; needed the name of a file inside the folder. "
            "Fix: copy the file there and give its plain name."
        )
    return folder / name


def parse_json(text: str) -> Any:
    """Parse JSON that means one thing everywhere.

    Raises:
        ValueError: malformed JSON (as `json.JSONDecodeError`); or what Python lets pass in silence: NaN and Infinity, a
            number out of range, a key twice in one object, half of a surrogate pair.
    """
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole, object_pairs_hook=_unique_keys
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start]).strip("'")
            raise ValueError(f"{half} is half of a surrogate pair and no character") from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text:.20} is out of range")
    return number


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits is out of range")
    return int(text)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key!r} stands twice in one object")
        values[key] = value
    return values
