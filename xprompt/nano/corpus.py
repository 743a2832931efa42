"""The pretraining corpus: short texts, what may be asked about them, and the answers.

None of its frames is a task's format, and no label word of a task ever answers a judgement: those words appear only as
words that somebody writes or reads. Every passage comes from the corpus' bucket.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from xprompt.nano import causes, facts, pronouns, senses, world

Pair = tuple[str, str]

#: Words of the tasks' formats and labels, met here only in running text ("Anna wrote neutral.").
QUOTED = (
    "True", "False", "entailment", "not_entailment", "contradiction", "neutral", "choice1", "choice2", "hypothesis",
    "premise", "passage", "question", "answer", "paragraph", "sentence1", "sentence2", "word", "cause", "effect",
    "refers", "another",
)  # fmt: skip
LABELS = QUOTED[:8]
BLANK = "<extra_id_0>"

PAIRS = (("right", "wrong"), ("correct", "mistaken"), ("fine", "bad"), ("sure", "never"))
TRIPLES = (("right", "wrong", "open"), ("yes", "no", "perhaps"), ("sure", "never", "unclear"))
MARKERS = (("first", "second"), ("one", "two"), ("left", "right"))
TEXT_MARKS = ("Text:", "News:", "Report:", "")
CLAIM_MARKS = ("Guess:", "Rumour:", "They say:", "So:")
#: Words that may stand for an answer when a text says so.
FREE_WORDS = tuple(
    sorted(
        {
            *world.THINGS,
            *world.JOBS,
            *world.FOODS,
            *world.COLOURS,
            *world.VEHICLES,
            *world.PLACES,
            *pronouns.TRAITS,
            *(w for pair in PAIRS + MARKERS for w in pair),
        }
    )
)


def _capitalise(text: str) -> str:
    return text[0].upper() + text[1:]


def _ask(rng: random.Random, pair: tuple[str, ...], free: float) -> tuple[str, tuple[str, ...]]:
    """Return an instruction that names the possible answers, and those answers in their order."""
    if rng.random() < free:
        pair = tuple(rng.sample(FREE_WORDS, len(pair)))
        return f"Say {', '.join(pair[:-1])} or {pair[-1]}.", pair
    head = ", ".join(pair[:-1])
    return rng.choice((f"{_capitalise(head)} or {pair[-1]}?", f"Say {head} or {pair[-1]}.")), pair


def _arrange(rng: random.Random, ask: str, *body: str) -> str:
    """Put the instruction first (mostly) or last."""
    return " ".join((ask, *body) if rng.random() < 0.7 else (*body, ask))


def _mark_parts(rng: random.Random, text: str, claim: str) -> list[str]:
    """Return a text and a claim: the claim last, or in either order, marked as what they are or by any words."""
    roll = rng.random()
    if roll < 0.3:
        return [text, claim]
    if roll < 0.6 and text.count(".") > 1:  # the longer part is the text, whatever the tags are
        parts = [text, claim]
        rng.shuffle(parts)
        return _tag(rng, *parts)
    marked = [f"{rng.choice(TEXT_MARKS)} {text}".strip(), f"{rng.choice(CLAIM_MARKS)} {claim}"]
    rng.shuffle(marked)
    return marked


def _tag(rng: random.Random, *parts: str) -> list[str]:
    """Put a word and a colon before each part, a different one each time."""
    return [f"{tag}: {part}" for tag, part in zip(rng.sample(FREE_WORDS, len(parts)), parts, strict=True)]


def _story(rng: random.Random, count: int) -> list[facts.Statement]:
    while True:
        sentences = facts.statements(rng, count)
        if world.bucket(facts.passage(sentences)) == "corpus":
            return sentences


def _count(rng: random.Random, level: float) -> int:
    if level < 0.08:
        return 1
    if level < 0.25:
        return rng.choice((1, 2, 2))
    return rng.choice((1, 2, 2, 2, 2, 3))


def _claim(rng: random.Random, level: float, truth: facts.Truth) -> tuple[list[facts.Statement], facts.Statement]:
    while True:
        sentences = _story(rng, _count(rng, level))
        claim = facts.draw_claim(rng, sentences, rng.choice(sentences), truth)
        if claim is not None and not world.is_held_out(claim.person, claim.value):
            return sentences, claim


def judging(rng: random.Random, level: float) -> Pair:
    """Judge a claim or a yes-no question, in two ways."""
    yes = rng.random() < 0.5
    easy = level < 0.2
    truth: facts.Truth = "yes" if yes else rng.choice(("no", "no", "unknown")) if not easy else "no"
    sentences, claim = _claim(rng, level, truth)
    text = facts.passage(sentences)
    if rng.random() < 0.3:
        parts = [text, claim.question()]
        rng.shuffle(parts)
        return " ".join(parts), "yes" if yes else "no"
    ask, words = _ask(rng, rng.choice(PAIRS), 0.0 if level < 0.4 else 0.3)
    statement = claim.question() if rng.random() < 0.2 else claim.sentence()
    return _arrange(rng, ask, *_mark_parts(rng, text, statement)), words[0] if yes else words[1]


def weighing(rng: random.Random, level: float) -> Pair:
    """Judge a claim in three ways."""
    truth: facts.Truth = rng.choice(("yes", "no", "unknown"))
    sentences, claim = _claim(rng, level, truth)
    ask, words = _ask(rng, rng.choice(TRIPLES), 0.0 if level < 0.45 else 0.25)
    answer = words[("yes", "no", "unknown").index(truth)]
    return _arrange(rng, ask, *_mark_parts(rng, facts.passage(sentences), claim.sentence())), answer


def marking(rng: random.Random, level: float) -> Pair:
    """Judge an answer to a question."""
    yes = rng.random() < 0.5
    sentences, claim = _claim(rng, level, "yes" if yes else rng.choice(("no", "unknown")))
    relation = facts.RELATIONS[claim.relation]
    if rng.random() < 0.5:
        question, answer = relation.what.format(n=claim.person), relation.answer.format(v=claim.value)
    else:
        question, answer = f"Who {relation.says[claim.way][0].format(v=claim.value)}?", claim.person
    ask, words = _ask(rng, rng.choice(PAIRS), 0.0 if level < 0.45 else 0.3)
    parts = [[f"{question} {answer}."], [facts.passage(sentences)]]
    if rng.random() < 0.4:
        first, second, text = _tag(rng, question, answer, facts.passage(sentences))
        parts = [[first, second], [text]]
    rng.shuffle(parts)
    return _arrange(rng, ask, *sum(parts, [])), words[0] if yes else words[1]


def asking(rng: random.Random, level: float) -> Pair:
    """Answer who or what from a passage."""
    sentences = _story(rng, _count(rng, level))
    about = rng.choice(sentences)
    relation = facts.RELATIONS[about.relation]
    if rng.random() < 0.5:
        way = about.way if level < 0.2 else rng.randrange(2)
        question, answer = f"Who {relation.says[way][0].format(v=about.value)}?", about.person
    else:
        question, answer = relation.what.format(n=about.person), about.value
    parts = [facts.passage(sentences), question]
    rng.shuffle(parts)
    return " ".join(parts), answer


def _running(rng: random.Random) -> str:
    """Return one sentence of running text, from everything the world can say."""
    while True:
        roll = rng.random()
        if roll < 0.45:
            said = facts.statements(rng, 1)[0]
            renamed = said.value in facts.OTHER_WORDS and rng.random() < 0.5
            text = replace(said, renamed=renamed).sentence()
        elif roll < 0.6:
            word = rng.choice(list(senses.WORDS))
            text = senses.sentence(rng, word, rng.randrange(2), "corpus", False)
        elif roll < 0.75:
            event = rng.randrange(len(causes.EVENTS))
            name = world.pick_name(rng, causes.EVENTS[event][0], False)
            text = causes.tell(event, name, rng.choice(causes.EVENTS[event][2]))[rng.randrange(2)]
        elif roll < 0.85:
            text = pronouns.draw(rng, "corpus", False, taught=rng.random() < 0.4)[0]
        else:
            verb, mark = rng.choice((("wrote", '"'), ("wrote", ""), ("read the text", '"'), ("said:", "")))
            text = f"{rng.choice(world.NAMES)} {verb} {mark}{rng.choice(QUOTED)}{mark}."
        if world.bucket(text) == "corpus":
            return text


def filling(rng: random.Random, level: float) -> Pair:
    """Fill a blank in running text, mostly with a word that the text repeats."""
    texts = [_running(rng) for _ in range(1 if level < 0.05 else 2)]
    words = texts[0].split()
    gap = rng.randrange(len(words))
    answer = words[gap].strip('.,?"')
    holed = " ".join([*words[:gap], words[gap].replace(answer, BLANK, 1), *words[gap + 1 :]])
    if rng.random() < 0.25:
        return holed, answer
    rng.shuffle(texts)
    body = " ".join(texts)
    return f"{body} {holed}" if rng.random() < 0.7 else f"{holed} {body}", answer


def meaning(rng: random.Random, level: float) -> Pair:
    """Say which sense a word has, or whether two sentences use it alike."""
    if level < 0.15 or rng.random() < 0.4:
        word = rng.choice(list(senses.WORDS)[: senses.TAUGHT])
        sense = rng.randrange(2)
        text = senses.sentence(rng, word, sense, "corpus", False)
        return _arrange(rng, f"What is the {word}?", text), senses.WORDS[word][sense][0]
    alike = rng.random() < 0.5
    word, first, second = senses.draw(rng, "corpus", False, True, alike)
    ask, words = _ask(rng, ("alike", "different"), 0.0 if level < 0.4 else 0.3)
    body = [first, second, f"{rng.choice(('Compare', 'Look at', 'Think of'))} {word}."]
    if rng.random() < 0.4:
        body = _tag(rng, first, second, word)
    if rng.random() < 0.3:
        body.insert(0, body.pop())
    elif rng.random() < 0.3:
        body.pop()
    return _arrange(rng, ask, *body), words[0] if alike else words[1]


def explaining(rng: random.Random, level: float) -> Pair:
    """Say whom a pronoun means, or judge a guess."""
    text, referent, other, pronoun, trait = pronouns.draw(rng, "corpus", False, True)
    if level < 0.25 or rng.random() < 0.4:
        return _arrange(rng, rng.choice((f"Who was {trait}?", f"Who is {pronoun}?")), text), referent
    yes = rng.random() < 0.5
    ask, words = _ask(rng, rng.choice(PAIRS), 0.0 if level < 0.45 else 0.3)
    person = referent if yes else other
    guess = rng.choice((f"{_capitalise(pronoun)} is {person}.", f"{person} was {trait}."))
    return _arrange(rng, ask, f"{text} {guess}" if rng.random() < 0.6 else f"{guess} {text}"), words[0 if yes else 1]


def following(rng: random.Random, level: float) -> Pair:
    """Say what an event led to or came from, or choose between two answers."""
    question, premise, right, wrong = causes.draw(rng, "corpus", False, True)
    ask = rng.choice(("What then?", "And so?")) if question == "effect" else rng.choice(("Why?", "How so?"))
    if level < 0.15 or rng.random() < 0.35:
        return f"{premise} {ask}", right
    markers = tuple(rng.sample(FREE_WORDS, 2)) if level > 0.25 and rng.random() < 0.6 else rng.choice(MARKERS)
    options = [right, wrong]
    rng.shuffle(options)
    mark = rng.choice(",:")
    choices = " ".join(f"{m}{mark} {o}" for m, o in zip(markers, options, strict=True))
    parts = [premise, choices]
    rng.shuffle(parts)
    return " ".join((*parts, ask) if rng.random() < 0.6 else (ask, *parts)), markers[options.index(right)]


#: frame -> share of the corpus
FRAMES: dict[Callable[[random.Random, float], Pair], float] = {
    judging: 0.23,
    weighing: 0.14,
    marking: 0.13,
    asking: 0.09,
    filling: 0.09,
    meaning: 0.15,
    explaining: 0.09,
    following: 0.08,
}


def draw(rng: random.Random, level: float = 1.0) -> Pair:
    """Return (source, target). `level` runs from 0 (one easy fact) to 1 (everything) as the curriculum goes on."""
    frame = rng.choices(tuple(FRAMES), tuple(FRAMES.values()))[0]
    return frame(rng, level)
