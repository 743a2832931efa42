"""A plan: known parameter counts, operations and memory against the real code, and what is said of too little."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

import xprompt as xp
from tests.conftest import tiny_model
from xprompt.backbones.shapes import build_on_meta, count_parameters, known_config
from xprompt.backbones.t5_fast_path import FrozenT5
from xprompt.planning import forecast as planning
from xprompt.planning.footprint import measure
from xprompt.planning.forecast import advise, forecast
from xprompt.planning.machine import Machine, backbone_rate, matrix_rate
from xprompt.planning.report import describe
from xprompt.planning.workload import Sizes, plan_run
from xprompt.runs.grid import grid
from xprompt.tasks.registry import get_task
from xprompt.training.memory import predict_bytes
from xprompt.units import readable_duration

GB = 2**30
SIZES = {"small": 76961152, "base": 247577856, "large": 783150080, "xl": 2849757184, "xxl": 11135332352}


def machine(free: float = 1000, rate: float = 1e12, kind: str = "cpu", dtype: torch.dtype = torch.float32) -> Machine:
    return Machine(torch.device(kind), dtype, "a machine", int(free * GB), int(free * GB), rate)


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch):
    """A plan must never open the hub's data, nor load a backbone that is not on this machine."""
    load = planning.load_backbone

    def local_only(name, **options):
        assert planning.is_here(name), f"{name} was loaded"
        return load(name, **options)

    monkeypatch.setattr(planning, "load_backbone", local_only)
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: pytest.fail("data were fetched"))


@pytest.mark.parametrize("size", SIZES)
def test_parameters_are_the_published_ones(size):
    config = known_config(f"google/t5-{size}-lm-adapt")
    assert measure(config).parameters == count_parameters(config) == SIZES[size]


def test_only_known_names_have_a_known_architecture():
    assert {xp.PROFILES[f"t5-{size}"].backbone for size in SIZES} == {f"google/t5-{s}-lm-adapt" for s in SIZES}
    assert [known_config(name) for name in ("google/t5-huge-lm-adapt", "xl", "google/t5-xl", "nano")] == [None] * 4


@pytest.mark.parametrize("kind", ["seq2seq", "decoder"])
def test_parameters_of_a_model_in_memory(kind):
    model = tiny_model(kind)
    assert measure(model.model.config).parameters == model.num_params


def test_a_head_of_its_own_counts_and_a_shared_one_does_not():
    tied, own = (
        T5Config(vocab_size=100, d_model=8, d_kv=4, d_ff=16, num_heads=2, num_layers=1, tie_word_embeddings=tie)
        for tie in (True, False)
    )
    assert count_parameters(own) - count_parameters(tied) == 800


@pytest.mark.parametrize("work, per_weight, per_attention", [("evaluate", 2, 1), ("tune", 4, 3), ("fine_tune", 6, 3)])
@pytest.mark.parametrize("decoder_layers", [6, 4])
def test_operations_are_those_worked_out_by_hand(work, per_weight, per_attention, decoder_layers):
    """Two a weight and token forward, two for the input's gradient, two for the weight's; attention by two factors."""
    layers, width, inner, hidden, length = 6, 128, 64, 256, 50
    config = T5Config(vocab_size=64, d_model=width, d_kv=16, d_ff=hidden, num_heads=4, num_layers=layers,
                      num_decoder_layers=decoder_layers, feed_forward_proj="gated-gelu")  # fmt: skip
    attention, feed_forward = 4 * width * inner, 3 * width * hidden
    weights = layers * (attention + feed_forward) * length + decoder_layers * (2 * attention + feed_forward)
    if work == "fine_tune":  # the keys and values of cross-attention, for each source token
        weights += decoder_layers * 2 * width * inner * length
    by_hand = per_weight * weights + per_attention * 4 * length**2 * inner * layers
    footprint = measure(config)
    assert footprint.operations(1, length, work) == pytest.approx(by_hand, rel=0.01)
    assert footprint.operations(3, length, work) == 3 * footprint.operations(1, length, work)
    if work != "evaluate":
        again = footprint.operations(1, length, work, recompute=True) - footprint.operations(1, length, work)
        assert again == pytest.approx(2 * weights + 4 * length**2 * inner * layers, rel=0.01)


def test_operations_of_a_decoder_only_model_are_those_worked_out_by_hand():
    config = LlamaConfig(vocab_size=64, hidden_size=128, intermediate_size=384, num_hidden_layers=5,
                         num_attention_heads=8, num_key_value_heads=4)  # fmt: skip
    weights, attention = 5 * (3 * 128 * 128 + 3 * 128 * 384) * 50, 5 * 4 * 50**2 * 128
    assert measure(config).operations(1, 50, "tune") == 4 * weights + 3 * attention


