"""Custom tasks: a declaration beside CSV, TSV or JSON lines, from load_task to a report, and every error."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import pytest

import xprompt as xp
from tests.conftest import empty_release
from xprompt import reporting as rp
from xprompt import reproduce
from xprompt.runs import run as pipeline
from xprompt.tasks.registry import get_task, split_tasks

DECLARED = {
    "name": "topics",
    "template": "text: {text} question: What?",
    "label": "topic",
    "verbalizer": {"wear": "clothes", "go": "travel"},
}
NAMES = ("Anna", "Paul", "Tom", "Mary", "Clara", "Hugo", "Emma", "Peter", "Lucy", "John")
ROWS = [(f"{name} goes by {way}.", "go") for name in NAMES for way in ("bus", "car")]
ROWS += [(f"{name} wears {colour} clothes.", "wear") for name in NAMES for colour in ("red", "blue")]


def csv(rows=ROWS, header="text,topic") -> str:
    return header + "\n" + "".join(",".join(row) + "\n" for row in rows)


def make(folder: Path, files: dict[str, str] | None = None, **changes: object) -> str:
    """Write a declaration and its files; return the declaration's path."""
    folder.mkdir(parents=True, exist_ok=True)
    declared = {k: v for k, v in {**DECLARED, **changes}.items() if v is not None}
    (folder / "task.json").write_text(json.dumps(declared), encoding="utf-8")
    files = {"train.csv": csv(), "validation.csv": csv(ROWS[::4])} if files is None else files
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return str(folder / "task.json")


def test_a_csv_a_tsv_and_json_lines_hold_the_same_task(tmp_path):
    lines = "".join(json.dumps({"text": t, "topic": label, "more": [1]}) + "\n\n" for t, label in ROWS)
    forms = {
        "csv": {"train.csv": "\ufeff" + csv(), "validation.csv": csv(ROWS[:4])},
        "tsv": {"train.tsv": csv().replace(",", "\t"), "validation.tsv": csv(ROWS[:4]).replace(",", "\t")},
        "mixed": {"train.jsonl": lines.replace("\n\n", "\n"), "validation.csv": csv(ROWS[:4])},
    }
    found = [xp.load_task(make(tmp_path / name, files)) for name, files in forms.items()]
    assert len({splits.fingerprint for splits in found}) == 1
    splits = found[0]
    assert (len(splits.train), len(splits.validation), splits.source) == (40, 4, "own:topics")
    assert splits.task.render(splits.train[0]) == "text: Anna goes by bus. question: What?"
    assert splits.task.label_text(splits.train[0].label) == "travel"
    assert splits.task.label_words == ("clothes", "travel") and splits.task.metrics == ("accuracy",)


def test_json_numbers_and_truth_values_are_labels_and_texts_as_they_are_written(tmp_path):
    lines = '{"text": 5, "topic": true}\n{"text": 2.5, "topic": false}\n'
    path = make(tmp_path, {"train.jsonl": lines, "validation.jsonl": lines}, verbalizer={"true": "yes", "false": "no"})
    train = xp.load_task(path).train
    assert [(r.fields["text"], r.label) for r in train] == [("5", 0), ("2.5", 1)]


def test_quoted_separators_quotes_and_line_ends_survive(tmp_path):
    text = 'text,topic\r\n"Anna, ""the fast"",\r\ngoes {by} bus.",go\r\n\r\nx,wear\r\n'
    train = xp.load_task(make(tmp_path, {"train.csv": text, "validation.csv": text})).train
    assert train[0].fields["text"] == 'Anna, "the fast",\r\ngoes {by} bus.' and len(train) == 2


