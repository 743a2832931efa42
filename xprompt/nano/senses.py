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
    "ring": (
        ("jewel", ("{n} wore a ring.", "{n} bought a golden ring.", "{n} lost the ring of a queen.")),
        ("call", ("{n} heard the ring of the phone.", "{n} woke at the ring.", "{n} waited for a ring.")),
    ),
    "nail": (
        ("finger", ("{n} bit a nail.", "{n} painted a nail red.", "{n} broke the nail of a thumb.")),
        ("metal", ("{n} hit the nail with a hammer.", "{n} pulled out a rusty nail.", "{n} put a nail in the wall.")),
    ),
    "tank": (
        ("water", ("{n} filled the tank.", "{n} kept fish in a tank.", "{n} emptied the tank of oil.")),
        ("army", ("{n} drove a tank in the war.", "{n} feared the tank of the army.", "{n} fired from a tank.")),
    ),
    "pen": (
        ("ink", ("{n} wrote with a pen.", "{n} bought ink for the pen.", "{n} signed with the pen.")),
        ("cage", ("{n} shut the pigs in a pen.", "{n} built a pen for sheep.", "{n} cleaned the muddy pen.")),
    ),
    "scale": (
        ("fish", ("{n} scraped off a scale.", "{n} saw a shiny scale on the snake.", "{n} cut a scale off the skin.")),
        ("weight", ("{n} stood on the scale.", "{n} weighed flour on a scale.", "{n} read the scale.")),
    ),
    "pupil": (
        ("eye", ("{n} saw the pupil grow in the dark.", "{n} looked into a black pupil.", "{n} drew iris and pupil.")),
        ("school", ("{n} taught a pupil.", "{n} helped the lazy pupil.", "{n} gave the pupil homework.")),
    ),
    "pipe": (
        ("smoke", ("{n} smoked a pipe.", "{n} filled the pipe with tobacco.", "{n} lit the pipe.")),
        ("tube", ("{n} repaired the leaking pipe.", "{n} laid a pipe under the road.", "{n} welded a pipe.")),
    ),
    "fan": (
        ("air", ("{n} turned on the fan.", "{n} cooled the room with a fan.", "{n} plugged in a fan.")),
        ("admirer", ("{n} is a fan of the team.", "{n} wrote to a fan.", "{n} met a loyal fan.")),
    ),
    "mole": (
        ("animal", ("{n} saw a mole dig.", "{n} chased the mole from the garden.", "{n} found the hill of a mole.")),
        ("skin", ("{n} has a mole on the cheek.", "{n} showed the mole to a doctor.", "{n} hid the dark mole.")),
    ),
    "horn": (
        ("goat", ("{n} held the goat by the horn.", "{n} carved a horn.", "{n} saw the bull's sharp horn.")),
        ("car", ("{n} heard the horn of a truck.", "{n} pressed the horn.", "{n} jumped at the loud horn.")),
    ),
    "club": (
        ("group", ("{n} joined a club.", "{n} danced at the club.", "{n} is a member of the club.")),
        ("weapon", ("{n} swung a heavy club.", "{n} beat the wolf with a club.", "{n} carved a wooden club.")),
    ),
    "court": (
        ("law", ("{n} spoke in court.", "{n} was judged by the court.", "{n} told the court a lie.")),
        ("game", ("{n} played on the court.", "{n} ran over the tennis court.", "{n} swept the court after the game.")),
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
    """Return WiC lines with character spans; `world.UNTAUGHT` of them about words that the corpus does not teach."""
    rng = world.stream(seed, "wic", part)
    lines: list[dict] = []
    for number in range(size):
        held_out = part == "validation" and rng.random() < 0.3
        label = rng.random() < 0.5
        word, first, second = draw(rng, part, held_out, rng.random() >= world.UNTAUGHT, label)
        line: dict = {"word": word, "sentence1": first, "sentence2": second, "idx": number, "label": label}
        for which, text in (("1", first), ("2", second)):
            line["start" + which] = text.index(f" {word}") + 1
            line["end" + which] = line["start" + which] + len(word)
        lines.append({**line, "version": 1.1})
    return lines
