"""Verify everything that a report's folder holds, and repair what can be repaired without losing work."""

from __future__ import annotations

import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xprompt.errors import StoreError
from xprompt.files import TEMPORARY, sha256
from xprompt.prompts.collection import load_from_collection, names_in_collection
from xprompt.runs.manifest import read_manifest
from xprompt.runs.store import RUN_ID, Store, run_id
from xprompt.training.checkpoint import verify_state

#: Seconds after which a file that is being written counts as left behind: nothing here takes that long to write.
OLD = 3600.0


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
    for look in (_runs, _archive, _states, _manifest, _leftovers):
        found.findings += look(store, found, repair)
    return found


def _runs(store: Store, found: Examination, repair: bool) -> Iterator[Finding]:
    for folder in sorted(store.runs.glob("*")):
        if not RUN_ID.fullmatch(folder.name):
            continue
        found.counts["runs"] += 1
        wrong = store.verify(folder.name)
        record = None if wrong else store.get(folder.name)
        if record is None:
            if repair:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    store.get(folder.name)
            fix = "it is run again" if repair else "--repair moves it aside, and it is run again"
            yield Finding(folder, wrong, fix, repaired=repair)
        else:
            yield from _check_record(folder, record, found)


def _check_record(path: Path, record: dict[str, Any], found: Examination) -> Iterator[Finding]:
    made = record.get("provenance", {})
    found.codes[made.get("code", "unknown")] += 1
    parts = [made.get(name) for name in ("data_fingerprint", "backbone_fingerprint", "xprompt")]
    if all(parts) and run_id(record.get("config"), *parts) != record["run"]:
        yield Finding(path, f"its record is not that of run {record['run']}", "delete it, and run it again")


def _archive(store: Store, found: Examination, repair: bool) -> Iterator[Finding]:
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
    for folder in sorted(store.unfinished.glob("*")):
        found.counts["unfinished runs"] += 1
        if store.path(folder.name).exists():
            yield _delete(folder, "the run is finished", store.is_held(folder.name), repair, damage=False)
            continue
        for state in sorted(folder.glob("*/state.json")):
            if wrong := verify_state(state.parent):
                yield _delete(state.parent, wrong, store.is_held(folder.name), repair)


def _manifest(store: Store, found: Examination, repair: bool) -> Iterator[Finding]:
    path = store.root / "manifest.json"
    if not path.exists():
        return
    again = "`reproduce` writes it again from the runs, which are kept"
    try:
        manifest = read_manifest(path)
    except StoreError as error:
        if repair:
            path.replace(path.with_suffix(".damaged"))
        yield Finding(path, str(error), again if repair else f"--repair moves it aside; {again}", repaired=repair)
        return
    for item in manifest["items"].values():
        digests = {f: d for part in ("table", "figure") for f, d in item.get(part, {}).get("sha256", {}).items()}
        for name in item["files"]:
            found.counts["tables and figures"] += 1
            file = store.root / name
            if not file.is_file():
                yield Finding(file, "the manifest names it and it is not there", f"run {item['notebook']} again")
            elif name in digests and sha256(file) != digests[name]:
                yield Finding(file, "it does not match its sha256", f"run {item['notebook']} again")


def _leftovers(store: Store, found: Examination, repair: bool) -> Iterator[Finding]:
    """Find what processes that died left: half-written runs, files being written, locks."""
    for folder in sorted(store.staging.glob("*")):
        name = folder.name.split("-")[0]
        busy = store.is_held(name) if RUN_ID.fullmatch(name) else not _is_old(folder)
        yield from [] if busy else [_delete(folder, "half-written", False, repair, damage=False)]
    for path in sorted(store.root.rglob(f"{TEMPORARY}*")):
        yield from [_delete(path, "half-written", False, repair, damage=False)] if _is_old(path) else []
    for lock in sorted(store.locks.glob("*.lock")):
        if RUN_ID.fullmatch(lock.stem) and store.path(lock.stem).exists() and not store.is_held(lock.stem):
            yield _delete(lock, "the lock of a finished run", False, repair, damage=False)


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > OLD
    except OSError:  # gone by now
        return False


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
