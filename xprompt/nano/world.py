"""The small world the embedded default talks about: names, places, things, and who may meet what.

Owns the word lists, the random streams, and the two rules that keep data apart:
`bucket` gives every passage to exactly one of corpus, train and validation; `is_held` names the
(name, thing) pairings that neither the corpus nor a training split may use. Never writes a task
record, and never imports torch.
"""

from __future__ import annotations

import hashlib
import random
from functools import lru_cache
from typing import Literal

Part = Literal["corpus", "train", "validation"]

WOMEN = (
    "Anna",
    "Mary",
    "Lucy",
    "Emma",
    "Clara",
    "Rosa",
    "Nina",
    "Julia",
    "Helen",
    "Laura",
    "Sarah",
    "Alice",
    "Martha",
    "Sophie",
    "Diana",
    "Grace",
)
MEN = (
    "Tom",
    "Peter",
    "John",
    "Paul",
    "David",
    "Oscar",
    "Henry",
    "Simon",
    "Victor",
    "Martin",
    "Jacob",
    "Daniel",
    "Robert",
    "Philip",
    "George",
    "Hugo",
)
NAMES = WOMEN + MEN

PLACES = (
    "village",
    "town",
    "city",
    "forest",
    "valley",
    "harbour",
    "castle",
    "desert",
    "south",
    "north",
    "mountains",
    "suburbs",
)
THINGS = (
    "kite",
    "drum",
    "boat",
    "lamp",
    "clock",
    "ladder",
    "basket",
    "violin",
    "flute",
    "guitar",
    "cat",
    "dog",
    "horse",
    "goat",
    "duck",
    "rabbit",
)
JOBS = (
    "baker",
    "doctor",
    "teacher",
    "farmer",
    "sailor",
    "painter",
    "singer",
    "writer",
    "driver",
    "nurse",
    "judge",
    "tailor",
)
FOODS = ("bread", "cheese", "soup", "rice", "honey", "fish", "milk", "tea", "coffee", "pasta")
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "grey")
VEHICLES = ("train", "bus", "bike", "plane", "ship", "car", "taxi", "tram")

#: Openers that make otherwise equal sentences differ; the empty one is used most.
OPENERS = (
    "Yesterday",
    "Today",
    "In the morning",
    "In the evening",
    "Last week",
    "On Monday",
    "On Sunday",
    "Last summer",
    "That day",
    "One day",
    "Later",
    "At the weekend",
)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


@lru_cache(maxsize=1 << 17)
def bucket(text: str) -> Part:
    """Return the part that alone may use this passage: corpus 50 %, train 32 %, validation 18 %."""
    value = _digest("passage|" + text) % 100
    return "corpus" if value < 50 else "train" if value < 82 else "validation"


@lru_cache(maxsize=1 << 14)
def is_held(name: str, thing: str) -> bool:
    """Tell whether the pairing of a name with a thing, place, verb or word is kept for validation (1 in 8)."""
    return _digest(f"pair|{name}|{thing}") % 8 == 0


def stream(seed: int, *labels: str) -> random.Random:
    """Return a random stream of its own for a seed and labels; seed 0 is a seed like any other."""
    return random.Random(_digest(f"{seed}|" + "|".join(labels)))


def pronoun(name: str) -> str:
    """Return `she` or `he`."""
    return "she" if name in WOMEN else "he"


def opened(rng: random.Random, sentence: str, plain: float = 0.3) -> str:
    """Put an opener before a sentence that begins with a name, except in a share `plain` of the cases."""
    return sentence if rng.random() < plain else f"{rng.choice(OPENERS)} {sentence}"


def pick_name(rng: random.Random, thing: str, held: bool | None, avoid: tuple[str, ...] = ()) -> str:
    """Pick a name for a thing: one whose pairing is held (True), is not held (False), or any (None).

    Every thing keeps at least one held and one free name only by chance; a thing without one gets a free name,
    so that a training split can never contain a held pairing.
    """
    pool = [n for n in NAMES if n not in avoid and (held is None or is_held(n, thing) == held)]
    if not pool:
        pool = [n for n in NAMES if n not in avoid and not is_held(n, thing)]
    return rng.choice(pool)
