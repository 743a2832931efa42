"""Load a backbone by name, or wrap a model that is in memory."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import os
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from xprompt.backbones.base import Backbone
from xprompt.backbones.causal import DecoderBackbone
from xprompt.backbones.devices import avoid_cudnn_attention, choose_device, choose_dtype
from xprompt.backbones.malloc import keep_freed_memory
from xprompt.backbones.pretrained import check_float16, load_model
from xprompt.backbones.seq2seq import Seq2SeqBackbone
from xprompt.errors import BackboneError, ConfigError, XPromptError

_PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")


def load_backbone(
    name: str | Path = "nano",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    max_source: int | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> Backbone:
    """Load a frozen backbone. On a CPU, the process keeps freed memory from then on (`malloc`); on a GPU, see `wrap`.

    Args:
        name: "nano" (embedded, as are the wider "nano-2x" and "nano-4x"), "smollm2" (from a Python package), a local
            folder, a GGUF file, or a hub id.
        device: default: the first GPU, else the CPU.
        dtype: default: bfloat16 on a GPU, float32 elsewhere.
        revision: of a hub model.
        max_source: longest source in tokens, without the prompt; default 256.
        device_map: spread the backbone over several devices as accelerate does: "auto", "balanced", "sequential", or
            module → device; in place of `device`. All weights must fit: none may go to disk or wait in memory.

    Raises:
        BackboneError: one sentence naming what was given, what was needed, and the fix.
    """
    if not isinstance(name, str | Path) or not str(name).strip() or "\0" in str(name):
        raise BackboneError(
            f"{name!r} names no backbone: give 'nano', 'smollm2', a folder, a .gguf file or a hub id (owner/name)."
        )
    name = os.path.expanduser(name)
    place = choose_device(device)
    if device_map is not None and (device is not None or importlib.util.find_spec("accelerate") is None):
        raise BackboneError(
            f"device_map {device_map!r} was given: leave out device, which says the same, and install accelerate."
        )
    if not (device_map is None or isinstance(device_map, dict) or device_map in _PLACEMENTS):
        raise BackboneError(
            f"device_map {device_map!r} was given: it must be one of {', '.join(_PLACEMENTS)}, or module → device."
        )
    if place.type == "cpu":
        keep_freed_memory()
    model, tokenizer = load_model(
        name, dtype=choose_dtype(dtype, name, place), revision=revision, device=place, device_map=device_map
    )
    if device_map is None:
        torch.nn.Module.to(model, place)
    elif any(tensor.is_meta for tensor in model.state_dict().values()):
        raise BackboneError(
            f"{name} does not fit these devices: device_map {device_map!r} leaves weights to memory or disk, from "
            "where every step would fetch them. Use more or larger devices, or dtype='bfloat16'."
        )
    _choose_attention(model)
    return wrap(model, tokenizer, name=name, max_source=max_source)


def _choose_attention(model: PreTrainedModel) -> None:
    """Let a decoder-only LM attend by plain products in bfloat16 on a CPU.

    There the backward pass of torch's fused kernel multiplies without the processor's bfloat16 units: on SmolLM2 a step
    of 8 examples takes 1.26 s of processor time with it and 0.96 s with plain products (1.55 s in float32; one thread).
    """
    if (model.device.type, model.dtype) == ("cpu", torch.bfloat16) and not model.config.is_encoder_decoder:
        model.set_attn_implementation("eager")


def wrap(model: PreTrainedModel, tokenizer: Any, *, name: str = "", max_source: int | None = None) -> Backbone:
    """Wrap a model and tokenizer that are already in memory. The model is frozen in place.

    On a GPU, the process attends without cuDNN's kernel from then on (`devices`).

    Raises:
        ConfigError: `max_source` is no whole number of at least 1.
        BackboneError: the two do not fit each other, or the model cannot be used as a backbone.
    """
    max_source = 256 if max_source is None else max_source
    if isinstance(max_source, bool) or not isinstance(max_source, int) or max_source < 1:
        raise ConfigError(f"max_source={max_source!r} was given: it must be a whole number of tokens, at least 1.")
    check_float16(name, model.config, model.dtype)
    avoid_cudnn_attention(model.device)
    backbone: type[Backbone] = Seq2SeqBackbone if model.config.is_encoder_decoder else DecoderBackbone
    try:
        return backbone(model, tokenizer, name=name, max_source=max_source)
    except XPromptError:
        raise
    except Exception as error:  # whatever an impossible configuration makes the first forward pass raise
        raise BackboneError(
            f"{name or type(model).__name__} ({type(model).__name__}) fails in its first forward pass "
            f"({type(error).__name__}: {' '.join(str(error).split())[:300]}). Make sure that configuration, weights "
            "and tokenizer are of one checkpoint; if they are, choose another architecture, as T5 or Llama."
        ) from error


def copy_modules(model: torch.nn.Module) -> Any:
    """Return a copy of a model's modules around the very same weights."""
    return copy.deepcopy(model, {id(t): t for t in itertools.chain(model.parameters(), model.buffers())})
