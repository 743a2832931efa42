"""GGUF files as backbones: the numbers of the model they were made of, or a refusal that says why."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

import xprompt as xp
from xprompt.data.batching import batches

pytest.importorskip("gguf", reason="the package gguf, of the extra of that name, is not installed")
pytest.importorskip("accelerate", reason="the package accelerate, of the extra gguf, is not installed")
from gguf import GGMLQuantizationType  # noqa: E402

from tests.backbones.gguf_files import write_gguf  # noqa: E402
from tests.conftest import tiny_data  # noqa: E402

IDS = torch.arange(2, 300, 7)[None]


def load(path) -> xp.Backbone:
    return xp.load_backbone(path, device="cpu")


@pytest.mark.parametrize("kind", ["llama", "llama3", "qwen2", "gpt2", "mamba"])
def test_logits_are_those_of_the_model_that_the_file_was_made_of(kind, tmp_path, capfd):
    model = write_gguf(tmp_path / "model.gguf", kind)
    capfd.readouterr()
    backbone = load(tmp_path / "model.gguf")
    assert capfd.readouterr().err == "", "no bar of another library's"
    assert torch.allclose(backbone.model(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-4)
    assert backbone.tokenizer.decode(backbone.tokenizer("the cat sat.").input_ids) == "the cat sat."


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_a_quantised_file_is_the_model_of_its_rounded_weights(kind, tmp_path):
    import gguf

    model = write_gguf(tmp_path / "model.gguf", kind, GGMLQuantizationType.Q8_0)
    loaded = load(tmp_path / "model.gguf").model
    for name, weight in model.state_dict().items():
        rounded = loaded.state_dict()[name]
        if ".weight" not in name or weight.ndim < 2 or not any(layer in name for layer in (".layers.", ".h.")):
            assert torch.equal(rounded, weight), name
            continue
        flip = kind == "gpt2"  # whose file has these as outputs × inputs
        values = (weight.T if flip else weight).contiguous().numpy()
        expected = gguf.quants.dequantize(
            gguf.quants.quantize(values, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0
        )
        assert torch.equal(rounded.T if flip else rounded, torch.from_numpy(expected)), name
    assert not torch.equal(loaded(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_scores_are_those_of_plain_transformers_without_padding(kind, tmp_path):
    model = write_gguf(tmp_path / "model.gguf", kind)
    backbone = load(tmp_path / "model.gguf")
    data = tiny_data(6, "train")
    (batch,) = batches(backbone.encode(data), 6, seed=None)
    verbalizer = backbone.verbalizer(replace(data.task, label_words=("True", "False")))
    prompt = torch.randn(3, backbone.hidden_size, generator=torch.Generator().manual_seed(0))
    ours = backbone.label_scores(prompt, batch, verbalizer)
    for row in range(6):
        ids = batch.input_ids[row][batch.attention_mask[row].bool()]
        inputs = torch.cat([prompt, model.get_input_embeddings()(ids)])[None]
        logits = model(inputs_embeds=inputs).logits[0, -1, verbalizer.first]
        assert torch.allclose(ours[row], logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))


def test_a_fingerprint_is_of_what_the_file_holds_not_of_where_it_lies(tmp_path):
    write_gguf(tmp_path / "model.gguf", "llama")
    write_gguf(tmp_path / "small.gguf", "llama", GGMLQuantizationType.Q8_0)
    write_gguf(tmp_path / "far.gguf", "llama", rope__freq_base=20000.0)
    shutil.copy(tmp_path / "model.gguf", tmp_path / "sha256-0123")  # as other programs keep theirs: no ending at all
    first, copied, small, far = (
        load(tmp_path / name) for name in ("model.gguf", "sha256-0123", "small.gguf", "far.gguf")
    )
    assert first.fingerprint == copied.fingerprint
    assert len({first.fingerprint, small.fingerprint, far.fingerprint}) == 3


def test_a_run_and_its_prompt_know_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_gguf(tmp_path / "model.gguf", "llama")
    settings = xp.TuneSettings(optimizer="adamw", learning_rate=0.05, steps=2, eval_every=1, batch_size=8)
    config = xp.RunConfig(
        task="rte", profile="tiny", method="prompt_tuning", backbone="model.gguf", length=4, pieces=4, tune=settings,
        limit_train=32, limit_validation=16, max_source=128,
    )  # fmt: skip
    result = xp.run(config, tmp_path / "report")
    assert result.record["backbone"] == "model.gguf"
    assert result.record["provenance"]["backbone_fingerprint"] == load("model.gguf").fingerprint
    monkeypatch.chdir(tmp_path / "report")  # the card has the file's whole path
    clf = xp.classifier(result.folder)
    assert clf({"premise": "the cat sat", "hypothesis": "it sat"}).label in clf.labels
    card = (result.folder / "tuned_prompt" / "README.md").read_text()
    assert "base_model: model.gguf" in card


def split(writer):
    writer.add_uint16("split.count", 3)


def projector(writer):
    writer.add_type("mmproj")


def stretched(writer):
    writer.add_string("llama.rope.scaling.type", "yarn")


def tokenizer_of_words(writer):
    writer.kv_data[0]["tokenizer.ggml.model"].value = "bert"


def no_merges(writer):
    del writer.kv_data[0]["tokenizer.ggml.merges"]


def merges_of_nothing(writer):
    writer.kv_data[0]["tokenizer.ggml.merges"].value[:] = ["zz yy"]


def renamed(writer):
    writer.kv_data[0]["general.architecture"].value = "rwkv7"


EXTRA = torch.ones(64).numpy()
REFUSED = {
    "a split file": ({"change": split}, "one part of a split model: join the parts with `llama-gguf-split --merge"),
    "a projector": ({"change": projector}, "it holds a mmproj, no whole language model"),
    "an unknown architecture": ({"change": renamed}, "does not read the architecture 'rwkv7' from GGUF, only bloom, "),
    "scaled positions": ({"change": stretched}, "rotary positions are scaled .*'yarn'.*take the model's safetensors"),
    "foreign position factors": ({"tensors": {"rope_freqs.weight": EXTRA[:8] * 5}}, "scaled by rope_freqs.weight in"),
    "another tokenizer": ({"change": tokenizer_of_words}, "its tokenizer is 'bert', and transformers builds one of"),
    "no merges": ({"change": no_merges}, "its tokenizer lacks tokenizer.ggml.merges"),
    "merges of nothing": ({"change": merges_of_nothing}, "transformers does not make a model of this GGUF file"),
    "fewer layers than weights": ({"block_count": 1}, "it stores .* numbers, and the LlamaForCausalLM .*blk.1."),
    "a weight too many": ({"tensors": {"blk.0.attn_q.bias": EXTRA}}, r"left out \(blk.0.attn_q.bias, …\)"),
    "a weight too few": ({"tensors": {"blk.1.ffn_up.weight": None}}, "lacks 1 of its weights"),
    "another width": ({"feed_forward_length": 96}, "do not fit its metadata.*get its safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_right_is_refused_with_the_reason(case, tmp_path):
    how, words = REFUSED[case]
    write_gguf(tmp_path / "model.gguf", "llama", **how)
    with pytest.raises(xp.BackboneError, match=words):
        load(tmp_path / "model.gguf")


def test_what_is_no_whole_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    write_gguf(path, "llama")
    content = path.read_bytes()
    for size in (6, 100, 5_000, len(content) - 1000):
        path.write_bytes(content[:size])
        with pytest.raises(xp.BackboneError, match="GGUF file is cut short or damaged"):
            load(path)
    path.write_bytes(b"PK\3\4 and so on")
    with pytest.raises(xp.BackboneError, match=r"no GGUF file: it begins with b'PK"):
        load(path)
    with pytest.raises(xp.BackboneError, match=r"there is no such file: check the path"):
        load(tmp_path / "other.gguf")
    path.write_bytes(content)
    with pytest.raises(xp.BackboneError, match=rf"give the file itself, {path}"):
        load(tmp_path)
    path.rename(tmp_path / "model-00001-of-00002.gguf")
    with pytest.raises(xp.BackboneError, match="one part of a split model"):
        load(tmp_path / "model-00001-of-00002.gguf")


@pytest.mark.parametrize("missing", ["gguf", "accelerate"])
def test_the_packages_that_read_it_are_named(missing, tmp_path, monkeypatch):
    from xprompt.backbones import gguf_file

    found = gguf_file.importlib.util.find_spec
    write_gguf(tmp_path / "model.gguf", "llama")
    monkeypatch.setattr(
        gguf_file.importlib.util, "find_spec", lambda name, *a: None if name == missing else found(name, *a)
    )
    with pytest.raises(xp.BackboneError, match=f"run `pip install {missing}`"):
        load(tmp_path / "model.gguf")


def test_a_model_that_looks_at_padding_is_refused_at_load(tmp_path, monkeypatch):
    """Measured, not listed: the same Mamba is served while it respects its mask and refused where it does not."""
    from transformers.models.mamba import modeling_mamba

    write_gguf(tmp_path / "model.gguf", "mamba")
    assert load(tmp_path / "model.gguf").kind == "decoder"
    forward = modeling_mamba.MambaModel.forward
    monkeypatch.setattr(
        modeling_mamba.MambaModel, "forward", lambda self, *a, attention_mask=None, **k: forward(self, *a, **k)
    )
    with pytest.raises(xp.BackboneError, match="gives another result for a row that is padded"):
        load(tmp_path / "model.gguf")


def test_a_file_is_parsed_once_and_its_names_are_mapped_once(tmp_path, monkeypatch):
    import gguf

    write_gguf(tmp_path / "model.gguf", "llama")
    asked = []
    for name in ("GGUFReader", "get_tensor_name_map"):
        real = getattr(gguf, name)
        monkeypatch.setattr(gguf, name, lambda *given, name=name, real=real: asked.append(name) or real(*given))
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    load(tmp_path / "model.gguf")
    assert sorted(asked) == ["GGUFReader", "get_tensor_name_map"]
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before
