"""What a template may say: text with the plain names of fields in braces.

Owns reading the names out of a template. Never fills one in.
"""

from __future__ import annotations

import string


def fields_in(template: str) -> tuple[str, ...]:
    """Return the fields a template names, in order, as often as it names them.

    Raises `ValueError` where braces hold anything else: dots, brackets and formats would reach into an object.
    """
    named: list[str] = []
    for text, field, form, conversion in string.Formatter().parse(template):
        if set(text) & {"{", "}"} or form or conversion or (field is not None and not _plain(field)):
            raise ValueError("in template, braces hold the plain name of a column: no dots, brackets or formats")
        named += [] if field is None else [field]
    return tuple(named)


def _plain(field: str) -> bool:
    return bool(field.strip()) and not field.strip().isdigit() and not set(field) & set(".[]")
