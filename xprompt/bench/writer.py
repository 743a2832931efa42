"""The files of a bench: bench.csv, bench.md, raw.csv, raw.json, notes.json. A new measurement replaces the old one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from xprompt.bench.rows import COLUMNS, NOT_MEASURED, Findings, Row
from xprompt.errors import StoreError
from xprompt.files import write_atomically
from xprompt.reporting import tables
from xprompt.reporting.bench_figures import bench_table, text

_KEY = ["name", "backbone", "hardware"]
_RAW = [*_KEY, "side", "round", "seconds", "work", "unit"]
_DIGITS = 6  # significant; more would change with every run and say nothing


def add_rows(path: str | Path, rows: Iterable[Row]) -> pd.DataFrame:
    """Write rows into a bench.csv: those of the same name, backbone and hardware are replaced, the others stay.

    A measurement on new hardware replaces the "not measured" row of the same name and backbone, and where a GPU has
    measured it such a row is not added again.

    Args:
        path: the file; created if needed.
        rows: such as a search's cost and regret, computed from its records.

    Returns all rows of the file.
    """
    path = Path(path)
    new = pd.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))
    old = read_rows(path) if path.exists() else new.iloc[:0]
    seen = set(map(tuple, old[_KEY].to_numpy()))
    fresh = {(n, b) for n, b, h in new[_KEY].to_numpy() if h != NOT_MEASURED and (n, b, h) not in seen}
    settled = [h == NOT_MEASURED and (n, b) in fresh for n, b, h in old[_KEY].to_numpy()]
    kept = old[[not gone for gone in settled]] if len(old) else old
    by_gpu = {(n, b) for n, b, h in old[_KEY].to_numpy() if _is_gpu(h)}
    new = new[[h != NOT_MEASURED or (n, b) not in by_gpu for n, b, h in new[_KEY].to_numpy()]]
    merged = _replaced(kept, new, _KEY)
    write_atomically(path, merged.to_csv(index=False, lineterminator="\n", float_format=f"%.{_DIGITS}g"))
    return merged


def _is_gpu(hardware: str) -> bool:
    """Whether a row was measured on a GPU: what is said of a CPU ends with its threads."""
    return hardware != NOT_MEASURED and not hardware.endswith(("thread", "threads"))


def read_rows(path: str | Path) -> pd.DataFrame:
    """Read a bench.csv. Raises `StoreError` where it is no table, or its columns are not those of one."""
    try:
        frame = pd.read_csv(path)
    except ValueError as error:  # empty, torn, or no text
        raise StoreError(f"{path} is no table ({error}): delete it, and measure again.") from error
    if tuple(frame.columns) != COLUMNS:
        raise StoreError(
            f"{path} has columns {', '.join(frame.columns)}; bench.csv has {', '.join(COLUMNS)}: measure again."
        )
    return frame.astype({"unit": object}).fillna({"unit": ""})


def holds_other_kind(folder: Path, quick: bool) -> bool:
    """Return whether a bench folder has facts of quick rows where these are not, or the other way round."""
    return any(fact["measured"].get("quick", False) != quick for fact in _json(folder / "raw.json"))


def write(folder: str | Path, found: Findings, about: dict[str, Any]) -> Path:
    """Write or update all files of a bench folder, and return the path of bench.csv.

    Args:
        found: what was measured, or could not be.
        about: settings and versions of this call, kept with each of its facts.
    """
    folder = Path(folder)
    raw, facts, notes = folder / "raw.csv", folder / "raw.json", folder / "notes.json"
    timings = pd.DataFrame(found.raw, columns=_RAW)
    if raw.exists():
        timings = _replaced(pd.read_csv(raw), timings, _KEY)
    write_atomically(raw, timings.to_csv(index=False, lineterminator="\n", float_format="%.7g"))
    keys = {tuple(fact[part] for part in _KEY) for fact in found.facts}
    older = [fact for fact in _json(facts) if tuple(fact[part] for part in _KEY) not in keys]
    together = [*older, *({**fact, "measured": about} for fact in found.facts)]
    write_atomically(facts, json.dumps(together, indent=1, default=str) + "\n")
    rows = add_rows(folder / "bench.csv", found.rows)
    open_ones = {(n, b) for n, b, h in rows[_KEY].to_numpy() if h == NOT_MEASURED}
    reasons = {tuple(note.values()): note for note in [*_json(notes), *found.notes]}
    said = [note for note in reasons.values() if (note["name"], note["backbone"]) in open_ones]
    write_atomically(notes, json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    write_atomically(folder / "bench.md", _page(rows, said))
    return folder / "bench.csv"


def _page(rows: pd.DataFrame, notes: Sequence[Mapping[str, str]]) -> str:
    head = "Ours against the baseline, timed in turns; a ratio above 1 means ours is better.\n\n"
    reasons: dict[str, list[str]] = {}
    for note in notes:
        reasons.setdefault(note["reason"], []).append(f"{text(note['name'])} ({note['backbone']})")
    missing = "".join(f"- {reason}: {'; '.join(names)}\n" for reason, names in reasons.items())
    return head + tables.to_markdown(bench_table(rows)) + (f"\nNot measured:\n\n{missing}" if missing else "")


def _replaced(old: pd.DataFrame, new: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """All of `old` whose key is not in `new`, then `new`."""
    keys = set(map(tuple, new[key].to_numpy()))
    kept = [row for row in old.to_dict("records") if tuple(row[part] for part in key) not in keys]
    # Row by row: to concatenate frames, some of whose columns are empty, pandas 2 and 3 take different types.
    return pd.DataFrame([*kept, *new.to_dict("records")], columns=list(new.columns))


def _json(path: Path) -> list[Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
