"""A custom task: a small declaration, `task.json`, beside its examples as CSV, TSV or JSON lines.

Nothing in it can run as code: templates name columns, nothing else.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from xprompt.config.pattern import fields_in
from xprompt.config.settings import MOST_SEED, NO_TEXT, Settings
from xprompt.errors import ConfigError, DataError, StoreError, shown
from xprompt.files import inside, parse_json, path_of, write_atomically
from xprompt.tasks.example import ParsedExample, RawExample, data_error, looks_the_same

DECLARATION = "task.json"
SUFFIXES = (".csv", ".tsv", ".jsonl")


class TaskFiles(NamedTuple):
    """Where a custom task's examples are: a validation file, or the share of train held out for it, by seed."""

    train: Path
    validation: Path | None
    validation_share: float | None
    validation_seed: int


class CustomTask(Settings):
    """A custom task as its `task.json` declares it.

    Args:
        name: its name in tables and records; not the name of a SuperGLUE task.
        template: the input, each column that belongs to it as {column}; {{ and }} are literal braces.
        label: the column that holds the label.
        verbalizer: label as written in that column → its label word; two or more, all different.
        cut: the column that is shortened where the input is too long; may be left out where there is only one.
        cut_side: the side it loses.
        metrics: "accuracy", "macro_f1", or "em" (share of groups with every answer right); the score is their mean.
        group: rows with equal values in this column stay together in every split and limit; None: each row alone.
        train, validation: file names beside the declaration; "": train.csv, .tsv or .jsonl, validation likewise.
        validation_share: without a validation file, this share of train (0 to 1) is held out, label by label, the
            same rows in every run whatever its seed.
        validation_seed: chooses those rows.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9 _-]{0,39}$")
    template: str
    label: str = Field("label", min_length=1)
    verbalizer: dict[str, str]
    cut: str = ""
    cut_side: Literal["start", "end"] = "end"
    metrics: tuple[Literal["accuracy", "macro_f1", "em"], ...] = Field(("accuracy",), min_length=1)
    group: str | None = Field(None, min_length=1)
    train: str = ""
    validation: str = ""
    validation_share: float | None = Field(None, gt=0, lt=1)
    validation_seed: int = Field(0, ge=0, le=MOST_SEED)

    @field_validator("verbalizer")
    @classmethod
    def _strip_labels(cls, verbalizer: dict[str, str]) -> dict[str, str]:
        stripped = {label.strip(): word for label, word in verbalizer.items()}  # as labels in the files are
        if len(stripped) < len(verbalizer):
            raise ValueError("two labels differ in outer white space only, which is ignored")
        return stripped

    @model_validator(mode="after")
    def _is_consistent(self) -> CustomTask:
        words = list(self.verbalizer.values())
        different = {word.strip() for word in words} - {""}
        if len(words) < 2 or len(different) < len(words) or "" in self.verbalizer:
            raise ValueError("verbalizer needs two or more labels, each with a different word")
        named = fields_in(self.template)
        if not self.columns:
            raise ValueError("template needs at least one {column}")
        if self.label in self.columns:
            raise ValueError(
                f"template shows {{{self.label}}}, which is the label: the answer would be in the question"
            )
        if named.count(self.cut_column) != 1:
            raise ValueError(f"cut needs one of {', '.join(self.columns)} that stands in template exactly once")
        if len(set(self.metrics)) < len(self.metrics) or ("em" in self.metrics and self.group is None):
            raise ValueError("metrics are named once each, and em needs group")
        if self.train and self.train == self.validation:
            raise ValueError(
                f"train and validation are both {self.train!r}: scores would be those on the training data"
            )
        if self.validation and self.validation_share is not None:
            raise ValueError("give validation (a file) or validation_share (of train), not both")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the template names, in order."""
        return tuple(dict.fromkeys(fields_in(self.template)))

    @property
    def cut_column(self) -> str:
        """The column that may be cut; "" where the declaration leaves it open."""
        given = self.cut or (self.columns[0] if len(self.columns) == 1 else "")
        return given if given in self.columns else ""

    @classmethod
    def load(cls, path: str | Path) -> CustomTask:
        """Read a declaration.

        Raises:
            ConfigError: the file is missing, is no JSON, or declares what makes no sense; names the file.
        """
        path = path_of(path)
        where = "/".join(path.parts[-2:])[-200:]
        try:
            if path.exists() and not path.is_file():  # to read a pipe or a device would never end
                raise OSError(errno.EINVAL, "Not a file")
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{where}: no UTF-8 text (at byte {error.start}). Fix: save it as UTF-8.") from error
        except (OSError, ValueError) as error:  # ValueError: no system has such a path
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"{where}: cannot be read ({reason}). Fix: check the path ({shown(str(path), 400)})."
            ) from error
        try:
            data = parse_json(text)
        except ValueError as error:
            raise ConfigError(f"{where}: no valid JSON ({error}). Fix: repair the file.") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{where}: holds {data!r:.40}; needed one JSON object, see `xp.CustomTask`.")
        try:
            return cls(**data)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error

    def save(self, folder: str | Path) -> Path:
        """Write `task.json` in a folder, made if missing, and return its path, which names the task in settings.

        Raises `ConfigError` where it cannot be written.
        """
        path = path_of(folder) / DECLARATION
        text = json.dumps(self.model_dump(mode="json", exclude_defaults=True), indent=2, ensure_ascii=False)
        try:
            write_atomically(path, text + "\n")
        except (StoreError, ValueError) as error:
            raise ConfigError(f"{shown(str(path), 400)}: {error}") from error
        return path

    def files(self, folder: Path) -> TaskFiles:
        """Return where the examples are. Raises `DataError` where a file is missing, or one split has two."""
        train = self._file(folder, "train")
        validation = self._file(folder, "validation")
        if train is None:
            raise data_error(
                f"{folder.name}, task '{self.name}'",
                "no training examples",
                f"{_choices('train')} beside {DECLARATION}",
                "add the file, or name it in the declaration as train",
            )
        if validation is None and self.validation_share is None:
            raise data_error(
                f"{folder.name}, task '{self.name}'",
                "neither validation examples nor a share",
                f"{_choices('validation')} beside {DECLARATION}, or validation_share",
                'add the file, or "validation_share": 0.2 to the declaration, which holds out that share of train',
            )
        if validation is not None and self.validation_share is not None:
            raise data_error(
                f"{folder.name}, task '{self.name}'",
                f"both {validation.name} and validation_share",
                "one of them",
                "remove validation_share, or the file",
            )
        return TaskFiles(train, validation, self.validation_share, self.validation_seed)

    def _file(self, folder: Path, split: Literal["train", "validation"]) -> Path | None:
        named = getattr(self, split)
        names = [named] if named else [split + suffix for suffix in SUFFIXES]
        try:
            existing = [path for path in (inside(folder, name) for name in names) if os.path.isfile(path)]
        except DataError as error:
            raise DataError(f"{folder.name}, task '{self.name}', {split}: {error}") from error
        if len(existing) > 1:
            raise data_error(
                f"{folder.name}, task '{self.name}'",
                " and ".join(path.name for path in existing),
                f"one file of {split} examples",
                f"remove one, or say which in the declaration as {split}",
            )
        if named and (not existing or existing[0].suffix not in SUFFIXES):
            raise data_error(
                f"{folder.name}, task '{self.name}', {split}",
                repr(named),
                f"an existing {', '.join(SUFFIXES)} file beside {DECLARATION}",
                "correct the name in the declaration",
            )
        return existing[0] if existing else None

    def parse(self, raw: RawExample) -> Iterator[ParsedExample]:
        """Yield the one example of a row. Raises `DataError` naming file, line and field."""
        group = [self.group] if self.group else []
        missing = [column for column in (*self.columns, self.label, *group) if column not in raw.data]
        if missing:
            raise data_error(
                f"{raw.where}, field '{missing[0]}'",
                f"no such column (there are {', '.join(map(str, raw.data))})",
                "every column that the declaration names as label, group or in template",
                f"add the column, or correct {DECLARATION}{looks_the_same(missing[0], raw.data)}",
            )
        fields = {column: self._text(raw, column) for column in (*self.columns, *group)}
        uid = str(raw.position)
        label = as_text(raw.data[self.label])
        label_source = RawExample({self.label: None if label == "" else label}, raw.where, raw.position)
        yield ParsedExample(uid, fields[self.group] if self.group else uid, fields, label_source)

    def _text(self, raw: RawExample, column: str) -> str:
        text = as_text(raw.data[column])
        if not is_text(text):
            given = "an empty cell" if text == "" else shown(text, 60)
            raise data_error(
                f"{raw.where}, field '{column}'", given, "a text or a number", "fill in the cell, or remove the row"
            )
        return text


def as_text(value: Any) -> Any:
    """Return JSON's numbers and truth values as JSON writes them, texts stripped, anything else unchanged."""
    if isinstance(value, str):
        return value.strip()
    try:
        return json.dumps(value, allow_nan=False) if isinstance(value, (bool, int, float)) else value
    except ValueError:  # infinite, or of thousands of digits
        return value


def is_text(value: Any) -> bool:
    """Return whether a value is a text that a tokenizer takes: not empty, no NUL, no half of a surrogate pair."""
    return isinstance(value, str) and bool(value) and not NO_TEXT.search(value)


def _choices(split: str) -> str:
    return " or ".join(split + suffix for suffix in SUFFIXES)


OwnTask = CustomTask
"""`CustomTask`, by its name up to 0.1."""