@pytest.mark.parametrize("seed", [0, 3])
def test_without_a_validation_file_the_same_share_is_held_out_for_every_run(tmp_path, seed):
    path = make(tmp_path, {"train.csv": csv()}, validation_share=0.25, validation_seed=seed)
    splits = xp.load_task(path, seed=7)
    assert (len(splits.train), len(splits.validation), splits.validation.split) == (30, 10, "validation")
    assert Counter(splits.validation.labels) == {0: 5, 1: 5}
    assert not {r.uid for r in splits.train} & {r.uid for r in splits.validation}
    assert xp.load_task(path, seed=8).fingerprint == splits.fingerprint
    other = xp.load_task(make(tmp_path, {}, validation_share=0.25, validation_seed=seed + 1))
    assert other.fingerprint != splits.fingerprint
    held = splits.hold_out(0.2, seed=1)
    assert held.validation.examples == splits.validation.examples


def test_a_group_stays_together_and_em_counts_it(tmp_path):
    rows = [(text, label, text.split()[0]) for text, label in ROWS]
    path = make(tmp_path, {"train.csv": csv(rows, "text,topic,who")}, group="who", metrics=["em"], validation_share=0.3)
    splits = xp.load_task(path).hold_out(0.3)
    parts = [set(part.groups) for part in (splits.train, splits.selection, splits.validation)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 10
    assert set(xp.load_task(path, few_shot=2).train.groups) < set(NAMES)


def test_what_a_run_is_called_depends_on_what_is_declared_and_not_on_where(tmp_path, monkeypatch):
    here, there = make(tmp_path / "a"), make(tmp_path / "b" / "c")
    configs = [xp.RunConfig(task=path, profile="tiny", method="majority") for path in (here, there)]
    first, second = (xp.run(config, tmp_path / "store") for config in configs)
    assert first.folder == second.folder
    assert first.record["task"] == first.record["config"]["task"] == "topics"
    assert first.record["source"] == "own:topics" and str(tmp_path) not in json.dumps(first.record)
    monkeypatch.chdir(tmp_path)
    assert xp.run(configs[0].replace(task="a/task.json"), tmp_path / "store").folder == first.folder
    for change in (
        {"name": "subjects"}, {"template": "{text}"}, {"verbalizer": {"wear": "wear", "go": "travel"}},
        {"metrics": ["macro_f1"]}, {"cut_side": "start"},
    ):  # fmt: skip
        make(tmp_path / "a", {}, **change)
        assert xp.run(configs[0], tmp_path / "store").folder != first.folder, change
    make(tmp_path / "a", {"train.csv": csv(ROWS[1:])})  # read again, although the same process read it before
    assert xp.run(configs[0], tmp_path / "store").folder != first.folder


@pytest.mark.parametrize("labels", [("A", "B"), ("trip", "dress")], ids=["swapped", "renamed"])
def test_labels_that_change_make_another_run_that_answers_with_them(tmp_path, labels):
    def put(going, wearing):
        rows = [(text, going if label == "go" else wearing) for text, label in ROWS]
        return make(tmp_path / "own", {"train.csv": csv(rows)}, validation_share=0.25,
                    verbalizer={going: "travel", wearing: "clothes"})  # fmt: skip

    config = xp.RunConfig(task=put("B", "A"), profile="tiny", method="prompt_tuning")
    before = xp.run(config, tmp_path / "store", watch=False)
    put(*labels)
    after = xp.run(config, tmp_path / "store", watch=False)
    assert after.folder != before.folder and xp.classifier(after).labels == labels


def test_a_name_in_another_unicode_form_is_said_to_look_the_same(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    words = {composed: "travel", "wear": "clothes"}
    rows = [(text, apart if label == "go" else label) for text, label in ROWS]
    with pytest.raises(xp.DataError, match="'café' looks the same"):
        xp.load_task(make(tmp_path / "a", {"train.csv": csv(rows)}, verbalizer=words, validation_share=0.25))
    files = {"train.csv": csv(header=f"text,{apart}")}
    with pytest.raises(xp.DataError, match=f"no such column.*'{apart}' looks the same"):
        xp.load_task(make(tmp_path / "b", files, label=composed, validation_share=0.25))
    with pytest.raises(xp.DataError, match="one of") as plain:
        xp.load_task(make(tmp_path / "c", {"train.csv": csv([("a", "b")])}, validation_share=0.25))
    assert "looks the same" not in str(plain.value)


def test_a_custom_task_goes_through_the_grid_a_run_and_the_report(tmp_path):
    path = make(tmp_path / "own", metrics=["accuracy", "macro_f1"])
    store = xp.Store(tmp_path / "report")
    configs = rp.grid("tiny", [path, "rte"], ["majority", "prompt_tuning", "xprompt"], 1)
    records = rp.collect(configs, lambda config: xp.run(config, store))
    assert [r["task"] for r in records] == ["topics"] * 3 + ["rte"] * 3
    assert set(records[0]["metrics"]) == {"accuracy", "macro_f1"}
    rows = rp.tidy(records)
    assert list(rp.tables.main_results(rows)["task"]) == ["RTE", "topics", "average"]
    assert "topics" in set(rp.tables.against_paper(rows)["task"])
    labels = [label.get_text() for label in rp.figures.task_scores(rows).axes[0].get_xticklabels()]
    assert labels == ["RTE", "topics", "average"]
    assert rp.wording.task(path) == rp.wording.task("topics") == "topics"
    shown = rp.wording.example(get_task(path), pipeline.load_splits(configs[0]).train[0], "own:topics")
    assert "Anna" not in shown  # a reader's data stay the reader's


def test_the_command_hands_the_path_to_the_notebooks_from_where_they_run(tmp_path, monkeypatch, capsys):
    path = make(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    plan = reproduce.make_plan("tiny", "own/task.json,rte", only=["01_main_results"], output=tmp_path / "report")
    ((notebook, parameters),) = plan.notebooks.items()
    given, builtin = parameters["tasks"]
    assert builtin == "rte" and not Path(given).is_absolute()
    assert (notebook.parent / given).resolve() == Path(path).resolve()
    monkeypatch.setenv("HOME", str(tmp_path))
    for named in ("own/task.json", "~/own/task.json", "rte,~/own/task.json"):
        plan = reproduce.make_plan("tiny", named, only=["11_custom_task"], output=tmp_path / "report")
        ((notebook, parameters),) = plan.notebooks.items()
        assert (notebook.parent / parameters["task_json"]).resolve() == Path(path).resolve()
    assert reproduce.main(["--tasks", "none/task.json", "--output", str(tmp_path / "r")]) == 2
    assert "none/task.json: cannot be read" in capsys.readouterr().err


def test_one_name_twice_or_a_name_that_is_taken_is_refused(tmp_path):
    here, there = make(tmp_path / "a"), make(tmp_path / "b")
    with pytest.raises(xp.ConfigError, match="topics, topics: one is given twice"):
        rp.choose_tasks([here, there], "tiny")
    with pytest.raises(xp.ConfigError, match=r"a/task\.json: the name 'rte' is taken"):
        get_task(make(tmp_path / "a", name="rte"))


def test_what_is_saved_is_read_again(tmp_path):
    declared = xp.CustomTask(**DECLARED, validation_share=0.5, metrics=["macro_f1"])
    path = declared.save(tmp_path / "new")
    assert path.name == "task.json" and xp.CustomTask.load(path) == declared
    (tmp_path / "new" / "train.csv").write_text(csv())
    assert len(xp.load_task(path).validation) == 20


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"template": None}, "template: Field required"),
        ({"name": "a/b"}, "name: String should match"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"template": "no column"}, "at least one {column}"),
        ({"template": "{text.__class__}"}, "plain name of a column"),
        ({"template": "{text[0]}"}, "plain name of a column"),
        ({"template": "{text!r}"}, "plain name of a column"),
        ({"template": "{text:>9}"}, "plain name of a column"),
        ({"template": "{} {text}"}, "plain name of a column"),
        ({"template": "{{text}}"}, "at least one {column}"),
        ({"template": "{text} }"}, "template"),
        ({"template": ["{text}"]}, "template: Input should be a valid string"),
        ({"self": 1}, "self: Extra inputs are not permitted"),
        ({"verbalizer": {"go": "x", "wear": "x "}}, "each with a different word"),
        ({"verbalizer": {"go": "x", " ": "y"}}, "two or more labels"),
        ({"verbalizer": {"go": 1, "wear": "y"}}, "verbalizer.go: Input should be a valid string"),
        ({"validation_seed": True}, "validation_seed: Input should be a number"),
        ({"validation_share": "0.2"}, "validation_share: Input should be a number"),
        ({"validation_seed": 2**63}, "validation_seed: Input should be less than"),
        ({"name": "a\0"}, "name: Input should be a text without NUL"),
        ({"train": "a.csv", "validation": "a.csv"}, "scores would be those on the training data"),
        ({"template": "{text"}, "in template, "),
        ({"template": "text}"}, "{{ and }} are literal braces"),
        ({"group": ""}, "group: "),
        ({"template": "{text} {topic}"}, "the answer would be in the question"),
        ({"template": "{text} {more}"}, "cut needs one of text, more"),
        ({"template": "{text} {text}"}, "exactly once"),
        ({"cut": "topic"}, "cut needs one of text"),
        ({"verbalizer": {"go": "travel"}}, "two or more labels"),
        ({"verbalizer": {"go": "x", "wear": "x"}}, "each with a different word"),
        ({"verbalizer": {"go": "x", "go ": "y"}}, "differ in outer white space only"),
        ({"metrics": ["f1"]}, "metrics"),
        ({"metrics": ["em"]}, "em needs group"),
        ({"validation_share": 1.0}, "validation_share: Input should be less than 1"),
        ({"validation_share": 0.1, "validation": "v.csv"}, "not both"),
    ],
    ids=str,
)
def test_a_declaration_that_makes_no_sense_is_named_with_its_file(tmp_path, changes, words):
    with pytest.raises(xp.ConfigError) as raised:
        get_task(make(tmp_path / "own", **changes))
    assert str(raised.value).startswith("own/task.json: ") and words in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"name": "a",', r"own/task\.json: no valid JSON \(.*line 1 column"),
        ('{"name": "a", "name": "b"}', "the key 'name' stands twice"),
        ('{"verbalizer": {"go": "a", "go": "b"}}', "the key 'go' stands twice"),
        ("[1]", "needed one JSON object"),
    ],
)
def test_a_declaration_that_cannot_be_read_is_named(tmp_path, text, words):
    path = make(tmp_path / "own")
    Path(path).write_text(text)
    with pytest.raises(xp.ConfigError, match=words):
        get_task(path)


