"""Run records on disk: one folder a run, named by what the run is made of.

Owns the names, the files and their integrity: a record is read whole and unaltered, or not at all. Never computes
what a record holds, and never reads or writes a format that could run code (JSON and safetensors only).

    <root>/runs/<name>/record.json      {"format", "sha256", "files", "record"}
    <root>/runs/<name>/*.safetensors    what the run left behind, each with its sha256 in "files"
    <root>/runs/.damaged/               what was found broken, moved aside, never read again
    <root>/runs/.locks/                 one lock file a run; .staging/ holds runs that are being written
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from xprompt.errors import StoreError

FORMAT = 1
SUFFIXES = (".json", ".safetensors")
_NAME = re.compile(r"[0-9a-f]{16}")

Record = dict[str, Any]


def run_id(config: Any, data_fingerprint: str, backbone_fingerprint: str, version: str) -> str:
    """Name a run by what it is made of, so that asking for it again finds it.

    Args:
        config: the run's settings, as JSON values, or an object whose `settings()` gives them.
        data_fingerprint, backbone_fingerprint: hashes of the examples and of the frozen weights.
        version: the library's version; another version may compute something else.

    Returns 16 hexadecimal digits. The order of the settings' keys does not matter.
    """
    settings = config.settings() if hasattr(config, "settings") else config
    parts = {
        "config": settings,
        "data": data_fingerprint,
        "backbone": backbone_fingerprint,
        "version": version,
    }
    return hashlib.sha256(_canonical(parts)).hexdigest()[:16]


class Store:
    """The run records under one folder. Making a `Store` touches nothing on disk.

    Args:
        root: the report folder, such as reports/nano; its runs lie in root/runs.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.runs = self.root / "runs"

    def path(self, name: str) -> Path:
        """The folder of the run `name`, there or not. Raises `StoreError` where `name` cannot be a run's."""
        if not _NAME.fullmatch(name):
            raise StoreError(f"run name {name!r} is not 16 hexadecimal digits: use the name that run_name() gives.")
        return self.runs / name

    def get(self, name: str) -> Record | None:
        """Return the record of the run `name`, or None where there is none to trust.

        Every file is checked against its stored sha256. A run that fails is moved to runs/.damaged/ with a
        `RuntimeWarning`, and counts as absent, so that it will be run again.
        """
        folder = self.path(name)
        if not folder.exists():
            return None
        try:
            return _read(folder, name)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if not folder.exists():  # another process is replacing it this very moment
                return None
            self._set_aside(folder, error)
            return None

    def put(self, record: Record, write_files: Callable[[Path], object] | None = None) -> Path:
        """Write a run, whole or not at all, and return its folder.

        Args:
            record: JSON values; record["run"] is its name. Numbers that are not finite are stored as null.
            write_files: called with an empty folder, to leave the run's .safetensors and .json files in.

        Raises `StoreError` where the record has no valid name, is not JSON, or a file is of another kind.
        """
        target = self.path(str(record.get("run", "")))
        staging = self.runs / ".staging"
        staging.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=staging))
        try:
            if write_files is not None:
                write_files(folder)
            _write(folder, record)
            self._move_into_place(folder, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return target

    def records(self) -> Iterator[Record]:
        """Yield every whole record, in the order of their names; damaged ones are moved aside."""
        names = sorted(path.name for path in self.runs.glob("*") if _NAME.fullmatch(path.name))
        for name in names:
            record = self.get(name)
            if record is not None:
                yield record

    @contextmanager
    def lock(self, name: str, timeout: float = -1) -> Iterator[None]:
        """Hold the run `name`, so that no two processes do it at once. Look again with `get` once inside.

        Args:
            timeout: seconds to wait for another holder; negative waits for as long as it takes.

        Raises `StoreError` when the time is up. A holder that dies lets go.
        """
        path = self.runs / ".locks" / f"{self.path(name).name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(path, timeout=timeout):
                yield
        except Timeout as error:
            raise StoreError(
                f"run {name} is held by another process for more than {timeout} s: wait for it, or end it."
            ) from error

    def _move_into_place(self, folder: Path, target: Path) -> None:
        for _ in range(10):
            try:
                os.replace(folder, target)  # fails where a run is there already, unlike for files
                break
            except OSError:
                if not target.exists():
                    raise
            aside = Path(tempfile.mkdtemp(prefix=f"{target.name}-old-", dir=folder.parent))
            with suppress(FileNotFoundError):  # another process moved it first
                os.replace(target, aside / target.name)
            shutil.rmtree(aside, ignore_errors=True)
        _sync_folder(target.parent)

    def _set_aside(self, folder: Path, error: Exception) -> None:
        bin_ = self.runs / ".damaged"
        bin_.mkdir(exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=bin_))
        os.replace(folder, aside / folder.name)
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"run {folder.name} is damaged ({reason}); moved to {aside / folder.name} and will be run again.",
            RuntimeWarning, stacklevel=3,
        )  # fmt: skip


def _write(folder: Path, record: Record) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in SUFFIXES:
            raise StoreError(f"a run may hold {' and '.join(SUFFIXES)} files only, not {path.name}.")
    if (folder / "record.json").exists():
        raise StoreError("record.json is the record's own file: give the other file another name.")
    try:
        plain = json.loads(json.dumps(_finite(record), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise StoreError(f"run {record['run']}: the record must be plain JSON values ({error}).") from error
    files = {p.relative_to(folder).as_posix(): _digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    body = {"format": FORMAT, "sha256": _seal(plain, files), "files": files, "record": plain}
    text = json.dumps(body, indent=1, ensure_ascii=False)
    (folder / "record.json").write_text(text + "\n", encoding="utf-8")
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    _sync_folder(folder)


def _read(folder: Path, name: str) -> Record:
    body = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    if body["format"] != FORMAT:
        raise ValueError(f"format {body['format']!r}, not {FORMAT}")
    if body["sha256"] != _seal(body["record"], body["files"]):
        raise ValueError("record.json does not match its own sha256")
    for file, digest in body["files"].items():
        if _digest(folder / file) != digest:
            raise ValueError(f"{file} does not match its sha256")
    if body["record"]["run"] != name:
        raise ValueError(f"the record is that of run {body['record']['run']}")
    return body["record"]


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _seal(record: Record, files: Mapping[str, str]) -> str:
    return hashlib.sha256(_canonical({"record": record, "files": dict(files)})).hexdigest()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
