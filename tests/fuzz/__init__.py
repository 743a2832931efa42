"""Fuzzing: whatever comes in, each surface gives a result or an `XPromptError`, soon, and changes nothing in silence.

The short form runs with all tests, the same examples each time. `nox -s stress` draws new ones, many more, and adds the
drivers marked `stress`: processes killed at random moments, full disks, damaged files, several processes on one store.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from xprompt.errors import XPromptError

STRESS = os.environ.get("XPROMPT_STRESS") == "1"
LIMIT = 30.0  # seconds for one input, far above what any takes on a busy machine: what is slower hangs

FUZZ = settings(
    max_examples=1000 if STRESS else 40,
    derandomize=not STRESS,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
SLOW = settings(FUZZ, max_examples=60 if STRESS else 5)  # where one input takes a tenth of a second

#: Characters that formats, shells, tables and file systems treat in a way of their own, among ordinary ones.
TEXT = st.text(
    st.one_of(
        st.sampled_from("\"',;|\t\n\r\\{}[]()<>/.~%$# \u00a0\u2028\ufeff\u0000\u0085-0e"),
        st.sampled_from("ab\u00e9\u4e2d\U0001f600"),
        st.characters(),
    ),
    max_size=12,
)
NUMBERS = st.one_of(
    st.sampled_from(
        [0, -1, 1, 0.0, -0.0, 1e308, 5e-324, float("inf"), float("nan"), 2**63, 2**70, 10**4000, 10**9, True]
    ),
    st.integers(),
    st.floats(),
)
#: Anything that JSON or Python can hold.
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT, st.binary(max_size=4)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def attempt(function: Callable[..., Any], *arguments: Any, **named: Any) -> tuple[Any, XPromptError | None]:
    """Return what a call gives, or the `XPromptError` it raises; any other exception, or a hang, fails the test."""
    start = time.monotonic()
    try:
        result, error = function(*arguments, **named), None
    except XPromptError as refused:
        result, error = None, refused
        assert len(str(refused)) > 20, "an error says what was given, what is needed and the fix"
        assert len(str(refused)) < 20_000, "an error is to be read"
    assert time.monotonic() - start < LIMIT
    return result, error