def test_operations_are_linear_in_the_layers():
    few, many = (
        T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_heads=4, num_layers=layers) for layers in (3, 6)
    )
    whole = measure(few)  # of layers 3 and 3: counted on 1 and 2
    counted = dataclasses.replace(measure(many), one=build_on_meta(_started(few)).eval(), repeats=1)  # on all 3
    assert whole.operations(1, 20, "tune") == counted.operations(1, 20, "tune")


def _started(config: T5Config) -> T5Config:
    config.decoder_start_token_id = 0
    return config


def kept(model: torch.nn.Module, forward) -> int:
    """Bytes that autograd holds after a forward, weights apart."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(size for place, size in found.items() if place not in own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("learns", [False, True], ids=["frozen", "learning"])
@pytest.mark.parametrize("width, heads, inner", [(128, 4, 256), (64, 8, 384)])
def test_activations_are_what_the_encoder_really_keeps(dtype, learns, width, heads, inner):
    config = T5Config(vocab_size=64, d_model=width, d_kv=16, d_ff=inner, num_heads=heads, num_layers=4,
                      num_decoder_layers=1, feed_forward_proj="gated-gelu")  # fmt: skip
    model = T5ForConditionalGeneration(config).to(dtype).eval().requires_grad_(learns)
    states = torch.randn(4, 48, width, dtype=dtype, requires_grad=True)
    mask = torch.ones(4, 48, dtype=torch.long)
    mask[0, -5:] = 0
    encoder = model.get_encoder()
    real = kept(model, lambda: encoder(inputs_embeds=states, attention_mask=mask) if learns
                else FrozenT5(model).encode(states, mask))  # fmt: skip
    assert measure(config).activations(4, 48, dtype, learns=learns) == pytest.approx(real, rel=0.25)


def test_activations_of_a_decoder_only_model():
    config = LlamaConfig(vocab_size=64, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
                         num_attention_heads=8, num_key_value_heads=8)  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval().requires_grad_(False)
    states = torch.randn(4, 48, 128, dtype=torch.bfloat16, requires_grad=True)
    real = kept(model, lambda: model.base_model(inputs_embeds=states, use_cache=False))
    assert measure(config).activations(4, 48, torch.bfloat16) == pytest.approx(real, rel=0.35)


def test_recomputing_keeps_less_and_longer_batches_keep_more():
    m = measure(known_config("google/t5-xl-lm-adapt"))
    full = m.activations(16, 120, torch.bfloat16)
    assert m.activations(16, 120, torch.bfloat16, recompute=True) < full / 5
    assert full < m.activations(16, 240, torch.bfloat16) < m.activations(32, 240, torch.bfloat16)
    assert m.one_layer(16, 120, torch.bfloat16) < full / 20


def test_a_plan_of_xl_on_rte():
    plan = forecast("t5-xl", "rte", 2, machine=machine(dtype=torch.bfloat16, kind="cuda"))
    by_method = {run.config.method: run for run in plan.runs}
    assert len(plan.runs) == 2 * len(by_method) == 10 and {run.config.seed for run in plan.runs} == {0, 1}
    assert {name: run.candidates for name, run in by_method.items()} == {
        "majority": 0, "fine_tuning": 1, "prompt_tuning": 1, "prompt_tuning_matched": 81, "xprompt": 81,
    }  # fmt: skip
    assert plan.sizes["rte"].train == 2490 and plan.sizes["rte"].validation == 277 and not plan.sizes["rte"].counted
    train = 2490 - 498
    assert by_method["prompt_tuning"].steps == 100 * -(-train // 16)
    # One candidate: its steps, an evaluation an epoch and one at the start on what is held out, and the report.
    length = plan.sizes["rte"].mean_tokens + 20
    tuning = plan.footprint.operations(12500 * 16, length, "tune")
    assert by_method["prompt_tuning"].operations == pytest.approx(
        tuning + plan.footprint.operations(101 * 498 + 277, length, "evaluate")
    )
    assert by_method["xprompt"].operations == pytest.approx(81 * by_method["prompt_tuning"].operations, rel=0.01)
    assert by_method["fine_tuning"].memory > 5 * by_method["majority"].memory / 2
    assert plan.rate == pytest.approx(2_849_757_184 / 13e9 * 1e12) and not plan.timed and not plan.too_large
    assert plan.seconds == pytest.approx(sum(run.operations for run in plan.runs) / plan.rate)


def test_another_backbone_is_planned_in_place_of_the_profiles():
    small, large = (forecast("nano", backbone=name, timed=False) for name in ("", "google/t5-small-lm-adapt"))
    assert small.footprint.parameters < 2e6 and large.footprint.parameters > 7e7
    assert "with google/t5-small-lm-adapt, protocol" in describe(large) and "with nano, protocol" in describe(small)


def test_a_run_is_planned_once_with_the_runs_it_builds_on():
    plan = forecast("t5-small", "rte", 1, methods=["xprompt", "prompt_tuning_length"], machine=machine())
    assert [run.config.method for run in plan.runs] == ["prompt_tuning", "xprompt", "prompt_tuning_length"]
    every = grid("nano", ["rte", "cb"], ["xprompt", "prompt_tuning", "prompt_tuning_length"], 2)
    planned = planning._with_parents(every)
    assert len(planned) == 12 == len({run.model_dump_json() for run in planned})
    assert all(parent in planned[:i] for i, run in enumerate(planned) for parent in run.parents)


def test_an_adapter_is_not_planned_at_the_cost_of_fine_tuning():
    """LoRA's steps are prompt tuning's, on rows without a prompt; of the frozen weights nothing is trained or kept."""
    methods = ["fine_tuning", "lora", "prompt_tuning", "prefix_tuning", "p_tuning"]
    plan = forecast("t5-large", "rte", 1, methods=methods, machine=machine(dtype=torch.bfloat16, kind="cuda"))
    full, adapter, *tuned = (next(r for r in plan.runs if r.config.method == name) for name in methods)
    length, train, held = plan.sizes["rte"].mean_tokens, 2490 - 498, 498
    steps = adapter.steps
    assert steps == 5 * full.steps == 100 * -(-train // 16) and adapter.candidates == 1
    evaluated = (1 + 100) * held + 277
    trained = plan.footprint.operations(steps * 16, length, "tune")
    assert adapter.operations == pytest.approx(trained + plan.footprint.operations(evaluated, length, "evaluate"))
    assert adapter.operations < 0.75 * 5 * full.operations
    weights = plan.footprint.parameters * 2
    assert 1.1 * weights < adapter.memory < full.memory - 1.1 * 8 * weights, "four float32 copies less"
    assert len({(run.operations, run.memory) for run in tuned}) == 1


def test_masks_are_planned_as_an_evaluation_each_after_importance():
    plan = forecast("t5-small", "rte", 1, methods=["leave_one_out"], machine=machine())
    tuning, run = plan.runs
    assert (tuning.config.method, run.candidates) == ("prompt_tuning", 0)
    length, cost = plan.sizes["rte"].mean_tokens + 20, plan.footprint.operations
    evaluated = (20 + 20 * 16 + 1) * 277  # without each token, without each piece, whole
    assert run.operations == pytest.approx(cost(2490 - 498, length, "tune") + cost(evaluated, length, "evaluate"))
    assert run.memory == tuning.memory, "importance goes back through the backbone as a step does"
    tokens = run.config.replace(prune=run.config.prune.replace(level="token"))
    fewer = cost(evaluated, length, "evaluate") - cost((20 + 1) * 277, length, "evaluate")
    of_tokens = plan_run(tokens, plan.footprint, plan.sizes["rte"], torch.float32)
    assert run.operations - of_tokens.operations == pytest.approx(fewer)


def test_masking_is_planned_by_its_ratios_and_draws_on_both_splits():
    plan = forecast("t5-small", "rte", 1, methods=["masking"], machine=machine())
    run = plan.runs[-1]
    length, cost = plan.sizes["rte"].mean_tokens + 20, plan.footprint.operations
    evaluated = 9 * (20 + 2) * (498 + 277) + 277  # 20 random masks, the lowest, the highest, at each of nine ratios
    assert run.operations == pytest.approx(cost(2490 - 498, length, "tune") + cost(evaluated, length, "evaluate"))


def test_a_method_with_one_candidate_takes_no_room_for_more():
    configs = grid("t5-small", ["rte"], ["prompt_tuning", "xprompt"], 1)
    footprint, sizes = measure(known_config("google/t5-small-lm-adapt")), Sizes(2490, 277, 90, 256, True)
    tuned, pruned = (
        [plan_run(c.replace(prune=c.prune.replace(side_by_side=n)), footprint, sizes, torch.float32) for n in (1, 16)]
        for c in configs
    )
    assert tuned[0].memory == tuned[1].memory and pruned[1].memory > 4 * pruned[0].memory


def test_halving_costs_a_fraction_of_the_grid(monkeypatch):
    costs = []
    for search in ("grid", "halving", "race"):
        own = xp.PROFILES["t5-small"]
        monkeypatch.setitem(xp.PROFILES, "t5-small", own.replace(prune=own.prune.replace(search=search)))
        plan = forecast("t5-small", "rte", 1, methods=["xprompt"], machine=machine())
        costs.append(next(run.operations for run in plan.runs if run.config.method == "xprompt"))
    assert 0.05 < costs[1] / costs[0] < 0.15
    assert 0.01 < costs[2] / costs[0] < 0.03  # of 81 masks one is retrained to the end, and two to a ninth of it


def test_examples_are_counted_where_they_are(tmp_path):
    from tests.data.test_loading import rte, write

    write(tmp_path, "RTE/train.jsonl", [rte(i) for i in range(50)])
    write(tmp_path, "RTE/val.jsonl", [rte(i) for i in range(60, 80)])
    plan = forecast("t5-base", "rte", 1, str(tmp_path), machine=machine())
    sizes = plan.sizes["rte"]
    assert (sizes.train, sizes.validation, sizes.counted) == (50, 20, True) and sizes.mean_tokens < 20


def test_a_training_split_that_cannot_be_divided_is_refused_as_a_run_refuses_it(tmp_path):
    from tests.data.test_loading import rte, write

    for split in ("train", "val"):
        write(tmp_path, f"RTE/{split}.jsonl", [rte(1)])
    with pytest.raises(xp.DataError, match="Holding out from rte's training split: given 1 examples, 1 wanted"):
        forecast("t5-small", "rte", 1, str(tmp_path), machine=machine())


def test_long_sources_are_capped_at_the_profiles_limit():
    plan = forecast("t5-small", "boolq,multirc", 1, machine=machine())
    assert {sizes.longest_tokens for sizes in plan.sizes.values()} == {512}


def planned(method="prompt_tuning", tasks="rte", **changes):
    return forecast("t5-base", tasks, 1, methods=method.split(","), changes=changes, machine=machine())


def test_checkpointing_takes_less_memory_and_one_more_forward_pass():
    plain, again = planned().runs[0], planned(**{"tune.gradient_checkpointing": True}).runs[0]
    assert again.memory == plain.recomputed < plain.memory
    assert 1.3 * plain.operations < again.operations < 1.5 * plain.operations


def test_settings_are_planned_as_they_are_set():
    whole, less = planned(), planned(**{"tune.steps": 100, "dtype": "bfloat16", "protocol": "paper", "few_shot": 32})
    assert whole.changes == {} and "Settings" not in describe(whole)
    assert "Settings  tune.steps=100, dtype=bfloat16, protocol=paper, few_shot=32" in describe(less)
    (run,) = less.runs
    assert (run.steps, run.config.protocol, run.config.few_shot, run.config.dtype) == (100, "paper", 32, "bfloat16")
    assert run.operations < whole.runs[0].operations / 10


def test_transfer_is_planned_with_the_runs_of_its_source_task():
    plan = planned("xprompt_transfer", "cb", source_tasks=["rte"])
    assert [(run.config.task, run.config.method) for run in plan.runs] == [
        ("rte", "prompt_tuning"), ("rte", "xprompt"), ("cb", "task_transfer_pruned"), ("cb", "xprompt_transfer"),
    ]  # fmt: skip


def test_a_setting_that_none_of_the_runs_depends_on_is_refused():
    both = planned("fine_tuning,prompt_tuning", **{"fine_tune.steps": 7})
    assert [run.steps for run in both.runs if run.config.method == "fine_tuning"] == [7]
    with pytest.raises(xp.ConfigError, match="--set fine_tune.steps=7: prompt_tuning does not depend on fine_tune"):
        planned(**{"fine_tune.steps": 7})


def test_every_hub_task_has_a_declared_length():
    assert set(planning.CHARACTERS) == set(xp.PROFILES["t5-xl"].default_tasks)
    forecast("t5-small", "all", 1, machine=machine())


@pytest.mark.parametrize(
    "profile, free, words",
    [
        ("t5-xl", 20, ["gradient_checkpointing=True", "without fine_tuning"]),
        ("t5-xl", 40, ["without fine_tuning"]),
        ("t5-xl", 70, ["gradient_checkpointing=True"]),
        ("t5-small", 2, ["accumulation=batch_size"]),
        ("t5-xxl", 12, ["--profile t5-xl", "find a machine with"]),
    ],
)
def test_what_does_not_fit_is_said_with_the_least_that_makes_it_fit(profile, free, words):
    plan = forecast(profile, "rte", 1, machine=machine(free))
    assert plan.too_large
    text = describe(plan)
    assert "does NOT fit" in text and " !" in text
    assert all(word in " ".join(advise(plan)) for word in words), advise(plan)


def test_what_fits_needs_no_advice():
    plan = forecast("t5-xl", "rte", 1, machine=machine(1000))
    assert advise(plan) == [] and describe(plan).endswith("It fits this machine's memory.")


def test_the_text_states_its_assumptions():
    text = describe(forecast("t5-xl", "rte", 1, machine=machine()))
    for words in ("2,849,757,184 parameters", "published counts", "81", "12,500", "counted by torch", "0.8 of",
                  "characters / 4.2", "10.6 GiB to download", "Nothing is downloaded"):  # fmt: skip
        assert words in text, words


def test_faster_machines_are_planned_for_in_proportion():
    slow, fast = (forecast("t5-base", "cb", 1, machine=machine(rate=rate)).seconds for rate in (1e12, 4e12))
    assert slow == pytest.approx(4 * fast)


def test_a_small_model_waits_for_its_kernels_on_a_gpu():
    """The shares of the matrix rate that steps of T5's shapes reached on an H200, sources of 256 tokens."""
    for backbone, share in {"t5-large": 0.06, "t5-xl": 0.228, "t5-xxl": 0.497}.items():
        plan = forecast(backbone, "rte", 1, machine=machine(dtype=torch.bfloat16, kind="cuda"))
        assert plan.rate / plan.machine.rate == pytest.approx(share, rel=0.05)
    assert "0.5 of the matrix rate" in describe(plan)


