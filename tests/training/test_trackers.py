"""MLflow and Weights & Biases get what the record's history holds, in runs of their own, and change no number."""

from __future__ import annotations

import struct
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

import xprompt as xp
from tests.conftest import tiny_model
from tests.runs.test_run import config, place  # noqa: F401
from xprompt.training import callbacks

QUICK = xp.TuneSettings(optimizer="adamw", learning_rate=0.05, steps=4, eval_every=2, batch_size=8, eval_batch_size=8)


class Logged(xp.MetricLogger):
    """The base class as a user would extend it."""

    def __init__(self):
        self.calls = []

    def open(self, stage, settings):
        self.calls.append(("open", stage, settings["steps"], settings.get("learning_rate")))

    def log(self, step, values, when):
        self.calls.append((step, values))

    def close(self):
        self.calls.append("close")


@pytest.fixture
def backbone():
    return tiny_model("seq2seq")


@pytest.fixture
def prompt(backbone):
    return xp.SoftPrompt.init(backbone, 5, pieces=4)


def values_of(entry):
    names = ("train_loss", "selection_loss", "selection_score", "seconds")
    values = {name: entry[name] for name in names} | entry["metrics"] | {"surviving_tokens": 5, "surviving_pieces": 20}
    return {name: value for name, value in values.items() if value is not None}


def test_a_logger_gets_each_evaluation_and_the_settings(backbone, prompt, splits):
    logged = Logged()
    history = xp.tune(backbone, prompt, splits, QUICK, callbacks=[logged]).history
    assert logged.calls[0] == ("open", "1-tuning", 4, 0.05) and logged.calls[-1] == "close"
    assert logged.calls[1:-1] == [(entry["step"], values_of(entry)) for entry in history.entries]
    assert "train_loss" not in logged.calls[1][1], "nothing was trained before step 0"


def test_candidates_have_their_own_names_and_only_settings_that_they_share(backbone, prompt, splits):
    logged, other = Logged(), QUICK.replace(learning_rate=0.01)
    xp.tune_many(backbone, [prompt] * 2, splits, [QUICK, other], callbacks=[logged])
    assert logged.calls[0] == ("open", "1-tuning", 4, None)
    assert [sorted(values)[0] for _, values in logged.calls[1:-1]] == ["accuracy/0", "accuracy/1"] * 3


def test_a_resumed_loop_logs_what_was_done_before_in_order_of_its_steps(backbone, prompt, splits, tmp_path):
    class Stopping(xp.Callback):
        def on_step_end(self, stage, step):
            if step == 3:
                raise KeyboardInterrupt

    def tune(*given):
        return xp.tune_many(
            backbone, [prompt] * 2, splits, [QUICK] * 2, seeds=[0, 1], callbacks=xp.Callbacks(list(given), tmp_path)
        )

    with pytest.raises(KeyboardInterrupt):
        tune(Stopping())
    logged = Logged()
    tune(logged)
    assert [step for step, _ in logged.calls[1:-1]] == [0, 0, 2, 2, 4, 4]


def test_a_run_calls_the_callbacks_of_all_its_loops_and_a_read_one_none(config, tmp_path):  # noqa: F811
    logged = Logged()
    made = xp.run(config.replace(method="xprompt"), tmp_path, callbacks=[logged])
    stages = [call[1] for call in logged.calls if call[0] == "open"]
    assert stages == ["1-tuning", "1-retraining-4"] and logged.calls.count("close") == 2
    read = xp.run(config.replace(method="xprompt"), tmp_path, callbacks=[logged])
    assert read.record == made.record and logged.calls.count("close") == 2


def test_mlflow_has_a_run_for_each_loop(backbone, prompt, splits, tmp_path):
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install -e '.[mlflow]'")
    from mlflow.tracking import MlflowClient

    pytest.importorskip("alembic", reason="mlflow-skinny alone keeps no database: pip install mlflow")
    client = MlflowClient(uri := f"sqlite:///{tmp_path}/mlflow.db")
    mine = xp.MlflowRuns("mine", uri, task="rte")
    history = xp.tune(backbone, prompt, splits, QUICK, callbacks=[mine]).history
    check_mlflow(client, history)
    xp.tune(backbone, prompt, splits, QUICK, callbacks=[mine])
    assert len(client.search_runs([client.get_experiment_by_name("mine").experiment_id])) == 2


