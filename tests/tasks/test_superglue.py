"""The seven declarations, one invented example of each, in the release's form and in the hub's."""

from __future__ import annotations

import string
from typing import Any

import pytest

from xprompt.config.pattern import Pattern
from xprompt.errors import ConfigError, DataError
from xprompt.tasks.example import RawExample
from xprompt.tasks.metrics import METRICS
from xprompt.tasks.registry import get_task
from xprompt.tasks.superglue import TASKS

# task: (a line as released, the same as a row of the hub's table, the input it becomes, its label's words)
EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "boolq": (
        {"question": "is the mill old", "passage": "The mill is {very} old.", "idx": 3, "label": True},
        {"question": "is the mill old", "passage": "The mill is {very} old.", "idx": 3, "label": 1},
        "passage: The mill is {very} old. question: is the mill old",
        "True",
    ),
    "cb": (
        {"premise": "I doubt it rained.", "hypothesis": "it rained", "label": "contradiction", "idx": 0},
        {"premise": "I doubt it rained.", "hypothesis": "it rained", "idx": 0, "label": 1},
        "hypothesis: it rained premise: I doubt it rained.",
        "contradiction",
    ),
    "copa": (
        {"premise": "The cup broke.", "choice1": "It fell.", "choice2": "It rang.", "question": "cause",
         "label": 0, "idx": 9},
        {"premise": "The cup broke.", "choice1": "It fell.", "choice2": "It rang.", "question": "cause",
         "idx": 9, "label": 0},
        "choice1: It fell. choice2: It rang. premise: The cup broke. question: cause",
        "choice1",
    ),
    "multirc": (
        {"idx": 2, "version": 1.1, "passage": {"text": "<b>Sent 1: </b>Ann sang.<br>Bo slept.", "questions": [
            {"idx": 5, "question": "Who sang?", "answers": [{"idx": 7, "text": "Ann", "label": 1}]}]}},
        {"paragraph": "<b>Sent 1: </b>Ann sang.<br>Bo slept.", "question": "Who sang?", "answer": "Ann",
         "idx": {"paragraph": 2, "question": 5, "answer": 7}, "label": 1},
        "question: Who sang? answer: Ann paragraph: Sent 1: Ann sang. Bo slept.",
        "True",
    ),
    "rte": (
        {"premise": "Two dogs ran.", "hypothesis": "A cat ran.", "label": "not_entailment", "idx": 1},
        {"premise": "Two dogs ran.", "hypothesis": "A cat ran.", "idx": 1, "label": 1},
        "hypothesis: A cat ran. premise: Two dogs ran.",
        "not_entailment",
    ),
    "wic": (
        {"word": "bank", "sentence1": "The bank shut.", "sentence2": "A bank of mud.", "idx": 4, "label": False,
         "start1": 4, "end1": 8, "start2": 2, "end2": 6, "version": 1.1},
        {"word": "bank", "sentence1": "The bank shut.", "sentence2": "A bank of mud.", "start1": 4, "start2": 2,
         "end1": 8, "end2": 6, "idx": 4, "label": 0},
        "sentence1: The bank shut. sentence2: A bank of mud. word: bank",
        "False",
    ),
    "wsc": (
        {"text": "Ann thanked Bo because she was kind.", "idx": 6, "label": False,
         "target": {"span1_text": "Ann", "span1_index": 0, "span2_text": "she", "span2_index": 4}},
        {"text": "Ann thanked Bo because she was kind.", "span1_index": 0, "span2_index": 4,
         "span1_text": "Ann", "span2_text": "she", "idx": 6, "label": 0},
        'Ann thanked Bo because she was kind. "she" refers to "Ann" or another word?',
        "False",
    ),
}  # fmt: skip


def released(data: dict[str, Any]) -> RawExample:
    return RawExample(data, "RTE/val.jsonl, line 7", 6)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_released_line_and_the_hubs_row_become_the_same_record(name):
    line, row, text, words = EXAMPLES[name]
    task = get_task(name)
    (record,) = task.examples(released(line))
    assert task.examples(RawExample(row, "hub, row 1", flat=True)) == [record]
    assert task.render(record) == text
    assert task.label_text(record.label) == words


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_declaration_is_consistent(task):
    assert len(task.label_values) == len(task.label_words) == len(set(task.label_words))
    assert set(task.metrics) <= set(METRICS)
    (record,) = task.examples(released(EXAMPLES[task.name][0]))
    named = {field for _, field, _, _ in string.Formatter().parse(task.template) if field}
    assert named == set(record.fields) and {task.cut_field, task.block_field or task.cut_field} <= named
    start, end = task.cut_span(record)
    assert task.render(record)[start:end] == record.fields[task.cut_field]


def test_the_papers_statistics_and_metrics():
    assert {name: tuple(task.statistics) for name, task in TASKS.items()} == {
        "boolq": (9427, 3270), "cb": (250, 56), "copa": (400, 100), "multirc": (27243, 4848),
        "rte": (2490, 277), "wic": (5428, 638), "wsc": (554, 104),
    }  # fmt: skip
    two = {"cb": ("accuracy", "macro_f1"), "multirc": ("f1a", "em")}
    assert {name: task.metrics for name, task in TASKS.items()} == dict.fromkeys(TASKS, ("accuracy",)) | two


