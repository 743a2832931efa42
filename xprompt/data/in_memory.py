"""A custom task whose examples are in memory: a DataFrame, a list of rows, or a data set of the hub."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import numpy as np

from xprompt.data.loading import make_dataset
from xprompt.data.readers import check_reachable
from xprompt.data.splits import Splits, hold_out_validation, warn_of_missing_labels
from xprompt.errors import ConfigError, DataError, did_you_mean, shown
from xprompt.tasks.custom import CustomTask
from xprompt.tasks.example import RawExample, data_error
from xprompt.tasks.registry import custom_task

SHARE = 0.2
_NARROW = ("float16", "float32")  # a data set hands their numbers out as Python's own, which have more digits


def task_from(
    data: Any,
    *,
    template: str,
    label: str = "label",
    label_words: Mapping[Any, str] | None = None,
    validation: Any = None,
    validation_share: float | None = None,
    name: str = "custom",
    revision: str | None = None,
    **more: Any,
) -> Splits:
    """Make splits of examples in memory, equal to those of the same rows in a CSV beside a `task.json`.

    Args:
        data: a DataFrame, a list of rows (column → value), or a `datasets.Dataset`; or both splits, as a `DatasetDict`
            or a dict with "train" and "validation"; or the id of a data set on the hub.
        template: the input, each column that belongs to it as {column}.
        label: the column that holds the label.
        label_words: label → its word, two or more, in the order of the label set; None: each label is its own word.
        validation: the validation split, in any of these forms.
        validation_share: without one, this share of train is held out, label by label; None: 0.2.
        name: in tables and records.
        revision: of a hub data set.
        more: other fields of `CustomTask`: `cut`, `cut_side`, `metrics`, `group`, `validation_seed`.

    Raises:
        ConfigError: a declaration that makes no sense.
        DataError: a row or a form that cannot be read; names row and column.

    Example:
        >>> import xprompt as xp
        >>> rows = [{"text": f"the cat sat on mat {i}", "mood": i % 2} for i in range(20)]
        >>> splits = xp.task_from(rows, template="text: {text}", label="mood", label_words={0: "calm", 1: "wild"})
        >>> splits
        Splits(custom from own:custom: train 16, validation 4)
        >>> splits.task.render(splits.train[0])
        'text: the cat sat on mat 0'
    """
    given = _from_hub(data, revision) if isinstance(data, str) else data
    train, inner = _splits(given)
    if inner is not None and validation is not None:
        raise data_error(
            "task_from", "validation examples in data and as validation=", "one of them", "leave one of the two out"
        )
    validation = inner if validation is None else validation
    if validation is not None and validation_share is not None:
        raise data_error(
            "task_from", "validation examples and validation_share", "one of them", "leave one of the two out"
        )
    if label_words is not None and not isinstance(label_words, Mapping):
        raise ConfigError(
            f"task_from: label_words is {shown(label_words)}; needed label → word, such as {{'journey': 'travel'}}: "
            "which word stands for which label is not left to their order."
        )
    if "verbalizer" in more:
        raise ConfigError("task_from: verbalizer was given; what task.json calls so is label_words here: rename it.")
    names = _class_names(train, label, label_words)
    rows = _rows(train, "train", names)
    words = _own_words(rows, label) if label_words is None else {_text(key): word for key, word in label_words.items()}
    declaration = CustomTask(name=name, template=template, label=label, verbalizer=words, **more)
    task = custom_task(declaration, "task_from")
    examples = make_dataset(task, "train", rows)
    if validation is not None:
        held_out = make_dataset(task, "validation", _rows(validation, "validation", names))
    else:
        share = SHARE if validation_share is None else validation_share
        examples, held_out = hold_out_validation(examples, share, declaration.validation_seed)
    warn_of_missing_labels(examples, held_out)
    return Splits(task, examples, held_out, f"own:{task.name}")


def _splits(data: Any) -> tuple[Any, Any]:
    """Return the training and the validation examples of what may hold both."""
    if not isinstance(data, Mapping):
        return data, None
    found = [name for name in ("validation", "val", "dev") if name in data]
    if "train" not in data or len(found) > 1:
        raise data_error(
            "task_from", f"a dict with {', '.join(map(repr, data)) or 'nothing'}", "'train' and, at most, 'validation'",
            "rename the splits; a dict of columns becomes a table with pandas.DataFrame(…); a test split is not used",
        )  # fmt: skip
    return data["train"], data[found[0]] if found else None


def _rows(data: Any, split: str, names: tuple[str, Sequence[str]] | None) -> list[RawExample]:
    """Return the rows of a table, each under its own name in the table, with what a CSV file would hold."""
    if hasattr(data, "columns") and hasattr(data, "to_dict"):  # a DataFrame
        repeated = [column for column in data.columns if list(data.columns).count(column) > 1]
        if repeated:
            raise data_error(f"{split}, column '{repeated[0]}'", "it twice", "different names", "rename or remove one")
        places = [f"row {index!r}" for index in data.index]
        columns = {str(column): _values(data[column]) for column in data.columns}
        rows: list[Any] = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        features = getattr(data, "features", None) or {}
        kinds = {name: np.dtype(f.dtype) for name, f in features.items() if getattr(f, "dtype", "") in _NARROW}
        rows = list(data)
        if kinds:
            rows = [row | {n: kind.type(row[n]) for n, kind in kinds.items() if row[n] is not None} for row in rows]
        places = [f"row {i}" for i in range(len(rows))]
    else:
        raise data_error(
            f"task_from, {split}", f"{type(data).__name__} {shown(data, 60)}",
            "a DataFrame, a list of dicts, a datasets.Dataset or DatasetDict, or a hub id", "pass one of these",
        )  # fmt: skip
    result = []
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        where = f"{split}, {place}"
        if not isinstance(row, Mapping):
            raise data_error(
                where, f"{type(row).__name__} {shown(row, 60)}", "a dict: column → value", "give each row its names"
            )
        values = {str(column): _text(value) for column, value in row.items()}
        if names is not None and isinstance(row.get(names[0]), int) and 0 <= row[names[0]] < len(names[1]):
            values[names[0]] = names[1][row[names[0]]]
        result.append(RawExample(values, where, i))
    return result


def _values(column: Any) -> list[Any]:
    """Return a column's values; numbers below double precision as they are, since Python's own have more digits."""
    narrow = getattr(column.dtype, "kind", "") == "f" and column.dtype.itemsize < 8
    return list(column.to_numpy()) if narrow else column.tolist()


def _text(value: Any) -> Any:
    """Return a value as a CSV file would hold it; an empty cell ("") for what is missing; anything else unchanged."""
    if isinstance(value, np.floating) and value.dtype.itemsize < 8 and np.isfinite(value):
        return str(value)  # the shortest text that is this number in its own precision, as a table is written
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value  # numpy's numbers
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(value, numbers.Real):
        if value != value:
            return ""
        with suppress(ValueError, OverflowError):  # of thousands of digits
            return str(value) if math.isfinite(float(value)) else value
    return value.strip() if isinstance(value, str) else value


def _own_words(rows: Sequence[RawExample], label: str) -> dict[str, str]:
    """Return each label as its own word, in the order of the alphabet."""
    labels = {raw.data[label] for raw in rows if isinstance(raw.data.get(label), str) and raw.data[label]}
    if rows and not any(label in raw.data for raw in rows):
        columns = list(rows[0].data)
        raise ConfigError(
            f"task_from: there is no column {label!r} for the label; there are {', '.join(map(str, columns))}."
            f"{did_you_mean(label, map(str, columns))}"
        )
    if not 2 <= len(labels) <= 20:
        raise ConfigError(
            f"task_from: the column {label!r} holds {len(labels):,} different labels, needed 2 to 20 where each is its "
            "own word: give label_words, or another label."
        )
    return {text: text for text in sorted(labels)}


def _class_names(data: Any, label: str, words: Mapping[Any, str] | None) -> tuple[str, Sequence[str]] | None:
    """Return the label's column and its names, where a hub data set has numbers for names that label_words gives."""
    names = getattr((getattr(data, "features", None) or {}).get(label), "names", None)
    return (label, names) if names and (words is None or set(words) <= set(names)) else None


def _from_hub(name: str, revision: str | None) -> Mapping[Literal["train", "validation"], Any]:
    import datasets

    try:
        check_reachable(name)
        return datasets.load_dataset(name, revision=revision)
    except Exception as error:  # the network stack below raises many kinds, with no base in common
        raise DataError(
            f"task_from: the data set {name!r} could not be loaded ({type(error).__name__}: {str(error):.160}). "
            "Needed: a data set on the hub or in the local cache. Fix: check its name and the connection, or pass a "
            "DataFrame."
        ) from error
