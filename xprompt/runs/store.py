"""Run records on disk, each read whole and unaltered or not at all; JSON and safetensors only.

<root>/runs/<run ID>/record.json    {"format", "sha256", "files", "record"}
<root>/runs/<run ID>/*.safetensors  what the run left behind, each with its sha256 in "files"
<root>/runs/.damaged/               what was found broken, moved aside, never read again
<root>/runs/.locks/                 a lock file for each run under way; .staging/ holds runs that are being written
<root>/runs/.unfinished/            what interrupted runs resume from; see `training.checkpoint`
<root>/records.jsonl                the records of a published report; see `archive`
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from xprompt.errors import HeldError, StoreError
from xprompt.files import cannot_write, inside, new_folder, path_of, replace_folder, sha256, sync_file, sync_folder
from xprompt.runs.archive import read_archive

FORMAT = 1
SUFFIXES = (".json", ".safetensors", ".md")
_DAMAGE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError, AttributeError)
RUN_ID = re.compile(r"[0-9a-f]{16}")

Record = dict[str, Any]


def run_id(config: Any, data_fingerprint: str, backbone_fingerprint: str, version: str) -> str:
    """Return a run's ID, the hash of what the run is made of, so that asking for it again finds it.

    Args:
        config: the run's settings, as JSON values, or an object whose `settings()` gives them.
        data_fingerprint, backbone_fingerprint: hashes of the examples and of the frozen backbone (tokenizer included).
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
    return sha256(_canonical(parts))[:16]


