"""Events and what they lead to, and examples like COPA's made of them.

The corpus teaches the first `TAUGHT` events; it has the sentences of the rest, but never as cause and effect, so that
a task can ask for something new.
"""

from __future__ import annotations

import random

from xprompt.nano import world

#: (cause, effect, the slot's values); {n} is a name, {v} the slot, both shared by the two sentences.
EVENTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("{n} dropped the {v}.", "{n}'s {v} broke.", ("cup", "plate", "jar", "vase")),
    ("{n} left the {v} in the sun.", "{n}'s {v} melted.", ("butter", "chocolate", "candle")),
    ("{n} watered the {v}.", "{n}'s {v} grew.", ("rose", "tree", "grass")),
    ("{n} ate too much {v}.", "{n} felt sick.", ("cheese", "honey", "pasta", "chocolate")),
    ("{n} ran for hours.", "{n} got tired.", ("",)),
    ("{n} forgot the umbrella.", "{n} got wet.", ("",)),
    ("{n} studied every day.", "{n} passed the exam.", ("",)),
    ("{n} missed the {v}.", "{n} came late.", ("bus", "train", "tram")),
    ("{n} told a joke.", "{n}'s friends laughed.", ("",)),
    ("{n} lit a fire.", "{n}'s room became warm.", ("",)),
    ("{n} turned off the lamp.", "{n}'s room became dark.", ("",)),
    ("{n} practised the {v}.", "{n} played the {v} well.", ("violin", "flute", "guitar")),
    ("{n} skipped dinner.", "{n} was hungry.", ("",)),
    ("{n} touched the knife.", "{n}'s finger bled.", ("",)),
    ("{n} won the race.", "{n} received a prize.", ("",)),
    ("{n} robbed a shop.", "{n} went to prison.", ("",)),
    ("{n} fed the {v}.", "{n}'s {v} became fat.", ("cat", "dog", "goat", "duck")),
    ("{n} kicked the ball.", "{n}'s ball flew away.", ("",)),
    ("{n} heard a noise.", "{n} woke up.", ("",)),
    ("{n} sold the {v}.", "{n} had more money.", ("boat", "clock", "kite")),
    # not taught
    ("{n} lost the key.", "{n} waited outside.", ("",)),
    ("{n} painted the wall.", "{n}'s house looked new.", ("",)),
    ("{n} told a lie.", "{n}'s mother was angry.", ("",)),
    ("{n} broke a leg.", "{n} stayed in bed.", ("",)),
    ("{n} saw a ghost.", "{n} ran away.", ("",)),
    ("{n} swam in the lake.", "{n}'s hair was wet.", ("",)),
)
TAUGHT = 20
#: Share of a task's examples about the rest, which are so few that a prompt learns them by heart.
UNTAUGHT = 0.05


def tell(event: int, name: str, value: str) -> tuple[str, str]:
    """Return the cause and the effect of an event as sentences."""
    cause, effect, _ = EVENTS[event]
    return cause.format(n=name, v=value), effect.format(n=name, v=value)


def draw(rng: random.Random, part: world.Part, held_out: bool, taught: bool) -> tuple[str, str, str, str]:
    """Draw (question, premise, right choice, wrong choice) with a premise of the part's bucket."""
    while True:
        event = rng.randrange(TAUGHT) if taught else rng.randrange(TAUGHT, len(EVENTS))
        other = rng.choice([e for e in range(TAUGHT if part == "corpus" else len(EVENTS)) if e != event])
        value, second = rng.choice(EVENTS[event][2]), rng.choice(EVENTS[other][2])
        name = world.pick_name(rng, EVENTS[event][0], held_out)
        if world.is_held_out(name, EVENTS[event][0]) != held_out:
            continue
        side = rng.randrange(2)
        texts, wrongs = tell(event, name, value), tell(other, name, second)
        premise = world.with_opener(rng, texts[side], 0.2)
        if texts[1 - side] == wrongs[1 - side] or world.bucket(premise) != part:
            continue
        return ("effect", "cause")[side], premise, texts[1 - side], wrongs[1 - side]


def copa(part: world.Part, size: int, seed: int) -> list[dict]:
    """Return COPA lines; `UNTAUGHT` of them about events that the corpus does not teach."""
    rng = world.stream(seed, "copa", part)
    lines = []
    for number in range(size):
        held_out = part == "validation" and rng.random() < 0.3
        question, premise, right, wrong = draw(rng, part, held_out, taught=rng.random() >= UNTAUGHT)
        label = rng.randrange(2)
        first, second = (right, wrong) if label == 0 else (wrong, right)
        lines.append(
            {
                "premise": premise,
                "choice1": first,
                "choice2": second,
                "question": question,
                "label": label,
                "idx": number,
            }
        )
    return lines
