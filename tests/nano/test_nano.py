"""The embedded default: what its generators promise, what its corpus leaves out, what its checkpoint can do."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import xprompt as xp
from xprompt.errors import DataError
from xprompt.nano import causes, corpus, facts, generator, pronouns, senses, world
from xprompt.nano.sizes import SIZES
from xprompt.nano.untaught import needs_untaught
from xprompt.tasks.registry import get_task

SPLITS = ("train", "validation")


def passage_texts(task: str, line: dict) -> list[str]:
    """Return the texts of a line that must belong to its split alone."""
    if task == "boolq":
        return [line["passage"]]
    if task == "multirc":
        return [line["passage"]["text"]]
    if task == "wic":
        return [line["sentence1"], line["sentence2"]]
    return [line["text"] if task == "wsc" else line["premise"]]


def labels(task: str, lines: list[dict]) -> Counter:
    if task == "multirc":
        return Counter(a["label"] for x in lines for q in x["passage"]["questions"] for a in q["answers"])
    return Counter(line["label"] for line in lines)


@pytest.fixture(scope="module")
def sample() -> list[tuple[str, str]]:
    rng = world.stream(7, "test")
    return [corpus.draw(rng, i / 6000) for i in range(6000)]


@pytest.mark.parametrize("task", generator.TASKS)
def test_sizes_and_balance(task):
    for split, least in zip(SPLITS, (2000, 1000), strict=True):
        counts = labels(task, generator.raw_examples(task, split))
        assert sum(counts.values()) >= least
        share = max(counts.values()) / sum(counts.values())
        assert share < (0.40 if task == "cb" else 0.56), counts


@pytest.mark.parametrize("task", generator.TASKS)
def test_same_seed_same_lines_other_seed_other_lines(task):
    generate, _, _ = generator.TASKS[task]
    first, again, other = (generate("train", 60, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert generator.raw_examples(task, "train")[0] == generator.raw_examples(task, "train", 0)[0]


def test_examples_and_corpus_are_those_that_the_checkpoint_was_made_with(sample):
    texts = [json.dumps(generator.raw_examples(task, split)) for task in generator.TASKS for split in SPLITS]
    assert hashlib.sha256("".join(texts).encode()).hexdigest().startswith("81bcf76c5197ed57")
    assert hashlib.sha256(json.dumps(sample).encode()).hexdigest().startswith("2baf8f5c3a163128")


@pytest.mark.parametrize("task", generator.TASKS)
def test_no_passage_is_in_two_parts(task, sample):
    texts = {s: {t for x in generator.raw_examples(task, s) for t in passage_texts(task, x)} for s in SPLITS}
    assert not texts["train"] & texts["validation"]
    for split in SPLITS:
        assert {world.bucket(t) for t in texts[split]} == {split}
    every = texts["train"] | texts["validation"]
    assert not [source for source, _ in sample if source in every]
    # Within longer texts there, or as answers, are short ones: single sentences, at times two facts in a row.
    corpus_text = "\n".join(itertools.chain.from_iterable(sample))
    within = sum(text in corpus_text for text in every) / len(every)
    assert within < {"copa": 0.08, "wic": 0.05, "boolq": 0.001, "rte": 0.001}.get(task, 1e-9)


def test_new_examples_are_no_windows_on_the_kept_ones():
    first = generator.raw_examples("multirc", "validation")
    first[0]["passage"]["questions"].clear()
    assert generator.raw_examples("multirc", "validation")[0]["passage"]["questions"]


@pytest.mark.parametrize("task", generator.TASKS)
def test_no_line_twice_in_a_split(task):
    for split in SPLITS:
        keys = [
            json.dumps({k: v for k, v in x.items() if k != "idx"}, sort_keys=True)
            for x in generator.raw_examples(task, split)
        ]
        assert len(keys) == len(set(keys))


def mentions(task: str, line: dict) -> list[tuple[str, str]]:
    """Return the (name, thing) pairings that a line is about."""
    if task == "wsc":
        verb = next(
            v
            for v in (*pronouns.SUBJECT, *pronouns.OBJECT, *(c[0] for c in pronouns.COMPARED))
            if f" {v} " in line["text"]
        )
        return [(line["text"].split()[0], verb)]
    if task == "wic":
        return [
            (next(n for n in world.NAMES if re.search(rf"\b{n}\b", t)), line["word"]) for t in passage_texts(task, line)
        ]
    if task == "copa":
        name = next(n for n in world.NAMES if re.search(rf"\b{n}\b", line["premise"]))
        right = line["choice1"] if line["label"] == 0 else line["choice2"]
        told = {line["premise"].partition(name)[2], right.partition(name)[2]}
        for cause, effect, values in causes.EVENTS:
            for value in values:
                if {t.format(n="", v=value) for t in (cause, effect)} == told:
                    return [(name, cause)]
        raise AssertionError(line)
    text = {"boolq": "question", "rte": "hypothesis", "cb": "hypothesis"}[task]
    name = next(n for n in world.NAMES if re.search(rf"\b{n}\b", line[text]))
    words = set(re.findall(r"\w+", line[text]))
    return [(name, v) for r in facts.RELATIONS.values() for v in r.values if words & {v, facts.OTHER_WORDS.get(v)}]


@pytest.mark.parametrize("task", [t for t in generator.TASKS if t != "multirc"])
def test_held_out_pairings_are_new_in_validation(task):
    def share(split):
        lines = generator.raw_examples(task, split)
        return sum(any(world.is_held_out(*pair) for pair in mentions(task, x)) for x in lines) / len(lines)

    assert share("train") == 0.0
    assert 0.2 < share("validation") < 0.45


def test_the_card_counts_the_copa_lines_with_two_right_choices():
    """Who swam in the lake got wet, and who forgot the umbrella has wet hair."""
    alike = [("forgot the umbrella", "swam in the lake"), ("got wet", "hair was wet")]
    lines = [line for split in SPLITS for line in generator.raw_examples("copa", split)]
    choices = [f"{line['choice1']} {line['choice2']}" for line in lines]
    count = sum(any(a in both and b in both for a, b in alike) for both in choices)
    card = (Path(generator.__file__).parent / "checkpoint" / "README.md").read_text(encoding="utf-8")
    assert f"In {count} of {len(lines):,} COPA lines the other choice is right too." in card


def test_multirc_holds_pairings_back():
    def told(line):
        """The pairings of a name and a value that a passage states, or a question and an answer together."""
        values = [(r, v) for r in facts.RELATIONS.values() for v in r.values]
        for said in map(str.strip, line["passage"]["text"].split(".")):
            for name in (n for n in world.NAMES if said.startswith(f"{n} ")):
                yield from ((name, v) for r, v in values if any(said == f"{name} {t.format(v=v)}" for t, _ in r.says))
        for question in line["passage"]["questions"]:
            for answer in question["answers"]:
                words = set(re.findall(r"\w+", f"{question['question']} {answer['text']}"))
                stand = [v for _, v in values if words & {v, facts.OTHER_WORDS.get(v)}]
                yield from ((n, v) for n in words & set(world.NAMES) for v in stand)

    def share(split):
        lines = generator.raw_examples("multirc", split)
        return sum(any(world.is_held_out(*pair) for pair in told(line)) for line in lines) / len(lines)

    assert sum(len(list(told(line))) for line in generator.raw_examples("multirc", "train")[:100]) > 300
    assert share("train") == 0.0
    assert 0.2 < share("validation") < 0.45


@pytest.mark.parametrize("task", generator.TASKS)
def test_records_read_like_the_official_release(task):
    from xprompt.data.loading import load_task

    splits = load_task(task, "nano")
    assert len(splits.train) >= 2000 and len(splits.validation) >= 1000
    rendered = get_task(task).render(splits.train[0])
    assert "{" not in rendered
    for line in generator.raw_examples(task, "validation")[:200]:
        assert json.loads(json.dumps(line)) == line and isinstance(line["idx"], int)
        if task == "wic":
            for which in "12":
                text, start, end = (line[k + which] for k in ("sentence", "start", "end"))
                assert text[start:end] == line["word"]
        if task == "wsc":
            words, target = line["text"].split(), line["target"]
            assert words[target["span1_index"]] == target["span1_text"]
            assert words[target["span2_index"]] == target["span2_text"]


def test_facts_follow():
    told = [
        facts.Statement("Anna", "live", "town"),
        facts.Statement("Tom", "have", "kite"),
        facts.Statement("Mary", "ride", "car", 1),
    ]
    expected = {
        ("Anna", "live", "town"): "yes",
        ("Anna", "live", "city"): "no",
        ("Tom", "live", "town"): "unknown",
        ("Tom", "have", "kite"): "yes",
        ("Tom", "have", "boat"): "unknown",
        ("Mary", "ride", "car"): "yes",
        ("Mary", "ride", "bus"): "no",
    }
    for claim, truth in expected.items():
        assert facts.judge(told, facts.Statement(*claim)) == truth, claim
    claim = facts.Statement("Mary", "ride", "car", renamed=True)
    assert claim.sentence() == "Mary travels by automobile." and claim.question() == "Does Mary travel by automobile?"
    assert facts.judge(told, claim) == "yes" and facts.passage(told[2:]) == "Mary goes by car."


def test_other_words_are_other_and_of_one_value():
    values = {v for r in facts.RELATIONS.values() for v in r.values}
    others = list(facts.OTHER_WORDS.values())
    assert set(facts.OTHER_WORDS) <= values and len(set(others)) == len(others) and not set(others) & values


@pytest.mark.parametrize("task", ["boolq", "rte", "cb"])
def test_another_word_does_not_give_the_label_away(task):
    lines = generator.raw_examples(task, "train")
    text = "question" if task == "boolq" else "hypothesis"
    others = set(facts.OTHER_WORDS.values())
    renamed = [x for x in lines if others & set(re.findall(r"\w+", x[text]))]
    assert abs(len(renamed) / len(lines) - world.UNTAUGHT) < 0.02
    whole, part = labels(task, lines), labels(task, renamed)
    assert all(abs(part[label] / len(renamed) - n / len(lines)) < 0.05 for label, n in whole.items())


def test_corpus_has_neither_formats_nor_label_answers(sample):
    marks = re.compile(
        r"\b(hypothesis|premise|passage|question|answer|paragraph|sentence[12]|choice[12]|word): "
        r"|or another word\?"
    )
    judged = (corpus.judging, corpus.weighing, corpus.marking, corpus.meaning, corpus.explaining, corpus.following)
    rng = world.stream(8, "test")
    for frame in judged:
        for _ in range(300):
            assert frame(rng, 1.0)[1] not in corpus.LABELS
    for source, _ in sample:
        assert not marks.search(source), source
    said = " ".join(source + " " + target for source, target in sample)
    assert all(re.search(rf"\b{label}\b", said) for label in corpus.LABELS)
    assert not set(corpus.LABELS) & set(corpus.FREE_WORDS)


def test_corpus_does_not_teach_what_tasks_keep(sample):
    rng = world.stream(9, "test")
    for frame in (corpus.judging, corpus.weighing, corpus.marking, corpus.asking):
        said = {word for _ in range(300) for word in re.findall(r"\w+", " ".join(frame(rng, 1.0)))}
        assert not said & set(facts.OTHER_WORDS.values())
    text = " ".join(corpus.meaning(rng, 1.0)[0] for _ in range(300))
    assert not [w for w in list(senses.WORDS)[senses.TAUGHT :] if re.search(rf"\b{w}\b", text)]


def test_unknown_names_fail():
    with pytest.raises(DataError, match="boolq"):
        generator.raw_examples("record", "train")
    with pytest.raises(DataError, match="validation"):
        generator.raw_examples("rte", "test")  # type: ignore[arg-type]


def test_generators_need_no_torch():
    use = "from xprompt.nano import generator; generator.raw_examples('copa', 'train')"
    subprocess.run([sys.executable, "-c", f"import sys; {use}; assert 'torch' not in sys.modules"], check=True)


@pytest.mark.parametrize(
    "task, fields, needed",
    [
        ("rte", {"premise": "Anna lives in the forest.", "hypothesis": "Anna lives in the woods."}, True),
        ("rte", {"premise": "Anna lives in the forest.", "hypothesis": "Anna lives in the forest."}, False),
        ("multirc", {"paragraph": "Tom has a dog.", "question": "What does Tom own?", "answer": "a hound"}, True),
        ("wic", {"word": "court", "sentence1": "Tom held a bat.", "sentence2": "Tom swung a bat."}, True),
        ("wic", {"word": "bat", "sentence1": "Tom spoke in court.", "sentence2": "Tom swung the bat."}, False),
        ("copa", {"premise": "Today Anna saw a ghost.", "choice1": "Anna was hungry."}, True),
        ("copa", {"premise": "Anna's house looked new.", "choice1": "Anna was hungry."}, True),
        ("copa", {"premise": "Anna skipped dinner.", "choice1": "Anna saw a ghost."}, False),
        ("wsc", {"text": "Tom trusted Paul because he was brave.", "span1": "Tom", "span2": "he"}, True),
        ("wsc", {"text": "Tom feared Paul because he was brave.", "span1": "Tom", "span2": "he"}, False),
    ],
)
def test_what_an_example_needs_that_pre_training_left_out(task, fields, needed):
    assert needs_untaught(task, fields) == needed


@pytest.mark.parametrize("task", generator.TASKS)
def test_the_share_of_examples_that_need_something_untaught_is_the_one_that_is_said(task):
    wanted = 0.05 if task in ("copa", "wsc") else 0.11 if task == "multirc" else world.UNTAUGHT
    examples = xp.load_task(task, source="nano").train.examples
    needs = [needs_untaught(task, example.fields) for example in examples]
    assert sum(needs) / len(needs) == pytest.approx(wanted, abs=0.015)


# ---- the checkpoint

#: Shares of right answers on fresh corpus draws that the card promises.
LEAST: dict[str, float] = {
    "judging": 0.97,
    "weighing": 0.94,
    "marking": 0.97,
    "asking": 0.97,
    "filling": 0.70,
    "meaning": 0.97,
    "explaining": 0.97,
    "following": 0.95,
}


@pytest.fixture(scope="module", params=SIZES)
def model(request):
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder = SIZES[request.param].path
    backbone = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    return backbone.eval(), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("size", SIZES)
def test_a_checkpoint_is_the_one_on_its_card(size):
    folder = SIZES[size].path
    weights, training = folder / "model.safetensors", json.loads((folder / "training.json").read_text())
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in (folder / "README.md").read_text(encoding="utf-8")
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= {p.name for p in folder.iterdir()}
    assert training["rate"] == SIZES[size].rate


def test_all_sizes_are_small_enough_for_a_package_and_read_the_same_words():
    weights = [(size.path / "model.safetensors").stat().st_size for size in SIZES.values()]
    assert sum(weights) <= 30_000_000
    assert len({(size.path / "tokenizer.json").read_bytes() for size in SIZES.values()}) == 1


def test_the_sizes_are_one_two_and_four_times_nano_and_are_computed_in_float32():
    backbones = [xp.load_backbone(size) for size in SIZES]
    assert [round(each.num_params / backbones[0].num_params) for each in backbones] == [1, 2, 4]
    assert {str(each.dtype) for each in backbones} == {"torch.float32"}


def test_skills(model):
    from xprompt.nano import pretrain

    backbone, tokenizer = model
    found = pretrain.skills(backbone, lambda texts: tokenizer(texts)["input_ids"])
    assert not {k: v for k, v in found.items() if v < LEAST[k]}, found


def test_tokenizer(model):
    _, tokenizer = model
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    for word in (*corpus.QUOTED, *world.NAMES, "because"):
        assert len(tokenizer(word)["input_ids"]) == 2, word
    assert len({tokenizer(w)["input_ids"][0] for w in corpus.LABELS}) == len(corpus.LABELS)
    text = "Zürich, 漢字: (x+y)^2 = 4!"
    ids = tokenizer(text)["input_ids"]
    assert ids[-1] == 1 and 2 not in ids
    assert "漢字" in tokenizer.decode(ids, skip_special_tokens=True)
    for task in generator.TASKS:
        line = generator.raw_examples(task, "validation")[0]
        for text in passage_texts(task, line):
            pieces = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])[:-1]
            assert all(p.startswith("▁") and len(p) > 1 for p in pieces), pieces
