"""A task of one's own: a small declaration, `task.json`, beside its examples as CSV, TSV or JSON lines.

Owns what a declaration may say, which files belong to it, and what a row of them means. Never makes a split, and
nothing that it reads can run as code: templates name columns, nothing else.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from xprompt.config.pattern import fields_in
from xprompt.config.settings import Settings
from xprompt.errors import ConfigError
from xprompt.tasks.example import Parsed, RawExample, fault

DECLARATION = "task.json"
SUFFIXES = (".csv", ".tsv", ".jsonl")


class Files(NamedTuple):
    """Where an own task's examples are: a validation file, or the share of train that is set apart by seed."""

    train: Path
    validation: Path | None
    share: float | None
    seed: int


class OwnTask(Settings):
    """What `task.json` says.

    Args:
        name: how tables and records call it; not the name of a SuperGLUE task.
        template: the input, each column that belongs to it as {column}.
        label: the column that holds the label.
        verbalizer: label as it stands in that column → the word that stands for it; two or more, all different.
        cut: the column that is shortened where the input is too long; may be left out where there is only one.
        cut_side: which side of it is given up.
        metrics: "accuracy", "macro_f1", or "em" (share of groups with every answer right); the score is their mean.
        group: a column whose equal values are never parted by a split or a limit; None: every row for itself.
        train, validation: file names beside the declaration; "": train.csv, .tsv or .jsonl, validation likewise.
        validation_share: without a validation file, this share of train (0 to 1) is set apart, label by label, the
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
    group: str | None = None
    train: str = ""
    validation: str = ""
    validation_share: float | None = Field(None, gt=0, lt=1)
    validation_seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _agrees(self) -> OwnTask:
        words = list(self.verbalizer.values())
        if len(words) < 2 or len(set(words)) < len(words) or not all(w.strip() for w in [*words, *self.verbalizer]):
            raise ValueError("verbalizer needs two or more labels, each with a word of its own")
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
    def load(cls, path: str | Path) -> OwnTask:
        """Read a declaration. Raises `ConfigError` naming the file where it is missing, no JSON, or says nonsense."""
        path = Path(path).expanduser()
        where = "/".join(path.parts[-2:])
        try:
            data = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
        except OSError as error:
            raise ConfigError(f"{where}: cannot be read ({error.strerror}). Fix: check the path ({path}).") from error
        except ValueError as error:
            raise ConfigError(f"{where}: no valid JSON ({error}). Fix: repair the file.") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{where}: holds {data!r:.40}; needed one JSON object, see `xp.OwnTask`.")
        try:
            return cls(**data)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error

    def save(self, folder: str | Path) -> Path:
        """Write `task.json` in a folder, made where it is not there, and return its path: that path is the task."""
        path = Path(folder) / DECLARATION
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.model_dump(mode="json", exclude_defaults=True), indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        return path

    def files(self, folder: Path) -> Files:
        """Return where the examples are. Raises `DataError` where a file is missing, or one split has two."""
        train = self._file(folder, "train")
        validation = self._file(folder, "validation")
        if train is None:
            raise fault(
                f"{folder.name}, task '{self.name}'",
                "no training examples",
                f"{_choices('train')} beside {DECLARATION}",
                "add the file, or name it in the declaration as train",
            )
        if validation is None and self.validation_share is None:
            raise fault(
                f"{folder.name}, task '{self.name}'",
                "neither validation examples nor a share",
                f"{_choices('validation')} beside {DECLARATION}, or validation_share",
                'add the file, or "validation_share": 0.2 to the declaration, which sets that share of train apart',
            )
        if validation is not None and self.validation_share is not None:
            raise fault(
                f"{folder.name}, task '{self.name}'",
                f"both {validation.name} and validation_share",
                "one of them",
                "remove validation_share, or the file",
            )
        return Files(train, validation, self.validation_share, self.validation_seed)

    def _file(self, folder: Path, split: Literal["train", "validation"]) -> Path | None:
        named = getattr(self, split)
        found = [p for p in ([folder / named] if named else [folder / f"{split}{s}" for s in SUFFIXES]) if p.is_file()]
        if len(found) > 1:
            raise fault(
                f"{folder.name}, task '{self.name}'",
                " and ".join(path.name for path in found),
                f"one file of {split} examples",
                f"remove one, or say which in the declaration as {split}",
            )
        if named and (not found or found[0].suffix not in SUFFIXES):
            raise fault(
                f"{folder.name}, task '{self.name}', {split}",
                repr(named),
                f"an existing {', '.join(SUFFIXES)} file beside {DECLARATION}",
                "correct the name in the declaration",
            )
        return found[0] if found else None

    def parse(self, line: RawExample) -> Iterator[Parsed]:
        """Yield the one example of a row. Raises `DataError` naming file, line and field."""
        missing = [c for c in (*self.columns, self.label, *([self.group] if self.group else [])) if c not in line.data]
        if missing:
            raise fault(
                f"{line.where}, field '{missing[0]}'",
                f"no such column (there are {', '.join(map(str, line.data))})",
                "every column that the declaration names as label, group or in template",
                f"add the column, or correct {DECLARATION}",
            )
        fields = {name: self._text(line, name) for name in (*self.columns, *([self.group] if self.group else []))}
        uid = str(line.position)
        label = _scalar(line.data[self.label])
        labelled = RawExample({self.label: None if label == "" else label}, line.where, line.position)
        yield Parsed(uid, fields[self.group] if self.group else uid, fields, labelled)

    def _text(self, line: RawExample, name: str) -> str:
        text = _scalar(line.data[name])
        if not isinstance(text, str):
            raise fault(f"{line.where}, field '{name}'", f"{text!r:.60}", "a text or a number", "repair that line")
        return text


def csv_lines(file: Path) -> Iterator[RawExample]:
    """Yield the rows of a table with a header, comma-separated (.csv) or tab-separated (.tsv), in UTF-8.

    Raises `DataError` naming file and line: a repeated column, a row of another length, open quotes, no UTF-8.
    """
    where = "/".join(file.parts[-2:])
    line = 0
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter="\t" if file.suffix == ".tsv" else ",", strict=True)
            header = [name.strip() for name in next(reader, [])]
            if len(set(header)) < len(header):
                twice = next(name for name in header if header.count(name) > 1)
                raise fault(f"{where}, line 1", f"two columns '{twice}'", "different names", "rename or remove one")
            for position, row in enumerate(row for row in reader if row):
                line = reader.line_num
                if len(row) != len(header):
                    raise fault(
                        f"{where}, line {line}",
                        f"{len(row)} values",
                        f"{len(header)}, one a column ({', '.join(header)})",
                        'put quotes ("…") around a text that holds the separator',
                    )
                yield RawExample(dict(zip(header, row, strict=True)), f"{where}, line {line}", position)
    except (csv.Error, UnicodeDecodeError) as error:
        fix = "repair the quotes, and save the file as UTF-8"
        raise fault(f"{where}, after line {line}", str(error)[:80], "a table in UTF-8", fix) from error


def _scalar(value: Any) -> Any:
    """JSON's numbers and truth values as they are written there, texts stripped; anything else as it is."""
    if isinstance(value, str):
        return value.strip()
    return json.dumps(value) if isinstance(value, (bool, int, float)) else value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} is declared twice")
        found[name] = value
    return found


def _choices(split: str) -> str:
    return " or ".join(split + suffix for suffix in SUFFIXES)
