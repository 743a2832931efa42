"""Prompts that leave the house: the same logits and texts in PEFT, and back."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import peft
import pytest
import torch
from safetensors.torch import load_file

import xprompt as xp
from tests.conftest import tiny_data
from xprompt.data.batching import batches
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


def test_errors_name_the_folder_and_the_fix(backbone, tmp_path):
    with pytest.raises(xp.StoreError, match="adapter_config.json"):
        xp.from_peft(tmp_path, backbone)
    xp.to_peft(xp.SoftPrompt(torch.zeros(3, 16), pieces=4), backbone, tmp_path)
    with pytest.raises(xp.StoreError, match="width 16"):
        xp.from_peft(tmp_path, backbone)


def test_another_methods_adapter_is_refused(backbone, tmp_path):
    folder = xp.to_peft(xp.SoftPrompt.init(backbone, 4, pieces=4), backbone, tmp_path)
    file = folder / "adapter_config.json"
    file.write_text(file.read_text().replace("PROMPT_TUNING", "PREFIX_TUNING"))
    with pytest.raises(xp.StoreError, match="'PREFIX_TUNING', not 'PROMPT_TUNING'"):
        xp.from_peft(folder, backbone)


class TestWholeOrNothing:
    def test_another_adapter_is_not_replaced_and_ones_own_is(self, backbone64, tmp_path):
        prompt = xp.SoftPrompt.init(backbone64, 4, pieces=2)
        xp.to_peft(prompt, backbone64, tmp_path / "out")
        (tmp_path / "out" / "notes.txt").write_text("mine")
        xp.to_peft(xp.SoftPrompt.init(backbone64, 6, pieces=2), backbone64, tmp_path / "out")
        assert xp.from_peft(tmp_path / "out", backbone64, pieces=2).length == 6
        assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
        config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        for changes in ({"peft_type": "LORA"}, {"base_model_name_or_path": "another"}):
            (tmp_path / "out" / "adapter_config.json").write_text(json.dumps(config | changes))
            before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
            with pytest.raises(xp.StoreError, match="holds another adapter"):
                xp.to_peft(prompt, backbone64, tmp_path / "out")
            assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before

    def test_a_failure_on_the_way_leaves_nothing(self, backbone64, tmp_path, monkeypatch):
        prompt = xp.SoftPrompt.init(backbone64, 4, pieces=2)
        monkeypatch.setattr(
            "xprompt.prompts.peft.replace_folder", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
        )
        with pytest.raises(xp.StoreError, match="free some room"):
            xp.to_peft(prompt, backbone64, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []
        with torch.no_grad():
            prompt.embeddings[1, 2] = float("nan")
        with pytest.raises(xp.XPromptError, match="not exported"):
            xp.to_peft(prompt, backbone64, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"peft_type": "LORA", "num_virtual_tokens": None}, "'LORA', not 'PROMPT_TUNING'"),
            ({"num_virtual_tokens": -1}, "num_virtual_tokens is -1"),
            ({"num_virtual_tokens": True}, "num_virtual_tokens is True"),
            ({"num_virtual_tokens": "4"}, "num_virtual_tokens is '4'"),
            ({"num_virtual_tokens": 99}, "for 99 virtual tokens"),
        ],
    )
    def test_a_folder_that_is_no_prompt_is_named(self, backbone64, tmp_path, changes, says):
        xp.to_peft(xp.SoftPrompt.init(backbone64, 4, pieces=2), backbone64, tmp_path)
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | changes))
        with pytest.raises(xp.StoreError, match=says):
            xp.from_peft(tmp_path, backbone64, pieces=2)
