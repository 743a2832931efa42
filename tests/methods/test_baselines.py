"""What holds for every baseline that trains something of its own: it moves, the backbone does not, it resumes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import xprompt as xp
from tests.backbones.test_architectures import CONFIGS, make
from tests.conftest import tiny_model
from tests.training.test_resume import Stopping
from xprompt.config.methods import METHODS
from xprompt.methods.base import MethodContext, load_method
from xprompt.training.callbacks import Callbacks
from xprompt.training.evaluation import evaluate_many
from xprompt.training.loop import Loop

QUICK = xp.TuneSettings(learning_rate=0.02, steps=6, batch_size=8, eval_every=2, optimizer="adamw", weight_decay=0.0)
BASELINES = [name for name, method in METHODS.items() if method.takes_learning_rate and method.work != "fine_tuning"]


class SourceRun:
    """A finished run of a source task, with a prompt that lies near its start."""

    def __init__(self, task, backbone):
        self.record = {"task": task, "seconds": {"total": 1.5, "with_prompt_tuning": 1.5}}
        self._prompt = xp.SoftPrompt.init(backbone, 4, pieces=4)
        with torch.no_grad():
            self._prompt.embeddings.add_(torch.randn(4, 32, generator=torch.Generator().manual_seed(len(task))))

    def load_prompt(self, stage=""):
        return self._prompt


def context_of(name, backbone, splits, callbacks=None, **changes):
    if METHODS[name].num_sources:
        changes["source_tasks"] = ("cb", "wic")
    parents = [SourceRun(task, backbone) for task in changes.get("source_tasks", ())]
    config = xp.RunConfig(
        task="rte", profile="tiny", method=name, pieces=4, tune=QUICK, fine_tune=QUICK, learning_rates={},
        **{"length": 4} | changes,
    )  # fmt: skip
    return MethodContext(config, backbone, splits, parents, callbacks=callbacks or Callbacks())


def plain(result):
    return [{**entry, "seconds": None} for entry in result.history]


class Watching(xp.Callback):
    """Note which parameters steps have moved, before the best checkpoint takes their place."""

    def on_train_begin(self, stage, candidates):
        (candidate,) = candidates.values()
        self.parameters = candidate.parameters
        self.start = [parameter.detach().clone() for parameter in self.parameters]

    def on_step_end(self, stage, step):
        self.moved = [not torch.equal(a, b) for a, b in zip(self.parameters, self.start, strict=True)]


@pytest.mark.parametrize("name", BASELINES)
def test_it_learns_and_nothing_of_the_backbone_changes(name, kind, splits):
    backbone, watching = tiny_model(kind), Watching()
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in backbone.model.modules()]
    plain_scores = xp.evaluate(backbone, None, splits.validation)
    result = load_method(name)(context_of(name, backbone, splits, Callbacks([watching])))
    assert result.num_params == sum(parameter.numel() for parameter in watching.parameters) > 0
    losses = [entry["selection_loss"] for entry in result.history]
    assert len(set(losses)) == len(losses) == 4, "it moves at every step"
    assert watching.moved and all(watching.moved), "a gradient reaches every parameter"
    after = backbone.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert hooks == [len(module._forward_hooks) for module in backbone.model.modules()]
    assert xp.evaluate(backbone, None, splits.validation) == plain_scores


@pytest.mark.parametrize("name", BASELINES)
def test_it_resumes_to_the_same_numbers_and_its_seed_decides_them(name, splits, tmp_path):
    backbone = tiny_model("seq2seq")
    whole = load_method(name)(context_of(name, backbone, splits))
    with pytest.raises(KeyboardInterrupt):
        load_method(name)(context_of(name, backbone, splits, Callbacks([Stopping(3)], tmp_path, every=0.0)))
    assert list(tmp_path.glob("*/state.json"))
    resumed = Callbacks(folder=tmp_path, every=0.0)
    again = load_method(name)(context_of(name, backbone, splits, resumed))
    assert resumed.resumed_seconds > 0 and plain(again) == plain(whole)
    assert again.report == whole.report
    other = load_method(name)(context_of(name, backbone, splits, seed=1))
    assert other.history[0]["selection_loss"] != whole.history[0]["selection_loss"] or name == "lora"
    assert plain(other) != plain(whole)


@pytest.mark.parametrize("name", BASELINES)
def test_half_precision_generation_dropout_and_recomputed_activations_all_go_together(name, kind, splits):
    backbone = tiny_model(kind, torch.bfloat16, dropout=0.1)
    context = context_of(name, backbone, splits)
    tune = QUICK.replace(steps=2, dropout=True, gradient_checkpointing=True, objective="generation")
    result = load_method(name)(replace(context, config=context.config.replace(tune=tune, fine_tune=tune)))
    losses = [entry["selection_loss"] for entry in result.history]
    assert len(set(losses)) == 2 and {p.dtype for p in backbone.model.parameters()} == {torch.bfloat16}
    for prompt in result.prompts.values():
        assert prompt.embeddings.dtype == torch.float32, "as every soft prompt"


@pytest.mark.parametrize("name", BASELINES)
def test_its_learning_rate_is_its_own(name, splits):
    backbone = tiny_model("seq2seq")
    slow = context_of(name, backbone, splits)
    config = slow.config.replace(learning_rates={name: 0.1})
    group = "fine_tune" if "fine_tune" in METHODS[name].settings else "tune"
    same = slow.config.replace(**{group: QUICK.replace(learning_rate=0.1)})
    assert config.identity() == same.identity() != slow.config.identity()
    fast = load_method(name)(replace(slow, config=config))
    assert plain(fast) == plain(load_method(name)(replace(slow, config=same)))
    assert plain(fast) != plain(load_method(name)(slow))


def test_a_rate_changes_no_other_methods_identity_and_is_refused_where_it_would_not_be_read():
    for name in ("majority", "prompt_tuning", "xprompt", "fine_tuning", "xprompt_random"):
        config = xp.RunConfig(task="rte", method=name)
        assert config.replace(learning_rates={"lora": 0.1}).identity() == config.identity()
        assert "learning_rates" not in config.identity()
        with pytest.raises(xp.ConfigError, match=f"learning_rates names {name}, whose rate is that of tune"):
            config.replace(learning_rates={name: 0.1})
    with pytest.raises(xp.ConfigError, match="greater than 0"):
        config.replace(learning_rates={"lora": 0.0})
    with pytest.raises(xp.ConfigError, match="not a method"):
        config.replace(learning_rates={"lara": 0.1})


@pytest.mark.parametrize("name", ["fine_tuning", "lora", "zero_shot"])
def test_it_reports_by_the_objective_that_it_was_trained_by(name, splits):
    backbone = tiny_model("seq2seq")
    context = context_of(name, backbone, splits)
    written = QUICK.replace(objective="generation")
    config = context.config.replace(tune=written, fine_tune=written)
    result = load_method(name)(replace(context, config=config))
    if name == "zero_shot":
        (expected,) = evaluate_many(backbone, [None], splits.validation, objective="generation")
        assert result.report == expected
    else:
        best = next(entry for entry in result.history if entry["step"] == result.details["best_step"])
        assert result.report.loss == pytest.approx(best["selection_loss"], rel=1e-6)
        assert result.report.metrics == best["metrics"]


@pytest.mark.parametrize("name", [*BASELINES, "prompt_tuning", "fine_tuning"])
def test_torchs_own_random_numbers_go_on_as_if_nothing_had_been_trained(name, splits):
    backbone = tiny_model("seq2seq", dropout=0.1)
    context = context_of(name, backbone, splits)
    tune = QUICK.replace(steps=2, dropout=True)
    before = torch.get_rng_state()
    load_method(name)(replace(context, config=context.config.replace(tune=tune, fine_tune=tune)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "lora"])
def test_more_tokens_than_positions_are_refused_before_any_step(name, splits, monkeypatch):
    backbone = make(CONFIGS["opt"](), dtype=torch.float32)
    short = splits.validation.take(i for i, ids in enumerate(backbone.encode(splits.validation).ids) if len(ids) < 20)
    longest = max(map(len, backbone.encode(splits.train).ids))
    assert max(map(len, backbone.encode(short).ids)) < longest and backbone.max_positions == 64
    context = context_of(name, backbone, replace(splits, validation=short), length=65 - longest)
    monkeypatch.setattr(Loop, "run", None)
    for parent in context.parents:
        parent._prompt = xp.SoftPrompt.init(backbone, 65 - longest, pieces=4, seed=len(parent.record["task"]))
    with pytest.raises(xp.BackboneError, match=f"65 tokens were given .{65 - longest} of the prompt, {longest} of"):
        load_method(name)(context)
