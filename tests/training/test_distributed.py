"""Bigger than one card: shares of a batch add up to the batch, recomputed blocks and spread ones give the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import xprompt as xp
from tests.conftest import tiny_data, tiny_model
from tests.runs.test_run import config, place, sources_for  # noqa: F401
from xprompt.backbones.gradient_checkpointing import recomputing
from xprompt.data.batching import batches, infinite_batches, micro_batch, shard
from xprompt.data.splits import Splits
from xprompt.distributed import ProcessGroup, join_processes
from xprompt.runs import run as pipeline
from xprompt.tasks.registry import get_task
from xprompt.training.callbacks import Callbacks
from xprompt.training.tune import fine_tune

ROOT = Path(__file__).resolve().parents[2]
QUICK = xp.TuneSettings(optimizer="adamw", learning_rate=0.05, steps=6, eval_every=2, batch_size=8, eval_batch_size=8)


def work(folder: Path) -> dict[str, torch.Tensor]:
    """What one process, or several that share it, compute: all in float64."""
    found = {}
    # 11 examples: the last batch has 3, of which two processes and two micro-batches leave one with none
    splits = Splits(get_task("rte"), tiny_data(11, "train"), tiny_data(9, "validation"), "test")
    for kind in ("seq2seq", "decoder"):
        backbone = tiny_model(kind, torch.float64)
        prompts = [xp.SoftPrompt.init(backbone, 5, pieces=4, seed=i).to(torch.float64) for i in range(3)]
        settings = [
            QUICK.replace(accumulation=2, weight_decay=0.1),
            QUICK.replace(accumulation=2, optimizer="adafactor"),
            QUICK.replace(accumulation=2, max_grad_norm=0.5),
        ]
        results = xp.tune_many(
            backbone,
            prompts,
            splits,
            settings,
            seeds=[0, 1, 0],
            halving_schedule={4: 2},
            callbacks=Callbacks(folder=folder / kind),
        )
        for i, (prompt, history) in enumerate(results):
            found[f"{kind} prompt {i}"] = prompt.embeddings.detach()
            entries = [[e["selection_loss"], e["selection_score"], e["train_loss"] or 0.0] for e in history.entries]
            found[f"{kind} history {i}"] = torch.tensor(entries, dtype=torch.float64)
        scores = xp.importance(backbone, prompts[0], splits.train, batch_size=4)
        found[f"{kind} importance"] = torch.cat([scores.token, scores.piece.flatten()]).double()
        tuned = fine_tune(backbone, splits, QUICK.replace(steps=3, learning_rate=1e-4, optimizer="adafactor")).backbone
        found[f"{kind} weights"] = torch.cat([p.detach().flatten() for p in tuned.model.parameters()])
    return found


def in_processes(count: int, *command: str) -> str:
    """Run a module under `accelerate launch`, on CPUs: --multi_gpu is its word for several processes."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={count}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*launch, "--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no", "--num_machines=1", "-m",
         *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_processes_make_the_prompt_that_one_makes(config, tmp_path):  # noqa: F811
    """Prompts, histories, importance and a fine-tuned model (≤ 1e-9), and a whole run in the store, read afterwards."""
    pytest.importorskip("accelerate")
    settings = config.replace(method="xprompt").model_dump_json()
    (tmp_path / "config.json").write_text(settings)
    in_processes(2, "tests.training.test_distributed", str(tmp_path))
    alone = work(tmp_path / "alone")
    shared = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert [found["processes"] for found in shared] == [2, 2]
    for name, value in alone.items():
        assert torch.equal(shared[0][name], shared[1][name]), "the processes must never part"
        assert torch.allclose(shared[0][name], value, rtol=0, atol=1e-9 if "importance" not in name else 1e-6), name
    one = xp.run(config.replace(method="xprompt"), tmp_path / "one", watch=False)
    two = xp.Store(tmp_path / "two").get(one.record["run"])
    assert two is not None and two["provenance"]["processes"] == 2
    assert two["details"]["token_mask"] == one.record["details"]["token_mask"] and two["metrics"] == one.metrics
    for a, b in zip(one.record["history"], two["history"], strict=True):
        assert a["selection_loss"] == pytest.approx(b["selection_loss"], abs=1e-5)
    assert len(list((tmp_path / "two" / "watch").rglob("events*"))) == 2, "the main process alone writes"


def test_shares_and_streams_leave_nothing_out(backbone, splits):
    encoded = backbone.encode(splits.train)
    for batch in batches(encoded, 7, seed=3):
        for count in (1, 2, 5):
            parts = [shard(micro_batch(batch, m, 3), ProcessGroup(r, count)) for m in range(3) for r in range(count)]
            assert sorted(i for part in parts for i in part.index.tolist()) == sorted(batch.index.tolist())
    whole = infinite_batches(encoded, 7, 1)
    order = [next(whole).index.tolist() for _ in range(12)]
    for start in (1, 4, 8, 11):
        assert next(infinite_batches(encoded, 7, 1, start)).index.tolist() == order[start]


def test_one_process_is_alone():
    with join_processes() as process_group:
        assert (
            process_group == ProcessGroup(0, 1)
            and process_group.is_main
            and process_group.broadcast_from_main(False) is False
            and process_group.all_equal(3)
        )


