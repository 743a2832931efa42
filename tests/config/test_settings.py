"""Settings refuse what makes no sense, and take what is given as given."""

from __future__ import annotations

import json

import numpy as np
import pytest

import xprompt as xp
from xprompt.errors import shown

RTE = {"task": "rte", "profile": "tiny"}
HUGE = 10**5000  # Python refuses to write it


@pytest.mark.parametrize("name", ["length", "pieces", "max_source", "selection", "selection_limit"])
def test_zero_is_a_value_and_not_left_out(name):
    with pytest.raises(xp.ConfigError, match=rf"RunConfig: {name}: Input should be greater than .*given 0"):
        xp.RunConfig(task="rte", profile="tiny", **{name: 0})


@pytest.mark.parametrize("value", [0, 0.0, False, [], {}])
@pytest.mark.parametrize(
    "name",
    [name for name in xp.RunConfig.model_fields if name not in ("seed", "source_tasks", "learning_rates", "rounding")],
)
def test_nothing_empty_but_none_and_the_empty_text_is_left_out(name, value):
    if (name, value) == ("prune", {}):  # every one of its settings has a default
        return
    with pytest.raises(xp.ConfigError, match=rf"RunConfig: .*{name}: "):
        xp.RunConfig(**{**RTE, name: value})


@pytest.mark.parametrize("unset", [None, ""])
def test_what_is_left_out_is_the_profiles(unset):
    config = xp.RunConfig(task="rte", profile="tiny", length=unset, source=unset, pattern=unset)
    assert config == xp.RunConfig(task="rte", profile="tiny") and config.length == xp.PROFILES["tiny"].length


def test_none_is_a_value_where_a_field_may_be_none():
    assert xp.RunConfig(task="rte", profile="tiny").limit_train == 192
    whole = xp.RunConfig(task="rte", profile="tiny", limit_train=None)
    assert whole.limit_train is None and whole.replace(seed=1).limit_train is None
    assert xp.RunConfig(task="cb", profile="smollm2", dtype=None).dtype is None


def test_a_profile_does_not_take_anothers_place():
    config = xp.RunConfig(task="cb")
    assert config.replace(profile="nano", seed=1) == config.replace(seed=1)
    with pytest.raises(xp.ConfigError, match=r"'smollm2' cannot take the place of nano.*RunConfig\(profile=...\)"):
        config.replace(profile="smollm2")


def test_a_rate_that_is_named_leaves_the_profiles_others():
    rates = xp.PROFILES["nano"].learning_rates
    config = xp.RunConfig(task="rte", method="lora", learning_rates={"p_tuning": 0.5})
    assert config.learning_rates == rates | {"p_tuning": 0.5} and config.training.learning_rate == rates["lora"]
    assert (
        xp.RunConfig(task="rte", method="lora", learning_rates={}).training.learning_rate == config.tune.learning_rate
    )


@pytest.mark.parametrize("profile", list(xp.PROFILES))
def test_no_reparameterised_baseline_has_the_rate_of_bare_prompt_vectors(profile):
    """At it Prefix-Tuning of nano stays at chance, and XPrompt would be compared with that."""
    tune = xp.PROFILES[profile].tune
    for method in ("p_tuning", "p_tuning_mlp", "prefix_tuning", "p_tuning_v2", "lora"):
        config = xp.RunConfig(task="rte", profile=profile, method=method)
        assert config.training.learning_rate < tune.learning_rate, method


def test_fine_tuning_is_by_the_objective_of_prompts():
    tune = xp.PROFILES["nano"].tune.replace(objective="generation")
    prune = xp.PROFILES["nano"].prune.replace(retune=tune)
    with pytest.raises(xp.ConfigError, match="fine_tuning is compared with prompts by one objective"):
        xp.RunConfig(task="rte", method="fine_tuning", tune=tune, prune=prune)
    assert xp.RunConfig(task="rte", method="xprompt", tune=tune, prune=prune).tune.objective == "generation"


