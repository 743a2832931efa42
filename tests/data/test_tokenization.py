"""The cut at its named place, and batches in which every example appears once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.conftest import WORDS, tiny_tokenizer
from xprompt.data.batching import Batch, batches
from xprompt.data.splits import TaskDataset
from xprompt.data.tokenization import TokenizedDataset, encode
from xprompt.errors import DataError
from xprompt.tasks.example import Example
from xprompt.tasks.registry import get_task


def byte_level() -> PreTrainedTokenizerFast:
    """A GPT-2 kind of tokenizer: byte pieces, no special token added, none to pad with."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<end>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


TOKENIZERS = {"t5": tiny_tokenizer(True), "metaspace": tiny_tokenizer(False), "bytes": byte_level()}
SUFFIX = " Answer:"
PIECES = st.sampled_from([*WORDS, "\u00e9\u4e2d", "{x}", "a.b", "zz!"])
kinds = pytest.mark.parametrize("kind", TOKENIZERS)


def pairs(premises: list[str], task: str = "rte", hypothesis: str = "the cat sat") -> TaskDataset:
    fields = [{"premise": premise, "hypothesis": hypothesis} for premise in premises]
    records = (Example(str(i), str(i), f, i % 2) for i, f in enumerate(fields))
    return TaskDataset(get_task(task), "train", tuple(records))


def is_subsequence(short: list[int], long: list[int]) -> bool:
    rest = iter(long)
    return all(token in rest for token in short)


@kinds
def test_what_fits_is_the_tokenizers_own_encoding(kind):
    tokenizer, data = TOKENIZERS[kind], pairs(["a dog ran", "it was big"])
    encoded = encode(data, tokenizer, 200, SUFFIX)
    assert encoded.ids == [tokenizer(data.task.render(r) + SUFFIX)["input_ids"] for r in data]
    assert (encoded.num_cut, encoded.labels, encoded.groups, len(encoded)) == (0, [0, 1], ["0", "1"], 2)
    assert all(row.count(tokenizer.eos_token_id) == (kind == "t5") for row in encoded.ids)


@kinds
@pytest.mark.parametrize("task", ["rte", "cb"])
def test_the_cut_takes_the_named_field_from_the_named_side(kind, task):
    tokenizer = TOKENIZERS[kind]
    data = pairs(["red cat " + "dog " * 20 + "blue hill"], task)
    whole = encode(data, tokenizer, 500, SUFFIX).ids[0]
    cut = encode(data, tokenizer, len(whole) - 12, SUFFIX)
    assert len(cut.ids[0]) == len(whole) - 12 and cut.num_cut == 1
    text = tokenizer.decode(cut.ids[0]).replace("\u2581", "")
    assert ("blue hill" in text) == (task == "cb")
    assert ("red cat" in text) == ("red" in text) == (task == "rte")
    for kept in ("hypothesis:", "the cat sat", "premise:", SUFFIX.strip()):
        assert kept in text


def test_a_cut_field_at_the_start_or_in_the_middle():
    tokenizer = TOKENIZERS["bytes"]
    wsc = {"text": "the dog ran up " + "and up " * 20, "span1": "the dog", "span2": "it"}
    copa = {"premise": "it was " + "so " * 20 + "red", "choice1": "a", "choice2": "b", "question": "cause"}
    for name, fields, kept in (
        ("wsc", wsc, '"it" refers to "the dog" or another word?'),
        ("copa", copa, " question: cause"),
    ):
        data = TaskDataset(get_task(name), "train", (Example("0", "0", fields, 0),))
        whole = tokenizer.decode(encode(data, tokenizer, 500).ids[0])
        text = tokenizer.decode(encode(data, tokenizer, len(tokenizer(whole)["input_ids"]) - 15).ids[0])
        assert text.endswith(kept) and len(text) < len(whole)
        assert text.startswith(whole[:15])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(PIECES, max_size=25), min_size=1, max_size=6),
    st.integers(1, 60),
    st.sampled_from(list(TOKENIZERS)),
    st.sampled_from(["rte", "cb"]),
)
def test_only_the_cut_field_is_ever_shortened_and_the_count_is_true(premises, limit, kind, task):
    tokenizer, data = TOKENIZERS[kind], pairs([" ".join(words) for words in premises], task)
    whole = encode(data, tokenizer, 10_000, SUFFIX)
    bare = encode(pairs([""], task), tokenizer, 10_000, SUFFIX).ids[0]
    try:
        cut = encode(data, tokenizer, limit, SUFFIX)
    except DataError as error:
        assert "only 'premise' is ever cut" in str(error)
        assert limit < len(bare) + 4  # a piece that joins the field to its neighbour stays
        return
    tail = 1 + len(tokenizer(SUFFIX, add_special_tokens=False)["input_ids"])
    head = len(tokenizer("hypothesis: the cat sat", add_special_tokens=False)["input_ids"])
    for short, long in zip(cut.ids, whole.ids, strict=True):
        assert len(short) == min(len(long), limit)
        assert is_subsequence(short, long)
        assert short[:head] == long[:head] and short[-tail + 1 :] == long[-tail + 1 :]
    assert cut.num_cut == sum(len(row) > limit for row in whole.ids)


