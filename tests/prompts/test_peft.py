"""Prompts that leave the house: the same logits and texts in PEFT, and back."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import xprompt as xp
from tests.conftest import tiny_data, tiny_tokenizer
from xprompt.backbones.loading import wrap
from xprompt.data.batching import batches
from xprompt.errors import NotFiniteError
from xprompt.files import new_folder
from xprompt.prompts.peft import compare_with_peft

MODES = pytest.mark.parametrize("mode", ["zero", "drop"])
# what is pruned: (tokens, pieces of a token); "all pieces" leaves a token nothing, which makes it a pruned token
PRUNED = {"tokens": ([1, 4], []), "pieces": ([], [(0, 2), (3, 0)]), "both": ([1, 4], [(0, 2), (5, 3)]),
          "all pieces": ([0], [(2, 0), (2, 1), (2, 2), (2, 3)])}  # fmt: skip


def pruned_prompt(backbone, mode, pruned="both"):
    prompt = xp.SoftPrompt.init(backbone, 6, pieces=4, seed=2)
    prompt.mode = mode
    tokens, pieces = PRUNED[pruned]
    prompt.token_mask[tokens] = False
    for token, piece in pieces:
        prompt.piece_mask[token, piece] = False
    return prompt


def at_home(backbone, folder):
    """The export in plain PEFT, on a copy of the plain model: nothing of ours is around it."""
    return peft.PeftModel.from_pretrained(copy.deepcopy(backbone.model), folder).eval()


@MODES
@pytest.mark.parametrize("pruned", PRUNED)
def test_peft_gives_the_same_logits(backbone, tmp_path, mode, pruned):
    prompt = pruned_prompt(backbone, mode, pruned)
    data = tiny_data(6, "train")
    (batch,) = batches(backbone.encode(data), 6, seed=None)
    verbalizer = backbone.verbalizer(data.task)
    ours = backbone.label_scores(prompt(), batch, verbalizer)
    model = at_home(backbone, xp.to_peft(prompt, backbone, tmp_path))
    survive = int(prompt.surviving_tokens.sum()) if mode == "drop" else 6
    assert model.get_prompt_embedding_to_save("default").shape == (survive, 32)
    for row, i in enumerate(batch.index.tolist()):  # one at a time: PEFT leaves padding to its caller
        mask = batch.attention_mask[row].bool()
        inputs = {
            "input_ids": batch.input_ids[row][mask][None],
            "attention_mask": torch.ones(1, int(mask.sum())),
        }
        if backbone.kind == "seq2seq":
            inputs["decoder_input_ids"] = torch.zeros(1, 1, dtype=torch.long)
        logits = model(**inputs).logits[0, -1, list(verbalizer.first)]
        assert torch.allclose(logits, ours[row], atol=1e-5, rtol=1e-5), i


@MODES
def test_what_is_stored_is_exactly_what_survives(backbone, tmp_path, mode):
    prompt = pruned_prompt(backbone, mode)
    rows = load_file(xp.to_peft(prompt, backbone, tmp_path) / "adapter_model.safetensors")["prompt_embeddings"]
    kept = prompt.embeddings.detach().clone()
    kept[0, 16:24] = kept[5, 24:] = 0.0
    if mode == "drop":
        assert torch.equal(rows, kept[[0, 2, 3, 5]])
    else:
        kept[[1, 4]] = 0.0
        assert torch.equal(rows, kept)


@MODES
def test_generate_through_peft_writes_what_ours_does(backbone, tmp_path, mode):
    prompt = pruned_prompt(backbone, mode)
    (batch,) = batches(backbone.encode(tiny_data(6, "train")), 6, seed=None)
    ours = backbone.generate(prompt(), batch, max_new_tokens=5)
    model = at_home(backbone, xp.to_peft(prompt, backbone, tmp_path))
    theirs = []
    for row in range(6):
        ids = batch.input_ids[row][batch.attention_mask[row].bool()][None]
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, pad_token_id=0
        )
        new = out[0] if backbone.kind == "seq2seq" else out[0, ids.shape[1] :]
        theirs.append(backbone.tokenizer.decode(new, skip_special_tokens=True).strip())
    assert theirs == ours and any(ours)


@MODES
def test_the_comparison_finds_no_difference_and_finds_one_where_there_is(backbone, tmp_path, mode):
    prompt, data = pruned_prompt(backbone, mode), tiny_data(9, "train")
    model = at_home(backbone, xp.to_peft(prompt, backbone, tmp_path))
    found = compare_with_peft(model, prompt, backbone, data)
    assert found["max logit difference"] <= 1e-5 and found["same predictions"] == 1.0
    assert found["virtual tokens"] == (4 if mode == "drop" else 6)
    changed = prompt.clone()
    changed.mode = "zero" if mode == "drop" else "drop"
    assert compare_with_peft(model, changed, backbone, data)["max logit difference"] > 1e-3
    shared = replace(data, task=replace(data.task, label_words=("not_entailment", "not_entailment True")))
    with pytest.raises(xp.BackboneError, match="same token"):
        compare_with_peft(model, prompt, backbone, shared)


def test_there_and_back(backbone, tmp_path):
    prompt = xp.SoftPrompt.init(backbone, 6, pieces=4, seed=2)
    again = xp.from_peft(xp.to_peft(prompt, backbone, tmp_path), backbone, pieces=4)
    assert torch.equal(again(), prompt())


def test_what_was_pruned_to_zero_is_read_as_pruned(backbone, tmp_path):
    prompt = pruned_prompt(backbone, "zero", "all pieces")
    again = xp.from_peft(xp.to_peft(prompt, backbone, tmp_path), backbone, pieces=4)
    assert torch.equal(again.surviving_pieces, prompt.surviving_pieces) and again.num_params == prompt.num_params
    assert torch.equal(again(), prompt()) and again.mode == "zero"


def test_a_prompt_tuned_by_peft_is_read_pruned_tuned_on_and_taken_back(backbone64, splits, tmp_path):
    config = peft.PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM" if backbone64.kind == "seq2seq" else "CAUSAL_LM", num_virtual_tokens=5
    )
    model = peft.get_peft_model(copy.deepcopy(backbone64.model), config)
    weight = model.prompt_encoder["default"].embedding.weight
    start = weight[:5].detach().clone()
    optimiser = torch.optim.AdamW([weight], lr=0.05)
    (batch,) = batches(backbone64.encode(splits.train), 24, seed=None)
    for _ in range(3):
        labels = batch.input_ids if backbone64.kind == "decoder" else batch.labels[:, None] + 5
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(tmp_path / "theirs")
    prompt = xp.from_peft(tmp_path / "theirs", backbone64, pieces=4)
    assert torch.equal(prompt.embeddings, weight[:5]) and not torch.equal(prompt.embeddings, start)
    scores = xp.importance(backbone64, prompt, splits.train)
    for mode, length in (("drop", 3), ("zero", 5)):
        pruned = xp.prune(prompt, scores, 0.4, 0.2, mode=mode)
        assert pruned().shape == (length, 32)
        settings = xp.TuneSettings(steps=2, batch_size=4, eval_every=1)
        again, _ = xp.tune(backbone64, xp.rewind(pruned, prompt), splits, settings)
        folder = xp.to_peft(again, backbone64, tmp_path / mode)
        found = compare_with_peft(at_home(backbone64, folder), again, backbone64, splits.validation)
        assert found["max logit difference"] <= 1e-10 and found["virtual tokens"] == length


def edit(folder: Path, **changes: object) -> None:
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in config.items() if value != "absent"}))


@pytest.fixture
def exported(backbone, tmp_path) -> Path:
    return xp.to_peft(xp.SoftPrompt.init(backbone, 4, pieces=4), backbone, tmp_path / "out")


def test_errors_name_the_folder_and_the_fix(backbone, tmp_path, exported):
    with pytest.raises(xp.StoreError, match="adapter_config.json"):
        xp.from_peft(tmp_path, backbone)
    with pytest.raises(xp.ConfigError, match="4 surviving tokens of width 16.*needs at least one, of width 32"):
        xp.to_peft(xp.SoftPrompt(torch.ones(4, 16), pieces=4), backbone, tmp_path / "narrow")
    nothing = xp.SoftPrompt.init(backbone, 4, pieces=4)
    nothing.mode, nothing.token_mask[:] = "drop", False
    with pytest.raises(xp.ConfigError, match="0 surviving tokens"):
        xp.to_peft(nothing, backbone, tmp_path / "nothing")
    assert not list(tmp_path.glob("n*")) and not list(tmp_path.glob(".n*"))


WHOLE = torch.ones(4, 32)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"prompt_embeddings": torch.ones(4, 16)}, "width 16.*needs width 32"),
        ({"prompt_embeddings": torch.ones(3, 32)}, r"shape \[3, 32\]"),
        ({"prompt_embeddings": torch.ones(4, 4, 32)}, r"shape \[4, 4, 32\]"),
        ({"prompt_embeddings": torch.ones(32)}, r"shape \[32\]"),
        ({"prompt_embeddings": torch.ones(4, 32, dtype=torch.int64)}, "torch.int64"),
        ({"prompt_embeddings": torch.full((4, 32), float("nan"))}, "infinite or not numbers"),
        ({"prompt_embeddings": torch.full((4, 32), -float("inf"))}, "infinite or not numbers"),
        ({"base_model.model.lora_A.weight": WHOLE}, "needs adapter_config.json and .*the tensor prompt_embeddings"),
    ],
)
def test_a_tensor_that_is_no_prompt_of_the_backbone_is_refused_by_name(backbone, exported, tensors, match):
    save_file(tensors, exported / "adapter_model.safetensors")
    with pytest.raises(xp.StoreError, match=match):
        xp.from_peft(exported, backbone)


def test_the_encoders_rows_are_the_first_of_two(backbone, exported):
    rows = torch.arange(8.0)[:, None].expand(8, 32).contiguous()
    save_file({"prompt_embeddings": rows}, exported / "adapter_model.safetensors")
    assert torch.equal(xp.from_peft(exported, backbone, pieces=4)(), rows[:4])


@pytest.mark.parametrize("count", [-1, 0, 2.5, "4", None, True, [], "absent"])
def test_a_count_that_is_none_is_refused(backbone, exported, count):
    edit(exported, num_virtual_tokens=count)
    with pytest.raises(xp.StoreError, match="num_virtual_tokens="):
        xp.from_peft(exported, backbone)


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "NaN", '{"a": 1, "a": 2}', "[" * 10**5, "\x00"])
def test_a_configuration_that_is_no_json_object_is_refused(backbone, exported, content):
    (exported / "adapter_config.json").write_text(content)
    with pytest.raises(xp.StoreError, match="holds no readable PEFT prompt"):
        xp.from_peft(exported, backbone)


def test_a_prompt_for_the_other_kind_of_model_is_refused(backbone, exported):
    edit(exported, task_type="CAUSAL_LM" if backbone.kind == "seq2seq" else "SEQ_2_SEQ_LM")
    with pytest.raises(xp.StoreError, match="load the backbone it was tuned on"):
        xp.from_peft(exported, backbone)


def test_the_peft_type_is_named_before_anything_else_is_missing(backbone, exported):
    edit(exported, peft_type="LORA", num_virtual_tokens="absent")
    (exported / "adapter_model.safetensors").unlink()
    with pytest.raises(xp.StoreError, match="holds 'LORA', not 'PROMPT_TUNING'"):
        xp.from_peft(exported, backbone)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("exists", [True, False])
def test_an_export_that_fails_leaves_nothing(backbone, tmp_path, monkeypatch, failing, exists):
    calls, real = [], os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError("no space left on device")
        real(descriptor)

    if exists:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes.txt").write_text("mine")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(xp.StoreError, match="no space left"):
        xp.to_peft(xp.SoftPrompt.init(backbone, 4, pieces=4), backbone, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == (["out", "notes.txt"] if exists else [])


def test_another_adapter_is_never_overwritten_in_silence(backbone, tmp_path, exported, monkeypatch):
    (exported / "notes.txt").write_text("mine")
    before = content(exported)
    same, other = xp.from_peft(exported, backbone, pieces=4), xp.SoftPrompt.init(backbone, 4, pieces=4, seed=9)
    assert xp.to_peft(same, backbone, exported) == exported
    with pytest.raises(xp.StoreError, match="another adapter already.*overwrite=True"):
        xp.to_peft(other, backbone, exported)
    assert content(exported) == before
    # A folder that is there may be a link to another disk: what is written lies inside it until it is moved.
    staged: list[Path] = []
    monkeypatch.setattr("xprompt.prompts.peft.new_folder", lambda *given: staged.append(given[0]) or new_folder(*given))
    again = xp.from_peft(xp.to_peft(other, backbone, exported, overwrite=True), backbone, pieces=4)
    assert staged == [exported] and not list(exported.glob(".*"))
    assert torch.equal(again(), other()) and (exported / "notes.txt").read_text() == "mine"


def test_no_adapter_is_put_beside_a_model(backbone, tmp_path):
    backbone.model.save_pretrained(tmp_path)
    before = content(tmp_path)
    with pytest.raises(xp.StoreError, match="holds a model"):
        xp.to_peft(xp.SoftPrompt.init(backbone, 4, pieces=4), backbone, tmp_path, overwrite=True)
    assert content(tmp_path) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_not_exported(backbone, tmp_path, value):
    prompt = xp.SoftPrompt.init(backbone, 4, pieces=4)
    prompt.embeddings.data[1, 1] = value
    with pytest.raises(NotFiniteError, match="1 of 4 prompt tokens"):
        xp.to_peft(prompt, backbone, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_backbone_loaded_by_a_path_is_exported(backbone, tmp_path):
    backbone.model.save_pretrained(tmp_path / "model")
    backbone.tokenizer.save_pretrained(tmp_path / "model")
    loaded = xp.load_backbone(tmp_path / "model", device="cpu")
    prompt = xp.SoftPrompt.init(loaded, 4, pieces=4)
    wrapped = wrap(backbone.model, backbone.tokenizer, name=tmp_path / "model")  # a Path, as users have it
    for i, one in enumerate((loaded, wrapped)):
        folder = xp.to_peft(prompt, one, tmp_path / f"out{i}")
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
            tmp_path / "model"
        )
        assert torch.equal(xp.from_peft(folder, one, pieces=4)(), prompt())


def test_peft_need_not_infer_the_shape_of_the_model(tmp_path):
    """MPT's configuration has heads and layers under names that PEFT does not know."""
    torch.manual_seed(0)
    config = transformers.MptConfig(vocab_size=320, d_model=32, n_layers=2, n_heads=4, max_seq_len=64)
    backbone = wrap(transformers.MptForCausalLM(config), tiny_tokenizer(False), name="mpt")
    folder = xp.to_peft(xp.SoftPrompt.init(backbone, 4, pieces=4), backbone, tmp_path / "out")
    written = json.loads((folder / "adapter_config.json").read_text())
    assert (written["num_layers"], written["num_attention_heads"], written["token_dim"]) == (2, 4, 32)
    assert at_home(backbone, folder).get_prompt_embedding_to_save("default").shape == (4, 32)


def test_another_methods_adapter_is_refused(backbone, tmp_path):
    folder = xp.to_peft(xp.SoftPrompt.init(backbone, 4, pieces=4), backbone, tmp_path)
    file = folder / "adapter_config.json"
    file.write_text(file.read_text().replace("PROMPT_TUNING", "PREFIX_TUNING"))
    with pytest.raises(xp.StoreError, match="'PREFIX_TUNING', not 'PROMPT_TUNING'"):
        xp.from_peft(folder, backbone)