@pytest.mark.parametrize("rate", [float("inf"), float("nan")])
def test_numbers_are_finite(rate):
    with pytest.raises(xp.ConfigError, match="learning_rate: Input should be a finite number"):
        xp.TuneSettings(steps=1, learning_rate=rate)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"length": 10**9}, "length: .*given 1000000000; needed at least 1 and at most 1,000,000"),
        ({"length": -5}, "length: .*given -5; needed at least 1 and at most 1,000,000"),
        ({"length": HUGE}, r"length: .*given a whole number of thousands of digits \(int\)"),
        ({"seed": -1}, "seed: .*given -1; needed at least 0"),
        ({"seed": 2**63}, "seed: .*needed at least 0 and at most 9,223,372,036,854,775,807"),
        ({"pieces": 10**7}, "pieces: .*at most 1,000,000"),
        ({"max_source": 2**70}, "max_source: .*at least 8 and at most 1,000,000"),
        ({"few_shot": 0}, "few_shot: .*greater than or equal to 1 .given 0"),
        ({"limit_train": -1}, "limit_train: .*given -1; needed at least 1"),
        ({"limit_validation": 0}, "limit_validation: .*given 0; needed at least 1"),
        ({"selection": HUGE}, "selection: .*thousands of digits.*needed more than 0 and less than 1"),
        (
            {"tune": {"steps": 2**70}},
            "tune: TuneSettings: steps: .*given 1180591620717411303424; .*at most 1,000,000,0",
        ),
        ({"tune": {"steps": -1}}, "steps: .*given -1; needed at least 0"),
        ({"tune": {"epochs": 1e300}}, "epochs: .*needed more than 0 and at most 1,000,000"),
        ({"tune": {"steps": 1, "learning_rate": 1e308}}, r"learning_rate: .*given 1e\+308; .*at most 3.4e\+38"),
        ({"tune": {"steps": 1, "max_grad_norm": 0}}, "max_grad_norm: .*given 0; needed more than 0"),
        ({"tune": {"steps": 1, "batch_size": 10**12}}, "batch_size: .*at most 1,000,000"),
        ({"prune": {"token_ratios": [0.1] * 1001}}, "token_ratios: Tuple should have at most 1000 items"),
        ({"prune": {"token_ratios": []}}, "token_ratios: Tuple should have at least 1 item"),
        ({"prune": {"piece_ratios": [0.5, float("nan")]}}, "piece_ratios.1: Input should be a finite number"),
        ({"learning_rates": {"lora": 1e39}}, "learning_rates.lora: .*less than or equal to 34000000"),
    ],
    ids=lambda value: shown(value, 40),
)
def test_a_number_that_no_machine_could_do_is_refused_with_its_range(values, words):
    with pytest.raises(xp.ConfigError, match=words):
        xp.RunConfig(**{**RTE, **values})
    with pytest.raises(xp.ConfigError, match=words):
        xp.RunConfig(**RTE).replace(**values)


@pytest.mark.parametrize("value", [True, np.True_, "20", "1_000", "official ", b"20", [20], {}, object(), 20.5])
@pytest.mark.parametrize("name", ["length", "seed", "few_shot", "limit_train", "selection_limit"])
def test_what_is_no_number_is_none(name, value):
    with pytest.raises(xp.ConfigError, match=rf"RunConfig: {name}: .*\(given "):
        xp.RunConfig(**{**RTE, name: value})


@pytest.mark.parametrize("value", [20, 20.0, np.int64(20), np.float32(20)])
def test_a_whole_number_of_whatever_type_is_that_number(value):
    config = xp.RunConfig(**RTE, length=value, seed=value)
    assert (config.length, config.seed) == (20, 20) and type(config.length) is int
    assert json.dumps(config.settings()) == json.dumps(xp.RunConfig(**RTE, length=20, seed=20).settings())


@pytest.mark.parametrize("ratios", ["0.1", ["0.1"], [False], [b"1"], [[0.1]], 0.1, None, {0.1: 0.2}, {0.1}])
def test_ratios_are_numbers(ratios):
    with pytest.raises(xp.ConfigError, match="token_ratios"):
        xp.PruneSettings(token_ratios=ratios)