@kinds
def test_a_limit_too_small_for_the_rest_says_what_it_needs(kind):
    tokenizer, data = TOKENIZERS[kind], pairs(["dog " * 9])
    with pytest.raises(DataError, match=r"rte example 0: given a limit of 5 .*needed at least (\d+)") as caught:
        encode(data, tokenizer, 5, SUFFIX)
    needed = int(str(caught.value).split("needed at least ")[1].split(",")[0])
    assert len(encode(data, tokenizer, needed, SUFFIX).ids[0]) == needed
    with pytest.raises(DataError, match="raise max_source"):
        encode(data, tokenizer, needed - 1, SUFFIX)


def test_a_slow_tokenizer_is_refused_and_an_empty_split_is_not():
    class Slow:
        is_fast = False

    with pytest.raises(DataError, match="the slow tokenizer Slow; needed a fast one"):
        encode(pairs(["x"]), Slow(), 10)
    assert len(encode(pairs([]), TOKENIZERS["t5"], 10)) == 0
    assert list(batches(encode(pairs([]), TOKENIZERS["t5"], 10), 4, seed=0)) == []


def test_padding_falls_back_to_the_end_token():
    assert encode(pairs(["x"]), TOKENIZERS["t5"], 99).pad_id == TOKENIZERS["t5"].pad_token_id
    assert encode(pairs(["x"]), TOKENIZERS["bytes"], 99).pad_id == TOKENIZERS["bytes"].eos_token_id


# Batches


def rows(lengths: list[int]) -> TokenizedDataset:
    """Rows of the given lengths; every id tells which row it belongs to."""
    ids = [[i + 1] * length for i, length in enumerate(lengths)]
    return TokenizedDataset(
        get_task("rte"), ids, [i % 2 for i in range(len(ids))], [str(i) for i in range(len(ids))], 0, 0
    )


def order(encoded: TokenizedDataset, size: int, seed: int | None, epoch: int = 0) -> list[list[int]]:
    return [batch.index.tolist() for batch in batches(encoded, size, seed=seed, epoch=epoch)]


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), max_size=150), st.integers(1, 9), st.none() | st.integers(0, 3), st.integers(0, 3))
def test_every_example_comes_exactly_once_and_whole(lengths, size, seed, epoch):
    encoded, seen = rows(lengths), []
    for batch in batches(encoded, size, seed=seed, epoch=epoch):
        longest = max(lengths[i] for i in batch.index)
        assert batch.input_ids.shape == batch.attention_mask.shape == (len(batch), longest)
        assert {t.dtype for t in vars(batch).values()} == {torch.int64}
        for row, mask, label, i in zip(*(t.tolist() for t in vars(batch).values()), strict=True):
            assert row == encoded.ids[i] + [0] * (longest - lengths[i])
            assert mask == [1] * lengths[i] + [0] * (longest - lengths[i])
            assert label == encoded.labels[i]
            seen.append(i)
    assert sorted(seen) == list(range(len(lengths)))
    sizes = [len(batch) for batch in order(encoded, size, seed, epoch)]
    assert sizes[:-1] == [size] * (len(sizes) - 1)
    assert sum(sizes) == len(lengths)


def test_seed_zero_is_a_seed_and_each_epoch_has_its_own_order():
    encoded = rows([1 + i % 7 for i in range(101)])
    orders = {(s, e): order(encoded, 8, s, e) for s in (None, 0, 1) for e in (0, 1)}
    assert orders[0, 0] == order(encoded, 8, 0, 0)
    assert orders[None, 0] == orders[None, 1]
    different = [orders[None, 0], orders[0, 0], orders[0, 1], orders[1, 0], orders[1, 1]]
    assert all(a != b for i, a in enumerate(different) for b in different[i + 1 :])


