"""What a fingerprint follows: weights, configuration and tokenizer; and what it does not: where they lie."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import transformers

import xprompt as xp
from tests.conftest import tiny_model, tiny_tokenizer
from xprompt.backbones.loading import wrap


@pytest.fixture
def folder(tmp_path, kind) -> Path:
    backbone = tiny_model(kind)
    backbone.model.save_pretrained(tmp_path / "model")
    backbone.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path) -> xp.Backbone:
    return xp.load_backbone(folder, device="cpu")


def edit(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_the_same_content_has_the_same_fingerprint_wherever_it_lies(folder, tmp_path):
    first = load(folder)
    shutil.copytree(folder, tmp_path / "elsewhere")
    second = load(tmp_path / "elsewhere")
    assert first.fingerprint == second.fingerprint and len(first.fingerprint) == 16
    first.tokenizer(["a", "a long text"], padding=True, truncation=True, max_length=3)  # leaves its settings behind
    assert wrap(first.model, first.tokenizer).fingerprint == second.fingerprint


def swap_two_tokens(content) -> None:
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer.json", swap_two_tokens),
        ("tokenizer.json", lambda content: content.update(normalizer={"type": "Lowercase"})),
        ("tokenizer_config.json", lambda content: content.update(eos_token="<unk>")),
        ("tokenizer_config.json", lambda content: content.update(pad_token="<unk>")),
        ("config.json", lambda content: content.update(layer_norm_epsilon=0.1, rms_norm_eps=0.1)),
        ("generation_config.json", lambda content: content.update(eos_token_id=2)),
    ],
)
def test_whatever_decides_a_score_changes_the_fingerprint_and_not_the_weights_digest(folder, file, change):
    before = load(folder)
    edit(folder / file, change)
    after = load(folder)
    assert before.fingerprint != after.fingerprint
    assert before.weights_digest == after.weights_digest


def test_another_decoder_start_is_another_backbone():
    backbone = tiny_model("seq2seq")
    backbone.model.config.decoder_start_token_id = 2
    assert wrap(backbone.model, backbone.tokenizer).fingerprint != tiny_model("seq2seq").fingerprint


def test_one_changed_weight_changes_both_digests(kind):
    backbone = tiny_model(kind)
    backbone.model.get_input_embeddings().weight.data[3, 0] += 1
    changed, before = wrap(backbone.model, backbone.tokenizer), tiny_model(kind)
    assert changed.fingerprint != before.fingerprint and changed.weights_digest != before.weights_digest


def test_a_slow_tokenizer_is_recognised_by_its_vocabulary(tmp_path):
    model = tiny_model("decoder").model

    def fingerprint(words: list[str], lower: bool = False) -> str:
        vocabulary = tmp_path / "vocab.txt"
        vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
        tokenizer = transformers.models.prophetnet.ProphetNetTokenizer(str(vocabulary), do_lower_case=lower)
        assert not tokenizer.is_fast
        return wrap(model, tokenizer).fingerprint

    assert fingerprint(["a", "b"]) == fingerprint(["a", "b"])
    assert len({fingerprint(["a", "b"]), fingerprint(["b", "a"]), fingerprint(["a", "b"], lower=True)}) == 3


def test_the_packaged_nano_keeps_its_digest_and_a_fingerprint_covers_more():
    backbone = xp.load_backbone("nano", device="cpu")
    assert backbone.weights_digest == "442fc642f61dda8d"
    assert backbone.fingerprint != backbone.weights_digest
    assert wrap(backbone.model, tiny_tokenizer(True)).fingerprint != backbone.fingerprint