def test_a_backbone_that_is_here_is_timed_itself():
    plan = forecast("tiny", "rte", 1, methods=["prompt_tuning"], machine=machine(rate=1e10))
    assert plan.timed and plan.local and plan.rate != machine(rate=1e10).rate * planning.ON_CPU
    assert "timed on a step of this backbone" in describe(plan)


def test_rates_are_positive_and_follow_the_work():
    assert matrix_rate(torch.device("cpu"), torch.float32, 0) > 1e6
    backbone = tiny_model("seq2seq")
    m = measure(backbone.model.config)
    assert backbone_rate(backbone, m, get_task("rte"), 8, 12, 4, most=1e12) > 1e5
    assert backbone_rate(backbone, m, get_task("rte"), 8, 12, 4, most=1) > 1e4  # one row is the least


def test_an_architecture_that_is_neither_known_nor_here_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    own = xp.PROFILES["t5-small"]
    monkeypatch.setitem(xp.PROFILES, "t5-small", own.replace(backbone="nobody/no-such-model"))
    monkeypatch.setattr("xprompt.backbones.hub.reachable", lambda: pytest.fail("the hub was asked"))
    words = "'nobody/no-such-model' could not be loaded: .*a plan asks nobody: download it first .*a local folder"
    with pytest.raises(xp.BackboneError, match=words):
        forecast("t5-small", "rte", 1, machine=machine())


