"""Runs in parallel: the same tables, no run twice, nothing lost where a worker or the driver is killed."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

import xprompt
from tests.runs.pretended_runs import (
    SEARCHES,
    by_value,
    failing,
    grid,
    impatient,
    label,
    logged,
    mortal,
    napping,
    pretended,
    slow,
    threads_of,
    unlucky,
    unsendable,
)
from xprompt import get_executor
from xprompt import reporting as rp
from xprompt.backbones import main_memory
from xprompt.config.run_config import RunConfig
from xprompt.errors import ConfigError, DataError, MemoryLimitError
from xprompt.runs import processes
from xprompt.runs.planned_runs import Step, plan_runs, run_here
from xprompt.runs.processes import LocalExecutor, LocalOptions, ProcessExecutor
from xprompt.runs.ray_tasks import (
    MachineError,
    RayExecutor,
    RayOptions,
    absolute_paths,
    count_slots,
    work_on_ray,
)
from xprompt.runs.store import Store, run_id

try:
    import ray
except ImportError:
    ray = None
needs_ray = pytest.mark.skipif(ray is None, reason="the package ray is not installed: pip install -e .[ray]")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Ray on two CPUs, as an executor starts it by itself, and a GPU in name only: nothing here computes on it."""
    if ray is None:
        pytest.skip("the package ray is not installed: pip install -e .[ray]")
    by_value()
    executor = RayExecutor(tmp_path_factory.mktemp("unused"), workers=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", functools.partial(ray.init, num_gpus=1))
        with executor._connected(ray):
            yield ray.get_runtime_context().gcs_address
    assert not ray.is_initialized()


def on_ray(root: Path, run, **options) -> RayExecutor:
    return RayExecutor(root, run, **{"gpus_per_run": 0} | options)


class TestPlan:
    def test_each_run_is_planned_once_after_its_parent(self):
        configs = grid(2, ("prompt_tuning_length", "xprompt_random", "majority", "prompt_tuning_matched"))
        runs = plan_runs([*configs, *configs])
        names = [label(run.config) for run in runs]
        assert len(set(names)) == len(names) == 2 * 4 + 2 * 2  # prompt_tuning and xprompt were not asked for
        for i, run in enumerate(runs):
            assert len(run.parents) == len(run.config.parents)
            assert all(parent in runs[:i] for parent in run.parents)
        assert sorted(run.depth for run in runs) == [0] * 4 + [1] * 6 + [2] * 2
        assert [run.config.seed for run in runs] == [0] * 6 + [1] * 6, "the first seed's runs first"
        asked = [position for run in runs for position in run.positions]
        assert sorted(asked) == list(range(2 * len(configs)))
        wanted = {label(run.config): sorted(map(label, run.wanted_by)) for run in runs}
        for seed in range(2):
            asked_from = [
                f"{name}-{seed}" for name in ("prompt_tuning_length", "prompt_tuning_matched", "xprompt_random")
            ]
            assert wanted[f"xprompt-{seed}"] == asked_from[:1] and wanted[f"prompt_tuning-{seed}"] == asked_from
        assert not any(run.wanted_by for run in runs if run.positions)

    def test_room_is_counted_machine_by_machine(self):
        nodes = [{"CPU": 3, "GPU": 1}, {"CPU": 8, "GPU": 2}, {"CPU": 64}]
        assert count_slots(nodes, 2, 0) == 1 + 4 + 32
        assert count_slots(nodes, 1, 0.25) == 3 + 8
        assert count_slots(nodes, 0.1, 0.1) == 10 + 20
        with pytest.raises(ConfigError, match="needs 1 CPU and 4 GPU on one machine.*3 CPU and 1 GPU; 8 CPU"):
            count_slots(nodes, 1, 4)

    def test_paths_travel_whole_and_names_as_they_are(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for folder in ("data", "nano", "rte"):
            (tmp_path / folder).mkdir()
        assert absolute_paths(RunConfig(task="rte", source="data"))["source"] == str(tmp_path / "data")
        settings = absolute_paths(RunConfig(task="rte", backbone="google/t5"))
        assert (settings["task"], settings["source"], settings["backbone"]) == ("rte", "nano", "google/t5")


class TestChoice:
    @pytest.mark.parametrize(
        ("name", "options", "words"),
        [
            ("slurm", {}, "known: local, ray"),
            ("local", {"gpus_per_run": 1}, "has no gpus_per_run"),
            ("local", {"workers": 0}, "greater than or equal to 1"),
            ("ray", {"gpus_per_run": 1.5}, "whole number of GPUs"),
            ("ray", {"cpus_per_run": 0}, "greater than 0"),
            ("ray", {"workers": 0}, "greater than or equal to 1"),
            ("ray", {"gpu": 1}, "gpus_per_run"),
            ("ray", {"address": "head"}, "host:port"),
        ],
    )
    def test_a_wrong_choice_is_named_before_anything_is_started(self, tmp_path, monkeypatch, name, options, words):
        monkeypatch.setitem(sys.modules, "ray", ray or SimpleNamespace())
        with pytest.raises(ConfigError, match=words):
            get_executor(name, tmp_path, **options)
        assert not list(tmp_path.iterdir())

    def test_without_the_package_the_error_says_how_to_install_it(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(ConfigError, match=r"pip install -c constraints.txt -e .\[ray\]"):
            get_executor("ray", tmp_path)

    def test_an_address_where_nobody_answers_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "ray", ray or SimpleNamespace())
        with socket.socket() as taken:  # bound, and not listening
            taken.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(ConfigError, match=f"nobody answers at Ray's address {address}"):
                get_executor("ray", tmp_path, address=address)

    def test_a_worker_refuses_a_folder_that_it_does_not_see_and_another_version(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "environ", dict(os.environ))
        marker = tmp_path / "seen"
        task = lambda version: work_on_ray(pretended, tmp_path, marker, 3, version, grid()[0].settings(), [], None)  # noqa: E731
        with pytest.raises(MachineError, match=f"does not see {tmp_path}: give an --output"):
            task(xprompt.__version__)
        marker.touch()
        with pytest.raises(MachineError, match="has xprompt .*, not 0.0.1: install the same"):
            task("0.0.1")
        record, seconds = task(xprompt.__version__)
        assert record["method"] == "prompt_tuning" and seconds >= 0 and os.environ["OMP_NUM_THREADS"] == "3"

    def test_every_option_is_explained(self):
        for options in (LocalOptions, RayOptions):
            assert all(field.description for field in options.model_fields.values())

    def test_choosing_imports_neither_ray_nor_torch(self):
        code = (
            "import sys; from xprompt.runs.executors import get_executor; get_executor('local', 'x'); "
            "sys.exit(bool({'ray', 'torch'} & set(sys.modules)))"
        )
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0


class TestLocal:
    def test_runs_go_in_order_with_a_line_before_and_after(self, tmp_path, capsys):
        configs = grid(2, ("majority", "prompt_tuning"))
        given = LocalExecutor(lambda config: SimpleNamespace(record=pretended(config, tmp_path)))
        records = rp.collect(configs, given)
        assert [(record["method"], record["seed"]) for record in records] == [(c.method, c.seed) for c in configs]
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "[1/4] rte majority seed 0 held_out …" and lines[1] == "    0.0 points in 0 s"
        assert lines[5] == "    14.3 points in 0 s, 0 s left" and len(lines) == 8

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_run_that_raises_ends_none_of_the_others(self, tmp_path, capsys, workers):
        configs = grid(3)
        with pytest.raises(DataError, match="line 3: no label"):
            rp.collect(configs, ProcessExecutor(tmp_path, failing, workers=workers))
        assert set(logged(tmp_path)) == {label(c) for c in configs if c.seed != 2 or c.method == "majority"}
        assert "failed: DataError: RTE/train.jsonl, line 3: no label.; left out for that, 3" in capsys.readouterr().out

    def test_what_nobody_asked_for_is_done_only_for_a_run_that_is_missing(self, tmp_path):
        configs = [RunConfig(task="rte", profile="tiny", method="prompt_tuning_matched", seed=seed) for seed in (0, 1)]
        store, (done, missing) = Store(tmp_path), [config.parents[0] for config in configs]
        xprompt.run(configs[0], store)
        shutil.rmtree(xprompt.find(done, store).folder)  # as of a published report, which keeps few prompts
        steps = [step for step in ProcessExecutor(store, workers=2).each(configs) if step.record]
        assert [step.position for step in steps if step.position is None] == [None], "the one of seed 1"
        assert sorted(step.position for step in steps if step.position is not None) == [0, 1]
        assert xprompt.find(done, store) is None and xprompt.find(missing, store)
        marker = tmp_path / "seen"
        marker.touch()
        given = (run_here, tmp_path, marker, 1, xprompt.__version__, done.settings())
        assert work_on_ray(*given, [configs[0].settings()])[0] is None
        assert xprompt.find(done, store) is None

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), MemoryLimitError("too little")])
    def test_an_interrupt_and_a_lack_of_memory_end_all(self, error):
        done = []

        def run(config):
            done.append(config.seed)
            raise error

        with pytest.raises(type(error)):
            rp.collect(grid(3, ("majority",)), run)
        assert done == [0]

    def test_the_time_left_is_shared_among_the_workers(self, capsys):
        configs = grid(3, ("majority",))
        steps = [Step(config, i, {"score": 0.5}, 40.0) for i, config in enumerate(configs)]
        parallel = SimpleNamespace(workers=2, each=lambda _: iter([Step(None, note="two"), *steps]))
        assert len(rp.collect(configs, parallel)) == 3
        assert capsys.readouterr().out.splitlines() == [
            "    two",
            "[1/3] rte majority seed 0 held_out: 50.0 points in 40 s, 40 s left",
            "[2/3] rte majority seed 1 held_out: 50.0 points in 40 s, 40 s left",
            "[3/3] rte majority seed 2 held_out: 50.0 points in 40 s",
        ]