def test_every_answer_of_multirc_is_a_record_and_its_question_the_group():
    def question(idx: int, labels: list[int]) -> dict[str, Any]:
        answers = [{"idx": 10 * idx + i, "text": f"a{i}", "label": label} for i, label in enumerate(labels)]
        return {"idx": idx, "question": f"q{idx}?", "answers": answers}

    line = {"idx": 4, "passage": {"text": "Some text.", "questions": [question(1, [0, 1]), question(2, [1])]}}
    records = get_task("multirc").examples(released(line))
    assert [(r.uid, r.group, r.label) for r in records] == [
        ("4-1-10", "4-1", 0), ("4-1-11", "4-1", 1), ("4-2-20", "4-2", 1)]  # fmt: skip


def test_a_line_without_idx_is_named_by_its_position():
    line = dict(EXAMPLES["rte"][0])
    del line["idx"]
    assert get_task("rte").examples(released(line))[0].uid == "6"


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_field_that_is_missing_or_of_another_kind_is_named(name):
    line, row, _, _ = EXAMPLES[name]
    for data, flat in ((line, False), (row, True)):
        for field in set(data) - {"idx", "label", "version"}:
            if field[-1] in "12" and name == "wic" and "sentence" not in field or field.endswith("_index"):
                continue  # positions of the words: not read
            for broken in ({k: v for k, v in data.items() if k != field}, {**data, field: 5}):
                with pytest.raises(DataError, match=rf"^a\.jsonl, line 3, field '{field}'.*needed.*Fix:"):
                    get_task(name).examples(RawExample(broken, "a.jsonl, line 3", flat=flat))


def test_a_nested_field_is_named_with_its_path():
    line = {"idx": 0, "passage": {"text": "t", "questions": [{"question": "q", "answers": [{"text": "a"}]}]}}
    with pytest.raises(DataError, match=r"line 7, field 'passage\.questions\[0\]\.answers\[0\]\.label'"):
        get_task("multirc").examples(released(line))
    line["passage"]["questions"] = ["q"]
    with pytest.raises(DataError, match=r"field 'passage\.questions\[0\]': given 'q'; needed an object"):
        get_task("multirc").examples(released(line))


@pytest.mark.parametrize("label", ["maybe", 0, True, "", ["entailment"]])
def test_a_label_outside_the_set_is_refused(label):
    line = {**EXAMPLES["rte"][0], "label": label}
    with pytest.raises(DataError, match=r"line 7, field 'label': given .*needed one of \['entailment', 'not"):
        get_task("rte").examples(released(line))


def test_true_is_no_number_and_one_is_no_truth_value():
    for name, label in (("boolq", 1), ("copa", True), ("wic", "true")):
        with pytest.raises(DataError, match="field 'label'"):
            get_task(name).examples(released({**EXAMPLES[name][0], "label": label}))


def test_an_unlabelled_example_is_not_a_wrong_label():
    line = {k: v for k, v in EXAMPLES["rte"][0].items() if k != "label"}
    for data in (line, {**line, "label": None}):
        with pytest.raises(DataError, match="line 7, field 'label': given an example without a label.*never test"):
            get_task("rte").examples(released(data))
    with pytest.raises(DataError, match=r"field 'label': given -1; needed one of \[0, 1\]"):
        get_task("rte").examples(RawExample({**line, "label": -1}, "hub, row 1", flat=True))


def test_an_unknown_task_names_the_known_ones():
    with pytest.raises(ConfigError, match="Unknown task 'record'; needed one of boolq, cb, copa"):
        get_task("record")


ASKED = "{premise} Does it follow that {hypothesis}"


def test_a_task_is_put_by_another_pattern_and_keeps_everything_else():
    task = get_task("rte")
    put = task.with_pattern(Pattern(template=ASKED, label_words=("Yes", "No")))
    line, _, _, _ = EXAMPLES["rte"]
    (record,) = put.examples(RawExample(line, "RTE/train.jsonl, line 1"))
    assert put.render(record) == f"{line['premise']} Does it follow that {line['hypothesis']}"
    assert put.label_text(record.label) == ("Yes", "No")[record.label]
    start, end = put.cut_span(record)
    assert put.render(record)[start:end] == line["premise"], "what may be cut is found in the new template"
    assert (put.label_values, put.metrics, put.cut_field) == (task.label_values, task.metrics, task.cut_field)
    assert task.with_pattern("paper") is task


@pytest.mark.parametrize(
    ("template", "label_words", "words"),
    [
        ("{premise}", ("Yes", "No"), "names premise; needed: hypothesis, premise"),
        ("{premise} {hypothesis} {premise}", ("Yes", "No"), "once only"),
        (ASKED, ("Yes", "No", "Maybe"), "one for each of entailment, not_entailment"),
    ],
)
def test_a_pattern_for_another_task_is_refused(template, label_words, words):
    with pytest.raises(ConfigError, match=words):
        get_task("rte").with_pattern(Pattern(template=template, label_words=label_words))


@pytest.mark.parametrize(
    ("template", "label_words", "words"),
    [
        ("{premise.__class__}", ("Yes", "No"), "no dots, brackets or formats"),
        ("{premise!r}", ("Yes", "No"), "no dots, brackets or formats"),
        (ASKED, ("Yes", " Yes"), "a different word for each label"),
        (ASKED, ("Yes", ""), "a different word for each label"),
    ],
)
def test_a_pattern_that_makes_no_sense_is_refused(template, label_words, words):
    with pytest.raises(ConfigError, match=words):
        Pattern(template=template, label_words=label_words)
