"""A whole run, from settings to record, on a tiny backbone saved to a folder and a data set written to another."""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

import xprompt as xp
from tests.conftest import tiny_data, tiny_model
from xprompt import files
from xprompt.errors import MemoryLimitError
from xprompt.runs import provenance
from xprompt.runs import run as pipeline
from xprompt.runs.archive import write_archive

TUNE = xp.TuneSettings(optimizer="adamw", learning_rate=0.05, steps=4, eval_every=2, batch_size=8, eval_batch_size=8)


def sources_for(method):
    """The source tasks that a method needs, of those whose examples `place` has."""
    lines = xp.METHODS[method]
    while lines.num_sources is None and lines.parent is not None:
        lines = xp.METHODS[lines.parent]
    return ("cb", "wic")[: (lines.num_sources or (0, 0))[0]]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipeline")
    backbone = tiny_model("seq2seq")
    backbone.model.save_pretrained(root / "model")
    backbone.tokenizer.save_pretrained(root / "model")
    for task, folder in (("rte", "RTE"), ("cb", "CB"), ("wic", "WiC")):
        (root / "data" / folder).mkdir(parents=True)
        for split, file, size in (("train", "train", 40), ("validation", "val", 16)):
            data = tiny_data(size, split, task=task)
            lines = [
                json.dumps({**fields_of(task, r.fields), "label": data.task.label_values[r.label], "idx": i})
                for i, r in enumerate(data)
            ]
            (root / "data" / folder / f"{file}.jsonl").write_text("\n".join(lines) + "\n")
    return root


def fields_of(task, fields):
    if task != "wic":
        return fields
    return {"sentence1": fields["premise"], "sentence2": fields["hypothesis"], "word": "cat"}


@pytest.fixture
def config(place):
    return xp.RunConfig(
        task="rte", profile="tiny", backbone=str(place / "model"), source=str(place / "data"), length=5, pieces=4,
        tune=TUNE, fine_tune=TUNE.replace(learning_rate=1e-3),
        prune=xp.PruneSettings(token_ratios=(0.2, 0.6), piece_ratios=(0.1, 0.5), retune=TUNE.replace(steps=2)),
    )  # fmt: skip


@pytest.mark.parametrize("method", xp.METHODS)
def test_every_method_makes_a_complete_record(config, tmp_path, method):
    result = xp.run(config.replace(method=method, source_tasks=sources_for(method)), tmp_path)
    record = result.record
    assert set(result.metrics) == {"accuracy"} and 0 <= result.score <= 1
    assert (record["selection_split"], record["report_split"]) == ("selection", "validation")
    assert record["counts"]["train"] + record["counts"]["selection"] == 40 and record["counts"]["validation"] == 16
    assert {"torch", "hardware", "git_revision", "backbone_fingerprint", "dropout"} <= set(record["provenance"])
    assert record["seed"] == 0 and record["protocol"] == "held_out" and 0 < record["majority"]["accuracy"] < 1
    labels = xp.load_splits(config).validation.labels
    right = [given == label for given, label in zip(record["predictions"], labels, strict=True)]
    assert sum(right) / len(right) == pytest.approx(record["metrics"]["accuracy"]), (
        "what it predicted, in the data's order"
    )


def test_seconds_are_counted_once(config, tmp_path):
    """A run that has to do the prompt tuning it builds on does not count that time as its own."""
    began = time.perf_counter()
    record = xp.run(config.replace(method="xprompt"), tmp_path).record
    wall = time.perf_counter() - began
    before = xp.run(config.replace(method="prompt_tuning"), tmp_path).record["seconds"]["total"]
    assert before > 0 and record["seconds"]["with_prompt_tuning"] <= wall
    assert record["seconds"]["total"] == pytest.approx(record["seconds"]["with_prompt_tuning"] - before, abs=0.02)
    assert record["source"] == "data", "the folder's name, and no path"


