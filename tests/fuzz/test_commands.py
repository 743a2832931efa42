"""Command lines, NAME=VALUE pairs, notebook parameters and release folders."""

from __future__ import annotations

import contextlib
import io
import json
import warnings

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xprompt as xp
from tests.fuzz import ANYTHING, FUZZ, SLOW, TEXT, attempt
from xprompt.__main__ import main
from xprompt.cli.arguments import parse_values, split_names
from xprompt.reporting.notebooks import parameters_of
from xprompt.reproduce import make_plan

WORDS = st.sampled_from(
    ["run", "plan", "reproduce", "bench", "--task", "rte", "--seed", "--set", "--profile", "tiny", "--tasks", "--seeds"]
    + [
        "-1",
        "0",
        "1e400",
        "nan",
        "9" * 5000,
        "length=0",
        "length=" + "9" * 5000,
        "x=" + "[" * 9999,
        "--only",
        "--output",
    ]
    + [
        "--timeout",
        "inf",
        "--save-every",
        "--executor",
        "ray",
        "--method",
        "--protocol",
        "--data-dir",
        "/no/such",
        "--workers",
    ]
)


@FUZZ
@given(st.lists(WORDS | TEXT, max_size=5))
def test_a_command_line_that_is_wrong_ends_with_code_2(words):
    words = [*words, "--no-such-option"]  # nothing is ever begun
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
    assert code == 2 or "-h" in words
    assert "Traceback" not in err.getvalue()


@FUZZ
@given(st.lists(WORDS | TEXT | st.tuples(TEXT, TEXT).map("=".join), max_size=3))
def test_pairs_are_values_or_refused(pairs):
    values, error = attempt(parse_values, pairs)
    if error is None:
        assert values.keys() == {pair.partition("=")[0] for pair in pairs}
    assert all("," not in name and name.strip() == name != "" for name in split_names(",".join(pairs)))


@SLOW
@given(
    profile=st.sampled_from(["tiny", "nano"]) | TEXT,
    tasks=TEXT | st.sampled_from(["", "all", "rte", "rte,rte", "rte,"]),
    seeds=st.none() | st.integers(-2, 3) | st.sampled_from([10**9, 10**30]),
    timeout=st.floats(),
    only=st.none() | st.lists(TEXT | st.just("00_walkthrough"), max_size=2),
    settings=st.dictionaries(TEXT | st.sampled_from(["seed", "task"]), ANYTHING, max_size=2),
    executor=st.sampled_from(["local", "ray"]) | TEXT,
)
def test_a_plan_is_whole_or_refused(tmp_path_factory, **choices):
    plan, error = attempt(make_plan, output=tmp_path_factory.getbasetemp() / "never", **choices)
    if error is None:
        assert plan.notebooks and 0 < plan.timeout < float("inf")
        json.dumps(plan.handed_over)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    return tmp_path_factory.mktemp("notebooks") / "n.ipynb"


@FUZZ
@given(st.binary(max_size=60) | ANYTHING.map(lambda value: json.dumps(value, default=str).encode()) | TEXT)
def test_a_notebook_has_its_parameters_or_is_refused(notebook, content):
    if isinstance(content, str):
        cell = nbformat.v4.new_code_cell(content.encode("utf-8", "replace").decode(), metadata={"tags": ["parameters"]})
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), notebook)
    else:
        notebook.write_bytes(content)
    attempt(parameters_of, notebook)


RTE = {"premise": "a", "hypothesis": "b", "label": "entailment", "idx": 0}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    root = tmp_path_factory.mktemp("release")
    for folder in ("RTE", "MultiRC", "WSC"):
        (root / folder).mkdir()
    return root


@FUZZ
@given(
    st.lists(
        st.dictionaries(st.sampled_from([*RTE, "more"]), ANYTHING | st.sampled_from(["entailment", 1]), max_size=3),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(["train", "val"]),
)
def test_a_release_is_read_row_by_row_or_refused(release, changes, split):
    texts = [json.dumps({**RTE, "idx": i, **change}, default=str) for i, change in enumerate(changes)]
    rows, lines = [json.loads(text) for text in texts], "".join(text + "\n" for text in texts)
    for name in ("train", "val"):
        (release / "RTE" / f"{name}.jsonl").write_text(lines if name == split else json.dumps(RTE) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result, error = attempt(xp.load_task, "rte", release)
    if error is None:
        read = result.train if split == "train" else result.validation
        assert [e.fields["premise"] for e in read] == [row["premise"].strip() for row in rows]
    else:
        assert f"RTE/{split}.jsonl, line " in str(error)


@FUZZ
@given(st.sampled_from([("multirc", "MultiRC"), ("wsc", "WSC")]), ANYTHING)
def test_nested_releases_are_read_or_refused(release, task, value):
    name, folder = task
    whole = {"idx": 0, "label": True, "text": value, "target": value, "passage": {"text": "a", "questions": value}}
    for split in ("train", "val"):
        (release / folder / f"{split}.jsonl").write_text(json.dumps(whole, default=str) + "\n")
    attempt(xp.load_task, name, release)