def test_mlflow_skinny_has_a_run_for_each_loop_in_a_folder(backbone, prompt, splits, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install -e '.[mlflow]'")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # else MLflow wants a database or a server
    uri = (tmp_path / "runs").as_uri()
    history = xp.tune(backbone, prompt, splits, QUICK, callbacks=[xp.MlflowRuns("mine", uri, task="rte")]).history
    check_mlflow(MlflowClient(uri), history)


def check_mlflow(client, history):
    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert run.info.run_name == "1-tuning" and run.info.status == "FINISHED" and run.data.tags["task"] == "rte"
    assert run.data.params["learning_rate"] == "0.05" and run.data.params["optimizer"] == "adamw"
    for name in ("train_loss", "selection_loss", "selection_score", "accuracy", "surviving_pieces"):
        found = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        assert found == [(e["step"], values_of(e)[name]) for e in history.entries if name in values_of(e)]


def test_wandb_has_a_run_for_each_loop_without_a_network(backbone, prompt, splits, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install -e '.[wandb]'")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_SILENT", "true")
    mine = xp.WandbRuns("mine", mode="offline", dir=str(tmp_path))
    histories = [xp.tune(backbone, prompt, splits, QUICK, callbacks=[mine]).history for _ in range(2)]
    assert wandb.run is None, "the process's own run is left alone"
    wandb.teardown()  # ends the service that writes the files
    files = sorted(tmp_path.rglob("run-*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    assert len(files) == 2
    for file, history in zip(files, histories, strict=True):
        rows, started = [], ""
        for data in leveldb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or "/".join(item.nested_key): float(item.value_json) for item in items})
            elif record.WhichOneof("record_type") in ("run", "config"):
                started += str(record)
        assert "1-tuning" in started and "learning_rate" in started
        assert [row["_step"] for row in rows] == [0, 2, 4]
        for row, entry in zip(rows, history.entries, strict=True):
            assert {name: row[name] for name in values_of(entry)} == pytest.approx(values_of(entry))


def leveldb_records(content):
    """Records of a log as LevelDB has it, which the header of 7 bytes stands before: blocks of 32 KiB, in fragments."""
    offset, whole = 7, b""
    while offset < len(content):
        if 32768 - offset % 32768 < 7:
            offset += 32768 - offset % 32768
        _, length, kind = struct.unpack_from("<IHB", content, offset)
        whole += content[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # whole, or its last fragment
            yield whole
            whole = b""


LOGGERS = {"mlflow": lambda: xp.MlflowRuns(), "wandb": lambda: xp.WandbRuns(), "watch": lambda: xp.EventFiles("x")}


@pytest.mark.parametrize("extra", LOGGERS)
def test_a_missing_package_is_named_with_its_extra(extra, monkeypatch):
    monkeypatch.setattr(callbacks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(xp.ConfigError, match=rf"is not installed here: run `pip install -e '\.\[{extra}\]'`"):
        LOGGERS[extra]()


def test_trackers_are_imported_only_when_used():
    code = (
        "import sys, xprompt as xp; xp.MetricLogger, xp.EventFiles, xp.MlflowRuns, xp.WandbRuns; "
        "print([name for name in ('mlflow', 'wandb', 'tensorboard') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_logging_changes_no_number(backbone, prompt, splits):
    plain, watched = (xp.tune(backbone, prompt, splits, QUICK, callbacks=given) for given in (None, [Logged()]))
    assert torch.equal(plain.prompt.embeddings, watched.prompt.embeddings)


@pytest.mark.parametrize("fails", [False, True])
def test_a_loop_that_raises_is_closed_as_a_failed_one(backbone, prompt, splits, fails):
    seen = []

    class Watching(xp.MetricLogger):
        def open(self, stage, settings):
            pass

        def log(self, step, values, when):
            if fails and step == 2:
                raise RuntimeError("the tracker is full")

        def close(self):
            seen.append(self.failed)

    try:
        raise ValueError("handled while the loop goes, and none of its own")
    except ValueError:
        with pytest.raises(RuntimeError, match="full") if fails else nullcontext():
            xp.tune(backbone, prompt, splits, QUICK, callbacks=[Watching()])
    assert seen == [fails]
