from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import xprompt as xp
from tests.conftest import tiny_model
from xprompt.errors import NotFiniteError
from xprompt.prompts.collection import load_from_collection, save_collection
from xprompt.prompts.soft_prompt import usable_rows
from xprompt.prompts.stacking import stack


def a_prompt(mode: str = "zero") -> xp.SoftPrompt:
    prompt = xp.SoftPrompt(torch.arange(1.0, 25.0).view(3, 8), pieces=4, mode=mode)
    prompt.token_mask[1] = False
    prompt.piece_mask[2, 0] = False
    return prompt


def test_zero_keeps_the_position_and_zeroes_exactly_the_pruned_entries():
    expected = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7, 8], [0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 19, 20, 21, 22, 23, 24]])
    assert torch.equal(a_prompt()(), expected)


def test_drop_removes_the_position():
    assert torch.equal(a_prompt("drop")(), a_prompt()()[[0, 2]])


def test_all_ones_mask_is_no_mask():
    values = torch.randn(4, 8)
    for mode in ("zero", "drop"):
        assert torch.equal(xp.SoftPrompt(values, pieces=2, mode=mode)(), values)


def test_parameters_are_counted_by_surviving_piece():
    assert a_prompt().num_params == (4 + 3) * 2


def test_a_token_without_pieces_is_a_pruned_token():
    prompt = a_prompt("drop")
    prompt.piece_mask[2] = False
    assert prompt.surviving_tokens.tolist() == [True, False, False]
    assert prompt().shape == (1, 8)
    assert (prompt.num_vectors, a_prompt("drop").num_vectors, a_prompt().num_vectors) == (1, 2, 3)


def test_pruned_entries_get_no_gradient():
    prompt = a_prompt()
    prompt().square().sum().backward()
    assert torch.equal(prompt.embeddings.grad[1], torch.zeros(8))
    assert torch.equal(prompt.embeddings.grad[2, :2], torch.zeros(2))
    assert prompt.embeddings.grad[2, 2:].abs().min() > 0


@pytest.mark.parametrize("mode", ["zero", "drop"])
def test_saved_and_loaded_to_the_last_bit(tmp_path, mode):
    prompt = xp.SoftPrompt(torch.randn(3, 8), pieces=4, mode=mode)
    prompt.token_mask[0] = False
    prompt.piece_mask[1, 3] = False
    again = xp.SoftPrompt.load(prompt.save(tmp_path))
    assert again.mode == mode
    for name, tensor in prompt.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_a_damaged_file_is_an_error_that_names_it(tmp_path):
    a_prompt().save(tmp_path)
    (tmp_path / "prompt.safetensors").write_bytes(b"half a file")
    with pytest.raises(xp.StoreError, match="prompt.safetensors"):
        xp.SoftPrompt.load(tmp_path)
    with pytest.raises(xp.StoreError, match="nothing_here"):
        xp.SoftPrompt.load(tmp_path / "nothing_here")


def test_a_damaged_card_is_not_blamed_on_the_prompt(tmp_path):
    (a_prompt().save(tmp_path) / "xprompt.json").write_text("{")
    with pytest.raises(xp.StoreError, match="xprompt.json cannot be read") as caught:
        xp.SoftPrompt.load(tmp_path)
    assert "prompt.safetensors" not in str(caught.value)


def test_every_flipped_bit_and_every_cut_is_seen(tmp_path):
    file = a_prompt().save(tmp_path) / "prompt.safetensors"
    assert [path.name for path in tmp_path.iterdir()] == ["prompt.safetensors"]
    whole = file.read_bytes()
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(damaged)
        with pytest.raises(xp.StoreError, match="Save it again"):
            xp.SoftPrompt.load(tmp_path)
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(xp.StoreError, match="Save it again"):
            xp.SoftPrompt.load(tmp_path)
    file.write_bytes(whole)
    assert torch.equal(xp.SoftPrompt.load(tmp_path)(), a_prompt()())


def old_files(folder: Path, **facts: object) -> Path:
    """Write a prompt as version 0.1.0 did: two files and no checksum."""
    prompt = a_prompt("drop")
    save_file(dict(prompt.state_dict()), folder / "prompt.safetensors")
    known = {"format": 1, "mode": "drop", "length": 3, "pieces": 4, "hidden_size": 8}
    (folder / "prompt.json").write_text(json.dumps(known | facts, indent=1))
    return folder


