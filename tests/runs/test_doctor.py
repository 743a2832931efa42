"""Damage to every kind of stored file is seen; what dead processes left is deleted, what live ones use is not."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import xprompt as xp
from tests.runs.pretended_runs import write_tables
from tests.runs.test_store import run_both
from xprompt import reporting as rp
from xprompt.__main__ import main
from xprompt.errors import StoreError
from xprompt.files import OLD
from xprompt.reporting import book_pages
from xprompt.reporting.facts import complete, mixed_codes
from xprompt.runs.doctor import examine
from xprompt.runs.publish import publish
from xprompt.runs.store import Store
from xprompt.training.checkpoint import save_state

RUN, OTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A report with two runs, one of them with a prompt, an unfinished one, a table and a figure."""
    report = rp.Report(tmp_path / "report", "a")
    prompt = xp.SoftPrompt(torch.ones(2, 4), pieces=2)
    report.store.put({"run": RUN, "score": 0.5}, lambda to: prompt.save(to / "tuned_prompt"))
    report.store.put({"run": OTHER, "score": 0.25})
    save_state(report.store.unfinished / ("a" * 16) / "tuning", "me", {"x": torch.ones(3)}, {"step": 1})
    report.save_table("tab1", pd.DataFrame({"x": ["1"], "run": [RUN]}), "A table", runs=[RUN, OTHER])
    report.save_figure("fig1", Figure(), "A figure")
    return report.root


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1
    path.write_bytes(bytes(content))


def test_a_whole_report_has_no_findings(folder):
    found = examine(folder)
    assert found.findings == [] and not found.damage_left
    assert found.counts["runs"] == 2 and found.counts["unfinished runs"] == 1
    assert found.counts["tables and figures"] == 5
    assert main(["doctor", str(folder)]) == 0


KINDS = ["runs/0*/record.json", "runs/0*/tuned_prompt/prompt.safetensors", "runs/.unfinished/*/*/state.json",
         "runs/.unfinished/*/*/*.safetensors", "manifest.json", "tables/tab1.csv", "figures/fig1.png"]  # fmt: skip


