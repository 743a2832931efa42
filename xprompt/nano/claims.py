"""Examples like those of BoolQ, CB, RTE and MultiRC: claims about a short passage."""

from __future__ import annotations

import random
from collections.abc import Iterator

from xprompt.nano import facts, world
from xprompt.nano.facts import RELATIONS, Statement, Truth


def draw_pair(
    rng: random.Random, part: world.Part, truth: Truth, renamed: bool, count: int, held_out: bool
) -> tuple[list[Statement], Statement]:
    """Draw a passage of the part's bucket and a claim of the wanted truth.

    `held_out` asks for a claim whose pairing is kept for validation, else neither the claim nor the passage holds one.
    """
    while True:
        sentences = facts.statements(rng, count, free_of_held_out=not held_out)
        about = sentences[0]
        rng.shuffle(sentences)
        if world.bucket(facts.passage(sentences)) != part:
            continue
        claim = facts.draw_claim(rng, sentences, about, truth, renamed)
        if claim is not None and world.is_held_out(claim.person, claim.value) == held_out:
            return sentences, claim


def _pairs(
    task: str, part: world.Part, size: int, seed: int, truths: tuple[Truth, ...]
) -> Iterator[tuple[Truth, list[Statement], Statement]]:
    rng = world.stream(seed, task, part)
    for number in range(size):
        truth = truths[number % len(truths)]
        held_out = part == "validation" and rng.random() < 0.3
        renamed, count = rng.random() < world.UNTAUGHT, 3 if rng.random() < 0.25 else 2
        sentences, claim = draw_pair(rng, part, truth, renamed, count, held_out)
        yield truth, sentences, claim


def boolq(part: world.Part, size: int, seed: int) -> list[dict]:
    """Return BoolQ lines: does the passage support the claim?"""
    lines = [
        {"question": claim.question(), "passage": facts.passage(sentences), "label": truth == "yes"}
        for truth, sentences, claim in _pairs("boolq", part, size, seed, ("yes", "no", "yes", "unknown"))
    ]
    return _numbered(lines, seed, "boolq" + part)


def rte(part: world.Part, size: int, seed: int) -> list[dict]:
    """Return RTE lines: does the hypothesis follow?"""
    lines = [
        {
            "premise": facts.passage(sentences),
            "hypothesis": claim.sentence(),
            "label": "entailment" if truth == "yes" else "not_entailment",
        }
        for truth, sentences, claim in _pairs("rte", part, size, seed, ("yes", "no", "yes", "unknown"))
    ]
    return _numbered(lines, seed, "rte" + part)


def cb(part: world.Part, size: int, seed: int) -> list[dict]:
    """Return CB lines: does the hypothesis follow, is it ruled out, or is it open?"""
    words = {"yes": "entailment", "no": "contradiction", "unknown": "neutral"}
    lines = [
        {"premise": facts.passage(sentences), "hypothesis": claim.sentence(), "label": words[truth]}
        for truth, sentences, claim in _pairs("cb", part, size, seed, ("yes", "no", "unknown"))
    ]
    return _numbered(lines, seed, "cb" + part)


def _numbered(lines: list[dict], seed: int, label: str) -> list[dict]:
    world.stream(seed, label, "order").shuffle(lines)
    return [{**line, "idx": number} for number, line in enumerate(lines)]


def _question(
    rng: random.Random, sentences: list[Statement], about: Statement
) -> tuple[str, list[tuple[str, Statement]]]:
    """Return a question about a statement and its candidate answers, each with the claim it amounts to."""
    relation, way = RELATIONS[about.relation], rng.randrange(2)
    renamed = rng.random() < world.UNTAUGHT
    if rng.random() < 0.5:
        told = Statement(about.person, about.relation, about.value, way, renamed and about.value in facts.OTHER_WORDS)
        others = [s.person for s in sentences if s.person != about.person]
        chosen = [about.person, *rng.sample(others, min(len(others), rng.choice((1, 1, 2))))]
        return (
            f"Who {relation.says[way][0].format(v=told.word)}?",
            [(name, Statement(name, about.relation, about.value)) for name in chosen],
        )
    values = [about.value]
    near = [s.value for s in sentences if s.relation == about.relation and s.value != about.value]
    values += near[:1] if near and rng.random() < 0.7 else []
    if len(values) == 1 or rng.random() < 0.3:
        values.append(rng.choice([v for v in relation.values if v not in values]))
    claims = [Statement(about.person, about.relation, v, renamed=renamed and v in facts.OTHER_WORDS) for v in values]
    return relation.what.format(n=about.person), [(relation.answer.format(v=c.word), c) for c in claims]


def _draw_questions(
    rng: random.Random, part: world.Part, held_out: bool
) -> tuple[list[Statement], list[tuple[str, list[tuple[str, Statement]]]]]:
    """Draw a passage of the part's bucket and two questions about it, with or without a pairing kept for validation."""
    while True:
        sentences = facts.statements(rng, 3, free_of_held_out=not held_out)
        first, second, third = sentences
        if rng.random() < 0.4 and second.relation == third.relation:  # two people share a value
            sentences = [first, second, Statement(third.person, third.relation, second.value, third.way)]
        rng.shuffle(sentences)
        if world.bucket(facts.passage(sentences)) != part:
            continue
        about = (first, rng.choice([s for s in sentences if s is not first]))
        questions = [_question(rng, sentences, statement) for statement in about]
        claims = [*sentences] * (not held_out) + [claim for _, candidates in questions for _, claim in candidates]
        if questions[0][0] != questions[1][0] and held_out == any(world.is_held_out(c.person, c.value) for c in claims):
            return sentences, questions


def multirc(part: world.Part, size: int, seed: int) -> list[dict]:
    """Return MultiRC lines of two questions each; `size` counts the questions."""
    rng = world.stream(seed, "multirc", part)
    lines: list[dict] = []
    answers = 0
    for number in range(0, size, 2):
        sentences, questions = _draw_questions(rng, part, part == "validation" and rng.random() < 0.3)
        block = []
        for offset, (wording, candidates) in enumerate(questions):
            rng.shuffle(candidates)
            options = []
            for answer, claim in candidates:
                options.append({"text": answer, "idx": answers, "label": int(facts.judge(sentences, claim) == "yes")})
                answers += 1
            block.append({"question": wording, "answers": options, "idx": number + offset})
        text = facts.passage(sentences)
        lines.append({"idx": len(lines), "version": 1.1, "passage": {"text": text, "questions": block}})
    return lines
