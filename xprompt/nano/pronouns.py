"""Sentences with a pronoun that stands for one of two people, and examples like WSC's made of them.

The corpus teaches the first `TAUGHT` verbs of each side; the others only occur there.
"""

from __future__ import annotations

import random

from xprompt.nano import world

#: verbs whose reason lies in the one who acts, and in the one acted on; the last two of each are not taught
SUBJECT = ("frightened", "annoyed", "bored", "amused", "impressed", "surprised", "fascinated", "disturbed")
OBJECT = ("feared", "thanked", "praised", "blamed", "admired", "envied", "punished", "trusted")
TAUGHT = 6
#: Share of a task's examples with the others, which are so few that a prompt learns them by heart.
UNTAUGHT = 0.05
TRAITS = ("loud", "clever", "rude", "strange", "funny", "careless", "honest", "brave", "quick", "famous")
#: (what failed, trait of the one who acts, trait of the one acted on)
COMPARED = (
    ("could not lift", "weak", "heavy"),
    ("could not catch", "slow", "fast"),
    ("could not hear", "deaf", "silent"),
    ("could not find", "blind", "hidden"),
)


def draw(rng: random.Random, part: world.Part, held_out: bool, taught: bool) -> tuple[str, str, str, str, str]:
    """Draw (text, referent, other person, pronoun, trait) with a text of the part's bucket.

    In a third of the texts the pronoun's gender decides, in the rest the verb or the trait does.
    """
    while True:
        side = rng.randrange(2)
        if taught and rng.random() < 0.3:
            verb, *traits = rng.choice(COMPARED)
            trait = traits[side]
        else:
            verbs = (SUBJECT, OBJECT)[side]
            verb, trait = rng.choice(verbs[:TAUGHT] if taught else verbs[TAUGHT:]), rng.choice(TRAITS)
        first = world.pick_name(rng, verb, held_out)
        second = rng.choice([n for n in world.NAMES if n != first])
        alike = world.pronoun(first) == world.pronoun(second)
        if alike != (rng.random() < 0.67) or world.is_held_out(first, verb) != held_out:
            continue
        people = (first, second)
        pronoun = world.pronoun(people[side])
        text = f"{first} {verb} {second} because {pronoun} was {trait}."
        if world.bucket(text) == part:
            return text, people[side], people[1 - side], pronoun, trait


def wsc(part: world.Part, size: int, seed: int) -> list[dict]:
    """Return WSC lines: does the second span stand for the first? Half of them say yes."""
    rng = world.stream(seed, "wsc", part)
    lines = []
    for number in range(size):
        held_out = part == "validation" and rng.random() < 0.3
        text, referent, other, pronoun, _ = draw(rng, part, held_out, taught=rng.random() >= UNTAUGHT)
        label = rng.random() < 0.5
        words = text.split()
        span = referent if label else other
        target = {
            "span2_index": words.index(pronoun),
            "span1_index": words.index(span),
            "span1_text": span,
            "span2_text": pronoun,
        }
        lines.append({"text": text, "target": target, "idx": number, "label": label})
    return lines
