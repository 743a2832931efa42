"""The paper's seven SuperGLUE tasks, one declaration each: title, template, verbalizer, metrics, how it is parsed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

from xprompt.tasks.example import ParsedExample, RawExample
from xprompt.tasks.task import Statistics, Task


def _fields(*names: str) -> Callable[[RawExample], Iterator[ParsedExample]]:
    """Parse tasks with one example a line, its texts under the template's own names."""
    return partial(parse_fields, names)


def parse_fields(names: tuple[str, ...], raw: RawExample) -> Iterator[ParsedExample]:
    """Yield the one example of a raw object, its texts under these names."""
    yield ParsedExample(raw.key, raw.key, {name: raw.text(name) for name in names}, raw)


def _wsc(raw: RawExample) -> Iterator[ParsedExample]:
    """Parse WSC: the two spans stand in `target` in the release, beside the text on the hub."""
    spans = raw if raw.flat else raw.child("target")
    fields = {"text": raw.text("text"), "span1": spans.text("span1_text"), "span2": spans.text("span2_text")}
    yield ParsedExample(raw.key, raw.key, fields, raw)


def _multirc(raw: RawExample) -> Iterator[ParsedExample]:
    """Parse MultiRC: a paragraph with questions and answers in the release, one answer a row on the hub."""

    def example(keys: list[str], paragraph: str, question: str, answer: str, label_source: RawExample) -> ParsedExample:
        fields = {"question": question, "answer": answer, "paragraph": paragraph}
        return ParsedExample("-".join(keys), "-".join(keys[:2]), fields, label_source)

    if raw.flat:
        names = ("paragraph", "question", "answer")
        keys = [str(raw.child("idx").get(name, int, "a number")) for name in names]
        yield example(keys, raw.text("paragraph"), raw.text("question"), raw.text("answer"), raw)
        return
    passage = raw.child("passage")
    for question in passage.children("questions"):
        for answer in question.children("answers"):
            keys = [raw.key, question.key, answer.key]
            yield example(keys, passage.text("text"), question.text("question"), answer.text("text"), answer)


def _strip_markup(text: str) -> str:
    """Remove MultiRC's mark-up: `<br>` becomes a space, `<b>` and `</b>` go."""
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
            title="BoolQ",
            folder="BoolQ",
            template="passage: {passage} question: {question}",
            label_values=_BOOL,
            label_words=_TRUTH,
            metrics=("accuracy",),
            cut_field="passage",
            statistics=Statistics(9427, 3270),
            parse=_fields("passage", "question"),
        ),
        # In CB the sentence that carries the claim ends the premise, so its start is what can be spared.
        Task(
            "cb",
            title="CB",
            folder="CB",
            template=_NLI,
            label_values=_CB,
            label_words=_CB,
            metrics=("accuracy", "macro_f1"),
            cut_field="premise",
            statistics=Statistics(250, 56),
            parse=_fields("premise", "hypothesis"),
            cut_side="start",
        ),
        Task(
            "copa",
            title="COPA",
            folder="COPA",
            template="choice1: {choice1} choice2: {choice2} premise: {premise} question: {question}",
            label_values=(0, 1),
            label_words=("choice1", "choice2"),
            metrics=("accuracy",),
            cut_field="premise",
            statistics=Statistics(400, 100),
            parse=_fields("premise", "choice1", "choice2", "question"),
        ),
        Task(
            "multirc",
            title="MultiRC",
            folder="MultiRC",
            template="question: {question} answer: {answer} paragraph: {paragraph}",
            label_values=(0, 1),
            label_words=_TRUTH,
            metrics=("f1a", "em"),
            cut_field="paragraph",
            statistics=Statistics(27243, 4848),
            parse=_multirc,
            block_field="paragraph",
            clean=_strip_markup,
        ),
        Task(
            "rte",
            title="RTE",
            folder="RTE",
            template=_NLI,
            label_values=_RTE,
            label_words=_RTE,
            metrics=("accuracy",),
            cut_field="premise",
            statistics=Statistics(2490, 277),
            parse=_fields("premise", "hypothesis"),
        ),
        Task(
            "wic",
            title="WiC",
            folder="WiC",
            template="sentence1: {sentence1} sentence2: {sentence2} word: {word}",
            label_values=_BOOL,
            label_words=_TRUTH,
            metrics=("accuracy",),
            cut_field="sentence1",
            statistics=Statistics(5428, 638),
            parse=_fields("sentence1", "sentence2", "word"),
        ),
        Task(
            "wsc",
            title="WSC",
            folder="WSC",
            template='{text} "{span2}" refers to "{span1}" or another word?',
            label_values=_BOOL,
            label_words=_TRUTH,
            metrics=("accuracy",),
            cut_field="text",
            statistics=Statistics(554, 104),
            parse=_wsc,
            block_field="text",  # of two candidates for one pronoun, the one's label gives the other's away
        ),
    )
}
"""The SuperGLUE tasks of the paper by their names. Source: paper Tab 9, 10."""
