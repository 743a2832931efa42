from __future__ import annotations

import pytest
import torch

import xprompt as xp
from tests.conftest import tiny_model
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


def test_labels_start_from_the_label_words():
    backbone, task = tiny_model("seq2seq"), xp.get_task("cb")
    prompt = xp.SoftPrompt.init(backbone, 5, "labels", pieces=4, task=task)
    for row, word in enumerate(task.label_words):
        ids = backbone.tokenizer(word, add_special_tokens=False).input_ids
        assert torch.allclose(prompt.embeddings[row], backbone.embedding_rows()[ids].mean(0))


def test_another_prompt_is_copied_not_shared():
    source = a_prompt()
    copy = xp.SoftPrompt.init(tiny_model("seq2seq"), 3, source)
    assert torch.equal(copy(), source())
    with torch.no_grad():
        copy.embeddings.zero_()
    assert source.embeddings.abs().min() > 0


def test_errors_say_what_to_do(backbone):
    with pytest.raises(xp.ConfigError, match="divisor of 32"):
        xp.SoftPrompt(torch.zeros(2, 32), pieces=5)
    with pytest.raises(xp.ConfigError, match="'zero' or 'drop'"):
        xp.SoftPrompt(torch.zeros(2, 32), mode="shrink")
    with pytest.raises(xp.ConfigError, match="at least 1"):
        xp.SoftPrompt.init(backbone, length=0)
    with pytest.raises(xp.ConfigError, match="usable vocabulary"):
        xp.SoftPrompt.init(backbone, length=1000)
    with pytest.raises(xp.ConfigError, match="pass task="):
        xp.SoftPrompt.init(backbone, length=4, init="labels")


def test_stacked_prompts_stand_next_to_the_input():
    short, full = a_prompt("drop"), a_prompt("zero")
    vectors, prompt_mask = stack([short, full])
    assert prompt_mask.tolist() == [[False, True, True], [True, True, True]]
    assert torch.equal(vectors[0, 1:], short()) and torch.equal(vectors[1], full())
