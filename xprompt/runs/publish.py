"""Put a finished report among the published ones, compact: `python -m xprompt.runs.publish REPORT TARGET`."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xprompt.errors import StoreError, XPromptError
from xprompt.files import (
    TEMPORARY,
    cannot_write,
    inside,
    new_folder,
    path_of,
    replace_folder,
    sha256,
    sync_file,
    sync_folder,
)
from xprompt.prompts.collection import load_from_collection, names_in_collection, save_collection
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.runs.archive import write_archive
from xprompt.runs.manifest import read_manifest, write_manifest
from xprompt.runs.run import RunResult
from xprompt.runs.store import Store

MAX_FILES = 250
MAX_BYTES = 9 * 2**20  # of all items of the paper, each with tables, two figures and its executed notebook
KEPT = ("*.md", "*.csv", "tables/*", "figures/*", "notebooks/*.ipynb")
STAGES = ("tuned_prompt", "pruned_prompt", "rewound_prompt")


def publish(report: str | Path, target: str | Path, prompts: Sequence[str] = ()) -> list[Path]:
    """Write a report's compact copy, whole or not at all, and return its files.

    Kept are tables, figures, executed notebooks, the manifest, all records in one records.jsonl (compressed where
    the copy would be over `MAX_BYTES`), and some prompts in one prompts.safetensors. HTML and the folders of single
    runs are not. The manifest's "published" holds the sha256 of every other file.

    Args:
        report: a finished report, or a published one that has grown.
        target: the folder to write, such as reports/published/nano. An earlier published report there is replaced.
        prompts: run IDs whose prompts are kept, beside those that `report` has in one file already.

    Raises `StoreError` where `report` has no manifest, `target` is no published report or is `report`, a run of the
    manifest is missing or damaged, a prompt is not there, the copy would be over `MAX_FILES` or `MAX_BYTES`, or the
    disk does not take it; `target` is then as it was.
    """
    try:
        return _publish(path_of(report), path_of(target), prompts)
    except OSError as error:
        raise cannot_write(Path(error.filename2 or error.filename or target), error) from error


def _publish(report: Path, target: Path, prompts: Sequence[str]) -> list[Path]:
    if not (report / "manifest.json").is_file():
        raise StoreError(f"{report} has no manifest.json: give the folder of a finished report.")
    if target.exists() and any(target.iterdir()) and not (target / "manifest.json").is_file():
        raise StoreError(f"{target} holds other things than a report: give a new folder, or that of a report.")
    if (target / "runs").exists() or target.resolve() == report.resolve():
        raise StoreError(
            f"{target} is the report to publish, or has runs/, of which only records and some prompts would be kept: "
            "give the report first, and then another folder without runs/, such as reports/published/nano."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = new_folder(target.parent, f".{target.name}-")
    copy = staging / target.name
    try:
        _copy_files(report, copy)
        _archive_runs(Store(report), Store(copy), prompts)
        files = _check_limits(copy)
        for file in files:
            sync_file(file)
        sync_folder(copy)
        replace_folder(copy, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return [target / file.relative_to(copy) for file in files]


def _copy_files(report: Path, copy: Path) -> None:
    for file in sorted(file for pattern in KEPT for file in report.glob(pattern) if _is_whole(file)):
        place = copy / file.relative_to(report)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(inside(report, str(file.relative_to(report))), place)
    manifest = read_manifest(report / "manifest.json")
    for notebook in manifest["notebooks"].values():
        notebook.pop("html", None)
    write_manifest(copy / "manifest.json", manifest)


def _is_whole(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(TEMPORARY)


def _archive_runs(store: Store, target: Store, prompts: Sequence[str]) -> None:
    records = {record["run"]: record for record in store.records()}
    manifest = read_manifest(target.root / "manifest.json")
    named = {run_id for item in manifest["items"].values() for run_id in item["runs"]} | set(prompts)
    if missing := sorted(named - records.keys()):
        raise StoreError(
            f"{len(missing)} runs of {store.root} are missing or damaged, {missing[0]} the first: do them again, "
            "or write the tables again without them."
        )
    kept = {name: load_from_collection(store.prompts, name) for name in names_in_collection(store.prompts)}
    for run_id in prompts:
        found = _prompts_of(records[run_id], store)
        if not found and not any(name.startswith(f"{run_id}/") for name in kept):
            raise StoreError(
                f"run {run_id} has no prompt in {store.root} to keep: its method leaves none, or only its record is "
                "here. Leave it out of the prompts."
            )
        kept |= found
    if kept:
        save_collection(target.prompts, kept)
    if records:
        write_archive(target.root, records.values())
    _note_digests(target.root)
    if records and sum(_sizes(target.root).values()) > MAX_BYTES:
        write_archive(target.root, records.values(), compress=True)
        _note_digests(target.root)
    if {record["run"]: record for record in target.records()} != records:
        raise StoreError(f"the records of {store.root} do not come back as they were: nothing is published.")


def _note_digests(copy: Path) -> None:
    """Write the sha256 of every other file into the manifest."""
    path = copy / "manifest.json"
    digests = {file.relative_to(copy).as_posix(): sha256(file) for file in _sizes(copy) if file != path}
    write_manifest(path, read_manifest(path) | {"published": digests})


def _prompts_of(record: dict[str, Any], store: Store) -> dict[str, SoftPrompt]:
    """The prompts of a run that are in its folder, under the names that `RunResult.load_prompt` asks for."""
    run = RunResult(record, store.path(record["run"]))
    stages = [stage for stage in STAGES if (run.folder / stage).is_dir()]
    return {f"{record['run']}/{stage}": run.load_prompt(stage) for stage in stages}


def _check_limits(copy: Path) -> list[Path]:
    sizes = _sizes(copy)
    total = sum(sizes.values())
    if len(sizes) > MAX_FILES or total > MAX_BYTES:
        largest = max(sizes, key=lambda file: sizes[file])
        raise StoreError(
            f"the compact report would have {len(sizes)} files and {total / 1e6:.1f} MB, more than {MAX_FILES} files "
            f"or {MAX_BYTES / 1e6:.0f} MB. The largest is {largest.relative_to(copy)}, {sizes[largest] / 1e6:.1f} MB: "
            "leave out what need not be published."
        )
    return list(sizes)


def _sizes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Publish a report from the command line; return 0, or 2 where that cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m xprompt.runs.publish", description="Publish a report, compact.")
    parser.add_argument("report", help="a finished report, such as reports/nano")
    parser.add_argument("target", help="where to publish it, such as reports/published/nano")
    parser.add_argument("--prompts", nargs="*", default=[], metavar="RUN_ID", help="runs whose prompts are kept")
    chosen = parser.parse_args(arguments)
    try:
        files = publish(chosen.report, chosen.target, chosen.prompts)
    except XPromptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{chosen.target}: {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