GOOD = {"validation.csv": csv()}


@pytest.mark.parametrize(
    ("files", "changes", "words"),
    [
        (GOOD, {}, "own, task 'topics': given no training examples; needed train.csv or train.tsv or train.jsonl"),
        ({"train.csv": csv()}, {}, "neither validation examples nor a share"),
        ({**GOOD, "train.csv": csv()}, {"validation_share": 0.2}, "both validation.csv and validation_share"),
        ({**GOOD, "train.csv": csv(), "train.jsonl": ""}, {}, "given train.csv and train.jsonl; needed one file"),
        ({**GOOD, "train.csv": csv()}, {"train": "other.csv"}, "task 'topics', train: given 'other.csv'"),
        ({**GOOD, "a.txt": csv()}, {"train": "a.txt"}, "needed an existing .csv, .tsv, .jsonl"),
        ({**GOOD, "train.csv": "text,topic\n"}, {}, "topics, split train: given a source without a single example"),
        ({**GOOD, "train.csv": ""}, {}, "without a single example"),
        ({**GOOD, "train.csv": csv(header="text,label")}, {},
         "own/train.csv, line 2, field 'topic': given no such column (there are text, label)"),
        ({**GOOD, "train.csv": csv(header="txt,topic")}, {}, "own/train.csv, line 2, field 'text': given no such"),
        ({**GOOD, "train.csv": csv()}, {"group": "who"}, "line 2, field 'who': given no such column"),
        ({**GOOD, "train.csv": "text,topic\na,go\nb,\n"}, {},
         "own/train.csv, line 3, field 'topic': given an example without a label"),
        ({**GOOD, "train.csv": "text,topic\na,go\nb,fly\n"}, {},
         "own/train.csv, line 3, field 'topic': given 'fly'; needed one of ['wear', 'go']"),
        ({**GOOD, "train.csv": "text,topic\na,go\nb, c,go\n"}, {},
         "own/train.csv, line 3: given 3 values; needed 2, one a column (text, topic)"),
        ({**GOOD, "train.csv": "text,topic\na\n"}, {}, "line 2: given 1 values"),
        ({**GOOD, "train.csv": "text,topic,text\na,go,b\n"}, {}, "line 1: given two columns 'text'"),
        ({**GOOD, "train.csv": 'text,topic\na,go\n"b,go\n'}, {}, "line 3: given a quote that is never closed"),
        ({**GOOD, "train.jsonl": '{"text": "a", "topic": "go"}\n{"text": "b", \n'}, {},
         "own/train.jsonl, line 2, column 15: given malformed JSON"),
        ({**GOOD, "train.jsonl": '{"text": NaN, "topic": "go"}\n'}, {},
         "own/train.jsonl, line 1: given malformed JSON (NaN is not JSON)"),
        ({**GOOD, "train.jsonl": '{"text": -Infinity, "topic": "go"}\n'}, {}, "malformed JSON (-Infinity"),
        ({**GOOD, "train.jsonl": '\n{"text": 1e400, "topic": "go"}\n'}, {}, "line 2: given malformed JSON (the numb"),
        ({**GOOD, "train.jsonl": '{"text": ' + "7" * 5000 + ', "topic": "go"}\n'}, {}, "JSON (a number of 5,000"),
        ({**GOOD, "train.jsonl": '{"text": "a", "text": "b", "topic": "go"}\n'}, {},
         "own/train.jsonl, line 1: given malformed JSON (the key 'text' stands twice in one object)"),
        ({**GOOD, "train.jsonl": '{"text": "a \\ud83d", "topic": "go"}\n'}, {},
         "own/train.jsonl, line 1: given malformed JSON (\\ud83d is half of a surrogate pair"),
        ({**GOOD, "train.jsonl": "[" * 100_000}, {}, "own/train.jsonl, line 1: given malformed JSON (it is nested"),
        ({**GOOD, "train.jsonl": '{"text": "a\\u0000", "topic": "go"}\n'}, {}, "line 1, field 'text': given 'a\\x00'"),
        ({**GOOD, "train.csv": "text,topic\n ,go\n"}, {}, "own/train.csv, line 2, field 'text': given an empty cell"),
        ({**GOOD, "train.csv": "text,topic,who\na,go,Ann\nb,go,\n"}, {"group": "who"},
         "own/train.csv, line 3, field 'who': given an empty cell"),
        ({**GOOD, "train.jsonl": '{"text": "a", "topic": "go", "who": null}\n'}, {"group": "who"}, "'who': given None"),
        ({**GOOD, "train.csv": "text,topic\na,go\n\n" + "b" * 131_073 + ",go\n"}, {},
         "own/train.csv, line 4: given a cell of more than 131,072 characters"),
        ({**GOOD, "train.csv": 'text,topic\n"a\nb" c,go\n'}, {}, "own/train.csv, line 2: given a quote out of place"),
        ({**GOOD, "train.csv": "text;topic\na;go\n"}, {},
         "own/train.csv, line 1: given one column, 'text;topic', as if separated by semicolons; needed columns sepa"),
        ({**GOOD, "train.csv": "text\ttopic\na\tgo\n"}, {}, "separated by tabs; needed columns separated by commas"),
        ({**GOOD, "train.tsv": "text,topic\na,go\n"}, {}, "separated by commas; needed columns separated by tabs"),
        ({**GOOD, "train.tsv": "text\ttopic\na\tb\tgo\n"}, {}, "line 2: given 3 values"),
        ({**GOOD, "train.jsonl": '["a", "go"]\n'}, {}, "own/train.jsonl, line 1: given '[\"a\", \"go\"]'"),
        ({**GOOD, "train.jsonl": '{"text": null, "topic": "go"}\n'}, {}, "line 1, field 'text': given None"),
        ({**GOOD, "train.jsonl": '{"text": "a", "topic": null}\n'}, {}, "field 'topic': given an example without"),
        ({**GOOD, "train.jsonl": '{"text": "a", "topic": ["go"]}\n'}, {}, "field 'topic': given ['go']"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_wrong_with_the_examples_is_said_with_file_line_and_field(tmp_path, files, changes, words):
    path = make(tmp_path / "own", files, **changes)
    with pytest.raises(xp.DataError) as raised:
        xp.load_task(path)
    assert words in str(raised.value) and "Fix: " in str(raised.value)


@pytest.mark.parametrize(
    "named",
    ["../secret.csv", "sub/../../secret.csv", "/etc/passwd", "C:\\secret.csv", "..\\secret.csv", " ", "a\0.csv"],
)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_no_name_in_a_declaration_leaves_its_folder(tmp_path, named, split):
    (tmp_path / "secret.csv").write_text(csv())
    path = make(tmp_path / "own", **{split: named})
    with pytest.raises(xp.XPromptError, match=split) as raised:
        xp.load_task(path)
    assert "needed the name of a file inside the folder" in str(raised.value) or "without NUL" in str(raised.value)


@pytest.mark.parametrize("name", ["train.csv", "other.csv"])
def test_no_link_leaves_the_folder_and_one_within_it_holds(tmp_path, name):
    (tmp_path / "secret.csv").write_text(csv())
    path = make(tmp_path / "own", GOOD, train=name)
    (tmp_path / "own" / name).symlink_to(tmp_path / "secret.csv")
    with pytest.raises(xp.DataError, match=rf"task 'topics', train: '{name}' in own is a link to outside"):
        xp.load_task(path)
    (tmp_path / "own" / name).unlink()
    (tmp_path / "own" / "data").mkdir()
    (tmp_path / "own" / "data" / "rows.csv").write_text(csv())
    (tmp_path / "own" / name).symlink_to("data/rows.csv")
    assert len(xp.load_task(path).train) == 40
    (tmp_path / "linked").symlink_to(tmp_path / "own")  # the folder itself may be reached by a link
    assert len(xp.load_task(tmp_path / "linked" / "task.json").train) == 40
    (tmp_path / "own" / name).unlink()
    (tmp_path / "own" / name).symlink_to(name)
    with pytest.raises(xp.DataError, match="train"):
        xp.load_task(path)


def test_literal_braces_are_doubled(tmp_path):
    task = get_task(make(tmp_path, template="{{text}} {{}} {text} {{\u00e9}}"))
    example = xp.load_task(tmp_path / "task.json").train[0]
    assert task.render(example) == f"{{text}} {{}} {example.fields['text']} {{\u00e9}}"
    start, end = task.cut_span(example)
    assert task.render(example)[start:end] == example.fields["text"]
    pattern = xp.Pattern(template="{{a}} {text}", label_words=("x", "y"))
    assert task.with_pattern(pattern).render(example) == f"{{a}} {example.fields['text']}"


def test_a_path_with_a_comma_names_one_task(tmp_path, monkeypatch):
    path = make(tmp_path / "a,b, c" / "own")
    other = make(tmp_path / "d", name="others")
    assert rp.choose_tasks(f"rte,{path}, {other},cb", "tiny") == ["rte", path, other, "cb"]
    monkeypatch.chdir(tmp_path)
    assert rp.choose_tasks("a,b, c/own/task.json", "tiny") == ["a,b, c/own/task.json"]
    assert rp.choose_tasks("rte,a,b, c/own/,cb", "tiny") == ["rte", "a,b, c/own/", "cb"]
    assert rp.choose_tasks("a,b, c/own", "tiny") == ["a,b, c/own"]
    with pytest.raises(xp.ConfigError, match="Unknown task 'a'"):
        rp.choose_tasks("a,b/task.json", "tiny")
    assert len(split_tasks("x," * 20_000)) == 20_000


def test_a_comma_too_many_counts_for_nothing():
    assert rp.choose_tasks("rte,", "tiny") == rp.choose_tasks(",,rte", "tiny") == ["rte"]
    assert rp.choose_tasks("all,", "tiny") == rp.choose_tasks("all", "tiny") == list(xp.TASKS)
    with pytest.raises(xp.ConfigError, match="tasks ',' name none: give names such as 'rte,cb'"):
        rp.choose_tasks(",", "tiny")


@pytest.mark.parametrize("name", [5, None, {}, [], b"rte", object()], ids=lambda name: type(name).__name__)
def test_a_task_is_named_by_text_or_path(name):
    with pytest.raises(xp.ConfigError, match="load_task: name takes str or Path or Task, and was given"):
        xp.load_task(name)


@pytest.mark.parametrize("name", ["a\0.json", "x" * 5000 + ".json", "~nobody-here/task.json", "\ud800/task.json", "/"])
def test_a_path_that_no_system_has_is_refused(name):
    with pytest.raises(xp.ConfigError) as raised:
        get_task(name)
    assert len(str(raised.value)) < 1000


def test_what_is_no_regular_file_is_not_read(tmp_path):
    path = make(tmp_path / "own", GOOD)
    os.mkfifo(tmp_path / "own" / "train.csv")
    with pytest.raises(xp.DataError, match="no training examples"):
        xp.load_task(path)
    (tmp_path / "own" / "task.json").unlink()
    os.mkfifo(path)
    with pytest.raises(xp.ConfigError, match=r"own/task.json: cannot be read \(Not a file\)"):
        xp.load_task(path)


def test_a_declaration_is_saved_whole_or_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(xp.XPromptError, match="cannot be written"):
        xp.CustomTask(**DECLARED).save(tmp_path / "file")


@pytest.mark.parametrize(("rows", "share"), [(ROWS[:1], 0.5), ([ROWS[0]] * 9, 0.5)], ids=["one row", "one text"])
def test_too_few_rows_to_hold_any_out_are_named_in_plain_words(tmp_path, rows, share):
    with pytest.raises(xp.DataError, match=r"blocks, .*Fix: load more training examples with different"):
        xp.load_task(make(tmp_path, {"train.csv": csv(rows)}, validation_share=share))


def test_a_split_that_lacks_a_label_is_named_once(tmp_path):
    rows = [*ROWS[:20], ROWS[20]]
    with pytest.warns(UserWarning, match=r"split validation \(2 examples\) has no example of label 'wear' \(1 in"):
        splits = xp.load_task(make(tmp_path / "a", {"train.csv": csv(rows)}, validation_share=0.1))
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        xp.load_task(tmp_path / "a" / "task.json")
    assert len(given) == 1 and given[0].filename == __file__
    with pytest.warns(UserWarning, match=r"split selection \(4 examples\) has no example of label 'wear'") as given:
        splits.hold_out(0.2)
    assert given[0].filename == __file__
    with pytest.warns(UserWarning, match=r"split train \(20 examples\) has no example of label 'wear' \(10 in oth"):
        xp.load_task(make(tmp_path / "b", {"train.csv": csv(ROWS[:20]), "validation.csv": csv(ROWS[10:30])}))
    with pytest.warns(UserWarning, match=r"split train \(5 examples\) has no label but 'go'; split validation"):
        xp.load_task(make(tmp_path / "c", {"train.csv": csv(ROWS[:5]), "validation.csv": csv(ROWS[:9])}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xp.load_task(make(tmp_path / "d", {"train.csv": csv()}, validation_share=0.1)).hold_out(0.1)


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("empty", ["", " ", "\u00a0\t "])
@pytest.mark.parametrize("column", ["text", "topic", "who"])
def test_an_empty_cell_is_refused_whatever_the_file(tmp_path, form, empty, column):
    rows = [{"text": "a", "topic": "go", "who": "x"}, {"text": "b", "topic": "wear", "who": "x"}]
    rows[1][column] = empty.replace("\t", "") if form == "tsv" else empty
    separator = {"csv": ",", "tsv": "\t"}.get(form, "")
    table = "".join(separator.join(row) + "\n" for row in (rows[0].keys(), *(row.values() for row in rows)))
    text = "".join(json.dumps(row) + "\n" for row in rows) if form == "jsonl" else table
    path = make(tmp_path / "own", {f"train.{form}": text, **GOOD}, group="who")
    with pytest.raises(
        xp.DataError, match=rf"line [23], field '{column}': given an (empty cell|example without a label)"
    ):
        xp.load_task(path)


def test_a_tsv_has_no_quotes(tmp_path):
    rows = [('"a', "go"), ("b", "wear"), ('c"', "go"), ('"d"', "wear")]
    text = "text\ttopic\n" + "".join(f"{words}\t{label}\n" for words, label in rows)
    train = xp.load_task(make(tmp_path, {"train.tsv": text, "validation.tsv": text})).train
    assert [example.fields["text"] for example in train] == [words for words, _ in rows]


def test_labels_are_stripped_in_the_declaration_as_in_the_files(tmp_path):
    path = make(tmp_path, verbalizer={" wear": "clothes", "go ": "travel"})
    assert xp.load_task(path).train.labels == [1] * 20 + [0] * 20


def test_whole_characters_beyond_the_basic_plane_are_read_from_either_form(tmp_path):
    lines = '{"text": "\\ud83d\\ude00", "topic": "go"}\n{"text": "\U0001f600", "topic": "wear"}\n'
    train = xp.load_task(make(tmp_path, {"train.jsonl": lines, "validation.jsonl": lines})).train
    assert [example.fields["text"] for example in train] == ["\U0001f600"] * 2


@pytest.mark.parametrize("name", ["train.csv", "train.tsv", "train.jsonl"])
def test_utf16_is_named_as_such(tmp_path, name):
    path = make(tmp_path / "own", GOOD)
    for encoding in ("utf-16", "utf-16-le"):
        (tmp_path / "own" / name).write_bytes(csv().encode(encoding))
        with pytest.raises(xp.DataError, match=rf"{name}, line 1: given UTF-16 .*; needed UTF-8 text"):
            xp.load_task(path)


@pytest.mark.parametrize("name", ["train.csv", "train.jsonl"])
def test_the_line_of_a_byte_that_is_no_utf8_is_named_however_far_down(tmp_path, name):
    path = make(tmp_path / "own", GOOD)
    lines = [b'{"text": "a", "topic": "go"}' if name.endswith("jsonl") else b"a,go"] * 5001
    lines[5000] = lines[5000].replace(b"a", b"caf\xe9", 1)
    (tmp_path / "own" / name).write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    with pytest.raises(xp.DataError, match=rf"{name}, line 5001: given the byte 0xe9"):
        xp.load_task(path)


@pytest.mark.parametrize("name", ["train.csv", "train.jsonl"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, monkeypatch):
    path = make(tmp_path / "own", {**GOOD, name: csv()})

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(xp.DataError, match=rf"own/{name}: given a file that cannot be read \(Permission denied\)"):
        xp.load_task(path)


def test_the_former_name_of_a_custom_task_still_works():
    assert xp.OwnTask is xp.CustomTask


def test_bytes_that_are_no_utf8_are_named(tmp_path):
    path = make(tmp_path / "own")
    (tmp_path / "own" / "train.csv").write_bytes(b"text,topic\ncaf\xe9,go\n")
    with pytest.raises(xp.DataError, match=r"own/train\.csv, line 2: given the byte 0xe9, .*Latin-1.*save the file as"):
        xp.load_task(path)


def test_a_folder_of_the_release_beside_a_custom_task_does_not_matter(tmp_path):
    path = make(tmp_path / "own")
    empty_release(tmp_path / "data", "RTE")
    assert rp.choose_source(str(tmp_path / "data"), [path, "rte"]) == str(tmp_path / "data")
    assert len(xp.load_task(path, tmp_path / "data").train) == 40
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(xp.ConfigError, match="own/task.json: cannot be read"):
        xp.load_task(path)
