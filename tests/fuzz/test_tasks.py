"""Declarations, templates and tables of a custom task: the rows that come out are the rows that an outsider counts."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

import xprompt as xp
from tests.fuzz import ANYTHING, FUZZ, TEXT, attempt
from xprompt.config.pattern import fields_in
from xprompt.data.splits import Splits, TaskDataset
from xprompt.files import parse_json
from xprompt.tasks.example import Example
from xprompt.tasks.registry import get_task, split_tasks

DECLARED = {"name": "topics", "template": "{text}", "label": "topic", "verbalizer": {"wear": "clothes", "go": "travel"}}
ROWS = [{"text": "a", "topic": "go"}, {"text": "b", "topic": "wear"}]
CELLS = TEXT.filter(lambda text: not re.search(r"[\ud800-\udfff]", text))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "task"
    folder.mkdir()
    (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


def load(folder, name, content, declared=DECLARED):
    for path in folder.glob("train.*"):
        path.unlink()
    (folder / "task.json").write_text(json.dumps({**declared, "train": name}))
    (folder / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of labels that a split lacks
        return attempt(xp.load_task, folder / "task.json")


@FUZZ
@given(st.dictionaries(st.sampled_from([*xp.CustomTask.model_fields, "self", "colour"]), ANYTHING, max_size=3))
def test_a_declaration_is_kept_as_written_or_refused(folder, changes):
    (folder / "train.csv").write_text("text,topic\na,go\nb,wear\n")
    text = json.dumps({**DECLARED, **{k: v for k, v in changes.items() if not isinstance(v, bytes)}}, default=str)
    (folder / "task.json").write_text(text)
    result, error = attempt(get_task, folder / "task.json")
    if error is None:
        saved = xp.CustomTask.load(folder / "task.json")
        assert xp.CustomTask.load(saved.save(folder / "again")) == saved
        assert result.template == json.loads(text)["template"] and result.name == json.loads(text)["name"]


@FUZZ
@given(st.binary(max_size=60) | TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_bytes_that_are_no_declaration_are_refused(folder, content):
    (folder / "task.json").write_bytes(content)
    _, error = attempt(get_task, folder / "task.json")
    assert error is not None and "task.json" in str(error)


@FUZZ
@given(
    st.lists(
        st.sampled_from(["{text}", "{more}", "{{", "}}", "{", "}", "a", "{0}", "{text!r}", "{text:>9}", "\u00e9 "])
    )
)
def test_a_template_renders_what_it_says(parts):
    template = "".join(parts)
    task, error = attempt(lambda: xp.CustomTask(**{**DECLARED, "template": template, "cut": "text"}))
    if error is not None:
        return
    assert fields_in(template).count("text") == 1
    values = {"text": "{more} x}", "more": "{text}"}
    expected = re.sub(r"\{\{|\}\}|\{(\w+)\}", lambda hit: values[hit[1]] if hit[1] else hit[0][0], template)
    rte = get_task("rte")
    made = type(rte)(**{**vars(rte), "template": template, "cut_field": "text"})
    example = Example("0", "0", values, 0)
    start, end = made.cut_span(example)
    assert made.render(example) == expected and expected[start:end] == values["text"]


@FUZZ
@given(
    st.lists(st.tuples(CELLS, st.sampled_from(["go", "wear", " go "])), min_size=1, max_size=6),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_csv_written_by_pythons_csv_comes_back(folder, rows, end):
    text = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if any("\r" in cell for cell, _ in rows) else csv.QUOTE_MINIMAL
    writer = csv.writer(text, lineterminator=end, quoting=quoting)  # Python puts no quotes around a lone \r by itself
    writer.writerows([("text", "topic"), *rows])
    result, error = load(folder, "train.csv", text.getvalue().encode())
    check(rows, result, error, refused=lambda cell: not cell.strip() or "\0" in cell)


@FUZZ
@given(
    st.lists(
        st.tuples(CELLS.filter(lambda cell: not re.search("[\n\r]", cell)), st.sampled_from(["go", "wear"])),
        min_size=1,
        max_size=6,
    )
)
def test_a_tsv_comes_back(folder, rows):
    text = "text\ttopic\n" + "".join(f"{cell}\t{label}\n" for cell, label in rows)
    result, error = load(folder, "train.tsv", text.encode())
    check(rows, result, error, refused=lambda cell: not cell.strip() or re.search("[\0\t]", cell))


@FUZZ
@given(st.lists(st.tuples(TEXT, st.sampled_from(["go", "wear"])), min_size=1, max_size=6), st.booleans())
def test_json_lines_come_back(folder, rows, ascii_only):
    text = "".join(json.dumps({"text": c, "topic": t}, ensure_ascii=ascii_only) + "\n" for c, t in rows)
    result, error = load(folder, "train.jsonl", text.encode("utf-8", "surrogatepass"))
    check(rows, result, error, refused=lambda cell: not cell.strip() or re.search("[\0\ud800-\udfff]", cell))


def check(rows, result, error, refused):
    """As many rows as were written, each with its text and label; or refused, where a cell cannot be."""
    if any(refused(cell) for cell, _ in rows):
        assert error is not None and "train." in str(error)
        return
    assert error is None, error
    assert [(e.fields["text"], e.label) for e in result.train] == [
        (cell.strip(), int(label.strip() == "go")) for cell, label in rows
    ]


@FUZZ
@given(
    st.binary(max_size=80) | TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from(["csv", "tsv", "jsonl"]),
)
def test_any_bytes_as_a_table(folder, content, form):
    result, error = load(
        folder, f"train.{form}", b"text,topic\n".replace(b",", b"\t" if form == "tsv" else b",") + content
    )
    if error is None:
        assert form != "jsonl" and len(result.train) >= 1


@FUZZ
@given(ANYTHING.filter(lambda value: "bytes" not in type(value).__name__), st.text(max_size=3))
def test_json_is_read_as_any_reader_reads_it_or_refused(value, after):
    text = json.dumps(value, default=str)
    try:
        parsed = parse_json(text + after)
    except ValueError:
        return  # malformed, or what one reader takes otherwise than another
    assert json.dumps(parsed) == json.dumps(json.loads(text + after))
    json.dumps(parsed, allow_nan=False)  # raises where one is left


@FUZZ
@given(TEXT)
def test_names_of_tasks(text):
    attempt(get_task, text)
    attempt(get_task, text + "/task.json")
    attempt(xp.load_task, "rte", text)
    parts = [part.strip() for part in text.split(",")]
    assert ",".join(split_tasks(text)).replace(" ", "") == ",".join(filter(None, parts)).replace(" ", "")


@FUZZ
@given(
    st.lists(st.integers(0, 2), max_size=20), st.floats() | st.integers(), st.integers(-3, 9) | st.none(), st.integers()
)
def test_holding_out_divides_every_example_once(labels, fraction, at_most, seed):
    task = get_task("cb")
    data = TaskDataset(
        task,
        "train",
        tuple(Example(str(i), str(i), {"premise": str(i), "hypothesis": "x"}, label) for i, label in enumerate(labels)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        held, error = attempt(Splits(task, data, data, "test").hold_out, fraction, seed, at_most)
    if error is None:
        assert sorted([*held.train.examples, *held.selection.examples], key=lambda e: int(e.uid)) == list(data.examples)
        assert len(held.train) and 1 <= len(held.selection) <= (at_most or len(labels))
