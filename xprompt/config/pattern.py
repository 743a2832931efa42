"""A pattern: a template with its label words, as a task is posed to one backbone."""

from __future__ import annotations

import string

from pydantic import model_validator

from xprompt.config.settings import Settings


class Pattern(Settings):
    """A template with its label words, which replace those of a task for one backbone.

    The pattern-verbalizer pair of Schick and Schütze (2021). Differs: the paper has T5's templates alone (Tab 10).

    Args:
        template: the input, with the same fields as the task's template.
        label_words: one text per label, in the order of the task's.
    """

    template: str
    label_words: tuple[str, ...]

    @model_validator(mode="after")
    def _is_consistent(self) -> Pattern:
        fields_in(self.template)
        words = [word.strip() for word in self.label_words]
        if len(set(words)) < len(words) or "" in words:
            raise ValueError("label_words needs a different word for each label")
        return self


def fields_in(template: str) -> tuple[str, ...]:
    """Return the fields a template names, in order, as often as it names them; `{{` and `}}` are literal braces.

    Raises `ValueError` where braces hold anything else: dots, brackets and formats would reach into an object.
    """
    fields: list[str] = []
    for _, field, form, conversion in string.Formatter().parse(template):
        if form or conversion or (field is not None and not _is_plain(field)):
            raise ValueError(
                "in template, braces hold the plain name of a column: no dots, brackets or formats; {{ is a literal {"
            )
        fields += [] if field is None else [field]
    return tuple(fields)


def _is_plain(field: str) -> bool:
    return bool(field.strip()) and not field.strip().isdigit() and not set(field) & set(".[]")
