"""Examples like those of BoolQ, CB, RTE and MultiRC: claims about a short passage."""

from __future__ import annotations

import random
from collections.abc import Iterator

from xprompt.nano import facts, world
from xprompt.nano.facts import RELATIONS, Claim, Statement, Truth

#: Shares of the twists by task and truth; what is left of 1 is plain. `denied` goes with a plain passage.
TWISTS: dict[str, dict[Truth, dict[str, float]]] = {
    "boolq": {
        "yes": {"with": 0.25, "everyone": 0.1},
        "no": {"with": 0.25, "gone": 0.1, "lost": 0.05},
        "unknown": {"with": 0.1, "everyone": 0.1},
    },
    "rte": {
        "yes": {"denied": 0.25, "wider": 0.1},
        "no": {"denied": 0.25, "wider": 0.1, "gone": 0.1},
        "unknown": {"denied": 0.2},
    },
    "cb": {"yes": {"with": 0.15, "denied": 0.15}, "no": {"with": 0.15, "denied": 0.15}, "unknown": {"denied": 0.15}},
}


def _is_free_of_held_out(sentences: list[Statement]) -> bool:
    return not any(
        world.is_held_out(s.person, s.value) or (s.other and world.is_held_out(s.other, s.value))
        for s in sentences
        if s.person
    )


def _shared(rng: random.Random) -> list[Statement]:
    """Draw three statements in which one person shares another's value, and a third has a different one."""
    relation = rng.choice(tuple(facts.SHARED))
    first, second, third = rng.sample(world.NAMES, 3)
    value, other = rng.sample(RELATIONS[relation].values, 2)
    return [
        Statement("with", third, relation, value, 0, first),
        Statement("plain", first, relation, value, rng.randrange(2)),
        Statement("plain", second, relation, other, rng.randrange(2)),
    ]


def _widened(rng: random.Random, about: Statement, truth: Truth) -> Claim | None:
    """Draw a claim that a statement's value falls under a wider word, or does not."""
    options = facts.WIDER.get(about.relation)
    if options is None:
        return None
    claim = Claim(about.person, about.relation, rng.choice(list(options)), 0)
    return claim if claim.covers(about.value) == (truth == "yes") else None


def draw_pair(
    rng: random.Random, part: world.Part, truth: Truth, kind: str, count: int, held_out: bool
) -> tuple[list[Statement], Claim]:
    """Draw a passage of the part's bucket and a claim of the wanted truth.

    `kind` is a statement kind, or `denied` or `wider` for a claim on a plain passage; `held_out` asks for a claim whose
    pairing is kept for validation, else neither the claim nor the passage holds one.
    """
    while True:
        if kind == "with":
            sentences = _shared(rng)
        else:
            sentences = facts.statements(
                rng, count, "plain" if kind in ("denied", "wider") else kind, free_of_held_out=not held_out
            )
        if not held_out and not _is_free_of_held_out(sentences):
            continue
        special = sentences[0]
        rng.shuffle(sentences)
        if world.bucket(facts.passage(sentences)) != part:
            continue
        if kind == "wider":
            claim = _widened(rng, special, truth)
        else:
            claim = facts.draw_claim(rng, sentences, special, truth, kind == "denied")
        if claim is not None and world.is_held_out(claim.person, claim.value) == held_out:
            return sentences, claim


def _kind(rng: random.Random, shares: dict[str, float]) -> str:
    roll = rng.random()
    for kind, share in shares.items():
        roll -= share
        if roll < 0:
            return kind
    return "plain"


def _pairs(
    task: str, part: world.Part, size: int, seed: int, truths: tuple[Truth, ...]
) -> Iterator[tuple[Truth, list[Statement], Claim]]:
    rng = world.stream(seed, task, part)
    for number in range(size):
        truth = truths[number % len(truths)]
        held_out = part == "validation" and rng.random() < 0.3
        kind = _kind(rng, TWISTS[task][truth])
        sentences, claim = draw_pair(rng, part, truth, kind, 3 if rng.random() < 0.25 else 2, held_out)
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


def _question(rng: random.Random, sentences: list[Statement], about: Statement) -> tuple[str, list[tuple[str, Claim]]]:
    """Return a question about a statement and its candidate answers, each with the claim it amounts to."""
    relation = RELATIONS[about.relation]
    way = rng.randrange(2)
    if about.kind == "everyone" or rng.random() < 0.5:
        text = f"Who {relation.says[way][0].format(v=about.value)}?"
        names = facts.people_in(sentences)
        first = about.person or rng.choice(names)
        others = [n for n in names if n != first]
        chosen = [first, *rng.sample(others, min(len(others), rng.choice((1, 1, 2))))]
        return text, [(n, Claim(n, about.relation, about.value)) for n in chosen]
    values = [about.value]
    near = [s.value for s in sentences if s.relation == about.relation and s.value != about.value]
    values += near[:1] if near and rng.random() < 0.7 else []
    if len(values) == 1 or rng.random() < 0.3:
        values.append(rng.choice([v for v in relation.values if v not in values]))
    return (
        relation.what.format(n=about.person),
        [(relation.answer.format(v=v), Claim(about.person, about.relation, v)) for v in values],
    )


def multirc(part: world.Part, size: int, seed: int) -> list[dict]:
    """Return MultiRC lines of two questions each; `size` counts the questions."""
    rng = world.stream(seed, "multirc", part)
    lines: list[dict] = []
    questions = answers = 0
    while questions < size:
        held_out = part == "validation" and rng.random() < 0.3
        kind = _kind(rng, {"with": 0.4, "everyone": 0.1, "gone": 0.1})
        sentences = _shared(rng) if kind == "with" else facts.statements(rng, 3, kind, free_of_held_out=not held_out)
        if kind != "with" and rng.random() < 0.4 and sentences[1].relation == sentences[2].relation:
            twin = Statement("plain", sentences[2].person, sentences[2].relation, sentences[1].value, sentences[2].way)
            sentences[2] = twin
        special = sentences[0]
        rng.shuffle(sentences)
        text = facts.passage(sentences)
        if world.bucket(text) != part or (not held_out and not _is_free_of_held_out(sentences)):
            continue
        drawn = []
        for about in (special, rng.choice([s for s in sentences if s is not special])):
            wording, candidates = _question(rng, sentences, about)
            if not held_out and any(world.is_held_out(c.person, c.value) for _, c in candidates):
                break
            rng.shuffle(candidates)
            drawn.append((wording, candidates))
        if len(drawn) < 2 or drawn[0][0] == drawn[1][0]:
            continue
        if held_out and not any(world.is_held_out(c.person, c.value) for _, cs in drawn for _, c in cs):
            continue
        block = []
        for wording, candidates in drawn:
            options = []
            for answer, claim in candidates:
                options.append({"text": answer, "idx": answers, "label": int(facts.judge(sentences, claim) == "yes")})
                answers += 1
            block.append({"question": wording, "answers": options, "idx": questions})
            questions += 1
        lines.append({"idx": len(lines), "version": 1.1, "passage": {"text": text, "questions": block}})
    return lines
