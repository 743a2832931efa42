"""The paper's way in, without a network: a backbone and a data set in the hub's caches, and every way it can fail."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import datasets
import httpx
import pytest
import sentencepiece
import torch
from datasets.packaged_modules.parquet.parquet import Parquet
from huggingface_hub import errors as hub
from safetensors.torch import save_file
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

import xprompt as xp
from tests.conftest import tiny_model
from xprompt.backbones import hub as hub_state
from xprompt.backbones import pretrained as loading
from xprompt.backbones.shapes import count_parameters
from xprompt.data import readers as sources
from xprompt.nano import generator
from xprompt.tasks.example import RawExample
from xprompt.tasks.registry import get_task

MODEL = "google/t5-tiny-lm-adapt"
OLD, NEW, DATA = "a" * 40, "b" * 40, "d" * 40
ROWS = {"train": 60, "validation": 24}
#: As the released checkpoints have it: nothing that only newer versions of transformers write.
CONFIG = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True, "d_model": 32,
    "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 2, "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
    "dropout_rate": 0.1, "vocab_size": 512,
}  # fmt: skip
#: What a separate process sees of the caches; JSON on its last line.
SEEN = """
import json, sys
import xprompt as xp
model, old, new, data, store = sys.argv[1:]
seen = {}
for name, revision in (("newest", None), ("old", old), ("new", new), ("tag", "v1")):
    backbone = xp.load_backbone(model, revision=revision, device="cpu")
    seen[name] = [backbone.fingerprint, backbone.num_params, backbone._head_scale]
def fails(call):
    try:
        call()
    except xp.XPromptError as error:
        return [type(error).__name__, str(error)]
seen["no such revision"] = fails(lambda: xp.load_backbone(model, revision="c" * 40))
seen["not cached"] = fails(lambda: xp.load_backbone("google/t5-none-lm-adapt"))
seen["data not cached"] = fails(lambda: xp.load_task("cb", "hub"))
seen["data at another revision"] = fails(lambda: xp.load_task("rte", "hub", revision="e" * 40))
seen["pinned"] = len(xp.load_task("rte", "hub", revision=data).train)
for task in ("rte", "multirc"):
    splits = xp.load_task(task, "hub")
    parts = splits.train, splits.validation
    seen[task] = [[[r.uid, r.group, dict(r.fields), r.label] for r in part] for part in parts]