def nano(seeds: int) -> list[RunConfig]:
    return [RunConfig(task="rte", profile="nano", method="majority", seed=seed) for seed in range(seeds)]


def unpinned(seeds: int) -> list[RunConfig]:
    return [RunConfig(task="cb", profile="smollm2-gpu", method="majority", seed=seed) for seed in range(seeds)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_another_process_does_comes_last(tmp_path, monkeypatch, workers):
    """Two processes that walk one grid share it, in place of following each other."""
    monkeypatch.setattr(processes, "LOOK_AGAIN", 0.05)
    configs, store = grid(3, ("majority",)), Store(tmp_path)
    first = run_id(configs[0].identity(), "", "", "")
    done: list[int] = []
    with ExitStack() as held:
        held.enter_context(store.lock(first))
        for step in ProcessExecutor(store, impatient, workers=workers).each(configs):
            if step.record is not None:
                done.append(step.position)
                if len(done) == 2:
                    held.close()
    assert sorted(done[:2]) == [1, 2] and done[2:] == [0]


def test_two_processes_share_a_grid(tmp_path):
    """Neither follows the other: both do a part of the runs, none is done twice, and both have all of them."""
    drivers = [start_driver(tmp_path, 4, workers=1, impatient=True) for _ in range(2)]
    scores = []
    for driver in drivers:
        out, _ = driver.communicate(timeout=120)
        assert driver.returncode == 0, out
        scores.append(json.loads(out.splitlines()[-1]))
    asked = grid(4)
    assert scores[0] == scores[1] and len(scores[0]) == len(asked)
    assert logged(tmp_path) == Counter(label(config) for config in asked)
    shares = Counter(line.rsplit(" ", 1)[1] for line in (tmp_path / "log").read_text().splitlines())
    assert set(shares) <= {str(driver.pid) for driver in drivers} and sum(shares.values()) == len(asked)
    assert len(shares) == 2, "the second began when the first was done"


class TestProcesses:
    @pytest.mark.parametrize(
        ("configs", "asked", "cores", "gib", "workers"),
        [
            (nano(45), None, 4, 64, 4),
            (nano(45), None, 64, 64, 8),  # they may share a GPU
            (nano(45), None, 64, 4, 2),
            (nano(5), None, 64, 64, 1),  # too few to pay for a process
            (nano(5), 3, 1, 64, 3),
            (nano(2), 3, 64, 64, 2),
            (unpinned(9), None, 64, 64, 1),  # a profile that says nothing: one at a time, on all cores
            (nano(9) + unpinned(5), None, 64, 64, 1),
            ([config.replace(backbone="google/t5-xl-lm-adapt") for config in nano(45)], None, 16, 64, 1),
            ([config.replace(backbone="nano-4x") for config in nano(45)], None, 4, 64, 4),
        ],
    )
    def test_how_many_at_a_time(self, tmp_path, monkeypatch, configs, asked, cores, gib, workers):
        monkeypatch.setattr("joblib.cpu_count", lambda only_physical_cores: cores)
        monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=gib * 2**30))
        executor = get_executor("local", tmp_path, workers=asked)
        executor._run, executor._ended = lambda config, root: {}, lambda runs, threads: iter(())
        said = [step.note for step in executor.each(configs) if step.note]
        assert executor.workers == workers and len(said) == (workers > 1)
        assert all(note.startswith(f"{workers} processes with ") for note in said)

    def test_memory_is_what_the_container_has_left(self, tmp_path, monkeypatch):
        """Its own limit and those of the groups around it, files' pages that give way counted as free."""
        monkeypatch.setattr(main_memory, "_GROUPS", tmp_path)
        monkeypatch.setattr(main_memory, "_OWN", tmp_path / "cgroup")
        machine = main_memory.available_memory()
        assert machine > 2**20
        (tmp_path / "cgroup").write_text("0::/pod/job\n")
        for group, limit in {"pod/job": "max", "pod": str(2**20)}.items():
            (tmp_path / group).mkdir(parents=True, exist_ok=True)
            for file, text in {"max": limit, "current": "1000000", "stat": "anon 1\ninactive_file 5000\n"}.items():
                (tmp_path / group / f"memory.{file}").write_text(text)
        assert main_memory.available_memory() == 2**20 - 1_000_000 + 5000

    def test_a_seed_is_done_with_its_children_before_the_next_begins(self, tmp_path):
        configs = grid(6, ("majority", "prompt_tuning", "xprompt"))
        steps = ProcessExecutor(tmp_path, slow, workers=2).each(configs)
        seeds = [step.config.seed for step in steps if step.record is not None]
        assert all(abs(place // 3 - seed) <= 1 for place, seed in enumerate(seeds)), seeds

    def test_the_records_are_those_of_one_after_another_and_no_run_is_done_twice(self, tmp_path):
        configs = grid(4)
        spread = rp.collect(configs, ProcessExecutor(tmp_path / "many", pretended, workers=2))
        alone = rp.collect(configs, ProcessExecutor(tmp_path / "one", pretended, workers=1))
        assert spread == alone
        counted = logged(tmp_path / "many")
        assert set(counted) == {label(config) for config in configs} and max(counted.values()) == 1

    def test_a_run_that_raises_takes_along_what_builds_on_it_and_nothing_else(self, tmp_path, capsys):
        configs = grid(3)
        with pytest.raises(DataError, match="line 3: no label") as raised:
            rp.collect(configs, ProcessExecutor(tmp_path, failing, workers=2))
        assert "in failing" in raised.value.__notes__[0]  # where in the process
        done = set(logged(tmp_path))
        assert done == {label(c) for c in configs if c.seed != 2 or c.method == "majority"}
        assert "failed: DataError" in capsys.readouterr().out

    def test_an_error_that_no_process_can_send_is_described_and_ends_none_of_the_others(self, tmp_path, capsys):
        configs = grid(3, ("prompt_tuning",))
        with pytest.raises(RuntimeError, match="Unsendable: a and b") as raised:
            rp.collect(configs, ProcessExecutor(tmp_path, unsendable, workers=2))
        assert "in unsendable" in raised.value.__notes__[0]
        assert set(logged(tmp_path)) == {"prompt_tuning-0", "prompt_tuning-1"}

    def test_a_process_that_is_ended_from_outside_ends_it_all_and_loses_no_finished_run(self, tmp_path):
        configs = grid(2, ("majority", "prompt_tuning", "xprompt"))  # xprompt-1 kills its first process
        with pytest.raises(ConfigError, match="fewer --workers"):
            rp.collect(configs, ProcessExecutor(tmp_path, unlucky, workers=2))
        before = logged(tmp_path)
        assert len(rp.collect(configs, ProcessExecutor(tmp_path, unlucky, workers=2))) == 6
        assert all(logged(tmp_path)[label(c)] == 1 for c in configs) and before["prompt_tuning-1"] == 1

    def test_an_interrupted_grid_goes_on_where_it_was(self, tmp_path):
        stopped_and_resumed(tmp_path, signal.SIGINT, workers=2)

    def test_each_process_computes_with_its_share_of_threads(self, tmp_path):
        records = rp.collect(nano(2), ProcessExecutor(tmp_path, threads_of, workers=2))
        assert [record["threads"] for record in records] == [1, 1]


@needs_ray
@pytest.mark.timeout(240)
class TestRay:
    def test_the_real_tables_equal_the_local_ones_though_a_worker_is_killed(self, cluster, tmp_path, capsys):
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            local = rp.collect(grid(), get_executor("local", tmp_path / "local"))
        finally:
            torch.set_num_threads(threads)
        capsys.readouterr()
        spread = rp.collect(grid(), on_ray(tmp_path / "ray", mortal))
        assert rp.tidy(spread).to_csv() == rp.tidy(local).to_csv()
        for record, other in zip(spread, local, strict=True):
            timed = {"seconds", "train_seconds"}
            assert [{k: v for k, v in entry.items() if k not in timed} for entry in record["history"]] == [
                {k: v for k, v in entry.items() if k not in timed} for entry in other["history"]
            ]
        assert logged(tmp_path / "ray") == Counter([*SEARCHES, "killed at xprompt"])
        assert len(list(Store(tmp_path / "ray").records())) == len(SEARCHES)
        assert not (tmp_path / "ray" / "runs" / ".damaged").exists()
        out = capsys.readouterr().out
        assert "up to 2 runs at a time on Ray, each with 1 CPU\n" in out
        assert "[5/5] rte prompt_tuning_length seed 0 held_out: " in out

    def test_a_dead_workers_run_is_begun_again_and_an_error_stops_only_what_builds_on_it(
        self, cluster, tmp_path, capsys
    ):
        methods = tuple(method for method in SEARCHES if method != "prompt_tuning")  # not asked for, and yet needed
        with pytest.raises(DataError, match=r"^RTE/train.jsonl, line 3: no label.$"):
            rp.collect(grid(4, methods), on_ray(tmp_path, unlucky, retries=1))
        once = {label(config) for config in grid(4)}
        once -= {f"{method}-2" for method in SEARCHES if method != "majority"}
        once -= {"xprompt-3", "prompt_tuning_length-3"}
        killed = ["xprompt-1 killed its worker", *["xprompt-3 killed its worker"] * 2]
        assert logged(tmp_path) == Counter([*once, *killed])
        out = capsys.readouterr().out
        assert "[ +/16] rte prompt_tuning seed 0 held_out: 0.0 points" in out
        assert (
            "rte prompt_tuning seed 2 held_out: failed: DataError: RTE/train.jsonl, line 3: no label.; left out" in out
        )
        assert "for that, 3 that start from it" in out
        assert "rte xprompt seed 3 held_out: failed: ConfigError: a worker died 2 times at the same run" in out

    def test_runs_share_a_gpu_and_are_done_once_at_little_cost_each(self, cluster, tmp_path):
        configs, began = grid(40), time.monotonic()
        executor = on_ray(tmp_path, napping, gpus_per_run=0.5)
        records = [step.record for step in executor.each([*configs, *configs]) if step.record]
        assert executor.workers == 2 and len(records) == 2 * len(configs)
        assert logged(tmp_path) == Counter(label(config) for config in configs)
        assert {record["gpu"] for record in records} == {"0"}
        at_a_time = max(sum(one["began"] <= r["began"] < one["ended"] for one in records[::2]) for r in records)
        assert at_a_time <= 2
        assert time.monotonic() - began < 20  # a wide bound, for a busy machine: here 3 s

    def test_no_more_go_on_at_a_time_than_asked_for(self, cluster, tmp_path):
        executor = on_ray(tmp_path, napping, cpus_per_run=0.5, workers=1)
        spans = sorted((s.record["began"], s.record["ended"]) for s in executor.each(grid(2)) if s.record)
        assert len(spans) == 10 and all(one[1] <= other[0] for one, other in itertools.pairwise(spans))

    def test_a_machine_without_the_store_ends_it_all(self, cluster, tmp_path, monkeypatch):
        monkeypatch.setattr(RayExecutor, "_marker", lambda self: nullcontext(tmp_path / "nowhere"))
        with pytest.raises(MachineError, match="does not see"):
            rp.collect(grid(), on_ray(tmp_path, pretended))

    def test_more_than_a_machine_has_is_refused(self, cluster, tmp_path):
        with pytest.raises(ConfigError, match="needs 1 CPU and 4 GPU on one machine.*2 CPU and 1 GPU"):
            rp.collect(grid(), on_ray(tmp_path, pretended, gpus_per_run=4, workers=2))

    def test_a_killed_driver_goes_on_where_it_was(self, cluster, tmp_path):
        stopped_and_resumed(tmp_path, signal.SIGKILL, address=cluster, gpus_per_run=0)


def stopped_and_resumed(root: Path, how: signal.Signals, **options) -> None:
    """Stop a driver in mid-grid and start another: it does what was under way again, and nothing that was finished."""
    asked = grid(4)
    first = start_driver(root, 4, **options)
    wait_until(lambda: len(list(Store(root).records())) >= 4, first)
    first.send_signal(how)
    out, _ = first.communicate(timeout=60)
    assert first.returncode != 0 and (how == signal.SIGKILL or "KeyboardInterrupt" in out)
    done = {f"{record['method']}-{record['seed']}" for record in Store(root).records()}
    begun = logged(root)
    assert 4 <= len(done) < len(asked)
    second = start_driver(root, 4, **options)
    out, _ = second.communicate(timeout=200)
    assert second.returncode == 0, out
    after = logged(root)
    assert set(after) == {label(config) for config in asked}
    again = {name for name, times in after.items() if times > 1}
    assert not again & done and again <= set(begun)
    assert json.loads(out.splitlines()[-1]) == [pretended(c, root / "local")["score"] for c in asked]


def start_driver(root: Path, seeds: int, **options) -> subprocess.Popen:
    """Another process that does a grid of slow runs."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.runs.pretended_runs", str(root), str(seeds), json.dumps(options)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_until(condition, process: subprocess.Popen) -> None:
    limit = threading.Timer(90, process.kill)
    limit.start()
    try:
        while not condition():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.02)
    finally:
        limit.cancel()
