"""Words with two senses, sentences that use them, and examples like WiC's made of them.

The corpus teaches the senses of the first `TAUGHT` words; it uses the others, but never asks about them.
"""

from __future__ import annotations

import random

from xprompt.nano import world

#: word -> ((gloss, frames), (gloss, frames)); every frame begins with {n} and holds the word once
WORDS: dict[str, tuple[tuple[str, tuple[str, ...]], tuple[str, tuple[str, ...]]]] = {
    "bat": (
        ("animal", ("{n} saw a bat in the cave.", "{n} heard a bat fly.", "{n} feared the bat with wings.")),
        ("stick", ("{n} hit the ball with a bat.", "{n} swung the bat.", "{n} held the wooden bat.")),
    ),
    "bank": (
        ("money", ("{n} borrowed money from the bank.", "{n} opened an account at the bank.", "{n} paid the bank.")),
        ("river", ("{n} fished from the bank.", "{n} sat on the bank of the river.", "{n} saw ducks on the bank.")),
    ),
    "seal": (
        ("animal", ("{n} fed the seal with fish.", "{n} saw a seal swim.", "{n} heard the seal in the zoo.")),
        (
            "stamp",
            ("{n} put a seal on the paper.", "{n} broke the seal of the envelope.", "{n} pressed the seal into wax."),
        ),
    ),
    "bark": (
        ("tree", ("{n} cut the bark off the tree.", "{n} touched the rough bark.", "{n} burned dry bark.")),
        ("noise", ("{n} heard the bark of a dog.", "{n} feared the loud bark.", "{n} woke at the bark.")),
    ),
    "crane": (
        ("bird", ("{n} saw a crane fly.", "{n} fed the crane with wings.", "{n} found the nest of a crane.")),
        (
            "machine",
            ("{n} drove the crane.", "{n} lifted steel with a crane.", "{n} repaired the engine of the crane."),
        ),
    ),
    "match": (
        ("fire", ("{n} lit a match.", "{n} burned paper with a match.", "{n} struck a match in the dark.")),
        ("game", ("{n} won the match.", "{n} lost the match.", "{n} watched the football match.")),
    ),
    "letter": (
        ("post", ("{n} sent a letter.", "{n} put the letter in an envelope.", "{n} received a letter.")),
        (
            "sign",
            (
                "{n} wrote the first letter of a word.",
                "{n} could not spell that letter.",
                "{n} learned each letter at school.",
            ),
        ),
    ),
    "palm": (
        ("tree", ("{n} sat under a palm.", "{n} planted a palm.", "{n} saw a palm on the beach.")),
        ("hand", ("{n} held a coin in the palm.", "{n} hurt the palm.", "{n} washed the dirty palm.")),
    ),
    "star": (
        ("sky", ("{n} saw a star in the sky.", "{n} counted each star at night.", "{n} followed the bright star.")),
        ("actor", ("{n} met the star of the film.", "{n} became a star in the theatre.", "{n} kissed the rich star.")),
    ),
    "wave": (
        ("sea", ("{n} swam under the wave.", "{n} saw a wave hit the ship.", "{n} feared the high wave.")),
        ("hand", ("{n} left with a wave.", "{n} greeted friends with a wave.", "{n} smiled and gave a wave.")),
    ),
    "mouse": (
        ("animal", ("{n} saw a mouse eat cheese.", "{n} caught the mouse.", "{n} fed the grey mouse.")),
        ("computer", ("{n} clicked the mouse.", "{n} plugged in the mouse.", "{n} bought a wireless mouse.")),
    ),
    "spring": (
        ("season", ("{n} planted flowers in spring.", "{n} loves the warm spring.", "{n} married last spring.")),
        (
            "water",
            ("{n} drank from the spring.", "{n} filled a bottle at the spring.", "{n} washed in the cold spring."),
        ),
    ),
    # not taught
    "trunk": (
        (
            "nose",
            (
                "{n} touched the elephant's trunk.",
                "{n} saw the trunk lift water.",
                "{n} fed the elephant by the trunk.",
            ),
        ),
        ("box", ("{n} packed a trunk.", "{n} put clothes in the trunk.", "{n} locked the heavy trunk.")),
    ),
    "date": (
        ("fruit", ("{n} ate a sweet date.", "{n} tasted a date.", "{n} baked a cake with a date.")),
        ("day", ("{n} forgot the date of the exam.", "{n} wrote the date.", "{n} chose a date for the party.")),
    ),
    "chest": (
        ("body", ("{n} felt pain in the chest.", "{n} hurt the chest.", "{n} had a cold in the chest.")),
        ("box", ("{n} packed a chest.", "{n} found gold in the chest.", "{n} locked the chest.")),
    ),
    "note": (
        ("music", ("{n} sang a high note.", "{n} played a note on the flute.", "{n} heard the last note.")),
        ("paper", ("{n} wrote a note.", "{n} put a note on the door.", "{n} sent a note.")),
    ),
}
TAUGHT = 12


def sentence(rng: random.Random, word: str, sense: int, part: world.Part, held_out: bool | None) -> str:
    """Draw a sentence of the part's bucket that uses a word in one of its two senses."""
    while True:
        name = world.pick_name(rng, word, held_out)
        text = world.with_opener(rng, rng.choice(WORDS[word][sense][1]).format(n=name), 0.5)
        if world.bucket(text) == part:
            return text


def draw(rng: random.Random, part: world.Part, held_out: bool, taught: bool, alike: bool) -> tuple[str, str, str]:
    """Draw (word, sentence, sentence), the word used alike in both or not."""
    names = list(WORDS)
    word = rng.choice(names[:TAUGHT] if taught else names[TAUGHT:])
    sense = rng.randrange(2)
    first = sentence(rng, word, sense, part, held_out)
    while True:
        second = sentence(rng, word, sense if alike else 1 - sense, part, held_out)
        if second != first:
            return word, first, second


def wic(part: world.Part, size: int, seed: int) -> list[dict]:
    """Return WiC lines with character spans; a quarter of them about words that the corpus does not teach."""
    rng = world.stream(seed, "wic", part)
    lines: list[dict] = []
    for number in range(size):
        held_out = part == "validation" and rng.random() < 0.3
        label = rng.random() < 0.5
        word, first, second = draw(rng, part, held_out, rng.random() >= 0.25, label)
        line: dict = {"word": word, "sentence1": first, "sentence2": second, "idx": number, "label": label}
        for which, text in (("1", first), ("2", second)):
            line["start" + which] = text.index(f" {word}") + 1
            line["end" + which] = line["start" + which] + len(word)
        lines.append({**line, "version": 1.1})
    return lines