def test_all_that_is_wrong_is_named_in_one_error():
    with pytest.raises(xp.ConfigError) as raised:
        xp.RunConfig(task={}, profile=[], tune=0, length="x", colour="red")
    assert all(f" {name}: " in str(raised.value) for name in ("task", "profile", "tune", "length", "colour"))


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("value", [{}, [], 5, HUGE, None, Unprintable(), {"a": {}}, b"rte", "a\0", "\ud83d"], ids=shown)
@pytest.mark.parametrize("name", ["task", "profile", "method", "protocol"])
def test_a_wrong_type_is_named_and_raises_nothing_else(name, value):
    with pytest.raises(xp.ConfigError, match=name):
        xp.RunConfig(**{**RTE, name: value})


def test_texts_that_no_file_can_hold_are_refused_wherever_they_stand():
    half = "\ud83d"
    for values in ({"source_tasks": [half]}, {"source": "a\0b"}, {"pattern": {"template": half, "label_words": ["a"]}}):
        with pytest.raises(xp.ConfigError, match="without NUL or half a surrogate pair"):
            xp.RunConfig(**{**RTE, **values})


def test_settings_cannot_be_assigned():
    config = xp.RunConfig(**RTE)
    with pytest.raises(xp.ConfigError, match=r"length cannot be assigned.*settings\.replace\(length=\.\.\.\)"):
        config.length = 3
    assert config.replace(length=3).length == 3


def test_ceilings_leave_room_for_what_is_tried_on_purpose():
    settings = xp.TuneSettings(steps=10**9, learning_rate=1e20, batch_size=10**6, eval_batch_size=10**9, patience=10**9)
    assert settings.num_steps(1) == 10**9
    assert xp.RunConfig(**RTE, seed=2**63 - 1, length=10**6).seed == 2**63 - 1


@pytest.mark.parametrize("value", [0, 1, "yes", "false", None, 1.0])
def test_a_switch_is_true_or_false(value):
    with pytest.raises(xp.ConfigError, match="dropout: Input should be true or false, not a text or a number"):
        xp.TuneSettings(steps=1, dropout=value)
    assert xp.TuneSettings(steps=1, dropout=True).dropout is True


def test_scaled_settings_change_the_length_and_how_often_they_evaluate_alone():
    by_steps = xp.TuneSettings(steps=1000, eval_every=250, schedule="linear")
    assert by_steps.scaled(0.25) == by_steps.replace(steps=250, eval_every=62)
    assert by_steps.replace(eval_every=1).scaled(0.5) == by_steps.replace(steps=500, eval_every=1)
    assert by_steps.replace(eval_every=None).scaled(3) == by_steps.replace(steps=3000, eval_every=None)
    assert xp.TuneSettings(epochs=20, patience=5).scaled(0.5) == xp.TuneSettings(epochs=10, patience=5)


def with_objectives(config, tune, retune):
    prune = config.prune.replace(retune=config.prune.retune.replace(objective=retune))
    return config.replace(tune=config.tune.replace(objective=tune), prune=prune)


def test_a_run_tunes_retrains_and_reports_by_one_objective():
    searching, tuning = (xp.RunConfig(**RTE, method=method) for method in ("xprompt", "prompt_tuning"))
    for pair in (("generation", "label_scores"), ("label_scores", "generation")):
        words = rf"tune\.objective='{pair[0]}', prune\.retune\.objective='{pair[1]}' were given; set both"
        with pytest.raises(xp.ConfigError, match=words):
            with_objectives(searching, *pair)
        assert with_objectives(tuning, *pair).training.objective == pair[0], "which does not retrain"
    both = with_objectives(searching, "generation", "generation")
    assert both.parents[0].tune.objective == both.prune.retune.objective == "generation"


def test_zero_shots_identity_holds_the_objective_that_it_is_reported_by():
    default = xp.RunConfig(**RTE, method="zero_shot")
    other = default.replace(tune=default.tune.replace(objective="generation"))
    assert "objective" not in default.identity(), "as before there was a choice"
    assert other.identity() == default.identity() | {"objective": "generation"}
    majority = [config.replace(method="majority").identity() for config in (default, other)]
    assert majority[0] == majority[1], "which needs none"
