"""The seven tasks, each one short declaration: template, verbalizer, metrics, statistics, how to read a line.

Owns what each task's lines mean, how a record is put to a model, and finding a task by name or by the path of an own
one's declaration. Never reads examples, never scores.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from xprompt.config.settings import Pattern
from xprompt.config.templates import fields_in
from xprompt.errors import ConfigError
from xprompt.tasks.custom import DECLARATION, Files, OwnTask
from xprompt.tasks.example import Line, Parsed, Record, fault


class Statistics(NamedTuple):
    """Examples in the official splits (MultiRC: answers). Source: paper Tab 9."""

    train: int
    dev: int


@dataclass(frozen=True)
class Task:
    """What a task is, declared once.

    Args:
        name: short name, and the configuration's name on the hub.
        folder: its folder in the official release layout.
        template: the input, with named fields. Source: paper Tab 10 (Raffel et al., task name dropped).
        label_values: the values of `label` in the release, in the order of the label words.
        label_words: the verbalizer, one text per label.
        metrics: names in `xprompt.tasks.metrics`; the task's score is their mean. Source: paper Tab 9.
        cut_field: the field that is shortened where the input is too long.
        statistics: the paper's counts; zeros for a task that is not the paper's.
        parse: one line -> the examples in it.
        cut_side: which side of that field is given up. Differs: the paper names neither field nor side.
        together: a field whose equal texts must not be parted by a hold-out; none: equal inputs only.
        label_field: the field of a line that holds its label.
        files: of an own task, where its examples are; none: they come from the source that a run names.
    """

    name: str
    folder: str
    template: str
    label_values: tuple[bool | int | str, ...]
    label_words: tuple[str, ...]
    metrics: tuple[str, ...]
    cut_field: str
    statistics: Statistics
    parse: Callable[[Line], Iterator[Parsed]]
    cut_side: Literal["start", "end"] = "end"
    together: str | None = None
    label_field: str = "label"
    files: Files | None = None

    def render(self, record: Record) -> str:
        """Return the input text of a record."""
        return self.template.format_map(record.fields)

    def cut_span(self, record: Record) -> tuple[int, int]:
        """Return where the cut field stands in the rendered text: first character, and one past the last."""
        before = self.template.partition(f"{{{self.cut_field}}}")[0]
        start = len(before.format_map(record.fields))
        return start, start + len(record.fields[self.cut_field])

    def label_text(self, label: int) -> str:
        """Return the words that stand for a label."""
        return self.label_words[label]

    def put(self, pattern: Pattern | Literal["paper"]) -> Task:
        """Return the task with another template and other label words; "paper": as it is.

        Raises `ConfigError` where the pattern has other fields, or not as many label words as there are labels.
        """
        if pattern == "paper":
            return self
        fields, needed = fields_in(pattern.template), fields_in(self.template)
        if set(fields) != set(needed) or fields.count(self.cut_field) != 1:
            raise ConfigError(
                f"pattern for {self.name}: its template names {', '.join(fields) or 'no field'}; needed: "
                f"{', '.join(dict.fromkeys(needed))}, and {{{self.cut_field}}}, which may be cut, once only."
            )
        if len(pattern.label_words) != len(self.label_values):
            raise ConfigError(
                f"pattern for {self.name}: label words {', '.join(pattern.label_words)}; needed: one for each of "
                f"{', '.join(map(str, self.label_values))}, in this order."
            )
        return replace(self, template=pattern.template, label_words=pattern.label_words)

    def records(self, line: Line) -> list[Record]:
        """Return the records in one line; `DataError` names file, line and field of what is wrong with it."""
        return [Record(p.uid, p.group, p.fields, self._label(p.labelled)) for p in self.parse(line)]

    def _label(self, line: Line) -> int:
        where = f"{line.where}, field '{line.path}{self.label_field}'"
        allowed = tuple(range(len(self.label_values))) if line.flat else self.label_values
        value = line.data.get(self.label_field)
        if value is None:
            raise fault(
                where,
                "an example without a label",
                f"one of {list(allowed)}",
                "use a labelled split: train or validation, never test",
            )
        for i, known in enumerate(allowed):
            if type(value) is type(known) and value == known:
                return i
        raise fault(
            where,
            repr(value),
            f"one of {list(allowed)}",
            "correct the label, or check that the file belongs to this task",
        )


def _fields(*names: str) -> Callable[[Line], Iterator[Parsed]]:
    """Parse tasks whose lines hold one example, its texts under the template's own names."""

    def parse(line: Line) -> Iterator[Parsed]:
        yield Parsed(line.key, line.key, {name: line.text(name) for name in names}, line)

    return parse


def _wsc(line: Line) -> Iterator[Parsed]:
    """Parse WSC: the two spans stand in `target` in the release, beside the text on the hub."""
    spans = line if line.flat else line.child("target")
    fields = {"text": line.text("text"), "span1": spans.text("span1_text"), "span2": spans.text("span2_text")}
    yield Parsed(line.key, line.key, fields, line)


def _multirc(line: Line) -> Iterator[Parsed]:
    """Parse MultiRC: a paragraph with questions and answers in the release, one answer a row on the hub."""

    def example(keys: list[str], paragraph: str, question: str, answer: str, held: Line) -> Parsed:
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


def get_task(name: str | Path) -> Task:
    """Return a task by its name, or an own one by the path of its declaration, `task.json`.

    Raises:
        ConfigError: an unknown name, or a declaration that cannot be meant.
        DataError: the declaration's files of examples are not there.
    """
    if name in TASKS:
        return TASKS[str(name)]
    path = Path(name).expanduser()
    if path.suffix != ".json":
        raise ConfigError(
            f"Unknown task {str(name)!r}; needed one of {', '.join(TASKS)}. "
            f"Fix: name one of these, or give the path of a task of your own ({DECLARATION})."
        )
    return _own(OwnTask.load(path), path)


def _own(declared: OwnTask, path: Path) -> Task:
    if declared.name.lower() in (*TASKS, "average", "all"):
        raise ConfigError(f"{path.parent.name}/{path.name}: the name {declared.name!r} is taken; choose another.")
    return Task(
        declared.name,
        "",
        declared.template,
        tuple(declared.verbalizer),
        tuple(declared.verbalizer.values()),
        metrics=declared.metrics,
        cut_field=declared.cut_column,
        statistics=Statistics(0, 0),
        parse=declared.parse,
        cut_side=declared.cut_side,
        together=declared.group,
        label_field=declared.label,
        files=declared.files(path.parent),
    )
