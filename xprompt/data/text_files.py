"""Read raw examples from text files: JSON lines, and comma- or tab-separated tables with a header, in UTF-8."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from xprompt.errors import DataError
from xprompt.files import parse_json
from xprompt.tasks.example import RawExample, data_error

_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}


def read_jsonl(file: Path) -> Iterator[RawExample]:
    """Yield the objects of a file with one JSON object a line; blank lines are skipped.

    Raises:
        DataError: names file and line of what is no UTF-8, no JSON object, or no strict JSON (`files.parse_json`).
    """
    where = "/".join(file.parts[-3:])
    for number, text in enumerate(_read_text(file, where).split("\n"), start=1):
        if not text.strip():
            continue
        line = f"{where}, line {number}"
        try:
            value = parse_json(text)
        except json.JSONDecodeError as error:
            raise _jsonl_error(f"{line}, column {error.colno}", f"malformed JSON ({error.msg})") from error
        except ValueError as error:
            raise _jsonl_error(line, f"malformed JSON ({error})") from error
        if not isinstance(value, dict):
            raise _jsonl_error(line, f"{text.strip()!r:.60}")
        yield RawExample(value, line, number - 1)


def read_table(file: Path) -> Iterator[RawExample]:
    """Yield the rows of a table with a header; empty lines are skipped.

    A .csv file has commas, and quotes around a text that holds a comma, a quote (doubled) or a line end. A .tsv file
    has tabs and no quoting: a quote is a character like any other.

    Raises:
        DataError: names file and line of a repeated column, a row of another length, an open quote, another separator,
            or what is no UTF-8.
    """
    where = "/".join(file.parts[-2:])
    is_tsv = file.suffix == ".tsv"
    text = io.StringIO(_read_text(file, where), newline="")
    reader = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE) if is_tsv else csv.reader(text, strict=True)
    header: list[str] = []
    position = 0
    while True:
        line = reader.line_num + 1  # where the row begins; a quoted text may go over several lines
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise _table_error(f"{where}, line {line}", error) from error
        if row is None:
            return
        if row and not header:
            header = [name.strip() for name in row]
            _check_header(header, f"{where}, line {line}", "\t" if is_tsv else ",")
        elif row:
            if len(row) != len(header):
                raise data_error(
                    f"{where}, line {line}",
                    f"{len(row)} values",
                    f"{len(header)}, one a column ({', '.join(header)})",
                    "remove the tabs within texts" if is_tsv else 'put quotes ("…") around a text that holds a comma',
                )
            yield RawExample(dict(zip(header, row, strict=True)), f"{where}, line {line}", position)
            position += 1


def _read_text(file: Path, where: str) -> str:
    """Return a file's text; `DataError` where it cannot be read or is no UTF-8, with the line of the first bad byte."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise data_error(
            where,
            f"a file that cannot be read ({error.strerror})",
            "a readable file",
            "check the path" if isinstance(error, FileNotFoundError) else "check its permissions",
        ) from error
    nul = content.find(b"\0")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or nul >= 0:
        line = 1 + content.count(b"\n", 0, max(nul, 0))
        raise data_error(
            f"{where}, line {line}", "UTF-16 or other text with NUL bytes", "UTF-8 text", "save the file as UTF-8"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start + len(content) - len(error.object)  # Python leaves out the byte order mark
        raise data_error(
            f"{where}, line {1 + content.count(bytes([10]), 0, start)}",
            f"the byte 0x{content[start]:02x}, which is no UTF-8 (the file may be Latin-1)",
            "UTF-8 text",
            "save the file as UTF-8",
        ) from error


def _jsonl_error(where: str, given: str) -> DataError:
    return data_error(where, given, "one JSON object a line", "repair that line, or fetch the release again")


def _table_error(where: str, error: csv.Error) -> DataError:
    if "field larger" in str(error):
        return data_error(
            where,
            f"a cell of more than {csv.field_size_limit():,} characters",
            "shorter cells",
            "shorten the text, or close the quote that opens it",
        )
    fault = "a quote that is never closed" if "unexpected end" in str(error) else f"a quote out of place ({error})"
    return data_error(where, fault, "quotes in pairs", "close the quote, or double it where it belongs to a text")


def _check_header(header: list[str], where: str, separator: str) -> None:
    repeated = [name for name in header if header.count(name) > 1]
    if repeated:
        raise data_error(where, f"two columns '{repeated[0]}'", "different names", "rename or remove one")
    others = [name for name in _SEPARATORS if name != separator and name in header[0]]
    if len(header) == 1 and others:
        raise data_error(
            where,
            f"one column, {header[0]!r:.60}, as if separated by {_SEPARATORS[others[0]]}",
            f"columns separated by {_SEPARATORS[separator]}",
            "save it as .csv with commas or as .tsv with tabs",
        )