class Store:
    """The run records under one folder. Making a `Store` touches nothing on disk.

    Args:
        root: the report folder, such as reports/nano. Runs are written to root/runs; the records of a published
            report are read from root/records.jsonl too.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = path_of(root)
        self.runs = self.root / "runs"
        self.staging, self.unfinished = self.runs / ".staging", self.runs / ".unfinished"
        self.locks, self.damaged = self.runs / ".locks", self.runs / ".damaged"

    @property
    def is_empty(self) -> bool:
        """Whether it has held no run yet."""
        return not self.runs.is_dir() and not read_archive(self.root)

    @property
    def prompts(self) -> Path:
        """The file with the prompts that a published report keeps."""
        return self.root / "prompts.safetensors"

    def path(self, run_id: str) -> Path:
        """Return a run's folder, there or not. Raises `StoreError` where `run_id` cannot be a run's."""
        if not RUN_ID.fullmatch(run_id):
            raise StoreError(f"run ID {run_id!r} is not 16 hexadecimal digits: use what run_id() returns.")
        return self.runs / run_id

    def get(self, run_id: str) -> Record | None:
        """Return a run's record, of its folder or else of the archive, or None where there is none to trust.

        Every file is checked against its stored sha256. A run that fails is moved to runs/.damaged/ with a
        `RuntimeWarning`, and counts as absent, so that it will be run again. So does a damaged line of the archive.
        Raises `StoreError` where a file is there and cannot be read.
        """
        folder = self.path(run_id)
        if folder.exists():
            try:
                return _read(folder, run_id)
            except _DAMAGE as error:
                if folder.exists():  # else another process is replacing it this very moment
                    self._set_aside(folder, error)
            except OSError as error:  # such as too many open files: no reason to do the run again
                raise _cannot_read(folder, error) from error
        archived = read_archive(self.root).get(run_id)
        return None if archived is None else json.loads(archived)

    def look(self, run_id: str) -> tuple[Record | None, str]:
        """Return the record in a run's folder, or None and what is wrong with it in a few words. Nothing is changed.

        Raises `StoreError` where a file is there and cannot be read: it may be whole.
        """
        folder = self.path(run_id)
        try:
            return _read(folder, run_id), ""
        except _DAMAGE as error:
            return None, f"{type(error).__name__}: {error}"
        except OSError as error:
            raise _cannot_read(folder, error) from error

    def archived(self) -> Iterator[Record]:
        """Yield every whole record of the archive, in the order of the run IDs."""
        for run_id, text in sorted(read_archive(self.root).items()):
            yield json.loads(text) | {"run": run_id}

    def put(self, record: Record, write_files: Callable[[Path], object] | None = None) -> Path:
        """Write a run, whole or not at all, and return its folder.

        Hold the run meanwhile: what lies half-written of a run that nobody holds counts as left behind.

        Args:
            record: JSON values; record["run"] is its run ID. Numbers that are not finite are stored as null.
            write_files: called with an empty folder, to leave the run's .safetensors and .json files in.

        Raises `StoreError` where the record has no valid run ID, is not JSON, a file is of another kind, or the disk
        does not take it.
        """
        target = self.path(str(record.get("run", "")))
        try:
            self.staging.mkdir(parents=True, exist_ok=True)
            folder = new_folder(self.staging, f"{target.name}-")
            try:
                if write_files is not None:
                    write_files(folder)
                _write(folder, record)
                self._move_into_place(folder, target)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise cannot_write(target, error) from error
        return target

    def _move_into_place(self, folder: Path, target: Path) -> None:
        replace_folder(folder, target)

    def ids(self) -> list[str]:
        """Return the IDs of all runs, sorted: of folders, damaged ones among them, and of the archive."""
        in_folders = {path.name for path in self.runs.glob("*") if RUN_ID.fullmatch(path.name)}
        return sorted(in_folders | read_archive(self.root).keys())

    def records(self) -> Iterator[Record]:
        """Yield every whole record, in the order of the run IDs; damaged ones are left out, as `get` does."""
        for run_id in self.ids():
            record = self.get(run_id)
            if record is not None:
                yield record

    @contextmanager
    def lock(self, run_id: str, timeout: float = -1) -> Iterator[None]:
        """Hold a run, so that no two processes do it at once. Look again with `get` once inside.

        Args:
            timeout: seconds to wait for another holder; negative waits for as long as it takes.

        Raises `HeldError` when the time is up. A holder that dies lets go, and what it left half-written is deleted
        here. The lock's file goes with its holder: who waits for one that is gone makes another.
        """
        path = self.locks / f"{self.path(run_id).name}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, timeout=timeout)
            lock.acquire()
        except Timeout as error:
            raise HeldError(
                f"run {run_id} is held by another process for more than {timeout} s: wait for it, or end it."
            ) from error
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            for folder in self.staging.glob(f"{run_id}-*"):
                shutil.rmtree(folder, ignore_errors=True)
            yield
        finally:
            with suppress(OSError):  # Windows deletes no open file
                path.unlink()
            lock.release()

    def is_held(self, run_id: str) -> bool:
        """Return whether a process holds the run at this moment."""
        path = self.locks / f"{run_id}.lock"
        try:
            if path.exists():
                with FileLock(path, timeout=0):
                    pass
        except (Timeout, PermissionError):  # what belongs to another user may be held
            return True
        return False

    def leftovers(self) -> dict[Path, str]:
        """Return what processes that died left of runs that nobody holds: path → what it is."""
        found = {path: "half-written" for path in self.staging.glob("*-*")}
        found |= {path: "the lock of a process that died" for path in self.locks.glob("*.lock")}
        found |= {path: "the run is finished" for path in self.unfinished.glob("*") if self._is_finished_since(path)}
        runs = {path: _run_of(path) for path in found}
        return {path: what for path, what in found.items() if RUN_ID.fullmatch(runs[path])
                and not self.is_held(runs[path])}  # fmt: skip

    def clear_leftovers(self) -> None:
        """Delete the `leftovers`, each while holding its run; where that cannot be, leave it."""
        for path in self.leftovers():
            name = _run_of(path)
            with suppress(StoreError, OSError), self.lock(name, timeout=0):  # which deletes all but the state
                if self._is_finished_since(self.unfinished / name):
                    shutil.rmtree(self.unfinished / name, ignore_errors=True)

    def _is_finished_since(self, unfinished: Path) -> bool:
        """Whether a run has a record that is younger than its state; a run that is done again has an older one."""
        with suppress(OSError):
            written = (self.runs / unfinished.name / "record.json").stat().st_mtime_ns
            return all(path.stat().st_mtime_ns <= written for path in unfinished.rglob("state.json"))
        return False

    def _set_aside(self, folder: Path, error: Exception) -> None:
        try:
            self.damaged.mkdir(exist_ok=True)
            aside = new_folder(self.damaged, f"{folder.name}-") / folder.name
            os.replace(folder, aside)
            place = f"moved to {aside}"
        except FileNotFoundError:  # another process moved it first
            return
        except OSError as refused:
            place = f"left where it is ({refused.strerror})"
        warnings.warn(
            f"run {folder.name} is damaged ({type(error).__name__}: {error}); {place}, and will be run again.",
            RuntimeWarning, stacklevel=3,
        )  # fmt: skip


def _run_of(path: Path) -> str:
    """The ID of the run that a folder in staging, a lock or a state belongs to."""
    return path.name.split("-")[0].removesuffix(".lock")


def _write(folder: Path, record: Record) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in SUFFIXES:
            raise StoreError(f"a run may hold {', '.join(SUFFIXES)} files only, not {path.name}.")
    if (folder / "record.json").exists():
        raise StoreError("record.json is the record's own file: give the other file another name.")
    try:
        plain = json.loads(json.dumps(_finite(record), allow_nan=False))
        json.dumps(plain, ensure_ascii=False).encode()  # half a surrogate pair is in no file
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"run {record['run']}: the record must be plain JSON values ({error}).") from error
    files = {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    body = {"format": FORMAT, "sha256": _seal(plain, files), "files": files, "record": plain}
    text = json.dumps(body, indent=1, ensure_ascii=False)
    (folder / "record.json").write_text(text + "\n", encoding="utf-8")
    for path in folder.rglob("*"):
        if path.is_file():
            sync_file(path)
    sync_folder(folder)


def _cannot_read(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{error.filename or folder} cannot be read ({error.strerror or error}): make it readable, or delete the run's "
        "folder to have it run again."
    )


def _read(folder: Path, run_id: str) -> Record:
    body = json.loads(inside(folder, "record.json").read_text(encoding="utf-8"))
    if body["format"] != FORMAT:
        raise ValueError(f"format {body['format']!r}, not {FORMAT}")
    if body["sha256"] != _seal(body["record"], body["files"]):
        raise ValueError("record.json does not match its own sha256")
    for file, digest in body["files"].items():
        if sha256(inside(folder, file)) != digest:
            raise ValueError(f"{file} does not match its sha256")
    if body["record"]["run"] != run_id:
        raise ValueError(f"the record is that of run {body['record']['run']}")
    return body["record"]


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _seal(record: Record, files: Mapping[str, str]) -> str:
    return sha256(_canonical({"record": record, "files": dict(files)}))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
