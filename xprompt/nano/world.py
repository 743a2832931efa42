"""The small world that the embedded tasks are about: names, places, things, random streams.

Two rules keep data apart: `bucket` gives every passage to exactly one of corpus, train and validation; `is_held_out`
marks the (name, thing) pairings that neither the corpus nor a training split may say to be true. A wrong choice of
COPA may be any other event, of whoever it is.
"""

from __future__ import annotations

import hashlib
import random
from functools import lru_cache
from typing import Literal

Part = Literal["corpus", "train", "validation"]

WOMEN = (
    "Anna", "Mary", "Lucy", "Emma", "Clara", "Rosa", "Nina", "Julia", "Helen", "Laura", "Sarah", "Alice", "Martha",
    "Sophie", "Diana", "Grace",
)  # fmt: skip
MEN = (
    "Tom", "Peter", "John", "Paul", "David", "Oscar", "Henry", "Simon", "Victor", "Martin", "Jacob", "Daniel",
    "Robert", "Philip", "George", "Hugo",
)  # fmt: skip
NAMES = WOMEN + MEN

PLACES = (
    "village", "town", "city", "forest", "valley", "harbour", "castle", "desert", "south", "north", "mountains",
    "suburbs",
)  # fmt: skip
THINGS = (
    "kite", "drum", "boat", "lamp", "clock", "ladder", "basket", "violin", "flute", "guitar", "cat", "dog", "horse",
    "goat", "duck", "rabbit",
)  # fmt: skip
JOBS = (
    "baker", "doctor", "teacher", "farmer", "sailor", "painter", "singer", "writer", "driver", "nurse", "judge",
    "tailor",
)  # fmt: skip
FOODS = ("bread", "cheese", "soup", "rice", "honey", "fish", "milk", "tea", "coffee", "pasta")
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "grey")
VEHICLES = ("train", "bus", "bike", "plane", "ship", "car", "taxi", "tram")

#: Share of the examples of BoolQ, CB, MultiRC, RTE and WiC that turn on a word which the corpus does not teach, while
#: the training split does. It is as large as leaves fine-tuning something to learn, and not larger: prompts learn such
#: words one by one, and with 0.25 gained a point with every doubling of their steps.
UNTAUGHT = 0.15

#: Openers that make otherwise equal sentences differ; the empty one is used most.
OPENERS = (
    "Yesterday", "Today", "In the morning", "In the evening", "Last week", "On Monday", "On Sunday", "Last summer",
    "That day", "One day", "Later", "At the weekend",
)  # fmt: skip


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


@lru_cache(maxsize=1 << 17)
def bucket(text: str) -> Part:
    """Return the part that alone may use this passage: corpus 50 %, train 32 %, validation 18 %."""
    value = _digest("passage|" + text) % 100
    return "corpus" if value < 50 else "train" if value < 82 else "validation"


@lru_cache(maxsize=1 << 14)
def is_held_out(name: str, thing: str) -> bool:
    """Return whether the pairing of a name with a thing, place, verb or word is kept for validation (1 in 8)."""
    return _digest(f"pair|{name}|{thing}") % 8 == 0


def stream(seed: int, *labels: str) -> random.Random:
    """Return the random stream of a seed and labels; seed 0 is a seed like any other."""
    return random.Random(_digest(f"{seed}|" + "|".join(labels)))


def pronoun(name: str) -> str:
    """Return `she` or `he`."""
    return "she" if name in WOMEN else "he"


def with_opener(rng: random.Random, sentence: str, plain: float = 0.3) -> str:
    """Put an opener before a sentence that begins with a name, except in a share `plain` of the cases."""
    return sentence if rng.random() < plain else f"{rng.choice(OPENERS)} {sentence}"


def pick_name(rng: random.Random, thing: str, held_out: bool | None, avoid: tuple[str, ...] = ()) -> str:
    """Pick a name for a thing: one whose pairing is held out (True), is not (False), or any (None).

    A thing for which no name is held out gets another, so that a training split never contains a held-out pairing.
    """
    pool = [n for n in NAMES if n not in avoid and (held_out is None or is_held_out(n, thing) == held_out)]
    if not pool:
        pool = [n for n in NAMES if n not in avoid and not is_held_out(n, thing)]
    return rng.choice(pool)
