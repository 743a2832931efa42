"""What a task is: template, verbalizer, metrics, and how a line becomes an example."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from xprompt.config.pattern import Pattern, fields_in
from xprompt.errors import ConfigError, shown
from xprompt.tasks.custom import TaskFiles
from xprompt.tasks.example import Example, ParsedExample, RawExample, data_error, looks_the_same


class Statistics(NamedTuple):
    """Examples in the official splits (MultiRC: answers). Source: paper Tab 9."""

    train: int
    dev: int


@dataclass(frozen=True)
class Task:
    """What a task is, declared once: all that is shown, loaded, rendered and scored follows from here.

    Args:
        name: short name, in settings and records, and the configuration's name on the hub.
        title: as people read it, in tables and figures.
        folder: its folder in the official release layout; "" for a custom task.
        template: the input, with named fields. Source: paper Tab 10 (Raffel et al., task name dropped).
        label_values: the values of `label` in the release, in the order of the label words.
        label_words: the verbalizer, one text per label.
        metrics: names in `xprompt.tasks.metrics`; the task's score is their mean. Source: paper Tab 9.
        cut_field: the field that is shortened where the input is too long.
        parse: raw object → the examples in it.
        statistics: the paper's counts; zeros for a task that is not the paper's.
        cut_side: which side of that field is given up. Differs: the paper names neither field nor side.
        block_field: examples with equal texts in this field stay on one side of a hold-out; None: with equal inputs.
        label_field: the field that holds the label.
        clean: what every text of an example goes through, wherever it comes from.
        files: where a custom task's examples are; None: they come from the source that a run names.
    """

    name: str
    title: str
    folder: str
    template: str
    label_values: tuple[bool | int | str, ...]
    label_words: tuple[str, ...]
    metrics: tuple[str, ...]
    cut_field: str
    parse: Callable[[RawExample], Iterator[ParsedExample]]
    statistics: Statistics = Statistics(0, 0)
    cut_side: Literal["start", "end"] = "end"
    block_field: str | None = None
    label_field: str = "label"
    clean: Callable[[str], str] = str
    files: TaskFiles | None = None

    def __repr__(self) -> str:
        labels = ", ".join(map(str, self.label_values))
        return f"Task({self.name}: {self.template!r:.200} → {labels:.120}; {', '.join(self.metrics)})"

    def render(self, example: Example) -> str:
        """Return the input text of an example."""
        return self.template.format_map(example.fields)

    def cut_span(self, example: Example) -> tuple[int, int]:
        """Return where the cut field stands in the rendered text: first character, and one past the last."""
        start = 0
        for text, field, _, _ in string.Formatter().parse(self.template):
            start += len(text)
            if field == self.cut_field:
                break
            start += len(example.fields[field]) if field else 0
        return start, start + len(example.fields[self.cut_field])

    def label_text(self, label: int) -> str:
        """Return the words that stand for a label."""
        return self.label_words[label]

    def with_pattern(self, pattern: Pattern | Literal["paper"]) -> Task:
        """Return the task with another template and other label words; "paper": as declared.

        Raises:
            ConfigError: the pattern has other fields, or another number of label words than there are labels.
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

    def examples(self, raw: RawExample) -> list[Example]:
        """Return the examples in a raw object; `DataError` names file, line and field of what is wrong with it."""
        return [
            Example(p.uid, p.group, {name: self.clean(text) for name, text in p.fields.items()},
                    self._label(p.label_source))
            for p in self.parse(raw)
        ]  # fmt: skip

    def _label(self, raw: RawExample) -> int:
        where = f"{raw.where}, field '{raw.path}{self.label_field}'"
        allowed = tuple(range(len(self.label_values))) if raw.flat else self.label_values
        value = raw.data.get(self.label_field)
        if value is None:
            raise data_error(
                where,
                "an example without a label",
                f"one of {list(allowed)}",
                "fill in the label, or use a labelled split: train or validation, never test",
            )
        for i, known in enumerate(allowed):
            if type(value) is type(known) and value == known:
                return i
        raise data_error(
            where,
            shown(value),
            f"one of {list(allowed)}",
            f"correct the label, or check that the file belongs to this task{looks_the_same(value, allowed)}",
        )
