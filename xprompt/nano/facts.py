"""Facts about people, sentences that state them, and claims that follow or do not.

Plain statements are taught by the corpus; the *twists* (`KINDS` other than `plain`, and denied claims) are for tasks
only, and a model has to learn them there.
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

#: How a sentence may bear on a fact. All but `plain` are twists; the corpus uses these only in running text.
KINDS = ("plain", "gone", "lost", "everyone", "gave")
#: One more, which the corpus does not hold at all: `with` says that a person shares another's value (two hops).
SHARED = {"live": "lives with", "ride": "travels with"}
#: Wider words for values: relation -> word -> (values, third person, base form). Known to tasks only.
WIDER: dict[str, dict[str, tuple[tuple[str, ...], str, str]]] = {
    "have": {"animal": (("cat", "dog", "horse", "goat", "duck", "rabbit"), "owns an animal", "own an animal")},
    "wear": {
        "dark": (("black", "brown", "grey", "blue"), "wears dark clothes", "wear dark clothes"),
        "bright": (("red", "green", "yellow", "white"), "wears bright clothes", "wear bright clothes"),
    },
}


@dataclass(frozen=True)
class Statement:
    """One sentence of a passage.

    `person` is empty for `everyone`; `other` receives what is given, or is who shares the value (`with`).
    """

    kind: str
    person: str
    relation: str
    value: str
    way: int = 0
    other: str = ""

    def text(self) -> str:
        """Return the sentence."""
        third = RELATIONS[self.relation].says[self.way][0].format(v=self.value)
        if self.kind == "plain":
            return f"{self.person} {third}."
        if self.kind == "gone":
            return f"{self.person} no longer {third}."
        if self.kind == "lost":
            return f"{self.person} {('sold', 'lost')[self.way]} a {self.value}."
        if self.kind == "everyone":
            return f"Everyone {third}."
        if self.kind == "with":
            return f"{self.person} {SHARED[self.relation]} {self.other}."
        return f"{self.person} gave a {self.value} to {self.other}."


@dataclass(frozen=True)
class Claim:
    """Something one may say about a person; `denied` puts a `does not` in it."""

    person: str
    relation: str
    value: str
    way: int = 0
    denied: bool = False

    def _forms(self) -> tuple[str, str]:
        wider = WIDER.get(self.relation, {}).get(self.value)
        return wider[1:] if wider else RELATIONS[self.relation].says[self.way]

    def covers(self, value: str) -> bool:
        """Tell whether a value makes the claim's value true: it is the same, or one of a wider word's."""
        wider = WIDER.get(self.relation, {}).get(self.value)
        return value in wider[0] if wider else value == self.value

    def sentence(self) -> str:
        """Return the claim as a statement."""
        third, base = self._forms()
        body = f"does not {base}" if self.denied else third
        return f"{self.person} {body.format(v=self.value)}."

    def question(self) -> str:
        """Return the claim as a yes-no question."""
        return f"Does {self.person} {self._forms()[1].format(v=self.value)}?"


def passage(statements: list[Statement]) -> str:
    """Return the sentences joined to a text."""
    return " ".join(s.text() for s in statements)


def judge(statements: list[Statement], claim: Claim) -> Truth:
    """Tell whether a passage makes a claim true, makes it false, or leaves it open."""
    truth = _judge(statements, claim)
    if claim.denied and truth != "unknown":
        return "no" if truth == "yes" else "yes"
    return truth


def _judge(statements: list[Statement], claim: Claim) -> Truth:
    other_value: Truth = "no" if RELATIONS[claim.relation].functional else "unknown"
    for s in statements:
        if s.relation != claim.relation:
            continue
        same = claim.covers(s.value)
        if s.kind == "everyone" or (s.kind in ("plain", "with") and s.person == claim.person):
            return "yes" if same else other_value
        if s.kind in ("gone", "lost", "gave") and s.person == claim.person and same:
            return "no"
        if s.kind == "gave" and s.other == claim.person and same:
            return "yes"
    return "unknown"


def statements(rng: random.Random, count: int, kind: str = "plain", free_of_held_out: bool = True) -> list[Statement]:
    """Draw a passage of `count` statements about different people, the first of the given kind.

    Half of the passages stay within one relation, so that a reader must bind value and person.
    """
    first = "have" if kind in ("lost", "gave") else rng.choice(tuple(RELATIONS))
    same = rng.random() < 0.5
    people = rng.sample(world.NAMES, count + 1)
    sentences: list[Statement] = []
    for position in range(count):
        relation = first if position == 0 or same else rng.choice(tuple(RELATIONS))
        its_kind = kind if position == 0 else "plain"
        if its_kind == "plain" and kind == "everyone" and relation == first:
            relation = rng.choice([r for r in RELATIONS if r != first])
        taken = {s.value for s in sentences}
        person = people[position]
        options = [
            v
            for v in RELATIONS[relation].values
            if v not in taken and not (free_of_held_out and world.is_held_out(person, v))
        ]
        sentences.append(
            Statement(
                its_kind,
                "" if its_kind == "everyone" else person,
                relation,
                rng.choice(options),
                rng.randrange(2),
                people[count] if its_kind == "gave" else "",
            )
        )
    return sentences


def people_in(sentences: list[Statement]) -> list[str]:
    """Return the names in a passage, in order."""
    return [name for s in sentences for name in (s.person, s.other) if name]


def draw_claim(
    rng: random.Random,
    sentences: list[Statement],
    about: Statement,
    truth: Truth,
    denied: bool = False,
    tries: int = 12,
) -> Claim | None:
    """Draw a claim about one statement with the wanted truth, or None where none was found.

    False and open claims reuse the people and values of the passage where they can, so that counting words
    does not answer them.
    """
    names = people_in(sentences)
    for _ in range(tries):
        relation, value = about.relation, about.value
        options = RELATIONS[relation].values
        if about.kind == "everyone":
            person = rng.choice(names) if names and rng.random() < 0.5 else rng.choice(world.NAMES)
        else:
            person = about.other if about.kind == "gave" and rng.random() < 0.5 else about.person
        roll = rng.random()
        wanted_same = (truth == "yes") != denied and truth != "unknown"
        if about.kind in ("gone", "lost"):
            wanted_same = roll < 0.8
        elif about.kind == "gave":
            wanted_same = roll < 0.9
        if not wanted_same:
            values = [s.value for s in sentences if s.relation == relation and s.value != value]
            if truth == "unknown" and roll < 0.5 and len(names) > 1:
                person = rng.choice([n for n in names if n != person] or [person])
            elif truth == "unknown" and roll < 0.8:
                relation = rng.choice([r for r in RELATIONS if r != relation])
                value = rng.choice(RELATIONS[relation].values)
            elif values and roll < 0.6:
                value = rng.choice(values)
            else:
                value = rng.choice([v for v in options if v != value])
        claim = Claim(person, relation, value, rng.randrange(2), denied)
        if judge(sentences, claim) == truth:
            return claim
    return None