def test_training_batches_are_bucketed_but_not_in_order_of_length():
    encoded = rows([1 + (i * 37) % 64 for i in range(1024)])
    batched = list(batches(encoded, 16, seed=0))
    cells = sum(batch.input_ids.numel() for batch in batched)
    tokens = sum(int(batch.attention_mask.sum()) for batch in batched)
    assert tokens / cells > 0.9  # batches of 16 at random would fill about half
    widths = [batch.input_ids.shape[1] for batch in batched]
    assert widths != sorted(widths)


def test_evaluation_goes_by_length():
    widths = [b.input_ids.shape[1] for b in batches(rows([5, 1, 4, 2, 3]), 2, seed=None)]
    assert widths == [2, 4, 5]


def test_the_left_over_of_training_is_drawn_at_random():
    encoded = rows(list(range(1, 42)))
    assert len({order(encoded, 8, 0, epoch)[-1][0] for epoch in range(20)}) > 5


def test_a_batch_moves_whole_and_a_batch_needs_a_size():
    (batch,) = batches(rows([2, 3]), 4, seed=None)
    moved = batch.to("meta")
    assert isinstance(moved, Batch) and {t.device.type for t in vars(moved).values()} == {"meta"}
    assert replace(batch).to("cpu").input_ids.equal(batch.input_ids)
    with pytest.raises(DataError, match="batch_size=0; needed at least 1"):
        next(batches(rows([1]), 0, seed=0))


@kinds
@pytest.mark.parametrize("typed", ["the {} cat", "{}", "a{}b", "{}{} {}"])
def test_a_control_token_typed_in_a_text_stays_text(kind, typed):
    tokenizer = TOKENIZERS[kind]
    for control in tokenizer.all_special_tokens:
        data = pairs(["the cat sat", typed.replace("{}", control), "the dog"])
        rows = encode(data, tokenizer, 200, SUFFIX).ids
        closing = tokenizer("the").input_ids[1:]  # what the tokenizer itself appends
        assert rows[1][len(rows[1]) - len(closing) :] == closing
        assert not set(rows[1][: len(rows[1]) - len(closing)]) & set(tokenizer.all_special_ids) - {
            tokenizer.unk_token_id
        }
        plain = encode(pairs(["the cat sat", "the cat", "the dog"]), tokenizer, 200, SUFFIX).ids
        assert [rows[0], rows[2]] == [plain[0], plain[2]]  # the other rows are as they were
        if kind == "bytes":
            assert tokenizer.decode(rows[1]) == data.task.render(data[1]) + SUFFIX
        cut = encode(data, tokenizer, len(rows[1]) - 1, SUFFIX).ids[1]
        assert len(cut) == len(rows[1]) - 1 and not set(cut[: len(cut) - len(closing)]) & (
            set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        )


def test_a_control_token_that_cannot_stay_text_is_refused():
    data = pairs(["the cat", "the <end> cat"])
    with_control = replace(data, task=replace(data.task, template="<end> {premise} {hypothesis}"))
    assert encode(with_control[:1], TOKENIZERS["bytes"], 200).ids[0][0] == TOKENIZERS["bytes"].eos_token_id
    with pytest.raises(DataError, match="rte example 1, field 'premise': given '<end>', a control token"):
        encode(with_control, TOKENIZERS["bytes"], 200)


def test_a_field_that_the_template_does_not_show_may_hold_anything():
    data = pairs(["the cat"])
    with_control = replace(data, task=replace(data.task, template="<end> {premise} {hypothesis}"))
    (example,) = with_control
    grouped = replace(with_control, examples=(replace(example, fields={"who": "<end>", **example.fields}),))
    assert encode(grouped, TOKENIZERS["bytes"], 200).ids == encode(with_control, TOKENIZERS["bytes"], 200).ids


@pytest.mark.parametrize("most", [0, -3, True, 2.5, "9", None])
def test_max_source_is_a_whole_number(most):
    with pytest.raises(DataError, match="max_source: given "):
        encode(pairs(["the cat"]), TOKENIZERS["t5"], most)
