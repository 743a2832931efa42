"""What a local model folder must hold, checked file by file before transformers reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING

_WEIGHTS, _INDEX, _PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
_JSON = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
         "added_tokens.json", _INDEX, f"{_PICKLED}.index.json")  # fmt: skip
_OTHERS = (_WEIGHTS, _PICKLED, "spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt",
           "merges.txt")  # fmt: skip
_TOKENIZERS = ("tokenizer.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "vocab.json",
               "vocab.txt", "source.spm", "tekken.json")  # fmt: skip
_WHOLE_NUMBERS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")
#: Also said where transformers finds out, for a model of the hub.
NEEDS_CODE = "it needs code that comes with it, which is never run: choose an architecture that transformers itself has"
_MOST_LAYERS = 10_000


def fault_in_folder(folder: Path) -> str | None:
    """Return what is wrong with a model folder and the fix, as half a sentence; None where its files can be read."""
    for name in (*_JSON, *_OTHERS):
        path = folder / name
        if (path.exists() or path.is_symlink()) and not path.is_file():
            return f"{name} is no file in it: put the file of the checkpoint there"
    contents = {}
    for name in _JSON:
        if (folder / name).is_file():
            try:
                contents[name] = json.loads((folder / name).read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                return f"{name} is not JSON in UTF-8 ({error}): get the checkpoint's file again"
            if not isinstance(contents[name], dict):
                return f"{name} holds no JSON object: get the checkpoint's file again"
    if "config.json" not in contents:
        if (folder / "adapter_config.json").is_file():
            return "it is a PEFT adapter and no model: load its base model, then xp.from_peft(folder, backbone)"
        files = sorted(path.name for path in folder.glob("*.gguf"))
        if files:
            return f"it is a folder of GGUF: give the file itself, {folder / files[0]}"
        return f"the folder must hold config.json, *.safetensors (or {_PICKLED}), tokenizer files: it lacks config.json"
    if (folder / "adapter_config.json").exists():
        return "adapter_config.json lies beside the model, and transformers would apply that adapter: move it elsewhere"
    return (
        _fault_in_model_type(contents["config.json"])
        or _fault_in_weights(folder, contents)
        or _fault_in_config(contents["config.json"])
        or _fault_in_tokenizer(folder, contents)
    )


def fault_in_config(config: Any) -> str | None:
    """Return which number of a configuration no model can have, and the fix, as half a sentence."""
    return _fault_in_config(config.to_dict())


def _fault_in_model_type(config: dict[str, Any]) -> str | None:
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return None
    if "auto_map" in config:
        return NEEDS_CODE
    return f"config.json says model_type={kind!r}, which transformers {transformers.__version__} does not know: mend it"


def _fault_in_config(config: dict[str, Any]) -> str | None:
    for name, value in config.items():
        count = isinstance(value, int) and not isinstance(value, bool)
        if count and name.endswith(("_layers", "n_layer")) and value > _MOST_LAYERS:
            return f"config.json says {name}={value}: no more than {_MOST_LAYERS:,} are built; get the file again"
        if name in ("num_layers", "num_hidden_layers", "n_layer", "n_layers", "num_decoder_layers", "encoder_layers",
                    "decoder_layers", "vocab_size") and count and value < 1:  # fmt: skip
            return f"config.json says {name}={value}: it must be at least 1; get the file again"
    return None


def _fault_in_weights(folder: Path, contents: dict[str, Any]) -> str | None:
    if _INDEX in contents and not (folder / _WEIGHTS).is_file():
        shards = contents[_INDEX].get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            return f"{_INDEX} maps no weights to files: get the checkpoint's file again"
        files = sorted(set(shards.values()))
    else:
        files = [_WEIGHTS] if (folder / _WEIGHTS).is_file() else []
    for name in files:
        if not (folder / name).is_file():
            return f"{_INDEX} names {name}, which is not there: get the missing file of the checkpoint"
        try:
            with safe_open(folder / name, "pt") as file:
                kinds = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            return f"{name} is cut short or damaged ({error}): get the checkpoint's file again"
        whole = sorted(key for key, kind in kinds.items() if key.endswith(".weight") and kind in _WHOLE_NUMBERS)
        if whole and "quantization_config" not in contents["config.json"]:
            return f"{name} stores {whole[0]} as {kinds[whole[0]]}, no floating-point numbers: get the file again"
    if files or (folder / _PICKLED).is_file() or f"{_PICKLED}.index.json" in contents:
        return None
    found = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack",
                                                                    ".gguf", ".safetensors"))  # fmt: skip
    return (
        f"the folder must hold *.safetensors (or {_PICKLED}), and has {', '.join(found) or 'no weights'}: convert it "
        "with transformers' save_pretrained"
    )


def _fault_in_tokenizer(folder: Path, contents: dict[str, Any]) -> str | None:
    if "tokenizer.json" not in contents and not any((folder / name).is_file() for name in _TOKENIZERS):
        return "it holds no tokenizer: save it there with tokenizer.save_pretrained, tokenizer.json and its settings"
    limit = contents.get("tokenizer_config.json", {}).get("model_max_length")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float)):
        return f"tokenizer_config.json says model_max_length={limit!r}: it must be a number; get the file again"
    return None
