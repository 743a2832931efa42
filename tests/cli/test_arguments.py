"""NAME=VALUE, the one way of writing it."""

from __future__ import annotations

import pytest

from xprompt.cli.arguments import parse_values, split_names
from xprompt.errors import ConfigError


@pytest.mark.parametrize(
    "text, value",
    [
        ("steps=4", 4),
        ("rate=1e-3", 1e-3),
        ("quick=true", True),
        ("epochs=null", None),
        ("dtype=bfloat16", "bfloat16"),
        ('tasks=["rte", "cb"]', ["rte", "cb"]),
        ("template=a=b", "a=b"),
        ("source=", ""),
        ("tune.batch_size=8", 8),
    ],
)
def test_a_value_is_json_or_a_plain_word(text, value):
    assert parse_values([text]) == {text.partition("=")[0]: value}


def test_the_last_of_a_name_wins():
    assert parse_values(["a=1", "b=x", "a=2"]) == {"a": 2, "b": "x"}


@pytest.mark.parametrize("text", ["steps", "=4", ""])
def test_what_is_no_pair_is_an_error_that_says_how(text):
    with pytest.raises(ConfigError, match=f"--set {text}: give NAME=VALUE"):
        parse_values([text])


def test_names_are_split_at_commas():
    assert split_names("rte, cb,,") == ["rte", "cb"] and split_names("") == []
