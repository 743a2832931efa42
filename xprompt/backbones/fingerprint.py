"""Short digests by which runs recognise a backbone: of its weights, and of all that decides its scores."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

_SAMPLED = 2**20
_TOKENS = ("bos_token_id", "eos_token_id", "unk_token_id", "sep_token_id", "pad_token_id", "cls_token_id")
#: Of a configuration: who wrote it, where it lies, and how weights are held, which the weights' digest covers.
_NOT_THE_MODEL = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache",
                  "gguf_file", "dequantize"}  # fmt: skip


def weights_digest(model: torch.nn.Module) -> str:
    """Return 16 hex digits over every tensor's name, shape, dtype and values (of over a million values: every n-th)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = sample(tensor).cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(values.view(torch.uint8).numpy().tobytes() if values.numel() else b"")
    return digest.hexdigest()[:16]


def sample(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's values, flat; of over a million every n-th, so that a large model starts fast."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLED)]


def fingerprint(weights: str, model: Any, tokenizer: Any) -> str:
    """Return 16 hex digits over what decides a backbone's scores and texts, wherever it lies.

    Args:
        weights: the model's `weights_digest`.
        model: its configuration (heads, norms, …) and the special tokens of its generation settings count too.
        tokenizer: its whole content: vocabulary, rules, special tokens.
    """
    names = (*_TOKENS, "decoder_start_token_id")
    settings = {
        "config": _describe(model.config.to_diff_dict()),
        "generation": {name: getattr(model.generation_config, name, None) for name in names},
        "tokens": {name: getattr(tokenizer, name, None) for name in _TOKENS},
        "clean_up": bool(getattr(tokenizer, "clean_up_tokenization_spaces", False)),  # of generated text
    }
    digest = hashlib.sha256(weights.encode())
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(_serialise(tokenizer))
    return digest.hexdigest()[:16]


def _describe(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {name: _describe(value) for name, value in config.items() if name not in _NOT_THE_MODEL}


def _serialise(tokenizer: Any) -> bytes:
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None:
        text = fast.to_str()
        # What stands before the tokens is how the last call padded and cut.
        return text[max(0, text.find('"added_tokens"')) :].encode()
    entries = [sorted(tokenizer.get_vocab().items()), sorted(tokenizer.added_tokens_decoder.items())]
    switches = sorted((name, value) for name, value in tokenizer.init_kwargs.items() if isinstance(value, bool))
    with tempfile.TemporaryDirectory() as folder:  # a slow tokenizer's rules lie in its vocabulary files
        paths = sorted(map(Path, tokenizer.save_vocabulary(folder)))
        files = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]
    return f"{type(tokenizer).__name__} {entries} {switches} {files}".encode()