def test_files_of_an_earlier_version_still_load_and_are_replaced_whole(tmp_path):
    again = xp.SoftPrompt.load(old_files(tmp_path))
    assert again.mode == "drop" and torch.equal(again(), a_prompt("drop")())
    a_prompt("zero").save(tmp_path)
    assert xp.SoftPrompt.load(tmp_path).mode == "zero"
    assert [path.name for path in tmp_path.iterdir()] == ["prompt.safetensors"]


@pytest.mark.parametrize(
    "facts", [{"mode": "shrink"}, {"mode": None}, {"mode": []}, {"length": 4}, {"pieces": 2}, {"pieces": "4"}]
)
def test_files_of_an_earlier_version_that_do_not_fit_together_are_refused(tmp_path, facts):
    with pytest.raises(xp.StoreError, match="no readable prompt"):
        xp.SoftPrompt.load(old_files(tmp_path, **facts))


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "NaN", "{}", "[" * 10**5])
def test_an_old_description_that_is_damaged_is_refused(tmp_path, content):
    (old_files(tmp_path) / "prompt.json").write_text(content)
    with pytest.raises(xp.StoreError, match="no readable prompt"):
        xp.SoftPrompt.load(tmp_path)


def test_a_save_that_fails_leaves_the_old_prompt_whole(tmp_path, monkeypatch):
    before = a_prompt().save(tmp_path)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(xp.StoreError, match="no space left"):
        xp.SoftPrompt(torch.ones(2, 8), pieces=2).save(tmp_path)
    assert torch.equal(xp.SoftPrompt.load(before)(), a_prompt()())
    assert [path.name for path in tmp_path.iterdir()] == ["prompt.safetensors"]
    (tmp_path / "file").touch()
    with pytest.raises(xp.StoreError, match="cannot be written"):
        a_prompt().save(tmp_path / "file" / "below")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path, value):
    prompt = a_prompt()
    prompt.embeddings.data[2, 5] = value
    with pytest.raises(NotFiniteError, match="1 of 3 prompt tokens"):
        prompt.save(tmp_path / "new")
    with pytest.raises(NotFiniteError, match="1 of 3 prompt tokens"):
        save_collection(tmp_path / "prompts.safetensors", {"a": prompt})
    assert not list(tmp_path.iterdir())
    old_files(tmp_path)
    save_file(dict(prompt.state_dict()), tmp_path / "prompt.safetensors")
    with pytest.raises(xp.StoreError, match="infinite or not numbers"):
        xp.SoftPrompt.load(tmp_path)


def test_every_flipped_bit_of_a_collection_is_seen(tmp_path):
    path = tmp_path / "prompts.safetensors"
    save_collection(path, {"one": a_prompt()})
    whole = path.read_bytes()
    assert torch.equal(load_from_collection(path, "one")(), a_prompt()())
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(xp.StoreError):
            load_from_collection(path, "one")


def test_vocabulary_rows_are_sampled_from_used_ones_only(backbone):
    table = backbone.embedding_rows()
    usable = usable_rows(backbone.tokenizer, len(table))
    assert usable.max() < len(backbone.tokenizer) < len(table)
    assert not set(usable.tolist()) & set(backbone.tokenizer.all_special_ids)
    prompt = xp.SoftPrompt.init(backbone, length=30, pieces=4, seed=0)
    allowed = {tuple(row) for row in table[usable].tolist()}
    assert all(tuple(row) in allowed for row in prompt.embeddings.tolist())
    assert len({tuple(row) for row in prompt.embeddings.tolist()}) == 30


@pytest.mark.parametrize("init", ["vocab", "common", "uniform", "labels"])
def test_seed_zero_is_a_seed(init):
    backbone, task = tiny_model("seq2seq"), xp.get_task("cb")
    make = lambda seed: xp.SoftPrompt.init(backbone, 6, init, seed, pieces=4, task=task).embeddings  # noqa: E731
    assert torch.equal(make(0), make(0))
    assert not torch.equal(make(0), make(1))


def test_first_is_the_vocabularys_first_rows_whatever_the_seed(backbone):
    for seed in (0, 1):
        prompt = xp.SoftPrompt.init(backbone, 6, "first", seed, pieces=4)
        assert torch.equal(prompt.embeddings, backbone.embedding_rows()[:6].float())
    with pytest.raises(xp.ConfigError, match="usable vocabulary"):
        xp.SoftPrompt.init(backbone, 1000, "first", pieces=4)


def test_uniform_lies_in_half_a_unit_each_side():
    values = xp.SoftPrompt.init(tiny_model("seq2seq"), 64, "uniform", pieces=4).embeddings
    assert values.min() >= -0.5 and values.max() <= 0.5 and values.std() > 0.25


