"""An example in the one form that every task and source shares, and the raw object it is read from."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from xprompt.errors import DataError, shown


def data_error(where: str, given: str, needed: str, fix: str) -> DataError:
    """Return a `DataError` that says where it is, what was given, what was needed, and the fix."""
    return DataError(f"{where}: given {given}; needed {needed}. Fix: {fix}.")


def looks_the_same(given: object, known: Iterable[object]) -> str:
    """Return a remark, to end a fix with, where a known name is the given one in another Unicode form; else ""."""
    if isinstance(given, str):
        form = unicodedata.normalize("NFC", given)
        for name in known:
            if isinstance(name, str) and name != given and unicodedata.normalize("NFC", name) == form:
                return f"; {name!r} looks the same and is other characters (NFC, NFD): copy one to the other's place"
    return ""


@dataclass(frozen=True)
class RawExample:
    """One object of a source that knows where it stands, so that an error names file, line and field.

    Args:
        data: the JSON object, or the row of a table.
        where: file and line, for messages.
        position: 0-based in its source, its name where it carries no `idx`.
        flat: True for a row of the hub's tables: nothing nested, labels as positions in the label set.
        path: the fields it is nested in, for messages.
    """

    data: Mapping[str, Any]
    where: str
    position: int = 0
    flat: bool = False
    path: str = ""

    def get(self, name: str, kind: type, needed: str) -> Any:
        """Return the field; `DataError` where it is absent or of another kind than what is `needed`, in words."""
        if isinstance(self.data.get(name), kind):
            return self.data[name]
        given = f"{self.data[name]!r:.60}" if name in self.data else "a line without it"
        raise data_error(
            f"{self.where}, field '{self.path}{name}'",
            given,
            needed,
            "repair that line, or fetch the official release again",
        )

    def text(self, name: str) -> str:
        """Return a text field, outer white space removed; `DataError` where it holds NUL."""
        text = self.get(name, str, "a text").strip()
        if "\0" in text:
            raise data_error(
                f"{self.where}, field '{self.path}{name}'", shown(text, 60), "a text without NUL", "remove it"
            )
        return text

    def child(self, name: str) -> RawExample:
        """Return a nested object, which knows its path."""
        inner = self.get(name, dict, "an object")
        return RawExample(inner, self.where, self.position, self.flat, f"{self.path}{name}.")

    def children(self, name: str) -> Iterator[RawExample]:
        """Yield the objects of a nested list, which know their paths."""
        for i, inner in enumerate(self.get(name, list, "a list")):
            path = f"{self.path}{name}[{i}]"
            if not isinstance(inner, dict):
                raise data_error(
                    f"{self.where}, field '{path}'",
                    f"{inner!r:.60}",
                    "an object",
                    "repair that line, or fetch the official release again",
                )
            yield RawExample(inner, self.where, i, self.flat, f"{path}.")

    @property
    def key(self) -> str:
        """Its `idx`, or its position where it has none."""
        return str(self.data.get("idx", self.position))


class ParsedExample(NamedTuple):
    """One example as read: its names, its texts, and the raw object that holds its label."""

    uid: str
    group: str
    fields: dict[str, str]
    label_source: RawExample


@dataclass(frozen=True)
class Example:
    """One example of any task, from any source.

    Args:
        uid: unique within its split.
        group: the examples that are scored as one (MultiRC: of one question); elsewhere the uid.
        fields: the texts that the template names.
        label: position in the task's label set, 0 <= label < len(task.label_words).
    """

    uid: str
    group: str
    fields: Mapping[str, str] = field(hash=False)
    label: int