config = xp.RunConfig(task="rte", profile="tiny", backbone=model, revision=old, source="hub", pieces=4)
record = xp.run(config, store).record
seen["record"] = {name: record[name] for name in ("backbone", "source", "metrics", "counts", "provenance")}
print(json.dumps(seen))
"""


def checkpoint(folder: Path, seed: int, *, pickled: bool) -> None:
    """A T5 v1.1 of random weights with a head of its own, as released: .bin, or safetensors."""
    torch.manual_seed(seed)
    state = T5ForConditionalGeneration(T5Config(**CONFIG)).state_dict()
    state = {name: tensor.clone() for name, tensor in state.items() if "embed_tokens" not in name}
    state["lm_head.weight"] = torch.randn_like(state["lm_head.weight"])
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def lines(task: str, split: str) -> list[dict]:
    return generator.raw_examples(task, split)[: ROWS[split] if task != "multirc" else 6]


def records(task: str, split: str) -> list[list]:
    declared = get_task(task)
    found = [r for i, line in enumerate(lines(task, split)) for r in declared.examples(RawExample(line, "here", i))]
    return [[r.uid, r.group, dict(r.fields), r.label] for r in found]


def columns(task: str, split: str) -> list[dict]:
    """The rows as the hub's parquet has them: one answer a row, labels as numbers."""
    if task == "rte":
        names = list(get_task(task).label_values)
        return [{**line, "label": names.index(line["label"])} for line in lines(task, split)]
    return [
        {"paragraph": line["passage"]["text"], "question": question["question"], "answer": answer["text"],
         "idx": {"paragraph": line["idx"], "question": question["idx"], "answer": answer["idx"]},
         "label": answer["label"]}
        for line in lines(task, split)
        for question in line["passage"]["questions"]
        for answer in question["answers"]
    ]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """An HF_HOME as the hub's clients leave it: a model at two commits, a data set of two tasks."""
    root = tmp_path_factory.mktemp("home")
    repository = root / "hub" / f"models--{MODEL.replace('/', '--')}"
    texts = [" ".join(map(str, record[2].values())) for record in records("rte", "train")]
    words = "hypothesis: premise: entailment not_entailment"
    held = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts, *[words] * 50]), model_writer=held, vocab_size=300, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    for seed, commit in enumerate((OLD, NEW)):
        made = root / commit
        made.mkdir()
        checkpoint(made, seed, pickled=commit == OLD)
        (made / "spiece.model").write_bytes(held.getvalue())
        special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "extra_ids": 100}
        (made / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", **special}))
        if commit == NEW:  # the released ones have both files; either is enough
            AutoTokenizer.from_pretrained(made).save_pretrained(made)
            (made / "spiece.model").unlink()
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (repository / "blobs").mkdir(exist_ok=True)
        for file in made.iterdir():
            blob = repository / "blobs" / f"{commit}-{file.name}"
            file.rename(blob)
            (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    (repository / "refs").mkdir()
    for ref, commit in (("main", NEW), ("v1", OLD)):
        (repository / "refs" / ref).write_text(commit)
    for task in ("rte", "multirc"):
        files = {}
        for split in ROWS:
            files[split] = str(root / f"{task}-{split}.parquet")
            datasets.Dataset.from_list(columns(task, split)).to_parquet(files[split])
        builder = Parquet(cache_dir=str(root), dataset_name="super_glue", config_name=task, hash=DATA, data_files=files)
        builder.download_and_prepare()
        # A builder of local files names its folder after them; the hub's, after the repository and the commit.
        kept = root / "datasets" / sources.HUB_DATASET.replace("/", "___") / task / "0.0.0"
        kept.mkdir(parents=True)
        Path(builder.cache_dir).rename(kept / DATA)
    return root


@pytest.fixture(scope="module")
def seen(home, tmp_path_factory) -> dict:
    store = tmp_path_factory.mktemp("store")
    done = subprocess.run(
        [sys.executable, "-c", SEEN, MODEL, OLD, NEW, DATA, str(store)], capture_output=True, text=True, timeout=200,
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "not tie" not in done.stderr, "a warning that would alarm every user of T5 v1.1"
    return json.loads(done.stdout.splitlines()[-1])


def test_each_revision_has_its_own_weights_and_the_newest_is_mains(seen):
    assert seen["newest"] == seen["new"] and seen["tag"] == seen["old"]
    assert seen["old"][0] != seen["new"][0]


def test_a_head_of_its_own_is_kept_and_not_scaled(seen):
    assert {seen[name][2] for name in ("old", "new")} == {1.0}
    assert {seen[name][1] for name in ("old", "new")} == {count_parameters(T5Config(**CONFIG))}


def test_a_revision_or_model_that_is_not_cached_is_one_sentence(seen):
    for name, word in (("no such revision", "c" * 40), ("not cached", "google/t5-none-lm-adapt")):
        kind, text = seen[name]
        assert kind == "BackboneError" and word in text and "not in the local cache" in text and "\n" not in text


def test_the_hubs_records_are_those_of_the_release(seen):
    for task in ("rte", "multirc"):
        assert seen[task] == [records(task, "train"), records(task, "validation")]
    assert seen["pinned"] == ROWS["train"]


def test_data_that_are_not_cached_or_of_another_revision_are_refused(seen):
    kind, text = seen["data not cached"]
    assert kind == "DataError" and "Could not get cb (train)" in text and "Fix: connect" in text
    kind, text = seen["data at another revision"]
    assert kind == "DataError" and "e" * 40 in text and DATA in text


def test_a_whole_run_from_the_hubs_caches(seen):
    record = seen["record"]
    assert (record["backbone"], record["source"]) == (MODEL, "hub")
    assert set(record["metrics"]) == {"accuracy"}
    assert record["counts"]["train"] + record["counts"]["selection"] == ROWS["train"]
    assert record["provenance"]["backbone_fingerprint"] == seen["old"][0]


# What a first-time user meets. Transformers wraps these errors by itself: they are raised where it asks the hub.


def answered(kind: type[Exception], status: int) -> Exception:
    request = httpx.Request("GET", "https://example.invalid/nobody/model")
    return kind("Client Error", response=httpx.Response(status, request=request))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "error, words",
    [
        (answered(hub.GatedRepoError, 401), ["gated", "hf auth login"]),
        (answered(hub.GatedRepoError, 403), ["gated", "hf auth login"]),
        (answered(hub.HfHubHTTPError, 403), ["gated", "hf auth login"]),
        (answered(hub.RepositoryNotFoundError, 404), ["no such folder", "check the spelling"]),
        (answered(hub.RepositoryNotFoundError, 401), ["no such folder", "check the spelling", "hf auth login"]),
        (answered(hub.RevisionNotFoundError, 404), ["no such revision", "commit, tag or branch"]),
        (hub.LocalEntryNotFoundError("not found"), ["not in the local cache", "connect once"]),
        (hub.OfflineModeIsEnabled("offline"), ["not in the local cache", "connect once"]),
        (httpx.ConnectError("no route"), ["not in the local cache", "connect once"]),
        (answered(hub.RemoteEntryNotFoundError, 404), ["config.json"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_hub_refuses_is_one_sentence_with_the_fix(monkeypatch, tmp_path, error, words):
    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("xprompt.backbones.hub.reachable", lambda: True)
    with pytest.raises(xp.BackboneError) as caught:
        xp.load_backbone("nobody/model", revision="v2")
    text = str(caught.value)
    assert text.startswith("backbone 'nobody/model' at revision 'v2' could not be loaded: ") and "\n" not in text
    assert all(word in text for word in words), text


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    """A machine that reaches no hub: nobody listens at the address, which is asked without a proxy."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", lambda *a, **k: pytest.fail("the hub was asked"))


@pytest.mark.parametrize("name", ["nanoo", "t5tiny", "google/t5-small-lm-adapt"])
def test_without_a_network_an_unknown_name_fails_at_once_and_names_what_needs_none(unreachable, name):
    with pytest.raises(xp.BackboneError, match="take nano .* or smollm2 .*give a local folder") as caught:
        xp.load_backbone(name)
    assert ("(did you mean 'nano'?)" in str(caught.value)) == (name == "nanoo")


def test_reachable_asks_the_hub_or_the_proxy_to_it(monkeypatch, unreachable):
    assert not hub_state.reachable()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("http_proxy", address)
        monkeypatch.setenv("no_proxy", "")
        assert hub_state.reachable()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert not hub_state.reachable()
        monkeypatch.delenv("http_proxy")
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("all_proxy", address)
        assert hub_state.reachable()
        monkeypatch.setenv("all_proxy", f"{address}x")  # a port that is no number: its client says so
        assert hub_state.reachable()
        monkeypatch.delenv("all_proxy")
        assert not hub_state.reachable()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        assert hub_state.reachable()


@pytest.mark.parametrize(
    "name, message, words",
    [
        ("DatasetNotFoundError", "Dataset 'aps/super_glue' is a gated dataset on the Hub.", "hf auth login"),
        ("DatasetNotFoundError", "Revision 'v9' doesn't exist for dataset 'aps/super_glue' on the Hub.", "'v9'"),
        ("DatasetNotFoundError", "Dataset 'aps/super_glue' doesn't exist on the Hub.", "still has it"),
        ("ConnectionError", "Couldn't reach the Hugging Face Hub\nat all", "connect and try again"),
    ],
)
def test_what_the_hub_refuses_of_the_data(monkeypatch, name, message, words):
    kind = getattr(datasets.exceptions, name, ConnectionError)

    def refuse(*arguments, **options):
        raise kind(message)

    monkeypatch.setattr("datasets.load_dataset", refuse)
    monkeypatch.setattr("xprompt.data.readers.reachable", lambda: True)
    with pytest.raises(xp.DataError, match="Could not get rte .* Fix: .*or pass a folder") as caught:
        xp.load_task("rte", "hub", revision="v9")
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def folder(tmp_path) -> Path:
    backbone = tiny_model("seq2seq")
    backbone.model.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_too_little_memory_is_said_before_a_weight_is_read(monkeypatch, folder):
    monkeypatch.setattr(loading, "free_bytes", lambda device: 2**16)
    monkeypatch.setattr(loading.AutoModelForSeq2SeqLM, "from_pretrained", lambda *a, **k: pytest.fail("weights read"))
    with pytest.raises(xp.BackboneError, match=r"needs 1 MiB for its [\d,]+ weights in float32, and 1 MiB of memory"):
        xp.load_backbone(str(folder), device="cpu")
    with pytest.raises(xp.BackboneError, match="choose dtype='bfloat16'"):
        xp.load_backbone(str(folder), device="cpu", dtype="float32")
    with pytest.raises(xp.BackboneError, match="choose a smaller backbone"):
        xp.load_backbone(str(folder), device="cpu", dtype="bfloat16")


def test_a_gpus_own_memory_is_looked_at_too(monkeypatch, folder):
    monkeypatch.setattr(loading, "free_bytes", lambda device: 2**40 if device.type == "cpu" else 10)
    with pytest.raises(xp.BackboneError, match="of memory is free on cuda"):
        loading.load_model(str(folder), dtype=torch.float32, device=torch.device("cuda"))


def test_weights_in_a_bin_file_are_the_same_weights(folder):
    whole = xp.load_backbone(str(folder), device="cpu")
    (folder / "model.safetensors").unlink()
    torch.save(whole.model.state_dict(), folder / "pytorch_model.bin")
    assert xp.load_backbone(str(folder), device="cpu").fingerprint == whole.fingerprint


class Harmful:
    """What a pickle can hold: a call that is made as it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_bin_file_cannot_run_code(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"shared.weight": Harmful(folder / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(xp.BackboneError, match="could run code, and is not read") as caught:
        xp.load_backbone(str(folder), device="cpu")
    assert not (folder / "ran").exists() and "\n" not in str(caught.value)
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"shared.weight": Harmful(folder / "ran")}, file)
    with pytest.raises(xp.BackboneError, match="could not be loaded"):
        xp.load_backbone(str(folder), device="cpu")
    assert not (folder / "ran").exists()


def test_a_torch_that_reads_bin_files_unsafely_is_not_let_near_one(monkeypatch, folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    monkeypatch.setattr("transformers.utils.import_utils.is_torch_greater_or_equal", lambda version, **_: False)
    with pytest.raises(xp.BackboneError, match="only .bin weights, which torch before 2.6 .*pip install -U torch"):
        xp.load_backbone(str(folder), device="cpu")


def test_a_folder_without_weights_says_what_it_must_hold(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(xp.BackboneError, match=r"must hold \*\.safetensors \(or .*\), and has no weights"):
        xp.load_backbone(str(folder), device="cpu")


def test_weights_that_are_missing_are_never_made_up(folder):
    state = tiny_model("seq2seq").model.state_dict()
    kept = {name: tensor.clone() for name, tensor in state.items() if name.startswith(("shared", "encoder.block"))}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(xp.BackboneError, match="lacks .* of its weights .*would be random"):
        xp.load_backbone(str(folder), device="cpu")


def test_float16_is_refused_for_t5(folder):
    with pytest.raises(xp.BackboneError, match="overflows in float16.*use dtype='bfloat16' or 'float32'"):
        xp.load_backbone(str(folder), dtype="float16")


def test_loading_asks_no_service_to_convert_weights_and_leaves_settings_as_they_were(monkeypatch, folder):
    monkeypatch.delenv("DISABLE_SAFETENSORS_CONVERSION", raising=False)
    during = []
    real = loading.AutoModelForSeq2SeqLM.from_pretrained

    def watched(*arguments, **options):
        during.append((os.environ.get("DISABLE_SAFETENSORS_CONVERSION"), options["weights_only"]))
        return real(*arguments, **options)

    monkeypatch.setattr(loading.AutoModelForSeq2SeqLM, "from_pretrained", watched)
    xp.load_backbone(str(folder), device="cpu")
    assert during == [("1", True)] and "DISABLE_SAFETENSORS_CONVERSION" not in os.environ