@pytest.mark.parametrize("objective", ["label_scores", "generation"])
def test_recomputed_blocks_give_the_same_gradients(backbone64, splits, objective):
    """Equal to 1e-12, from another number of calls: every encoder or decoder block is run twice."""
    batch = next(batches(backbone64.encode(splits.train), 8, seed=0))
    prompt = xp.SoftPrompt.init(backbone64, 5, pieces=4).to(torch.float64)
    verbalizer = backbone64.verbalizer(splits.task)
    calls, gradients = [], []
    stack = backbone64.model.get_encoder().block if backbone64.kind == "seq2seq" else backbone64.model.model.layers
    norm = stack[0].layer[0].layer_norm if backbone64.kind == "seq2seq" else stack[0].input_layernorm
    norm.register_forward_hook(lambda *_: calls.append(1))
    for active in (False, True):
        calls.clear()
        with recomputing(backbone64.model, active):
            rows = prompt().expand(len(batch), -1, -1)  # each row its own prompt: one call a block, whole sequences
            loss = backbone64.loss(rows, batch, verbalizer, objective=objective).mean()
        gradients.append(torch.autograd.grad(loss, prompt.embeddings)[0])
        assert len(calls) == (2 if active else 1)
    assert torch.allclose(*gradients, rtol=0, atol=1e-12) and gradients[0].abs().max() > 1e-6
    assert not any(m.training for m in backbone64.model.modules())
    assert not any(getattr(m, "gradient_checkpointing", False) for m in backbone64.model.modules())


def test_recomputed_blocks_keep_less(kind, splits):
    """Bytes that autograd holds between the forward and the backward pass, at 2 layers."""
    backbone = tiny_model(kind)
    batch = next(batches(backbone.encode(splits.train), 8, seed=0))
    verbalizer = backbone.verbalizer(splits.task)
    rows = xp.SoftPrompt.init(backbone, 5, pieces=4)
    sizes = []
    for active in (False, True):
        kept = {}
        with (
            torch.autograd.graph.saved_tensors_hooks(
                lambda t, kept=kept: (kept.setdefault(t.untyped_storage().data_ptr(), t), t)[1], lambda t: t
            ),
            recomputing(backbone.model, active),
        ):
            loss = backbone.loss(rows(), batch, verbalizer).sum()
        sizes.append(sum(t.untyped_storage().nbytes() for t in kept.values()))
        loss.backward()
    assert sizes[1] < 0.6 * sizes[0], sizes


def test_recomputing_changes_no_tuned_number_and_no_name(kind, splits):
    backbone = tiny_model(kind, torch.float64)
    prompt = xp.SoftPrompt.init(backbone, 5, pieces=4).to(torch.float64)
    results = [xp.tune(backbone, prompt, splits, QUICK.replace(gradient_checkpointing=g)) for g in (False, True)]
    assert torch.allclose(results[0].prompt.embeddings, results[1].prompt.embeddings, rtol=0, atol=1e-12)
    tuned = [
        fine_tune(backbone, splits, QUICK.replace(gradient_checkpointing=g, steps=2)).backbone for g in (False, True)
    ]
    for a, b in zip(tuned[0].model.parameters(), tuned[1].model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)
    for method in xp.METHODS:
        one = xp.RunConfig(task="rte", method=method, source_tasks=sources_for(method))
        on = {name: getattr(one, name).replace(gradient_checkpointing=True) for name in ("tune", "fine_tune")}
        prune = one.prune.replace(retune=one.prune.retune.replace(gradient_checkpointing=True))
        assert one.replace(prune=prune, **on).identity() == one.identity()


def test_a_model_without_blocks_is_refused():
    with pytest.raises(xp.BackboneError, match="gradient_checkpointing=False"), recomputing(nn.Linear(2, 2), True):
        pass


def test_a_spread_backbone_tunes_the_same(place, tmp_path, config, monkeypatch):  # noqa: F811
    """On one CPU all places are one; tested are accelerate's hooks, the other way through T5, and the record."""
    accelerate = pytest.importorskip("accelerate")
    one = xp.load_backbone(str(place / "model"))
    placed = xp.load_backbone(str(place / "model"), device_map={"": "cpu"})
    accelerate.dispatch_model(placed.model, {"": "cpu"}, force_hooks=True)  # as for several devices
    assert one.fingerprint == placed.fingerprint and one._fast_path.applies and not placed._fast_path.applies
    splits = Splits(get_task("rte"), tiny_data(16, "train"), tiny_data(16, "validation"), "test")
    prompt = xp.SoftPrompt.init(one, 5, pieces=4)
    a, b = (xp.tune(backbone, prompt, splits, QUICK).prompt.embeddings for backbone in (one, placed))
    assert torch.allclose(a, b, atol=1e-5) and not torch.equal(a, prompt.embeddings)
    name = xp.run(config.replace(method="zero_shot"), tmp_path / "a").record["run"]
    monkeypatch.setattr(pipeline, "_backbone", lambda *_: placed)
    record = xp.run(config.replace(method="zero_shot"), tmp_path / "b", device_map="auto").record
    assert record["provenance"]["device_map"] == {"": "cpu"} and record["run"] == name
    with pytest.raises(xp.BackboneError, match="leave out device"):
        xp.load_backbone(str(place / "model"), device="cpu", device_map="auto")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with join_processes() as us:
        found = work(folder / "shared") | {"processes": us.world_size}
        torch.save(found, folder / f"{us.rank}.pt")
        xp.run(xp.RunConfig(**json.loads((folder / "config.json").read_text())), folder / "two")
