"""Verify everything that a report's folder holds, and repair what can be repaired without losing work."""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xprompt.errors import DataError, StoreError
from xprompt.files import TEMPORARY, inside, is_older, sha256
from xprompt.prompts.collection import load_from_collection, names_in_collection
from xprompt.runs.archive import read_again, read_archive
from xprompt.runs.manifest import read_manifest
from xprompt.runs.store import RUN_ID, Store, run_id
from xprompt.training.checkpoint import verify_state

_OF_A_REPORT = ("manifest.json", "runs", "records.jsonl", "records.jsonl.gz")


@dataclass(frozen=True)
class Finding:
    """Something in the folder that is not as it should be, and what was or can be done about it."""

    path: Path
    what: str
    fix: str
    damage: bool = True
    repaired: bool = False

    def __str__(self) -> str:
        kind = "repaired" if self.repaired else "damage" if self.damage else "left over"
        return f"{kind}: {self.path}: {self.what}; {self.fix}."


@dataclass
class Examination:
    """What was looked at and found."""

    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)

    @property
    def damage_left(self) -> bool:
        """Whether damage was found that is not repaired."""
        return any(finding.damage and not finding.repaired for finding in self.findings)

    @property
    def summary(self) -> str:
        """Return in a sentence or two what was looked at."""
        looked = ", ".join(f"{number} {kind}" for kind, number in self.counts.items()) or "nothing"
        text = f"Looked at {looked}: {sum(f.damage for f in self.findings)} damaged."
        if len(self.codes) > 1:
            made = ", ".join(f"{code[:12]} ({number})" for code, number in self.codes.most_common())
            text += f" The records were made by {len(self.codes)} versions of the code: {made}."
        return text


def examine(root: str | Path, *, repair: bool = False) -> Examination:
    """Verify a report's folder.

    Args:
        root: the folder, such as reports/nano.
        repair: move damaged runs aside, so that they are run again, and delete unusable states and what processes that
            died left behind. What a live process holds is left alone.

    Raises `StoreError` where there is no such folder.
    """
    store, found = Store(root), Examination()
    if not store.root.is_dir():
        raise StoreError(f"{store.root} is no folder: give a report's, such as reports/nano.")
    if not any((store.root / name).exists() for name in _OF_A_REPORT):
        raise StoreError(
            f"{store.root} holds no report, which has {' or '.join(_OF_A_REPORT)}: give one's folder, such as "
            "reports/nano."
        )
    for look in (_runs, _archive, _states, _manifest, _leftovers):
        found.findings += look(store, found, repair)
    return found


def _runs(store: Store, found: Examination, repair: bool) -> Iterator[Finding]:
    for folder in sorted(store.runs.glob("*")):
        if not RUN_ID.fullmatch(folder.name):
            continue
        found.counts["runs"] += 1
        try:
            record, wrong = store.look(folder.name)
        except StoreError as error:  # it may be whole: nothing to move aside
            reason = getattr(error.__cause__, "strerror", None) or error.__cause__
            yield Finding(folder, f"it cannot be read ({reason})", "make it readable, and look again")
            continue
        if record is None:
            if repair:
                with warnings.catch_warnings(), suppress(StoreError):
                    warnings.simplefilter("ignore")
                    store.get(folder.name)
            aside = not folder.exists()
            fix = "" if aside else "move it away, and " if repair else "--repair moves it aside, and "
            yield Finding(folder, wrong, f"{fix}it is run again", repaired=aside)
        else:
            yield from _check_record(folder, record, found)


def _check_record(path: Path, record: dict[str, Any], found: Examination) -> Iterator[Finding]:
    made = record.get("provenance", {})
    found.codes[made.get("code", "unknown")] += 1
    parts = [made.get(name) for name in ("data_fingerprint", "backbone_fingerprint", "xprompt")]
    if all(parts) and run_id(record.get("config"), *parts) != record["run"]:
        yield Finding(path, f"its record is not that of run {record['run']}", "delete it, and run it again")


def _archive(store: Store, found: Examination, repair: bool) -> Iterator[Finding]:
    read_again()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        records = list(store.archived())
    for warning in caught:
        yield Finding(store.root, str(warning.message), "restore the file from where it was published")
    found.counts["archived records"] += len(records)
    for record in records:
        yield from _check_record(store.root / record["run"], record, found)
    try:
        names = names_in_collection(store.prompts)
    except StoreError as error:
        yield Finding(store.prompts, str(error), "restore the file")
        return
    found.counts["published prompts"] += len(names)
    for name in names:
        try:
            load_from_collection(store.prompts, name)
        except StoreError as error:
            yield Finding(store.prompts, str(error), "restore the file")


