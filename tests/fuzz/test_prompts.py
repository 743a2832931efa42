"""Masks, and the files of a prompt."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import xprompt as xp
from tests.conftest import tiny_model
from tests.fuzz import ANYTHING, FUZZ, NUMBERS, attempt
from xprompt.pruning.importance import Importance
from xprompt.pruning.prune import keep_mask
from xprompt.pruning.ratio import num_pruned

VALUES = st.floats(width=32, allow_subnormal=False)


@pytest.fixture(scope="module")
def backbone():
    return tiny_model("seq2seq")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prompt")


@FUZZ
@given(
    st.lists(VALUES, min_size=1, max_size=12),
    ANYTHING | st.floats(0, 1),
    st.sampled_from(["lowest", "highest", "random", "x"]),
)
def test_a_mask_removes_as_many_as_its_ratio_says(scores, ratio, order):
    if not isinstance(ratio, (int, float)):
        return
    mask, error = attempt(keep_mask, torch.tensor(scores), ratio, order=order, seed=1)
    if error is None:
        gone = int((~mask).sum())
        assert gone == num_pruned(len(scores), ratio) < len(scores) and mask.shape == (len(scores),)
        kept, pruned = (
            [s for s, k in zip(scores, mask, strict=True) if k],
            [s for s, k in zip(scores, mask, strict=True) if not k],
        )
        if pruned and order != "random":
            assert max(pruned) <= min(kept) if order == "lowest" else min(pruned) >= max(kept)


@FUZZ
@given(
    st.integers(1, 5),
    st.sampled_from([1, 2, 4, 8]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["zero", "drop"]),
    st.integers(0, 9),
)
def test_pruning_keeps_every_value_that_survives_and_nothing_else(length, pieces, token_ratio, piece_ratio, mode, seed):
    generator = torch.Generator().manual_seed(seed)
    prompt = xp.SoftPrompt(torch.randn(length, 8, generator=generator), pieces=pieces)
    scores = Importance(torch.rand(length, generator=generator), torch.rand(length, pieces, generator=generator), 1)
    pruned, error = attempt(xp.prune, prompt, scores, token_ratio, piece_ratio, mode)
    if error is None:
        assert torch.equal(pruned.embeddings, prompt.embeddings) and bool(pruned.surviving_pieces.any())
        survivors = pruned.surviving_entries
        assert int(pruned.token_mask.sum()) == length - num_pruned(length, token_ratio)
        assert survivors.any() and torch.equal(prompt.embeddings[survivors], pruned.embeddings[survivors])


@FUZZ
@given(
    st.integers(0, 5),
    st.integers(0, 2000),
    st.sampled_from(["flip", "cut", "replace", "delete"]),
    st.binary(max_size=40),
)
def test_a_damaged_prompt_is_refused_or_whole(folder, which, place, harm, content):
    prompt = xp.SoftPrompt(torch.arange(12.0).view(3, 4), pieces=2)
    prompt.token_mask[1] = False
    prompt.save(folder)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    path = files[which % len(files)]
    whole = path.read_bytes()
    place %= len(whole)
    if harm == "delete":
        path.unlink()
    else:
        flipped = whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :]
        path.write_bytes({"flip": flipped, "cut": whole[:place], "replace": content}[harm])
    read, error = attempt(xp.SoftPrompt.load, folder)
    if error is None:
        assert torch.equal(read.embeddings, prompt.embeddings) and read.mode == prompt.mode
        assert torch.equal(read.token_mask, prompt.token_mask) and torch.equal(read.piece_mask, prompt.piece_mask)
    else:
        assert str(folder) in str(error)


@FUZZ
@given(
    st.sampled_from(["float32", "float64", "int64", "bool", "complex64"]),
    st.lists(st.integers(0, 4), max_size=3),
    ANYTHING | st.integers(-1, 5),
)
def test_a_prompt_is_made_of_rows_and_pieces_or_refused(dtype, shape, pieces):
    prompt, error = attempt(xp.SoftPrompt, torch.ones(shape).to(getattr(torch, dtype)), pieces=pieces)
    if error is None:
        assert prompt.embeddings.shape == torch.Size(shape) and prompt.pieces == pieces and prompt.length > 0
        assert prompt.embeddings.is_floating_point() and type(pieces) is int


@FUZZ
@given(
    st.dictionaries(
        st.sampled_from(["peft_type", "num_virtual_tokens", "token_dim", "task_type"]),
        ANYTHING | NUMBERS,
        min_size=1,
        max_size=2,
    )
)
def test_any_adapter_config(folder, backbone, changes):
    prompt = xp.SoftPrompt(torch.ones(3, backbone.hidden_size), pieces=2)
    target = folder / "peft"
    shutil.rmtree(target, ignore_errors=True)
    xp.to_peft(prompt, backbone, target)
    config = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps({**config, **changes}, default=str))
    read, error = attempt(xp.from_peft, target, backbone, pieces=2)
    assert error is not None or 1 <= read.length <= 3