@pytest.mark.parametrize("pattern", KINDS)
@pytest.mark.parametrize("harm", ["bit", "cut", "empty"])
def test_damage_to_every_kind_of_file_is_seen(folder, pattern, harm, capsys):
    (path,) = folder.glob(pattern)
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 7)) if harm == "bit" else [0]:
        path.write_bytes(whole[: len(whole) // 2] if harm == "cut" else b"" if harm == "empty" else whole)
        if harm == "bit":
            flip(path, place)
        if path.read_bytes() != whole:
            found = examine(folder)
            assert found.damage_left, (harm, place)
            assert main(["doctor", str(folder)]) == 1
            assert "damage: " in capsys.readouterr().out


def test_a_run_that_may_not_be_read_stays_where_it_is(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(folder / "runs" / RUN / "record.json"))

    monkeypatch.setattr("xprompt.runs.store._read", refuse)
    found = examine(folder, repair=True)
    assert "it cannot be read (Permission denied); make it readable" in str(found.findings[0])
    assert (folder / "runs" / RUN).is_dir() and found.damage_left


def test_repair_moves_a_damaged_run_aside_and_leaves_the_others(folder, capsys):
    flip(folder / "runs" / RUN / "record.json", 60)
    assert main(["doctor", str(folder), "--repair"]) == 0
    assert "repaired: " in capsys.readouterr().out
    store = Store(folder)
    assert store.get(RUN) is None and store.get(OTHER) and list(store.damaged.glob(f"{RUN}-*/{RUN}"))
    assert examine(folder).findings == []


def test_a_missing_table_and_a_record_under_another_name_are_seen(folder):
    (folder / "tables" / "tab1.md").unlink()
    shutil.move(folder / "runs" / OTHER, folder / "runs" / ("b" * 16))
    found = {finding.path.name: finding.what for finding in examine(folder).findings}
    assert "not there" in found["tab1.md"] and OTHER in found["b" * 16]


def test_an_archive_and_its_prompts_are_verified(folder, tmp_path):
    target = tmp_path / "published"
    publish(folder, target, [RUN])
    assert not examine(target).damage_left
    for name in ("records.jsonl", "prompts.safetensors", "manifest.json"):
        whole = (target / name).read_bytes()
        flip(target / name, len(whole) - 5)
        assert examine(target).damage_left and examine(target).damage_left, name  # the second time as the first
        (target / name).write_bytes(whole)


def test_what_dead_processes_left_is_deleted_and_what_live_ones_use_is_not(folder):
    store = Store(folder)
    mine, theirs = store.staging / f"{RUN}-x", store.staging / f"{OTHER}-y"
    fresh, old = folder / "tables" / ".writing-a", folder / "tables" / ".writing-b"
    for path in (mine, theirs):
        path.mkdir(parents=True)
    for path in (fresh, old):
        path.write_text("half")
    os.utime(old, (time.time() - OLD - 60,) * 2)
    with store.lock("c" * 16), store.lock(OTHER):  # the first has no record, so that its lock stays
        theirs.mkdir(exist_ok=True)
        found = examine(folder, repair=True)
        assert not mine.exists() and theirs.exists() and fresh.exists() and not old.exists()
        assert {finding.path for finding in found.findings} == {mine, old}
    assert not found.damage_left


def test_a_run_clears_what_a_process_that_died_left_of_it_and_its_lock(folder):
    store = Store(folder)
    half = store.staging / f"{RUN}-dead"
    half.mkdir(parents=True)
    with store.lock(RUN):
        assert not half.exists()
    assert list(store.locks.glob(f"{RUN}*")) == []


def test_records_of_several_codes_are_named(folder):
    store = Store(folder)
    store.put({"run": "d" * 16, "provenance": {"code": "0" * 64}})
    assert "2 versions of the code" in examine(folder).summary


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StoreError, match="no folder"):
        examine(tmp_path / "nowhere")


def test_the_manifest_keeps_the_entries_of_several_writers(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    reports = [rp.Report(tmp_path, f"n{i}") for i in range(8)]

    def write(i: int) -> None:
        for j in range(5):
            reports[i].save_table(f"beyond-{i}-{j}", pd.DataFrame({"x": [str(i)]}), "t")
            reports[i].note_notebook(f"n{i}-{j}", {"status": "done"})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert len(manifest["items"]) == len(manifest["notebooks"]) == 40


@pytest.mark.parametrize("name", ["beyond-../../x", "beyond-/x", "../tab1", "beyond-", "beyond-a\\b"])
def test_a_table_cannot_leave_its_folder(tmp_path, name):
    with pytest.raises(xp.ConfigError, match="item"):
        rp.Report(tmp_path).save_table(name, pd.DataFrame(), "t")


def test_the_manifest_keeps_the_entries_of_several_processes(tmp_path):
    """An item that all of them write is as one of them wrote it: its files belong together."""
    run_both(write_tables, *[(str(tmp_path), number) for number in range(3)])
    manifest = rp.Report(tmp_path).manifest()
    assert len(manifest["items"]) == 3 * 6 + 1
    assert examine(tmp_path).findings == []


def test_every_bit_of_the_manifest_counts(folder):
    path = folder / "manifest.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (1, 2, 32):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            with pytest.raises(StoreError, match="not whole"):
                rp.Report(folder).manifest()


def test_a_manifest_of_0_1_0_has_no_seal_and_is_read(tmp_path):
    item = {"notebook": "a", "files": ["tables/tab1.csv"], "runs": [RUN]}
    plain = {"format": 1, "items": {"tab1": item}, "notebooks": {}}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(plain))
    assert rp.Report(tmp_path).manifest() == plain
    for wrong in ({**item, "files": "x"}, {**item, "runs": [1]}, [], {"files": [], "runs": []}):
        path.write_text(json.dumps({**plain, "items": {"tab1": wrong}}))
        with pytest.raises(StoreError, match="not whole"):
            rp.Report(tmp_path).manifest()


def test_a_folder_in_a_manifests_place_is_not_to_be_deleted(tmp_path):
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(StoreError, match="a folder is in its place, move that away"):
        rp.Report(tmp_path).manifest()


@pytest.mark.parametrize("name", ["records.jsonl", "prompts.safetensors", "manifest.json", "tables/tab1.md"])
def test_a_published_file_that_is_gone_or_empty_is_seen(folder, tmp_path, name):
    target = tmp_path / "published"
    publish(folder, target, [RUN])
    (target / name).write_bytes(b"")
    assert examine(target).damage_left
    (target / name).unlink()
    assert examine(target).damage_left


def test_a_published_report_that_grows_is_not_called_damaged(folder, tmp_path):
    target = tmp_path / "published"
    publish(folder, target, [RUN])
    rp.Report(target, "a").save_table("tab1", pd.DataFrame({"x": ["2"], "run": [RUN]}), "A table", runs=[RUN])
    assert examine(target).findings == []


def test_a_file_that_the_manifest_names_elsewhere_is_not_read(folder):
    report = rp.Report(folder, "a")
    report.change(lambda m: {**m, "items": {"tab1": {**m["items"]["tab1"], "files": ["../../secret"]}}})
    (finding,) = examine(folder).findings
    assert "leads upwards" in finding.what


def test_a_folder_without_a_report_is_refused_and_left_as_it_is(tmp_path, capsys):
    old = tmp_path / ".writing-mine"
    old.write_text("not ours")
    os.utime(old, (time.time() - 2 * OLD,) * 2)
    assert main(["doctor", str(tmp_path), "--repair"]) == 2
    assert "holds no report" in capsys.readouterr().err and old.exists()


def test_what_a_killed_writer_left_of_a_table_goes_with_the_next_table(folder):
    left, others = folder / "tables" / ".writing-x", folder / ".writing-y"  # the book may be writing the second
    for path in (left, others):
        path.write_text("half")
    rp.Report(folder, "a").save_table("tab2", pd.DataFrame({"x": ["1"]}), "t")
    assert not left.exists() and others.exists()


def test_a_table_of_records_from_several_codes_says_so(tmp_path):
    report = rp.Report(tmp_path, "a")
    facts = {"task": "rte", "method": "majority", "seed": 0, "protocol": "held_out", "backbone": "b", "source": "nano",
             "counts": {"validation": 1, "selection": 1}, "seconds": {"total": 1.0}, "profile": "nano", "metrics": {},
             "score": 0.5, "num_params": 0}  # fmt: skip
    codes = {"1" * 16: {"code": "0" * 64}, "2" * 16: {"code": "1" * 64}, "3" * 16: {}}
    for run, made in codes.items():
        report.store.put({"run": run, "provenance": made, **facts})
    for item, runs in {"tab1": [*codes][:2], "tab2": [*codes][:1], "tab3": [*codes][1:], "tab4": [*codes][2:]}.items():
        report.save_table(item, pd.DataFrame({"x": ["1"]}), "A table", runs=runs)
    manifest = complete(report)
    items = manifest["items"]
    assert {item: len(entry["codes"]) for item, entry in items.items()} == {"tab1": 2, "tab2": 1, "tab3": 2, "tab4": 0}
    said = {item: mixed_codes(entry["codes"]) for item, entry in items.items()}
    assert "by 2 versions of the code" in said["tab1"] and "by 1 known and an unknown version" in said["tab3"]
    assert said["tab2"] == said["tab4"] == ""
    pages = book_pages.write(book_pages.Contents(tmp_path, manifest, {}))
    assert pages["tables.md"].count("versions of the code") == 1 and "by 2 versions of the code" in pages["index.md"]