def test_labels_start_from_the_label_words(kind):
    """As they are scored: behind a decoder-only LM's input a word has a space in front, and other tokens."""
    backbone, task = tiny_model(kind), xp.get_task("cb")
    prompt = xp.SoftPrompt.init(backbone, 5, "labels", pieces=4, task=task)
    for row, word in enumerate(task.label_words):
        text = word if kind == "seq2seq" else f" {word}"
        ids = backbone.tokenizer(text, add_special_tokens=False).input_ids
        assert torch.allclose(prompt.embeddings[row], backbone.embedding_rows()[ids].mean(0))


def test_another_prompt_is_copied_not_shared():
    source = xp.SoftPrompt(torch.randn(3, 32), pieces=4, mode="drop")
    source.token_mask[1] = False
    copy = xp.SoftPrompt.init(tiny_model("seq2seq"), 3, source)
    assert torch.equal(copy(), source()) and copy.mode == "drop"
    assert torch.equal(copy.surviving_pieces, source.surviving_pieces)
    assert xp.SoftPrompt.init(tiny_model("seq2seq"), 3, source, pieces=4).pieces == 4
    with torch.no_grad():
        copy.embeddings.zero_()
    assert source.embeddings.abs().min() > 0


def test_a_prompt_that_does_not_fit_what_is_asked_for_is_not_copied(backbone):
    source = xp.SoftPrompt(torch.randn(3, 32), pieces=4)
    with pytest.raises(xp.ConfigError, match="has 3 tokens, 4 were asked for"):
        xp.SoftPrompt.init(backbone, 4, source)
    with pytest.raises(xp.ConfigError, match="is 8 wide, .* needs 32: give"):
        xp.SoftPrompt.init(backbone, 3, a_prompt())
    with pytest.raises(xp.ConfigError, match="has 4 pieces a token, 16 were asked for: leave pieces= out"):
        xp.SoftPrompt.init(backbone, 3, source, pieces=16)


def test_a_copied_prompt_is_where_the_backbone_is(backbone, monkeypatch):
    rows = backbone.embedding_rows().to("meta")  # a device that every machine has
    monkeypatch.setattr(backbone, "embedding_rows", lambda: rows)
    copy = xp.SoftPrompt.init(backbone, 3, xp.SoftPrompt(torch.randn(3, 32), pieces=4))
    assert {tensor.device.type for tensor in copy.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_numpys_whole_numbers_are_whole_numbers(backbone, kind):
    prompt = xp.SoftPrompt.init(backbone, kind(3), pieces=kind(4))
    assert (prompt.length, prompt.pieces) == (3, 4)
    assert torch.equal(prompt.embeddings, xp.SoftPrompt.init(backbone, 3, pieces=4).embeddings)


def test_errors_say_what_to_do(backbone):
    with pytest.raises(xp.ConfigError, match="divisor of 32"):
        xp.SoftPrompt(torch.zeros(2, 32), pieces=5)
    for pieces in (0, -1, 2.0, "2", None, True):
        with pytest.raises(xp.ConfigError, match=f"^pieces={pieces!r} was given; .* a whole number of at least 1"):
            xp.SoftPrompt(torch.zeros(2, 32), pieces=pieces)
    for values in (torch.zeros(32), torch.zeros(0, 32), torch.zeros(2, 2, 32), torch.zeros(2, 32, dtype=torch.long)):
        with pytest.raises(xp.ConfigError, match=r"needs \(P, H\)"):
            xp.SoftPrompt(values)
    with pytest.raises(xp.ConfigError, match="'zero' or 'drop'"):
        xp.SoftPrompt(torch.zeros(2, 32), mode="shrink")
    for length in (0, 2.0, "2", True):
        with pytest.raises(xp.ConfigError, match=f"^length={length!r} was given; .* a whole number of at least 1"):
            xp.SoftPrompt.init(backbone, length=length)
    with pytest.raises(xp.ConfigError, match="usable vocabulary"):
        xp.SoftPrompt.init(backbone, length=1000)
    with pytest.raises(xp.ConfigError, match="pass task="):
        xp.SoftPrompt.init(backbone, length=4, init="labels")


def test_stacked_prompts_stand_next_to_the_input():
    short, full = a_prompt("drop"), a_prompt("zero")
    vectors, prompt_mask = stack([short, full])
    assert prompt_mask.tolist() == [[False, True, True], [True, True, True]]
    assert torch.equal(vectors[0, 1:], short()) and torch.equal(vectors[1], full())
