"""Settings refuse what makes no sense, and take what is given as given."""

from __future__ import annotations

import pytest

import xprompt as xp


@pytest.mark.parametrize("name", ["length", "pieces", "max_source", "selection", "selection_limit"])
def test_zero_is_a_value_and_not_left_out(name):
    with pytest.raises(xp.ConfigError, match=rf"RunConfig: {name}: Input should be greater than .*given 0"):
        xp.RunConfig(task="rte", profile="tiny", **{name: 0})


@pytest.mark.parametrize("unset", [None, ""])
def test_what_is_left_out_is_the_profiles(unset):
    config = xp.RunConfig(task="rte", profile="tiny", length=unset, source=unset)
    assert config == xp.RunConfig(task="rte", profile="tiny") and config.length == xp.PROFILES["tiny"].length


@pytest.mark.parametrize("rate", [float("inf"), float("nan")])
def test_numbers_are_finite(rate):
    with pytest.raises(xp.ConfigError, match="learning_rate: Input should be a finite number"):
        xp.TuneSettings(steps=1, learning_rate=rate)
