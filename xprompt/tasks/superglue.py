"""The seven tasks, each one short declaration: template, verbalizer, metrics, statistics, how to read a line.

Owns what each task's lines mean, how a record is put to a model, and finding a task by name or by the path of an own
one's declaration. Never reads examples, never scores.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from xprompt.tasks.example import Parsed, RawExample
from xprompt.tasks.task import Statistics, Task


def _fields(*names: str) -> Callable[[RawExample], Iterator[Parsed]]:
    """Parse tasks whose lines hold one example, its texts under the template's own names."""

    def parse(line: RawExample) -> Iterator[Parsed]:
        yield Parsed(line.key, line.key, {name: line.text(name) for name in names}, line)

    return parse


def _wsc(line: RawExample) -> Iterator[Parsed]:
    """Parse WSC: the two spans stand in `target` in the release, beside the text on the hub."""
    spans = line if line.flat else line.child("target")
    fields = {"text": line.text("text"), "span1": spans.text("span1_text"), "span2": spans.text("span2_text")}
    yield Parsed(line.key, line.key, fields, line)


def _multirc(line: RawExample) -> Iterator[Parsed]:
    """Parse MultiRC: a paragraph with questions and answers in the release, one answer a row on the hub."""

    def example(keys: list[str], paragraph: str, question: str, answer: str, held: RawExample) -> Parsed:
        fields = {"question": _plain(question), "answer": _plain(answer), "paragraph": _plain(paragraph)}
        return Parsed("-".join(keys), "-".join(keys[:2]), fields, held)

    if line.flat:
        names = ("paragraph", "question", "answer")
        keys = [str(line.child("idx").get(name, int, "a number")) for name in names]
        yield example(keys, line.text("paragraph"), line.text("question"), line.text("answer"), line)
        return
    passage = line.child("passage")
    for question in passage.children("questions"):
        for answer in question.children("answers"):
            keys = [line.key, question.key, answer.key]
            yield example(keys, passage.text("text"), question.text("question"), answer.text("text"), answer)


def _plain(text: str) -> str:
    """Take MultiRC's mark-up out: `<br>` to a space, `<b>` and `</b>` stripped."""
    return re.sub(r"</?b>", "", re.sub(r"<br\s*/?>", " ", text)).strip()


_BOOL = (False, True)
_TRUTH = ("False", "True")
_CB = ("entailment", "contradiction", "neutral")
_RTE = ("entailment", "not_entailment")
_NLI = "hypothesis: {hypothesis} premise: {premise}"

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "boolq",
            "BoolQ",
            "passage: {passage} question: {question}",
            _BOOL,
            _TRUTH,
            metrics=("accuracy",),
            cut_field="passage",
            statistics=Statistics(9427, 3270),
            parse=_fields("passage", "question"),
        ),
        # In CB the sentence that carries the claim ends the premise, so its start is what can be spared.
        Task(
            "cb",
            "CB",
            _NLI,
            _CB,
            _CB,
            metrics=("accuracy", "macro_f1"),
            cut_field="premise",
            statistics=Statistics(250, 56),
            parse=_fields("premise", "hypothesis"),
            cut_side="start",
        ),
        Task(
            "copa",
            "COPA",
            "choice1: {choice1} choice2: {choice2} premise: {premise} question: {question}",
            (0, 1),
            ("choice1", "choice2"),
            metrics=("accuracy",),
            cut_field="premise",
            statistics=Statistics(400, 100),
            parse=_fields("premise", "choice1", "choice2", "question"),
        ),
        Task(
            "multirc",
            "MultiRC",
            "question: {question} answer: {answer} paragraph: {paragraph}",
            (0, 1),
            _TRUTH,
            metrics=("f1a", "em"),
            cut_field="paragraph",
            statistics=Statistics(27243, 4848),
            parse=_multirc,
            together="paragraph",
        ),
        Task(
            "rte",
            "RTE",
            _NLI,
            _RTE,
            _RTE,
            metrics=("accuracy",),
            cut_field="premise",
            statistics=Statistics(2490, 277),
            parse=_fields("premise", "hypothesis"),
        ),
        Task(
            "wic",
            "WiC",
            "sentence1: {sentence1} sentence2: {sentence2} word: {word}",
            _BOOL,
            _TRUTH,
            metrics=("accuracy",),
            cut_field="sentence1",
            statistics=Statistics(5428, 638),
            parse=_fields("sentence1", "sentence2", "word"),
        ),
        Task(
            "wsc",
            "WSC",
            '{text} "{span2}" refers to "{span1}" or another word?',
            _BOOL,
            _TRUTH,
            metrics=("accuracy",),
            cut_field="text",
            statistics=Statistics(554, 104),
            parse=_wsc,
        ),
    )
}