def test_the_last_backbone_is_let_go_before_the_next_is_loaded(config, place, tmp_path, monkeypatch):
    """Memory that holds one need not hold two."""
    shutil.copytree(place / "model", tmp_path / "other")
    held, load = [], pipeline.load_backbone

    def counted(*arguments, **options):
        held.append(len(pipeline._held))
        return load(*arguments, **options)

    monkeypatch.setattr(pipeline, "load_backbone", counted)
    monkeypatch.setattr(pipeline, "_held", {})
    for backbone in (place / "model", place / "model", tmp_path / "other"):
        xp.find(config.replace(backbone=str(backbone)), tmp_path / "report")
    assert held == [0, 0]


def test_a_run_asked_for_twice_is_read(config, tmp_path, monkeypatch):
    first = xp.run(config.replace(method="xprompt"), tmp_path)
    monkeypatch.setattr(pipeline, "_record", lambda *_: pytest.fail("it must be read, not run"))
    again = xp.run(config.replace(method="xprompt"), tmp_path)
    assert again.record == first.record
    assert torch.equal(again.load_prompt().embeddings, first.load_prompt().embeddings)


def test_a_run_that_starts_from_one_with_a_record_alone_does_that_again(config, tmp_path, monkeypatch):
    """Of a published report's runs most have no prompts: a new child needs its parent's, to the same numbers."""
    whole = xp.run(config.replace(method="xprompt"), tmp_path / "whole").record
    store = xp.Store(tmp_path / "published")
    parent = next(record for record in xp.Store(tmp_path / "whole").records() if record["run"] != whole["run"])
    write_archive(store.root, [parent])
    done, do = [], pipeline._record
    monkeypatch.setattr(pipeline, "_record", lambda *given: (done.append(given[0].config.method), do(*given)))
    xp.run(config.replace(method="prompt_tuning"), store)
    assert done == [], "its record is there"
    for method in ("xprompt", "prompt_tuning_matched"):
        xp.run(config.replace(method=method), store)
    assert done == ["prompt_tuning", "xprompt", "prompt_tuning_matched"], "the parent for its first child alone"
    assert store.get(whole["run"])["predictions"] == whole["predictions"]


def test_a_parent_done_again_that_comes_out_otherwise_is_told(config, tmp_path):
    record = xp.run(config.replace(method="prompt_tuning"), tmp_path / "whole").record
    store = xp.Store(tmp_path / "published")
    write_archive(store.root, [record | {"predictions": [1 - p for p in record["predictions"]], "score": 0.25}])
    with pytest.warns(RuntimeWarning, match="done again for its prompts, scores .* where its record had 25.0"):
        xp.run(config.replace(method="xprompt"), store)


def test_data_and_weights_that_change_on_disk_are_read_again(config, place, tmp_path):
    moved = config.replace(
        source=str(shutil.copytree(place / "data", tmp_path / "data")),
        backbone=str(shutil.copytree(place / "model", tmp_path / "model")),
    )
    assert xp.find(moved.replace(method="majority"), tmp_path) is None
    done = xp.run(moved.replace(method="majority"), tmp_path).record["run"]
    found = xp.find(moved.replace(method="majority"), tmp_path)
    assert found is not None and found.record["run"] == done
    lines = tmp_path / "data" / "RTE" / "train.jsonl"
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:-1]))
    assert xp.find(moved.replace(method="majority"), tmp_path) is None, "one example less is other data"
    shutil.copy(place / "data" / "RTE" / "train.jsonl", lines)
    assert xp.find(moved.replace(method="majority"), tmp_path) is not None
    other = tiny_model("seq2seq")
    with torch.no_grad():
        next(other.model.parameters()).add_(1.0)
    other.model.save_pretrained(tmp_path / "model")
    assert xp.find(moved.replace(method="majority"), tmp_path) is None, "other weights are another backbone"


def test_data_below_the_home_folder_are_read_again_too(place, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(shutil.copytree(place / "data", tmp_path / "home")))
    config = xp.RunConfig(task="rte", profile="tiny", source="~")
    before = xp.load_splits(config).fingerprint
    lines = tmp_path / "home" / "RTE" / "train.jsonl"
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:-1]))
    assert xp.load_splits(config).fingerprint != before


