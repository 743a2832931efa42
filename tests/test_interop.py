"""Prompts that leave the house: the same logits in PEFT, and back."""

from __future__ import annotations

import peft
import pytest
import torch

import xprompt as xp
from tests.conftest import tiny_data
from xprompt.encoding import batches


def pruned_prompt(backbone, mode):
    prompt = xp.SoftPrompt.init(backbone, 6, pieces=4, seed=2)
    prompt.mode = mode
    prompt.token_mask[[1, 4]] = False
    prompt.piece_mask[0, 2] = False
    return prompt


@pytest.mark.parametrize("mode", ["zero", "drop"])
def test_peft_gives_the_same_logits(backbone, tmp_path, mode):
    prompt = pruned_prompt(backbone, mode)
    data = tiny_data(6, "train")
    (batch,) = batches(backbone.encode(data), 6, seed=None)
    verbalizer = backbone.verbalizer(data.task)
    ours = backbone.label_scores(prompt(), batch, verbalizer)
    model = peft.PeftModel.from_pretrained(backbone.model, xp.to_peft(prompt, backbone, tmp_path)).eval()
    assert model.get_prompt_embedding_to_save("default").shape == (4 if mode == "drop" else 6, 32)
    for row, i in enumerate(batch.index.tolist()):  # one at a time: PEFT leaves padding to its caller
        there = batch.attention_mask[row].bool()
        inputs = {"input_ids": batch.input_ids[row][there][None], "attention_mask": torch.ones(1, int(there.sum()))}
        if backbone.kind == "seq2seq":
            inputs["decoder_input_ids"] = torch.zeros(1, 1, dtype=torch.long)
        logits = model(**inputs).logits[0, -1, list(verbalizer.first)]
        assert (logits - ours[row]).abs().max() <= 1e-5, i


def test_there_and_back(backbone, tmp_path):
    prompt = xp.SoftPrompt.init(backbone, 6, pieces=4, seed=2)
    again = xp.from_peft(xp.to_peft(prompt, backbone, tmp_path), backbone, pieces=4)
    assert torch.equal(again(), prompt())


def test_a_prompt_made_by_peft_can_be_pruned(backbone, tmp_path):
    config = peft.PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM" if backbone.kind == "seq2seq" else "CAUSAL_LM", num_virtual_tokens=5
    )
    model = peft.get_peft_model(backbone.model, config)
    model.save_pretrained(tmp_path)
    prompt = xp.from_peft(tmp_path, backbone, pieces=4)
    saved = model.prompt_encoder["default"].embedding.weight[:5]
    assert torch.equal(prompt.embeddings, saved)
    pruned = xp.prune(prompt, xp.importance(backbone, prompt, tiny_data(6, "train")), 0.4, 0.2, mode="drop")
    assert pruned().shape == (3, 32)


def test_errors_name_the_folder_and_the_fix(backbone, tmp_path):
    with pytest.raises(xp.StoreError, match="adapter_config.json"):
        xp.from_peft(tmp_path, backbone)
    xp.to_peft(xp.SoftPrompt(torch.zeros(3, 16), pieces=4), backbone, tmp_path)
    with pytest.raises(xp.StoreError, match="width 16"):
        xp.from_peft(tmp_path, backbone)
