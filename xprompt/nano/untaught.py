"""Which examples need what the corpus does not teach: another word for a value, a word's senses, an event, a verb."""

from __future__ import annotations

import re
from collections.abc import Mapping

from xprompt.nano import causes, facts, pronouns, senses

_OTHER_WORDS = frozenset(facts.OTHER_WORDS.values())
_SENSES = frozenset(list(senses.WORDS)[senses.TAUGHT :])
_VERBS = frozenset(pronouns.SUBJECT[pronouns.TAUGHT :] + pronouns.OBJECT[pronouns.TAUGHT :])
_EVENTS = tuple(told.format(n="", v="") for event in causes.EVENTS[causes.TAUGHT :] for told in event[:2])


def needs_untaught(task: str, fields: Mapping[str, object]) -> bool:
    """Return whether an example of a generated task turns on something that only the training split teaches.

    Args:
        task: one of the seven.
        fields: the example's, as its template takes them.
    """
    if task == "wic":
        return fields["word"] in _SENSES
    if task == "copa":
        return any(told in str(fields["premise"]) for told in _EVENTS)
    words = re.findall(r"\w+", " ".join(map(str, fields.values())))
    return not (_VERBS if task == "wsc" else _OTHER_WORDS).isdisjoint(words)
