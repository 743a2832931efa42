"""Facts about people, sentences that state them, and claims that follow or do not.

A claim may use another word for a value (`OTHER_WORDS`): the corpus holds those words in running text only and never
says what they stand for, so that a frozen model cannot know it and no prompt can tell it; fine-tuning learns it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from xprompt.nano import world

Truth = Literal["yes", "no", "unknown"]


@dataclass(frozen=True)
class Relation:
    """A relation between a person and a value, with ways to state it and to ask for it."""

    values: tuple[str, ...]
    says: tuple[tuple[str, str], ...]  # (third person, base form), each with {v}
    what: str  # asks for the value, with {n}
    answer: str  # the value as an answer, with {v}
    functional: bool  # a second value contradicts the first


RELATIONS: dict[str, Relation] = {
    "live": Relation(
        world.PLACES,
        (("lives in the {v}", "live in the {v}"), ("stays in the {v}", "stay in the {v}")),
        "Where does {n} live?",
        "the {v}",
        True,
    ),
    "have": Relation(
        world.THINGS, (("has a {v}", "have a {v}"), ("owns a {v}", "own a {v}")), "What does {n} own?", "a {v}", False
    ),
    "job": Relation(
        world.JOBS,
        (("works as a {v}", "work as a {v}"), ("earns money as a {v}", "earn money as a {v}")),
        "What does {n} work as?",
        "a {v}",
        True,
    ),
    "like": Relation(
        world.FOODS, (("likes {v}", "like {v}"), ("loves {v}", "love {v}")), "What does {n} like?", "{v}", False
    ),
    "wear": Relation(
        world.COLOURS,
        (("wears {v} clothes", "wear {v} clothes"), ("is dressed in {v}", "dress in {v}")),
        "What colour does {n} wear?",
        "{v}",
        True,
    ),
    "ride": Relation(
        world.VEHICLES,
        (("travels by {v}", "travel by {v}"), ("goes by {v}", "go by {v}")),
        "How does {n} travel?",
        "by {v}",
        True,
    ),
}

#: Another word for a value, which claims of the tasks may use.
OTHER_WORDS = {
    "village": "hamlet", "city": "metropolis", "forest": "woods", "valley": "dale", "harbour": "port",
    "castle": "fortress", "desert": "wasteland", "mountains": "highlands", "suburbs": "outskirts",
    "boat": "vessel", "lamp": "lantern", "clock": "timepiece", "basket": "hamper", "violin": "fiddle", "dog": "hound",
    "horse": "steed", "cat": "kitty", "rabbit": "bunny",
    "doctor": "physician", "teacher": "tutor", "farmer": "grower", "sailor": "mariner", "singer": "vocalist",
    "writer": "novelist", "driver": "chauffeur", "nurse": "carer", "judge": "magistrate", "tailor": "dressmaker",
    "bread": "toast", "soup": "broth", "coffee": "espresso", "fish": "seafood", "pasta": "noodles",
    "red": "crimson", "blue": "navy", "green": "emerald", "white": "ivory", "brown": "tan", "yellow": "golden",
    "train": "rail", "bus": "coach", "bike": "bicycle", "plane": "aircraft", "ship": "liner", "car": "automobile",
    "taxi": "cab", "tram": "streetcar",
}  # fmt: skip


@dataclass(frozen=True)
class Statement:
    """One sentence of a passage; `renamed` puts the value's other word in it."""

    person: str
    relation: str
    value: str
    way: int = 0
    renamed: bool = False

    @property
    def word(self) -> str:
        """The word that stands for the value."""
        return OTHER_WORDS[self.value] if self.renamed else self.value

    def sentence(self) -> str:
        """Return it as a statement."""
        return f"{self.person} {RELATIONS[self.relation].says[self.way][0].format(v=self.word)}."

    def question(self) -> str:
        """Return it as a yes-no question."""
        return f"Does {self.person} {RELATIONS[self.relation].says[self.way][1].format(v=self.word)}?"


def passage(statements: list[Statement]) -> str:
    """Return the sentences joined to a text."""
    return " ".join(s.sentence() for s in statements)


def judge(statements: list[Statement], claim: Statement) -> Truth:
    """Return whether a passage makes a claim true, makes it false, or leaves it open."""
    for s in statements:
        if (s.relation, s.person) == (claim.relation, claim.person):
            if s.value == claim.value:
                return "yes"
            return "no" if RELATIONS[claim.relation].functional else "unknown"
    return "unknown"


def statements(rng: random.Random, count: int, free_of_held_out: bool = True) -> list[Statement]:
    """Draw a passage of `count` statements about different people.

    Half of the passages stay within one relation, so that a reader must bind value and person.
    """
    first = rng.choice(tuple(RELATIONS))
    same = rng.random() < 0.5
    sentences: list[Statement] = []
    for position, person in enumerate(rng.sample(world.NAMES, count)):
        relation = first if position == 0 or same else rng.choice(tuple(RELATIONS))
        taken = {s.value for s in sentences}
        options = [
            v
            for v in RELATIONS[relation].values
            if v not in taken and not (free_of_held_out and world.is_held_out(person, v))
        ]
        sentences.append(Statement(person, relation, rng.choice(options), rng.randrange(2)))
    return sentences


def draw_claim(
    rng: random.Random, sentences: list[Statement], about: Statement, truth: Truth, renamed: bool = False
) -> Statement | None:
    """Draw a claim about one statement with the wanted truth, or None where none was found.

    False and open claims reuse the people and values of the passage where they can, so that counting words
    does not answer them.

    Args:
        renamed: the claim uses its value's other word.
    """
    names = [s.person for s in sentences]
    for _ in range(12):
        person, relation, value = about.person, about.relation, about.value
        options = RELATIONS[relation].values
        roll = rng.random()
        if truth != "yes":
            values = [s.value for s in sentences if s.relation == relation and s.value != value]
            if truth == "unknown" and roll < 0.5 and len(names) > 1:
                person = rng.choice([n for n in names if n != person])
            elif truth == "unknown" and roll < 0.8:
                relation = rng.choice([r for r in RELATIONS if r != relation])
                value = rng.choice(RELATIONS[relation].values)
            elif values and roll < 0.6:
                value = rng.choice(values)
            else:
                value = rng.choice([v for v in options if v != value])
        if renamed and value not in OTHER_WORDS:
            continue
        claim = Statement(person, relation, value, rng.randrange(2), renamed)
        if judge(sentences, claim) == truth:
            return claim
    return None
