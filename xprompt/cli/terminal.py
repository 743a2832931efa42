"""What is printed is never the reason for a failure: plain forms for what a terminal cannot show, and lost output.

A stream whose encoding lacks a character (`PYTHONIOENCODING=ascii`, Latin-1) shows a plain form of it. A stream that is
closed, full or no longer read swallows what is written; the command goes on, and its exit code tells of its work.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_PLAIN = {
    "−": "-", "–": "-", "—": "-", "±": "+/-", "×": "x", "·": "-", "•": "-", "→": "->", "←": "<-", "≤": "<=", "≥": ">=",
    "≈": "~", "…": "...", "“": '"', "”": '"', "‘": "'", "’": "'", "∂": "d", "⟨": "<", "⟩": ">", "█": "#", "▏": "#",
    "│": "|", "├": "|", "└": "`", "─": "-", "═": "=", "✓": "yes", "✗": "no", "€": "EUR", "°": " deg", "ß": "ss",
    "§": "section ", "▁": "_", "⏎": "|",
}  # fmt: skip
_GREEK = {"greek small letter ": str.lower, "greek capital letter ": str.title}


def plain_form(text: str) -> str:
    """Return the text in ASCII: "±" as "+/-", "é" as "e", "γ" as "gamma"; what has no plain form as "?"."""
    return "".join(map(_plain_character, text))


def _plain_character(character: str) -> str:
    if character.isascii() or character in _PLAIN:
        return _PLAIN.get(character, character)
    name = unicodedata.name(character, "").lower()
    for prefix, case in _GREEK.items():
        if name.startswith(prefix):
            return case(name.removeprefix(prefix))
    parts = unicodedata.normalize("NFKD", character)
    plain = "".join(_PLAIN.get(part, part if part.isascii() else "") for part in parts)
    return plain or "?"


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return plain_form(error.object[error.start : error.end]), error.end


codecs.register_error("xprompt.plain", _replace)


class _Lossy(io.RawIOBase):
    """A raw stream as far as it takes what is written; `failure` is the first error of one that does not."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, content: Any) -> int:
        while self.failure is None:
            try:
                written = self._raw.write(content)
                if written is not None:
                    return written
                select.select([], [self._raw], [])  # it does not block: wait for it, as a blocking one does
            except OSError as error:
                self.failure = error
        return memoryview(content).nbytes


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Within, print to standard output and standard error, whatever these are, without an exception.

    Streams that are not the process's own (a notebook's, a test's) are left alone. Where standard output took less than
    was printed, standard error says so at the end; a reader that stopped reading (`| head`) meant it.
    """
    _open_missing_descriptors()
    before = sys.stdout, sys.stderr
    raw: dict[str, _Lossy] = {}
    for name, own, descriptor in (("stdout", sys.__stdout__, 1), ("stderr", sys.__stderr__, 2)):
        stream = getattr(sys, name)
        if stream is own:
            raw[name] = _Lossy(_raw_of(stream, descriptor))
            setattr(sys, name, _wrap(raw[name], stream))
    try:
        yield
    finally:
        sys.stdout.flush()
        failure = raw["stdout"].failure if "stdout" in raw else None
        if failure is not None and failure.errno != errno.EPIPE:
            print(f"note: not all output could be written to standard output ({failure.strerror}).", file=sys.stderr)
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _raw_of(stream: TextIO | None, descriptor: int) -> io.RawIOBase:
    buffer = getattr(stream, "buffer", None)
    if buffer is None:  # Python found it closed, and has none
        return io.FileIO(descriptor, "w", closefd=False)
    return getattr(buffer, "raw", buffer)  # with `python -u` there is no buffer


def _wrap(raw: _Lossy, stream: TextIO | None) -> io.TextIOWrapper:
    at_once = bool(getattr(stream, "write_through", False))  # python -u
    return io.TextIOWrapper(
        io.BufferedWriter(raw), getattr(stream, "encoding", "utf-8"), errors="xprompt.plain", write_through=at_once,
        line_buffering=at_once or bool(getattr(stream, "line_buffering", True)),
    )  # fmt: skip


def _open_missing_descriptors() -> None:
    """Point standard descriptors that the caller closed at the null device.

    Else the next file that is opened gets their numbers, and what a child process prints ends up in it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)
