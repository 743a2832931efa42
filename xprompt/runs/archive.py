"""The records of a published report in one file, records.jsonl, or records.jsonl.gz where that would be too large.

A line is {"sha256": …, "record": {"run": …, …}}; the sha256 is that of the record's own bytes.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from xprompt.files import sha256, write_atomically

RECORDS = "records.jsonl"
_LINE = re.compile(rb'\{"sha256":"([0-9a-f]{64})","record":(\{"run":"([0-9a-f]{16})",.*\})\}')


def read_archive(report: Path) -> Mapping[str, bytes]:
    """Return run ID → the record as JSON text, of every whole line; an empty mapping where there is no archive.

    A line that does not match its sha256 is left out, with a `RuntimeWarning` the first time that the file is read.
    """
    found = []
    for path in (report / RECORDS, report / f"{RECORDS}.gz"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            state = path.stat()
            found.append((state.st_mtime_ns, state.st_size, path.absolute()))
    if not found:
        return {}
    modified, size, path = max(found)  # the newer one, where writing ended before the other form was removed
    return _whole_records(path, modified, size)


def read_again() -> None:
    """Read every archive from its file the next time, and warn again of what is damaged in it."""
    _whole_records.cache_clear()


def write_archive(report: Path, records: Iterable[Mapping[str, Any]], *, compress: bool = False) -> None:
    """Write the records, whole or not at all, in the order of their run IDs."""
    lines = []
    for record in sorted(records, key=lambda record: record["run"]):
        first = {"run": record["run"], **record}  # so that a line's run ID is read without reading the record
        text = json.dumps(first, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        lines.append(b'{"sha256":"%s","record":%s}\n' % (sha256(text).encode(), text))
    content, path = b"".join(lines), report / RECORDS
    other = path.with_name(f"{RECORDS}.gz")
    if compress:
        path, other, content = other, path, gzip.compress(content, mtime=0)
    write_atomically(path, content)
    other.unlink(missing_ok=True)


@functools.lru_cache(maxsize=8)
def _whole_records(path: Path, modified: int, size: int) -> dict[str, bytes]:
    """Read and check a file once, for as long as its time and its size stay the same."""
    found = {}
    for number, line in enumerate(_lines(path), 1):
        parts = _LINE.fullmatch(line)
        if parts is None or sha256(parts[2]) != parts[1].decode():
            warnings.warn(
                f"line {number} of {path} is damaged: its run counts as absent. Restore the file.",
                RuntimeWarning, stacklevel=4,
            )  # fmt: skip
        else:
            found[parts[3].decode()] = parts[2]
    return found


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file; where it cannot be read on, an empty one for what is lost."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                yield line.removesuffix(b"\n")
    except (OSError, EOFError, zlib.error):
        yield b""
