"""Read a split's raw examples from its source: the embedded generator, the hub, a folder, a custom task's files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from xprompt.data.hub import reachable
from xprompt.data.release import official_file, part_files
from xprompt.data.text_files import read_jsonl, read_table
from xprompt.errors import DataError, shown
from xprompt.files import path_of
from xprompt.nano import generator
from xprompt.tasks.example import RawExample, data_error
from xprompt.tasks.task import Task

HUB_DATASET = "aps/super_glue"
Split = Literal["train", "validation"]
_COMMIT = re.compile("[0-9a-f]{40}")


def read(task: Task, source: str | Path, split: Split, revision: str | None = None) -> list[RawExample] | None:
    """Return a split's raw examples, or None where the source does not have the split.

    Args:
        task: whose examples; a custom task brings its own files, whatever the source.
        source: "nano", "hub", or a folder: `TASK/train.jsonl` and `val.jsonl` as released, or
            `task/train*.parquet` and `task/validation*.parquet` as on the hub.
        split: "train" or "validation".
        revision: a commit or tag of the hub's dataset; None takes the newest.

    Raises:
        DataError: an unknown source, an unreachable hub, a line that cannot be read.
    """
    if task.files is not None:
        file = task.files.train if split == "train" else task.files.validation
        if file is None:
            return None
        return list(read_jsonl(file) if file.suffix == ".jsonl" else read_table(file))
    if source == "nano":
        return _nano(task, split)
    if source == "hub":
        return _hub(task, split, revision)
    if not isinstance(source, (str, Path)) or not os.path.isdir(path_of(source)):
        raise data_error(
            f"Source {shown(source)}",
            "neither a known name nor a folder",
            "'nano', 'hub' or an existing folder in the official release layout",
            f"check the path, or put the release there as FOLDER/{task.folder}/val.jsonl",
        )
    files = part_files(task, path_of(source), split)
    return [raw for file in files for raw in _READERS[file.suffix](file)] if files else None


def read_few_shot(task: Task, source: str | Path) -> list[RawExample]:
    """Return the raw examples of the official 32-shot file, `fewglue/TASK/train.jsonl` in a folder."""
    files = part_files(task, path_of(source), "few_shot") if isinstance(source, (str, Path)) else []
    if not files:
        raise data_error(
            f"few_shot='official' for {task.name}",
            f"source {shown(source)} without it",
            f"a folder with {official_file(task, 'few_shot')}",
            "add the 32-shot files, or pass a number to sample by seed",
        )
    return list(read_jsonl(files[0]))


def _parquet(file: Path) -> Iterator[RawExample]:
    import pyarrow
    import pyarrow.parquet

    where = "/".join(file.parts[-2:])
    try:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise data_error(
            where,
            f"a table that cannot be read ({error!s:.80})",
            "a parquet file as on the hub",
            "fetch the file again",
        ) from error
    for number, row in enumerate(rows, start=1):
        yield RawExample(row, f"{where}, row {number}", number - 1, flat=True)


_READERS: dict[str, Callable[[Path], Iterator[RawExample]]] = {".jsonl": read_jsonl, ".parquet": _parquet}


def _hub(task: Task, split: Split, revision: str | None) -> list[RawExample]:
    import datasets

    try:
        check_reachable(HUB_DATASET, task.name)
        rows = datasets.load_dataset(HUB_DATASET, task.name, split=split, revision=revision)
    except Exception as error:  # the network stack below raises many kinds, with no base in common
        raise _hub_fault(task, split, revision, error) from error
    # Offline, `datasets` takes whichever copy it has cached; a cached copy lies in a folder of its commit's name.
    cached = {Path(file["filename"]).parent.name for file in getattr(rows, "cache_files", ())}
    if revision and _COMMIT.fullmatch(revision) and cached and revision not in cached:
        raise data_error(
            f"{HUB_DATASET} {task.name} ({split})",
            f"revision {revision}, while the local cache has {', '.join(sorted(cached))}",
            "that revision in the cache, or a connection to the hub",
            "connect once, or ask for the cached revision",
        )
    where = f"{HUB_DATASET} {task.name}/{split}"
    return [RawExample(row, f"{where}, row {i + 1}", i, flat=True) for i, row in enumerate(rows)]


def check_reachable(data_set: str, configuration: str = "") -> None:
    """Raise `ConnectionError` where a data set, or one configuration of it, is not cached and nobody has an answer."""
    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE) / data_set.replace("/", "___") / configuration
    if not (cache.exists() or datasets.config.HF_HUB_OFFLINE or os.path.exists(data_set) or reachable()):
        raise ConnectionError("nobody answers at the hub")


def _hub_fault(task: Task, split: Split, revision: str | None, error: Exception) -> DataError:
    text = str(error).lower()
    needed, fix = "a network connection, or a copy in the local cache, is needed", "connect and try again"
    if "gated" in text or "401" in text or "403" in text:
        needed, fix = "access to it is needed", "accept its terms on the hub and log in with `hf auth login`"
    elif "revision" in text and "doesn't exist" in text:
        needed, fix = f"a revision that it has is needed, not {revision!r}", "give a commit, tag or branch of it"
    elif type(error).__name__ == "DatasetNotFoundError":
        needed, fix = "a dataset of that name is needed", "check that the hub still has it"
    return DataError(
        f"Could not get {task.name} ({split}) from the hub's {HUB_DATASET} ({type(error).__name__}); {needed}. "
        f"Fix: {fix}, or pass a folder in the official release layout as the source.",
    )


def _nano(task: Task, split: Split) -> list[RawExample]:
    examples = generator.raw_examples(task.name, split)
    return [RawExample(data, f"nano {task.name}/{split}, example {i + 1}", i) for i, data in enumerate(examples)]
