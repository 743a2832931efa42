"""Settings from anything at all."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

import xprompt as xp
from tests.fuzz import ANYTHING, FUZZ, NUMBERS, TEXT, attempt
from xprompt.config.pattern import fields_in
from xprompt.config.settings import Settings

CLASSES = {"TuneSettings": xp.TuneSettings, "PruneSettings": xp.PruneSettings, "RunConfig": xp.RunConfig}
NEEDED = {"TuneSettings": {"steps": 3}, "PruneSettings": {}, "RunConfig": {"task": "rte", "profile": "tiny"}}


def same(given: object, kept: object) -> bool:
    """Whether a setting says what was given; a truth value is no number, and a text is nothing but itself."""
    if isinstance(kept, Settings):
        return isinstance(given, (dict, Settings)) and all(same(dict(given)[k], getattr(kept, k)) for k in dict(given))
    if isinstance(kept, dict):
        return isinstance(given, dict) and given.keys() == kept.keys() and all(same(given[k], kept[k]) for k in kept)
    if isinstance(kept, tuple):
        return isinstance(given, (list, tuple)) and len(given) == len(kept) and all(map(same, given, kept))
    if isinstance(kept, bool) or isinstance(given, bool):
        return isinstance(kept, bool) and given in (
            kept,
            str(kept),
            str(kept).lower(),
            *"yn01tf",
            "on",
            "off",
            "yes",
            "no",
        )
    if isinstance(kept, (int, float)):
        return isinstance(given, (int, float)) and math.isfinite(kept) and given == kept
    return given == kept


@FUZZ
@given(
    st.sampled_from([(kind, name) for kind, cls in CLASSES.items() for name in cls.model_fields]), ANYTHING | NUMBERS
)
def test_a_setting_is_kept_as_given_or_refused(field, value):
    kind, name = field
    values = {**NEEDED[kind], name: value}
    if name == "epochs":
        values["steps"] = None
    result, error = attempt(CLASSES[kind], **values)
    if error is None and value is not None and value != "":
        assert same(value, getattr(result, name)), (field, value, getattr(result, name))
        text = json.dumps(result.model_dump(mode="json"), allow_nan=False)
        assert CLASSES[kind](**json.loads(text)) == result
    if error is not None and value is not None and value != "":
        assert name in str(error)
    if kind != "RunConfig" or name != "profile":  # the same by replace; another profile has other defaults
        again, refused = attempt(CLASSES[kind](**NEEDED[kind]).replace, **values)
        assert (refused is None) == (error is None) and again == result


@FUZZ
@given(
    st.dictionaries(TEXT | st.sampled_from(["task", "tune", "self", "cls", "profile", "values"]), ANYTHING, max_size=4)
)
def test_unknown_names_are_refused_and_all_is_named_at_once(values):
    _, error = attempt(xp.RunConfig, **values)
    assert error is not None or "task" in values


@FUZZ
@given(TEXT, st.lists(TEXT, max_size=3))
def test_a_pattern_renders_or_is_refused(template, words):
    result, error = attempt(xp.Pattern, template=template, label_words=words)
    if error is None:
        assert result.template == template and list(result.label_words) == words
        values = {field: "{x}" for field in fields_in(template)}
        assert template.format_map(values).count("{x}") >= len(fields_in(template))
