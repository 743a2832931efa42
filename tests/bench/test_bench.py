"""The bench: its statistics by hand, that both sides compute the same thing, its files, and a quick run."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import T5Config

import xprompt as xp
from tests.conftest import tiny_data, tiny_model
from xprompt.__main__ import main
from xprompt.bench import bfloat16_cpu, harness, matrix_rate, measuring, memory, side_by_side, t5_scale
from xprompt.bench.importance_cost import one_at_a_time, plain_pass
from xprompt.bench.measuring import read_or_measure
from xprompt.bench.peft_side import PeftPrompt
from xprompt.bench.rows import COLUMNS, NOT_MEASURED, Findings, Row, throughput
from xprompt.bench.rows import memory as memory_row
from xprompt.bench.side_by_side import same_checkpoint
from xprompt.bench.sizes import comparisons_of, size_of
from xprompt.bench.tuning_steps import TuningSteps
from xprompt.bench.writer import add_rows, read_rows, write
from xprompt.data.batching import batches
from xprompt.data.splits import Splits
from xprompt.errors import ConfigError, StoreError
from xprompt.planning.footprint import measure
from xprompt.reporting import bench_figures
from xprompt.tasks.registry import get_task
from xprompt.training.candidate import Candidate

CPU = torch.device("cpu")
TINY = T5Config(vocab_size=128, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
                feed_forward_proj="gated-gelu", tie_word_embeddings=False)  # fmt: skip


@pytest.fixture
def own_splits():
    return Splits(get_task("rte"), tiny_data(24, "train"), tiny_data(16, "validation"), "test", tiny_data(8, "held"))


class TestHarness:
    def test_the_ratio_is_the_median_of_paired_ratios(self):
        # 2/1, 9/3, 8/2 → 2, 3, 4; the ratio of medians would be 8/2 = 4.
        found = harness.paired_ratio([2.0, 9.0, 8.0], [1.0, 3.0, 2.0])
        assert found.value == 3.0
        # Of 27 equally likely resamples of three, 7 have the median 2: the 2.5 % quantile is 2, the 97.5 % one 4.
        assert (found.low, found.high) == (2.0, 4.0)

    def test_equal_ratios_have_an_interval_of_no_width_and_one_round_has_none(self):
        assert harness.paired_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == (2.0, 2.0, 2.0)
        alone = harness.paired_ratio([3.0], [2.0])
        assert alone.value == 1.5 and math.isnan(alone.low) and math.isnan(alone.high)

    def test_a_drift_that_hits_both_sides_does_not_move_the_ratio(self):
        drift = np.linspace(1, 5, 9)
        assert harness.paired_ratio(list(6 * drift), list(3 * drift)) == pytest.approx((2.0, 2.0, 2.0))

    def test_sides_take_turns_and_warm_ups_are_not_timed(self):
        order: list[str] = []
        sides = {name: (lambda name=name: order.append(name)) for name in "AB"}
        seconds = harness.interleave(sides, 3, warmups=1)
        assert "".join(order) == "BA" + "AB" + "BA" + "AB"
        assert {name: len(taken) for name, taken in seconds.items()} == {"A": 3, "B": 3}

    @pytest.mark.parametrize("better, worse", [([1.0], [1.0, 2.0]), ([], [])])
    def test_rounds_that_cannot_be_paired_are_an_error(self, better, worse):
        with pytest.raises(ConfigError, match="paired"):
            harness.paired_ratio(better, worse)

    def test_throughput_is_work_by_seconds_and_above_1_where_ours_is_faster(self):
        seconds = {"old": [2.0, 4.0, 2.0], "new": [1.0, 2.0, 1.0]}
        row = throughput("x", "b", "h", seconds, {"old": 10.0, "new": 20.0}, baseline="old", ours="new")
        assert (row.baseline, row.ours, row.ratio, row.ratio_low, row.ratio_high) == (5.0, 20.0, 4.0, 4.0, 4.0)

    def test_half_the_memory_is_a_ratio_of_2(self):
        row = memory_row("x", "b", "h", 4 * 2**20, 2 * 2**20)
        assert (row.baseline, row.ours, row.unit, row.ratio, row.ratio_low) == (4.0, 2.0, "MiB", 2.0, None)


def filled(backbone, megabytes):
    """A job: touch that many MiB."""
    return lambda: torch.ones(megabytes * 2**18).sum()


@pytest.mark.parametrize("watched", [False, True])
def test_the_peak_of_memory_is_what_a_job_touches(monkeypatch, tmp_path, watched):
    if watched:  # a system without a peak that can be set back
        monkeypatch.setattr(memory, "_CLEAR", tmp_path)
    peak = memory.peak_of("tests.bench.test_bench:filled", tiny_model("decoder"), {"megabytes": 128}, fresh=False)
    assert 100 * 2**20 < peak < 200 * 2**20


class TestSameSums:
    def test_pefts_loss_over_the_label_string_is_our_generation_objective(self, backbone, own_splits):
        prompt = xp.SoftPrompt.init(backbone, 5, pieces=4, seed=1)
        other = PeftPrompt(backbone, prompt, own_splits)
        encoded, verbalizer = backbone.encode(own_splits.train), backbone.verbalizer(own_splits.task)
        for batch in batches(encoded, 8, seed=0):
            theirs = other.loss(encoded, batch.index.tolist(), "generation")
            ours = backbone.loss(prompt(), batch, verbalizer, objective="generation")
            tokens = sum(len(verbalizer.sequences[i]) + 1 for i in batch.labels.tolist())
            assert abs(theirs.item() - ours.sum().item() / tokens) <= 1e-5

    def test_pefts_loss_among_label_words_and_its_gradient_are_ours(self, backbone, own_splits):
        prompt = xp.SoftPrompt.init(backbone, 5, pieces=4, seed=1)
        other = PeftPrompt(backbone, prompt, own_splits)
        encoded, verbalizer = backbone.encode(own_splits.train), backbone.verbalizer(own_splits.task)
        batch = next(batches(encoded, 8, seed=0))
        theirs = other.loss(encoded, batch.index.tolist(), "label_scores")
        ours = backbone.loss(prompt().expand(8, -1, -1), batch, verbalizer).mean()
        assert abs(theirs.item() - ours.item()) <= 1e-5
        theirs.backward()
        ours.backward()
        assert torch.allclose(other.weight.grad, prompt.embeddings.grad, atol=1e-5, rtol=1e-3)

    @pytest.mark.parametrize("objective", ["label_scores", "generation"])
    @pytest.mark.parametrize(
        "more",
        [{}, {"schedule": "linear", "max_grad_norm": 0.01}, {"optimizer": "adafactor", "schedule": "linear"}],
        ids=["plain", "clipped", "adafactor"],
    )
    def test_on_our_batches_peft_ends_with_our_prompt(self, backbone, own_splits, objective, more):
        if objective == "generation" and len({len(s) for s in backbone.verbalizer(own_splits.task).sequences}) > 1:
            pytest.skip("label strings of unlike length: PEFT's mean over tokens weighs examples differently")
        prompt = xp.SoftPrompt.init(backbone, 5, pieces=4, seed=1)
        plain = {"optimizer": "adamw", "learning_rate": 0.01, "steps": 3, "batch_size": 8, "eval_every": 3}
        settings = xp.TuneSettings(**{**plain, **more}, objective=objective)
        theirs = PeftPrompt(backbone, prompt, own_splits).tune(settings, bucketed=True)
        ours = TuningSteps.over(backbone, prompt, own_splits, settings)()
        assert torch.allclose(theirs, ours.embeddings, atol=2e-4)
        assert not torch.allclose(theirs, prompt.embeddings, atol=1e-3)

    def test_both_sides_predict_the_same_in_any_batches(self, backbone, own_splits):
        prompt = xp.SoftPrompt.init(backbone, 5, pieces=4, seed=1)
        other, held = PeftPrompt(backbone, prompt, own_splits), backbone.encode(own_splits.validation)
        expected = xp.predict(backbone, prompt, own_splits.validation)
        assert other.predict(held, 4) == other.predict(held, 5, bucketed=True) == expected

    def test_every_tune_of_peft_starts_afresh_and_random_batches_hold_every_example(self, backbone, own_splits):
        prompt = xp.SoftPrompt.init(backbone, 5, pieces=4, seed=1)
        other, settings = PeftPrompt(backbone, prompt, own_splits), xp.TuneSettings(steps=2, batch_size=8)
        first = other.tune(settings).clone()
        assert torch.equal(other.tune(settings), first)
        order = other.orders(backbone.encode(own_splits.train), 8, 0, False)
        assert sorted(i for _ in range(3) for i in next(order)) == list(range(24))

    def test_importance_is_the_naive_loops_and_the_plain_pass_is_its_signed_sum(self, backbone):
        prompt = xp.SoftPrompt.init(backbone, 5, pieces=4, seed=1)
        data = tiny_data(12, "train")
        ours, naive = xp.importance(backbone, prompt, data, batch_size=5), one_at_a_time(backbone, prompt, data)
        assert torch.allclose(ours.token, naive.token, rtol=1e-4, atol=1e-6)
        assert torch.allclose(ours.piece, naive.piece, rtol=1e-4, atol=1e-6)
        gradient = plain_pass(backbone, prompt, data, batch_size=5)
        signed = (gradient * prompt().detach()).sum(dim=1) / len(data)
        assert torch.allclose(signed, ours.signed.sum(dim=1), rtol=1e-4, atol=1e-6)

    def test_a_moved_prompt_is_another_checkpoint(self, backbone, own_splits):
        prompt, settings = xp.SoftPrompt.init(backbone, 5, pieces=4), xp.TuneSettings(steps=2, batch_size=8)
        one = xp.tune(backbone, prompt, own_splits, settings)
        assert same_checkpoint(one, one)
        moved = one._replace(prompt=one.prompt.clone())
        with torch.no_grad():
            moved.prompt.embeddings.add_(1.0)
        assert not same_checkpoint(one, moved)

    def test_a_searchs_candidates_select_the_same_checkpoint_side_by_side_and_alone_in_float32(self):
        backbone = xp.load_backbone("nano", device="cpu", max_source=128)
        size = replace(size_of("nano"), accuracy_steps=100, candidate_steps=4)
        sides = side_by_side.work(
            backbone, size, side_by_side.candidates(*side_by_side.tuned(backbone, size), 4), eval_every=2
        )
        pairs = zip(sides["side by side"](), sides["one by one"](), strict=True)
        assert all(same_checkpoint(one, other) for one, other in pairs)


class TestMatrixRate:
    def test_products_are_recorded_as_they_lie_forward_and_backward(self):
        left, right = torch.ones(3, 4), torch.ones(5, 4).requires_grad_()
        products = matrix_rate.record(lambda: (left @ right.t()).sum().backward())
        # Forward (3, 4) @ (4, 5); backward the gradient of `right` alone, from the ones (3, 5) of the sum.
        shapes = [(one.shape, other.shape) for one, other in products]
        assert shapes[0] == ((3, 4), (4, 5)) and products[0][1].stride == (1, 4)
        assert len(shapes) == 2 and {shapes[1]} <= {((5, 3), (3, 4)), ((4, 3), (3, 5))}
        assert matrix_rate.operations(products) == 2 * (2 * 3 * 4 * 5)

    @pytest.mark.parametrize("kernel", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
    def test_fused_attention_counts_as_the_products_of_the_plain_one(self, kernel):
        # Batch 2, 3 heads, 5 queries, 7 keys, width 8: two products forward and four backward of 2·2·3·5·7·8 each.
        query, key, value = (torch.randn(2, 3, length, 8, requires_grad=True) for length in (5, 7, 7))

        def attend():
            with sdpa_kernel(kernel):
                F.scaled_dot_product_attention(query, key, value).sum().backward()

        products = matrix_rate.record(attend)
        assert matrix_rate.operations(products) == 6 * (2 * 2 * 3 * 5 * 7 * 8)
        assert all(one.shape[-1] == other.shape[-2] for one, other in products)

    def test_the_operations_of_recorded_steps_are_those_that_torch_counts(self, backbone, own_splits):
        settings = xp.TuneSettings(steps=2, batch_size=12)
        steps = TuningSteps.over(backbone, xp.SoftPrompt.init(backbone, 5, pieces=4), own_splits, settings)
        with sdpa_kernel(SDPBackend.MATH):
            with FlopCounterMode(display=False) as counter:
                steps()
            plain = matrix_rate.operations(matrix_rate.record(steps))
        assert plain == counter.get_total_flops()
        # A fused kernel computes gradients of the first layer's queries, which nothing needs.
        assert plain <= matrix_rate.operations(matrix_rate.record(steps)) < 1.05 * plain

    def test_the_replay_does_the_recorded_products_and_nothing_else(self):
        def work():
            torch.ones(3, 4).expand(2, 3, 4) @ torch.ones(2, 5, 4).transpose(1, 2)

        products = matrix_rate.record(work)
        assert matrix_rate.record(matrix_rate.replay(products)) == products

    def test_the_share_is_of_the_same_operations(self):
        found = matrix_rate.measure(
            xp.load_backbone("nano", device="cpu", max_source=128), size_of("nano", True), "cpu"
        )
        (row,), (fact,) = found.rows, found.facts
        assert row.unit == "GFLOP/s" and 0 < row.ratio == fact["share"] and len(found.raw) == 4
        assert fact["operations_a_step"] > 1e6


class TestBfloat16:
    def test_prompt_gradient_and_optimiser_stay_float32(self, own_splits):
        backbone = tiny_model("decoder")
        backbone.model.to(torch.bfloat16)
        prompt = xp.SoftPrompt.init(backbone, 5, pieces=4).float()
        candidate = Candidate(
            prompt, list(prompt.parameters()), xp.TuneSettings(optimizer="adamw", steps=1), prompt.clone
        )
        candidate.start(8, "train", 0)
        batch = next(batches(backbone.encode(own_splits.train), 8, seed=0))
        backbone.loss(prompt(), batch, backbone.verbalizer(own_splits.task)).mean().backward()
        assert prompt.embeddings.grad.dtype == torch.float32
        candidate.step(torch.zeros(()))
        assert prompt.embeddings.dtype == torch.float32
        state = candidate.optimizer.state[prompt.embeddings]
        assert {value.dtype for value in state.values() if isinstance(value, torch.Tensor)} == {torch.float32}

    def test_a_cpu_without_bfloat16_products_is_not_measured(self, monkeypatch):
        monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
        found = bfloat16_cpu.measure(tiny_model("decoder"), size_of("smollm2", True), "cpu")
        assert found.rows == [Row("bfloat16_cpu_p20", found.rows[0].backbone, NOT_MEASURED)]
        assert "amx_bf16" in found.notes[0]["reason"]

    def test_both_dtypes_tune_to_much_the_same_prompt(self, monkeypatch):
        monkeypatch.setattr(bfloat16_cpu, "multiplies_bfloat16", lambda: True)
        size = size_of("nano", True)
        found = bfloat16_cpu.measure(xp.load_backbone("nano", device="cpu", max_source=128), size, "cpu")
        assert found.rows[0].ratio > 0 and 0.5 < found.facts[0]["cosine"] < 0.99999


def test_comparisons_are_listed_where_they_mean_something():
    chosen = ["matrix_rate", "bfloat16_cpu", "subnormals", "t5_scale"]
    assert comparisons_of("nano", "cpu", chosen) == ["matrix_rate", "subnormals"]
    assert comparisons_of("smollm2", "cpu", chosen) == ["matrix_rate", "bfloat16_cpu", "subnormals"]
    assert comparisons_of("smollm2", "cuda", chosen) == ["matrix_rate"]


class TestScale:
    def test_the_operations_of_a_step_are_those_that_torch_counts(self):
        backbone = t5_scale.build(TINY, CPU, torch.float32, "tiny")
        assert backbone.num_params == measure(TINY).parameters  # embeddings and a head of its own
        step = t5_scale.step(backbone, 128, batch=2)
        # The counter does not know the CPU's fused attention; the plain one does the same sums.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            step()
        assert counter.get_total_flops() == pytest.approx(measure(TINY).operations(2, 128 + 20, "tune"), rel=0.01)

    def test_a_rehearsal_on_the_cpu_fills_the_rows(self):
        found = t5_scale.measure(CPU, shapes={"tiny": TINY}, dtype=torch.float32, rounds=2, batch=2, retrain_share=0.1)
        assert [(row.name, row.backbone) for row in found.rows] == t5_scale.names({"tiny": TINY})
        assert all(row.ratio > 0 for row in found.rows)
        hours = found.rows[-1]
        assert hours.ratio == pytest.approx(82 / 9.1)

    def test_the_hours_of_the_grid_by_hand(self):
        # 100 examples · 10 epochs · (1 tuning + 4 retrainings) at 50 a second: 100 s.
        assert t5_scale.grid_hours(50, examples={"a": 60, "b": 40}, epochs=10, pairs=4) == pytest.approx(100 / 3600)
        half = t5_scale.grid_hours(50, examples={"a": 100}, epochs=10, pairs=4, retrain_share=0.5)
        assert half == pytest.approx(60 / 3600)


class TestFiles:
    def test_the_columns_are_those_agreed(self, tmp_path):
        add_rows(tmp_path / "bench.csv", [Row("search_cost", "nano", "cpu, 2 threads", 100.0, 10.0, "runs", 10.0)])
        head = (tmp_path / "bench.csv").read_text().splitlines()[0]
        assert head == "name,backbone,hardware,baseline,ours,unit,ratio,ratio_low,ratio_high" == ",".join(COLUMNS)

    def test_rows_are_replaced_or_kept_and_an_empty_one_gives_way(self, tmp_path):
        path = tmp_path / "bench.csv"
        add_rows(path, [Row("a", "nano", "cpu, 2 threads", 1.0, 2.0, "u", 2.0), Row("b", "nano", NOT_MEASURED)])
        add_rows(path, [Row("a", "nano", "cpu, 2 threads", 1.0, 3.0, "u", 3.0)])
        rows = read_rows(path)
        assert list(rows["name"]) == ["b", "a"] and rows["ratio"].tolist()[1] == 3.0
        add_rows(path, [Row("b", "nano", "card", 1.0, 4.0, "u", 4.0)])
        rows = read_rows(path)
        assert sorted(zip(rows["name"], rows["hardware"], strict=True)) == [("a", "cpu, 2 threads"), ("b", "card")]
        assert len(add_rows(path, [Row("b", "nano", NOT_MEASURED)])) == 2, "a card has measured it"
        add_rows(path, [Row("a", "nano", NOT_MEASURED)])
        assert len(add_rows(path, [Row("a", "nano", "cpu, 2 threads", 1.0, 5.0, "u", 5.0)])) == 3, (
            "cpu was there: not the open one"
        )

    def test_a_table_that_is_none_is_an_error(self, tmp_path):
        (tmp_path / "bench.csv").write_text("a,b\n1,2\n")
        with pytest.raises(StoreError, match="a, b"):
            read_rows(tmp_path / "bench.csv")
        (tmp_path / "bench.csv").write_text("")
        with pytest.raises(StoreError, match="is no table .*: delete it"):
            read_rows(tmp_path / "bench.csv")

    def test_raw_timings_facts_and_notes_lie_beside(self, tmp_path):
        found = Findings()
        found.timings("x", "nano", "cpu", {"ours": [1.0, 2.0]}, {"ours": 4.0}, "examples")
        found.facts.append({"name": "x", "backbone": "nano", "hardware": "cpu"})
        found.missing(["y"], "nano", "needs a GPU")
        write(tmp_path, found, {"torch": "1"})
        write(tmp_path, found, {"torch": "2"})
        raw = pd.read_csv(tmp_path / "raw.csv")
        assert raw["seconds"].tolist() == [1.0, 2.0]
        (fact,) = json.loads((tmp_path / "raw.json").read_text())
        assert fact["measured"] == {"torch": "2"}
        assert json.loads((tmp_path / "notes.json").read_text()) == [
            {"name": "y", "backbone": "nano", "reason": "needs a GPU"}
        ]
        assert "needs a GPU: y (nano)" in (tmp_path / "bench.md").read_text()


def test_a_backbone_that_is_not_there_leaves_empty_rows_and_a_note(tmp_path, monkeypatch):
    def absent(*_, **__):
        raise xp.BackboneError("smollm2 is not installed.")

    monkeypatch.setattr(measuring, "load_backbone", absent)
    rows = measuring.measure(tmp_path, only=["importance_cost"], backbones=["smollm2"], quick=True, device="cpu")
    assert list(rows["name"]) == ["importance_pass"] and rows["ratio"].isna().all()
    assert "smollm2 is not installed" in (tmp_path / "notes.json").read_text()


def test_unknown_choices_are_errors(tmp_path, capsys):
    assert main(["bench", "--only", "nothing", "--output", str(tmp_path)]) == 2
    assert "side_by_side" in capsys.readouterr().err and not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="gpt"):
        measuring.measure(tmp_path, backbones=["gpt"])


@pytest.mark.parametrize("quick", [True, False])
def test_quick_rows_and_others_are_not_mixed(tmp_path, monkeypatch, quick):
    found = Findings([Row("importance_pass", "nano", "cpu, 2 threads", 1.0, 2.0, "u", 2.0)])
    found.facts.append({"name": "importance", "backbone": "nano", "hardware": "cpu"})
    write(tmp_path, found, {"quick": not quick})
    monkeypatch.setattr(measuring, "load_backbone", lambda *_, **__: pytest.fail("it was measured"))
    with pytest.raises(ConfigError, match="rows at full length" if quick else "holds quick rows"):
        measuring.measure(tmp_path, only=["importance_cost"], backbones=["nano"], quick=quick, device="cpu")


def test_where_nothing_would_be_measured_that_is_said(tmp_path, capsys):
    assert main(["bench", "--only", "bfloat16_cpu", "--backbones", "nano", "--output", str(tmp_path / "new")]) == 2
    assert "nothing to measure: bfloat16_cpu is not made with nano" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_bench_that_is_not_there_is_named(tmp_path, monkeypatch, capsys):
    add_rows(tmp_path / "bench.csv", [Row("a", "nano", "cpu, 2 threads", 1.0, 2.0, "u", 2.0)])
    for folders, said in (([tmp_path], ""), (["no/such", tmp_path], f"no bench.csv in no/such: that of {tmp_path} is")):
        assert read_or_measure(folders, tmp_path / "new")[1] == tmp_path
        assert said in (out := capsys.readouterr().out) and bool(out) == bool(said)
    monkeypatch.setattr(measuring, "measure", lambda *_, **__: None)
    read_or_measure(["no/such"], tmp_path / "new")
    assert capsys.readouterr().out == "no bench.csv in no/such: measured now\n"


@pytest.mark.timeout(300)
def test_a_quick_run_on_nano_fills_every_row_and_is_drawn(tmp_path, monkeypatch):
    assert main(["bench", "--quick", "--backbones", "nano", "--device", "cpu", "--output", str(tmp_path)]) == 0
    rows, folder = read_or_measure([tmp_path / "none", tmp_path], tmp_path / "other")
    assert folder == tmp_path and not (tmp_path / "other").exists()
    measured = rows[rows["hardware"] != NOT_MEASURED]
    for name in ("side_by_side_c2", "peft_train_words", "peft_train_string", "peft_eval", "importance_pass",
                 "importance_naive", "dropped_p20_50", "subnormals", "matrix_rate"):  # fmt: skip
        (row,) = measured[measured["name"] == name].to_dict("records")
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"] and row["baseline"] > 0, name
    accuracy = measured[measured["unit"] == "points"]
    assert len(accuracy) == 2 and accuracy["ratio"].isna().all() and accuracy["ours"].between(0, 100).all()
    same = measured[measured["name"] == "side_by_side_c2_same_checkpoints"].iloc[0]
    assert same["baseline"] == same["ours"] == 2
    facts = {fact["name"]: fact for fact in json.loads((tmp_path / "raw.json").read_text())}
    assert facts["subnormals"]["largest_gap"] == 0
    assert facts["peft_eval"]["same_metrics"] and facts["importance"]["largest_gap"]["piece"] < 1e-3
    assert facts["peft_train"]["measured"]["quick"]
    if not torch.cuda.is_available():
        empty = rows[rows["hardware"] == NOT_MEASURED]
        assert {"t5_share_128", "paper_grid_hours", "peft_eval"} <= set(empty["name"])
        assert empty[["baseline", "ours", "ratio"]].isna().all().all()
        assert len(bench_figures.open_rows(rows)) == len(empty)
    for figure in (bench_figures.ratios(rows), bench_figures.memory(rows)):
        figure.savefig(tmp_path / "figure.png")
        assert (tmp_path / "figure.png").stat().st_size > 5000


def test_goals_are_read_off_the_whole_interval():
    row = Row("peft_eval", "nano", "a cpu, 2 threads", 1.0, 2.0, "examples/s", 1.6, 1.55, 1.7)
    rows = pd.DataFrame(
        [vars(r) for r in (row, replace(row, ratio_low=1.4), replace(row, ratio=1.2, ratio_low=1.1, ratio_high=1.3),
                           replace(row, hardware=NOT_MEASURED, ratio=None))]
    )  # fmt: skip
    verdicts = [sentence.rsplit(": ", 2)[1:] for sentence in bench_figures.statements(rows)]
    assert [v[-1] for v in verdicts] == ["reached.", "the interval contains it.", "missed."]
    assert bench_figures.text("dropped_p20_50_memory") == "evaluation, 50 % of 20 tokens dropped: peak memory"
    assert bench_figures.text("never_heard_of") == "never_heard_of"
    said = bench_figures.text("side_by_side_c8_one_pass_memory_predicted")
    assert bench_figures.text("side_by_side_c1") == "1 candidate in parallel"
    assert said == "8 candidates in parallel, in one pass: peak memory / its prediction"
    missed = Row("matrix_rate", "nano", "a cpu, 2 threads", 90.0, 50.0, "GFLOP/s", 0.556, 0.55, 0.59)
    share = pd.DataFrame([vars(missed)])
    assert bench_figures.bench_table(share)[["ratio", "goal"]].iloc[0].tolist() == ["56 % [55, 59]", "≥ 60 %"]
    open_ones = pd.concat([rows, pd.DataFrame([vars(replace(row, backbone="t5-xl", hardware=NOT_MEASURED))])])
    assert bench_figures.bench_table(open_ones)["hardware"].tolist()[3:] == ["a GPU: not measured", "not measured"]
    assert bench_figures.statements(share) == [
        "tuning step's share of the matrix rate (nano): 56 % [55, 59], goal ≥ 60 %: missed."
    ]
    with pytest.raises(ConfigError, match="measure first"):
        bench_figures.ratios(rows[rows["hardware"] == NOT_MEASURED])