def _states(store: Store, found: Examination, repair: bool) -> Iterator[Finding]:
    left = store.leftovers()
    for folder in sorted(store.unfinished.glob("*")):
        found.counts["unfinished runs"] += 1
        if not RUN_ID.fullmatch(folder.name) or folder in left:
            continue
        for stage in sorted(path for path in folder.glob("*") if path.is_dir()):
            if wrong := verify_state(stage):
                # A state's tensors are written first: without state.json the process may be about to write it.
                whole = (stage / "state.json").exists()
                yield _delete(stage, wrong, store.is_held(folder.name), repair, damage=whole)


def _manifest(store: Store, found: Examination, repair: bool) -> Iterator[Finding]:
    path = store.root / "manifest.json"
    if not path.exists():
        made = [*store.root.glob("tables/*"), *store.root.glob("figures/*"), *store.root.glob("records.jsonl*")]
        if made:
            yield Finding(path, f"it is not there, and {made[0].name} is", "restore it, or run the notebooks again")
        return
    again = "`reproduce` writes it again from the runs, which are kept"
    try:
        manifest = read_manifest(path)
    except StoreError as error:
        if repair:
            with suppress(OSError):
                path.replace(path.with_suffix(".damaged"))
        aside = not path.exists()
        yield Finding(path, str(error), again if aside else f"--repair moves it aside; {again}", repaired=aside)
        return
    for item in manifest["items"].values():
        digests = {f: d for part in ("table", "figure") for f, d in item.get(part, {}).get("sha256", {}).items()}
        for name in item["files"]:
            found.counts["tables and figures"] += 1
            if wrong := _check_file(store.root, name, digests.get(name, "")):
                yield Finding(store.root / name, wrong, f"run {item['notebook']} again")
    for name, digest in manifest.get("published", {}).items():
        if wrong := _check_file(store.root, name, digest):
            yield Finding(store.root / name, wrong, "restore the file from where it was published")
    named = {run for item in manifest["items"].values() for run in item["runs"]}
    kept = read_archive(store.root).keys()
    moved = {folder.name.split("-")[0] for folder in store.damaged.glob("*-*")}  # to be run again, and named above
    if absent := sorted(run for run in named - kept - moved if not (store.runs / run).exists()):
        yield Finding(store.runs, f"{len(absent)} runs that the manifest names are not there, {absent[0]} the first",
                      "do them again, or restore the archive")  # fmt: skip
    for notebook, state in manifest["notebooks"].items():
        if state.get("sha256") and (wrong := _check_file(store.root, state["file"], state["sha256"])):
            yield Finding(store.root / state["file"], wrong, f"run {notebook} again")


def _check_file(root: Path, name: str, digest: str) -> str:
    """Return what is wrong with a file that the manifest names; no digest: only that it is there is looked at."""
    try:
        file = inside(root, name)
        if not file.is_file():
            return "the manifest names it and it is not there"
        return "it does not match its sha256" if digest and sha256(file) != digest else ""
    except (DataError, OSError) as error:
        return str(error)


def _leftovers(store: Store, found: Examination, repair: bool) -> Iterator[Finding]:
    """Find what processes that died left: half-written runs, files being written, locks."""
    left = store.leftovers()
    if repair:
        store.clear_leftovers()
    for path, what in sorted(left.items()):
        gone = not path.exists()
        yield Finding(path, what, "deleted" if gone else "--repair deletes it", damage=False, repaired=gone)
    for path in sorted(store.root.rglob(f"{TEMPORARY}*")):
        if is_older(path):
            yield _delete(path, "half-written", False, repair, damage=False)
    for lock in sorted(store.locks.glob("ray-*.lock")):  # where locks cannot be shared, its age tells
        if not store.is_held(lock.stem) and is_older(lock):
            yield _delete(lock, "the mark of a process that died", False, repair, damage=False)


def _delete(path: Path, what: str, busy: bool, repair: bool, damage: bool = True) -> Finding:
    if busy:
        return Finding(path, what, "a live process holds the run: left alone", damage=False)
    if not repair:
        return Finding(path, what, "--repair deletes it", damage)
    remove: Callable[[Path], object] = shutil.rmtree if path.is_dir() else Path.unlink
    try:
        remove(path)
    except OSError as error:
        return Finding(path, f"{what}, and cannot be deleted ({error.strerror})", "delete it by hand", damage)
    return Finding(path, what, "deleted", damage, repaired=True)