def test_durations_read_well():
    assert [readable_duration(s) for s in (5, 600, 9000, 3.6e6)] == ["5 s", "10 min", "2.5 h", "1,000 h"]


def test_memory_of_a_run_grows_with_what_it_holds():
    plan = forecast("t5-base", "rte", 1, machine=machine())
    by = {run.config.method: run for run in plan.runs}
    assert by["majority"].memory < by["prompt_tuning"].memory < by["fine_tuning"].memory
    assert by["prompt_tuning"].recomputed < by["prompt_tuning"].memory
    smaller = dataclasses.replace(plan, machine=machine(by["prompt_tuning"].memory / GB))
    assert {run.config.method for run in smaller.too_large} == {"fine_tuning"}


def test_the_plan_agrees_with_what_training_predicts_for_itself():
    """`memory` counts on a real forward what the plan estimates from the configuration."""
    from xprompt.data.batching import Batch

    backbone = tiny_model("seq2seq")
    ids = torch.randint(3, 300, (8, 40))
    ids_mask = torch.ones_like(ids)
    ids_mask[0, -3:] = 0
    batch = Batch(ids, ids_mask, torch.zeros(8, dtype=torch.long), torch.arange(8))
    real = predict_bytes(backbone, 10, batch, backbone.verbalizer(get_task("rte")))
    assert measure(backbone.model.config).activations(8, 50, torch.float32) == pytest.approx(real, rel=0.35)