def test_a_folder_named_as_an_embedded_source_is_not_looked_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "file").touch()
    monkeypatch.setattr(pipeline, "load_task", lambda name, source, **_: (name.name, source))
    pipeline._task.cache_clear()
    config = xp.RunConfig(task="rte", profile="tiny", protocol="paper")
    first = pipeline.load_splits(config)
    (tmp_path / "nano" / "file").write_text("changed")
    assert pipeline.load_splits(config) is first and first == ("rte", "nano")
    pipeline._task.cache_clear()


def test_a_task_that_is_none_leaves_no_folder(config, tmp_path):
    with pytest.raises(xp.ConfigError, match="rtee"):
        xp.run(config.replace(task="rtee"), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_run_is_found_once_it_is_done_and_looking_runs_nothing(config, tmp_path):
    wanted = config.replace(method="prompt_tuning")
    assert xp.find(wanted, tmp_path) is None and not list(tmp_path.rglob("record.json"))
    done = xp.run(wanted, tmp_path)
    assert xp.find(wanted, tmp_path).record == done.record
    assert xp.find(wanted.replace(seed=1), tmp_path) is None


def test_a_damaged_record_is_run_again_and_gives_the_same(config, tmp_path):
    first = xp.run(config.replace(method="prompt_tuning"), tmp_path)
    file = first.folder / "record.json"
    file.write_text(file.read_text()[:-40])
    with pytest.warns(RuntimeWarning, match="damaged"):
        again = xp.run(config.replace(method="prompt_tuning"), tmp_path)
    assert (
        again.metrics == first.metrics
        and again.record["history"][-1]["train_loss"] == first.record["history"][-1]["train_loss"]
    )


def test_xprompt_prunes_rewinds_and_reports_its_best_candidate(config, tmp_path):
    result = xp.run(config.replace(method="xprompt"), tmp_path)
    details = result.record["details"]
    assert [(c["token_ratio"], c["piece_ratio"]) for c in details["candidates"]] == config.prune.grid()
    top = max(c["selection_score"] for c in details["candidates"])
    assert details["best_score"] == top
    tuned, pruned, final = (result.load_prompt(s) for s in ("tuned_prompt", "pruned_prompt", "rewound_prompt"))
    kept = pruned.surviving_pieces.repeat_interleave(8, dim=1)
    assert torch.equal(pruned.masked()[kept], tuned.embeddings[kept]), "rewound to the tuned values"
    assert torch.equal(final.surviving_pieces, pruned.surviving_pieces)
    assert result.record["num_params"] == final.num_params < tuned.num_params
    before = xp.run(config.replace(method="prompt_tuning"), tmp_path)
    assert torch.equal(before.load_prompt("tuned_prompt").embeddings, tuned.embeddings)


def test_the_reported_score_is_the_saved_prompts(config, tmp_path):
    result = xp.run(config.replace(method="xprompt"), tmp_path)
    backbone = xp.load_backbone(config.backbone, max_source=config.max_source)
    splits = pipeline.load_splits(config)
    assert xp.evaluate(backbone, result.load_prompt(), splits.validation) == result.metrics


def test_protocols_name_and_use_different_splits(config, tmp_path):
    paper = xp.run(config.replace(method="prompt_tuning", protocol="paper"), tmp_path).record
    assert paper["selection_split"] == paper["report_split"] == "validation"
    assert paper["counts"]["train"] == 40
    assert paper["score"] == paper["details"]["best_score"], "the paper reports what it selected on"
    assert paper["run"] != xp.run(config.replace(method="prompt_tuning"), tmp_path).record["run"]


def test_side_by_side_never_changes_the_name_or_the_result(config, tmp_path):
    results = [
        xp.run(config.replace(method="xprompt", prune=config.prune.replace(side_by_side=n)), tmp_path / str(n))
        for n in (1, 4)
    ]
    assert results[0].record["run"] == results[1].record["run"]
    for key in ("token_ratio", "piece_ratio", "best_step", "token_mask"):
        assert results[0].record["details"][key] == results[1].record["details"][key]
    assert results[0].metrics == results[1].metrics


def test_the_matched_control_has_as_many_candidates_and_prunes_nothing(config, tmp_path):
    record = xp.run(config.replace(method="prompt_tuning_matched"), tmp_path).record
    assert len(record["details"]["candidates"]) == len(config.prune.grid())
    assert record["num_params"] == 5 * 32


def test_a_pattern_is_another_run_on_other_inputs_and_the_papers_is_no_news(config, tmp_path):
    asked = xp.Pattern(template="{premise} {hypothesis}", label_words=("True", "False"))
    plain, other = config.replace(method="zero_shot"), config.replace(method="zero_shot", pattern=asked)
    assert "pattern" not in plain.identity(), "runs keep the names that they had before there were patterns"
    assert other.identity()["pattern"] == {"template": asked.template, "label_words": ["True", "False"]}
    assert pipeline.load_splits(other).task.template == asked.template
    first, second = xp.run(plain, tmp_path).record, xp.run(other, tmp_path).record
    assert first["run"] != second["run"]
    assert first["provenance"]["data_fingerprint"] != second["provenance"]["data_fingerprint"]


def test_a_run_has_its_profiles_dtype_where_it_names_none():
    assert xp.RunConfig(task="cb", profile="smollm2").dtype == xp.PROFILES["smollm2"].dtype == "bfloat16"
    assert xp.RunConfig(task="cb", profile="smollm2", dtype="float32").dtype == "float32"
    assert xp.RunConfig(task="cb").dtype is None


def test_a_profiles_pattern_is_its_tasks_and_can_be_declined():
    own = xp.RunConfig(task="wsc", profile="smollm2")
    assert own.pattern == xp.PROFILES["smollm2"].patterns["wsc"] == own.replace(seed=1).pattern
    assert own.replace(pattern="paper").pattern == own.replace(pattern="paper").replace(seed=1).pattern == "paper"
    assert xp.RunConfig(task="cb", profile="smollm2").pattern == "paper"
    for profile in xp.PROFILES.values():
        for task, pattern in profile.patterns.items():
            assert xp.get_task(task).with_pattern(pattern).template == pattern.template


def test_unknown_names_fail_before_any_training(config, tmp_path):
    with pytest.raises(xp.ConfigError, match="rte"):
        xp.run(config.replace(task="rtee"), tmp_path)
    with pytest.raises(xp.ConfigError, match="known profiles"):
        xp.RunConfig(task="rte", profile="huge")
    with pytest.raises(xp.ConfigError, match="method"):
        xp.RunConfig(task="rte", method="magic")
    with pytest.raises(xp.DataError, match="nowhere"):
        xp.run(config.replace(source="nowhere"), tmp_path)
    assert not list(tmp_path.rglob("record.json"))


def refuse(*given, **named):
    pytest.fail("something was loaded")


@pytest.mark.parametrize("where", ["", "below", "runs"])
def test_a_file_where_the_store_belongs_is_found_before_anything_is_loaded(config, tmp_path, monkeypatch, where):
    file = tmp_path / "runs" if where == "runs" else tmp_path / "file"
    file.touch()
    monkeypatch.setattr(pipeline, "_prepare", refuse)
    root = {"": file, "below": file / "below", "runs": tmp_path}[where]
    with pytest.raises(xp.StoreError, match="a file stands where a folder is needed"):
        xp.run(config, root)


def test_room_is_looked_for_before_anything_is_loaded_and_later_before_training(config, tmp_path, monkeypatch):
    config = config.replace(method="majority")
    done = xp.run(config, tmp_path / "old")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert xp.run(config, tmp_path / "old").record == done.record, "what is there is read from a full disk"
    monkeypatch.setattr(pipeline, "_record", refuse)
    with pytest.raises(xp.StoreError, match="17 MB will be needed"):
        xp.run(config.replace(seed=1), tmp_path / "old")
    monkeypatch.setattr(pipeline, "_prepare", refuse)
    with pytest.raises(xp.StoreError, match="free some room there"):
        xp.run(config, tmp_path / "new")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("unable to mmap 4096 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
        RuntimeError("can't start new thread"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=str,
)
def test_too_little_memory_is_one_error_that_says_what_to_do(config, tmp_path, monkeypatch, error):
    def fail(*given):
        raise error

    monkeypatch.setattr(pipeline, "_record", fail)
    with pytest.raises(MemoryLimitError, match="xprompt plan"):
        xp.run(config, tmp_path)


def test_another_libraries_error_is_not_taken_for_a_lack_of_memory(config, tmp_path, monkeypatch):
    def fail(*given):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(pipeline, "_record", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        xp.run(config, tmp_path)


def test_the_next_run_clears_what_a_dead_process_left_of_another(config, tmp_path):
    config = config.replace(method="majority")
    store = xp.Store(tmp_path)
    xp.run(config, store)
    (store.staging / f"{'a' * 16}-dead").mkdir()
    (store.locks / f"{'b' * 16}.lock").touch()
    xp.run(config, store)
    assert not list(store.staging.iterdir()) and not list(store.locks.iterdir())


def test_a_record_names_the_code_and_the_threads_that_made_it(config, tmp_path):
    made = xp.run(config.replace(method="majority"), tmp_path).record["provenance"]
    assert re.fullmatch("[0-9a-f]{64}", made["code"]) and made["threads"] >= 1


def test_the_codes_digest_changes_with_every_source_file_that_makes_numbers(tmp_path, monkeypatch):
    package = tmp_path / "package"
    for room in ("room", "reporting"):
        (package / room).mkdir(parents=True)
    for name in ("__init__.py", "reporting/table.py", "room/a.py", "room/b.py"):
        (package / name).write_text(f"# {name}")
    monkeypatch.setattr(provenance.xprompt, "__file__", str(package / "__init__.py"))
    digest = provenance.code_digest.__wrapped__
    seen = {digest()}
    (package / "room" / "a.py").write_text("# another")
    seen.add(digest())
    (package / "room" / "b.py").rename(package / "room" / "c.py")
    seen.add(digest())
    (package / "room" / "notes.txt").write_text("no code")
    (package / "reporting" / "table.py").write_text("# what only reads records")
    assert len(seen) == 3 and digest() in seen


def test_a_change_in_any_room_of_the_package_makes_the_tree_dirty(tmp_path, monkeypatch):
    package = tmp_path / "package"
    for room in ("runs", "pruning"):
        (package / room).mkdir(parents=True)
    for name in ("__init__.py", "runs/provenance.py", "pruning/prune.py"):
        (package / name).write_text(f"# {name}")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance.xprompt, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(provenance, "__file__", str(package / "runs" / "provenance.py"))
    revision = provenance._revision.__wrapped__
    assert revision()["git_dirty"] is False and re.fullmatch("[0-9a-f]{40}", revision()["git_revision"])
    (tmp_path / "notes.txt").write_text("no part of the package")
    assert revision()["git_dirty"] is False
    (package / "pruning" / "prune.py").write_text("# another")
    assert revision()["git_dirty"] is True


def test_a_stage_named_outside_the_run_is_not_read(config, tmp_path):
    result = xp.run(config.replace(method="majority"), tmp_path)
    with pytest.raises(xp.DataError, match="leads upwards"):
        result.load_prompt("../../elsewhere")


@pytest.mark.timeout(120)
@pytest.mark.skipif(not hasattr(psutil.Process, "num_fds"), reason="counts file descriptors, which POSIX systems have")
def test_many_runs_in_one_process_leave_nothing_open_or_behind():
    """In a process of their own: in this one other tests' threads and files come and go."""
    command = [sys.executable, "-m", "tests.runs.long_run", "--runs", "12"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0 and "'files left over': 0}" in done.stdout, done.stdout + done.stderr
