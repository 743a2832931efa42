"""Transfer from one task to another: what it starts from, that pruned entries stay pruned, and what a run ID holds."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import xprompt as xp
from tests.conftest import tiny_model
from tests.runs.pretended_runs import failing, logged, pretended
from tests.runs.test_run import config, place  # noqa: F401
from xprompt import reporting as rp
from xprompt.methods.base import MethodContext
from xprompt.runs.planned_runs import plan_runs
from xprompt.runs.processes import ProcessExecutor
from xprompt.runs.ray_tasks import absolute_paths
from xprompt.runs.store import Store


@pytest.fixture
def target(config):  # noqa: F811
    return config.replace(method="task_transfer", source_tasks=("cb",))


def test_it_starts_from_the_sources_tuned_prompt(target, tmp_path):
    source = xp.run(target.parents[0], tmp_path, watch=False)
    result = xp.run(target, tmp_path, watch=False)
    assert (source.record["task"], source.record["method"]) == ("cb", "prompt_tuning")
    assert torch.equal(result.load_prompt("init_prompt").embeddings, source.load_prompt("tuned_prompt").embeddings)
    assert result.record["details"]["source_task"] == "cb" and result.record["num_params"] == 5 * 32
    assert len({entry["selection_loss"] for entry in result.record["history"]}) > 1
    plain = xp.run(target.replace(method="prompt_tuning", source_tasks=()), tmp_path, watch=False)
    assert plain.record["history"][0]["selection_loss"] != result.record["history"][0]["selection_loss"]
    spent = source.record["seconds"]["total"] + result.record["seconds"]["total"]
    assert result.record["seconds"]["with_prompt_tuning"] == pytest.approx(spent, abs=0.02)


def test_xprompt_transfer_prunes_further_what_the_sources_xprompt_left(target, tmp_path):
    result = xp.run(target.replace(method="xprompt_transfer"), tmp_path, watch=False)
    done = {(r["task"], r["method"]): r for r in Store(tmp_path).records()}
    assert set(done) == {
        ("cb", "prompt_tuning"), ("cb", "xprompt"), ("rte", "task_transfer_pruned"), ("rte", "xprompt_transfer"),
    }  # fmt: skip
    (between,) = target.replace(method="xprompt_transfer").parents
    source, start = xp.run(between.parents[0], tmp_path), xp.run(between, tmp_path)
    pruned, tuned, final = source.load_prompt(), start.load_prompt("tuned_prompt"), result.load_prompt()
    assert torch.equal(tuned.surviving_pieces, pruned.surviving_pieces) and not pruned.surviving_pieces.all()
    assert torch.equal(start.load_prompt("init_prompt").embeddings, pruned.embeddings)
    assert not torch.equal(tuned.masked(), pruned.masked()) or start.record["details"]["best_step"] == 0
    assert not (final.surviving_pieces & ~tuned.surviving_pieces).any()
    assert result.record["num_params"] < start.record["num_params"] == source.record["num_params"] < 5 * 32
    spent = sum(record["seconds"]["total"] for record in done.values())
    assert result.record["seconds"]["with_prompt_tuning"] == pytest.approx(spent, abs=0.04)


def test_the_cost_counts_every_run_that_a_prompt_came_from(target, splits):
    class Parent:
        record = {"seconds": {"total": 2.0, "with_prompt_tuning": 7.0}, "counts": {"cut": 3}}  # noqa: RUF012

        def load_prompt(self, stage=""):
            return xp.SoftPrompt(torch.ones(5, 32), pieces=4)

    parent = Parent()
    context = MethodContext(target, tiny_model("seq2seq"), splits, [parent])
    assert (context.tuned().seconds, context.tuned().num_cut) == (7.0, 3)
    del parent.record["seconds"]["with_prompt_tuning"]  # as in old records
    assert context.tuned().seconds == 2.0


def test_the_run_id_holds_the_sources_examples_and_no_other_runs_changes(target, tmp_path, place):  # noqa: F811
    first = xp.run(target, tmp_path / "a", watch=False).record
    assert list(first["config"]["source_tasks"]) == ["cb"]
    other = tmp_path / "data"
    shutil.copytree(place / "data", other)
    moved = xp.find(target.replace(source=str(other)), tmp_path / "a")
    assert moved is not None and moved.record["run"] == first["run"], "where the examples lie does not matter"
    lines = (other / "CB" / "train.jsonl").read_text().splitlines()
    changed = json.loads(lines[0]) | {"premise": "the dog ran"}
    (other / "CB" / "train.jsonl").write_text("\n".join([json.dumps(changed), *lines[1:]]) + "\n")
    assert xp.find(target.replace(source=str(other)), tmp_path / "a") is None, "what they are does"
    for method in ("prompt_tuning", "xprompt", "majority"):
        assert "source_tasks" not in xp.RunConfig(task="rte", method=method).identity()


@pytest.mark.parametrize(
    ("method", "sources", "words"),
    [
        ("task_transfer", (), r"task_transfer starts from .*it needs one, other than its own \(rte\), not \[\]"),
        ("task_transfer", ("cb", "wic"), "it needs one"),
        ("task_transfer", ("rte",), "other than its own"),
        ("xprompt_transfer", (), "xprompt_transfer starts from .*it needs one"),
        ("xprompt", ("cb",), r"it needs none, not \['cb'\]"),
    ],
)
def test_source_tasks_that_make_no_sense_are_refused(method, sources, words):
    with pytest.raises(xp.ConfigError, match=words):
        xp.RunConfig(task="rte", method=method, source_tasks=sources)


def test_each_task_has_its_own_pattern_and_paths_travel_whole(tmp_path, monkeypatch):
    target = xp.RunConfig(task="rte", profile="smollm2", method="task_transfer", source_tasks=("wsc",))
    assert target.pattern == "paper" and target.parents[0].pattern == xp.PROFILES["smollm2"].patterns["wsc"]
    back = xp.RunConfig(task="wsc", profile="smollm2", method="task_transfer", source_tasks=("rte",))
    assert back.pattern != "paper" and back.parents[0].pattern == "paper"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "task.json").write_text("{}")
    config = xp.RunConfig(task="rte", method="task_transfer", source_tasks=("mine/task.json",))  # noqa: F811
    assert absolute_paths(config)["source_tasks"] == [str(tmp_path / "mine" / "task.json")]
    assert absolute_paths(target)["source_tasks"] == ["wsc"]


def test_a_run_waits_for_all_of_several_parents(tmp_path):
    target = xp.RunConfig(task="rte", profile="tiny", method="xprompt_subspace", source_tasks=("cb", "wic", "boolq"))
    configs = [target, target.replace(seed=1)]
    assert [(run.config.task, run.config.method, run.depth) for run in plan_runs(configs[:1])] == [
        ("cb", "prompt_tuning", 0), ("wic", "prompt_tuning", 0), ("boolq", "prompt_tuning", 0),
        ("rte", "intrinsic_subspace", 1), ("rte", "xprompt_subspace", 2),
    ]  # fmt: skip
    records = rp.collect(configs, ProcessExecutor(tmp_path, pretended, workers=2))
    assert [record["seed"] for record in records] == [0, 1]
    assert logged(tmp_path) == {
        "prompt_tuning-0": 3, "prompt_tuning-1": 3, "intrinsic_subspace-0": 1, "intrinsic_subspace-1": 1,
        "xprompt_subspace-0": 1, "xprompt_subspace-1": 1,
    }  # fmt: skip
    assert records[1]["score"] == pytest.approx(1 / 7 + (1 / 7 + 3 / 7 / 2) / 2)


def test_where_one_of_several_parents_fails_its_children_are_left_out(tmp_path, capsys):
    configs = [
        xp.RunConfig(task="rte", profile="tiny", method="intrinsic_subspace", source_tasks=("cb", "wic"), seed=seed)
        for seed in (1, 2)
    ]
    with pytest.raises(xp.DataError, match="line 3: no label"):
        rp.collect(configs, ProcessExecutor(tmp_path, failing, workers=2))
    assert "intrinsic_subspace-1" in logged(tmp_path) and "intrinsic_subspace-2" not in logged(tmp_path)


def test_runs_are_planned_after_all_they_start_from():
    target = xp.RunConfig(task="rte", method="xprompt_transfer", source_tasks=("cb",))
    runs = plan_runs([target, target.replace(method="prompt_tuning", source_tasks=())])
    assert [(run.config.task, run.config.method, run.depth) for run in runs] == [
        ("cb", "prompt_tuning", 0), ("cb", "xprompt", 1), ("rte", "task_transfer_pruned", 2),
        ("rte", "xprompt_transfer", 3), ("rte", "prompt_tuning", 0),
    ]  # fmt: skip
