"""From a name to a language model and its tokenizer: the embedded nano, smollm2, a folder, a GGUF file, a hub id.

No code that comes with a model runs: `trust_remote_code` is off; weights are read from safetensors, from GGUF, or,
where a model has nothing else (google/t5-*-lm-adapt), from its .bin file by torch's reader for tensors alone.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from xprompt.backbones.devices import free_bytes
from xprompt.backbones.gguf_file import complete_config, fault_in_gguf, fault_in_tensors, gguf_file, parsed_once
from xprompt.backbones.hub import fault_offline, not_reached
from xprompt.backbones.model_folder import NEEDS_CODE, fault_in_config, fault_in_folder
from xprompt.backbones.shapes import count_parameters
from xprompt.errors import BackboneError, XPromptError
from xprompt.nano import checksums
from xprompt.nano.sizes import SIZES
from xprompt.units import readable_size

_NOT_FLOAT16 = ("t5", "mt5", "umt5", "longt5", "switch_transformers")  # overflow in it


def load_config(name: str, *, revision: str | None = None, local: bool = False) -> Any:
    """Read the configuration of a backbone, without its weights.

    Args:
        local: read what is on this machine (the hub's cache included) and never ask the hub.

    Raises:
        BackboneError: as `load_model`.
    """
    name = os.path.expanduser(name)
    place, extra, file = _resolve(name)
    if file is not None:
        fault = fault_in_gguf(file)
        if fault:
            raise _not_loaded(name, revision, fault)
    elif os.path.isdir(place):  # unlike Path.is_dir, never an error
        fault = fault_in_folder(Path(place))
        if fault:
            raise _not_loaded(name, revision, fault)
    elif not os.path.exists(place) and (offline := fault_offline(place, revision, local)):
        raise _not_loaded(name, revision, offline)
    with _worded(name, revision):
        config = AutoConfig.from_pretrained(
            place, trust_remote_code=False, revision=revision, local_files_only=local, **extra
        )
        fault = fault_in_config(config) or _no_language_model(config)
        fault = fault or (None if file is None else complete_config(config, file))
    if fault:
        raise _not_loaded(name, revision, fault)
    return config


def load_model(
    name: str,
    *,
    dtype: torch.dtype,
    revision: str | None = None,
    device: torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> tuple[PreTrainedModel, Any]:
    """Load a causal or sequence-to-sequence LM with its tokenizer, in evaluation mode, on the CPU or by a device map.

    Args:
        revision: of a hub model: a commit, a tag or a branch.
        device: where the model goes next; its memory is looked at before a weight is read.
        device_map: as accelerate has it; the weights are then read onto those devices at once.

    Raises:
        BackboneError: one sentence on what was given, what is needed, and how to get it.
    """
    name = os.path.expanduser(name)
    place, extra, file = _resolve(name)
    if any(Path(place) == size.path for size in SIZES.values()):
        checksums.verify(Path(place))
    with parsed_once(file), _worded(name, revision):
        config = load_config(name, revision=revision)
        check_float16(name, config, dtype)
        if device_map is None:
            _check_memory(name, config, dtype, device)
        auto_class: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        options: dict[str, Any] = {"trust_remote_code": False, "revision": revision, **extra}
        placement: dict[str, Any] = {} if device_map is None else {"device_map": device_map}
        if file is not None:
            # The file's own configuration lacks what `complete_config` adds. A backbone's weights are plain on any
            # machine.
            placement |= {"config": config, "quantization_config": GgufConfig(dequantize=True)}
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        with _silence_transformers():
            # Weights of safetensors where there are any; else of a .bin file, by the reader that builds tensors only.
            model, report = auto_class.from_pretrained(
                place, dtype=dtype, weights_only=True, output_loading_info=True, ignore_mismatched_sizes=True,
                **placement, **options,
            )  # fmt: skip
    _check_weights(name, model, report, "config.json" if file is None else "metadata")
    if file is not None and (fault := fault_in_tensors(file, model)):
        raise _not_loaded(name, revision, fault)
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.eos_token  # only ever stands where the attention mask is 0
    return model.eval(), tokenizer


def check_float16(name: str, config: Any, dtype: torch.dtype) -> None:
    """Raise `BackboneError` for float16 in a model that overflows in it."""
    if config.model_type in _NOT_FLOAT16 and dtype == torch.float16:
        raise BackboneError(
            f"{name} overflows in float16, which T5 was not trained in: use dtype='bfloat16' or 'float32'."
        )


def _no_language_model(config: Any) -> str | None:
    """Return why a configuration is none of a language model with an output head, as half a sentence."""
    known = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if config.is_encoder_decoder else MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) in known:
        return None
    kind = ", ".join(map(str, config.architectures or [])) or config.model_type
    return f"{kind} writes no text: a backbone is an encoder-decoder (as T5) or decoder-only (as Llama) language model"


def _check_weights(name: str, model: Any, report: dict[str, Any], source: str) -> None:
    """Refuse weights that are not exactly those the configuration, read from `source`, asks for.

    Raises:
        BackboneError: shapes that differ, weights that are missing, or layers that the configuration leaves out.
    """
    if report["mismatched_keys"]:
        key, stored, needed = sorted(report["mismatched_keys"])[0]
        raise BackboneError(
            f"backbone {name!r} could not be loaded: {len(report['mismatched_keys'])} of its weights do not fit its "
            f"{source}, first {key}, stored as {list(stored)} where {list(needed)} is needed: get "
            + ("both files from one checkpoint." if source == "config.json" else "its safetensors.")
        )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise BackboneError(
            f"backbone {name!r} lacks {len(missing)} of its weights ({missing[0]}, …), which would be random: "
            "give the checkpoint of a whole language model, not of a part of one."
        )
    known = {re.sub(r"\.\d+\.", ".0.", key) for key in model.state_dict()}
    left_out = sorted(key for key in report["unexpected_keys"] if re.sub(r"\.\d+\.", ".0.", key) in known)
    if left_out:
        raise BackboneError(
            f"backbone {name!r} could not be loaded: config.json has fewer layers than the weights ({left_out[0]}, … "
            "would not be used): get both files from one checkpoint."
        )


def nano_checkpoint(name: str = "nano") -> Path:
    """Return the folder of an embedded model, for `from_pretrained`; `BackboneError` where it has no weights."""
    folder = SIZES[name].path
    if not (folder / "model.safetensors").is_file():
        raise BackboneError(
            f"{folder} holds no model.safetensors: run `python -m xprompt.nano.pretrain --size {name}` to make it."
        )
    return folder


def _check_memory(name: str, config: Any, dtype: torch.dtype, device: torch.device | None) -> None:
    """Refuse weights that cannot fit, before they are downloaded or read."""
    if getattr(config, "quantization_config", None) is not None:
        return  # their size is not the dtype's
    parameters = count_parameters(config)
    for place in {torch.device("cpu"), device or torch.device("cpu")}:
        free, needed = free_bytes(place), parameters * dtype.itemsize
        if place.type in ("cpu", "cuda") and needed > free:
            half = "" if dtype.itemsize <= 2 else f"dtype='bfloat16' ({readable_size(needed / 2)}), "
            raise BackboneError(
                f"backbone {name!r} needs {readable_size(needed)} for its {parameters:,} weights in "
                f"{str(dtype).removeprefix('torch.')}, and {readable_size(free)} of memory is free on {place}: "
                f"choose {half}a smaller backbone, or a machine with more memory."
            )


@contextlib.contextmanager
def _silence_transformers() -> Iterator[None]:
    """Keep transformers from progress bars, warnings (it calls T5 v1.1's own head a mistake), and requests to the hub.

    Where a model has .bin weights alone it would, in a thread, have the hub's service convert them.
    """
    level, setting = transformers_logging.get_verbosity(), os.environ.get("DISABLE_SAFETENSORS_CONVERSION")
    transformers_logging.disable_progress_bar()  # a bar a file is noise in a notebook
    transformers_logging.set_verbosity_error()
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if setting is None:
            del os.environ["DISABLE_SAFETENSORS_CONVERSION"]
        else:
            os.environ["DISABLE_SAFETENSORS_CONVERSION"] = setting


def _resolve(name: str) -> tuple[str, dict[str, Any], Path | None]:
    """Return what transformers is to read, its options, and the GGUF file where it is one."""
    if name in SIZES:
        return str(nano_checkpoint(name)), {}, None
    file = gguf_file(name)
    if file is not None:
        return str(file.parent), {"gguf_file": file.name}, file
    return name, {}, None


@contextlib.contextmanager
def _worded(name: str, revision: str | None) -> Iterator[None]:
    """Word whatever a foreign folder makes transformers, tokenizers or torch raise; there is no list of it."""
    try:
        yield
    except XPromptError:
        raise
    except Exception as error:
        raise _loading_error(name, revision, error) from error


def _not_loaded(name: str, revision: str | None, fix: str) -> BackboneError:
    given = f"{name!r}" + (f" at revision {revision!r}" if revision else "")
    return BackboneError(f"backbone {given} could not be loaded: {fix}.")


def _loading_error(name: str, revision: str | None, error: Exception) -> BackboneError:
    """Word one sentence from what the hub's client or transformers raised, by the classes of its causes."""
    causes = list(_causes(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    text = str(error).lower()
    no_network = any(type(cause).__module__.startswith("httpx") for cause in causes)
    refused = any(getattr(getattr(c, "response", None), "status_code", None) in (401, 403) for c in causes)
    if caused_by(pickle.UnpicklingError):
        fix = "its .bin file holds more than tensors, which could run code, and is not read: take safetensors weights"
    elif "torch.load" in text and "v2.6" in text:
        fix = (
            f"it offers only .bin weights, which torch before 2.6 (here {torch.__version__}) does not read safely: "
            "run `pip install -U torch`, or convert them to safetensors"
        )
    elif "trust_remote_code" in text or "custom code" in text:
        fix = NEEDS_CODE
    elif gguf_file(name) is not None:
        fix = f"transformers does not make a model of this GGUF file ({_shorten(error)}): take the model's safetensors"
    elif os.path.isdir(name):
        fix = (
            "the folder must hold config.json, *.safetensors (or pytorch_model.bin) and tokenizer files, whole and of "
            f"one model ({_shorten(error)})"
        )
    elif os.path.isfile(name):
        fix = "it is a file and no GGUF: give the folder that holds config.json, the weights and the tokenizer"
    elif name.startswith(("/", ".", "~")) or name.count("/") > 1:
        fix = "there is no such folder: check the path"
    elif caused_by(GatedRepoError) or (refused and not caused_by(RepositoryNotFoundError)):
        fix = "it is gated or private: accept its licence on the hub and log in with `hf auth login`"
    elif caused_by(RevisionNotFoundError):
        fix = "the hub's model has no such revision: give a commit, tag or branch of it, or none for the newest"
    elif caused_by(RepositoryNotFoundError) or "not a valid model identifier" in text:
        fix = (
            "no such folder here and no such public model on the hub: check the spelling (a hub id reads owner/name), "
            "or log in with `hf auth login` where it is private"
        )
    elif "safetensors" in text or "pytorch_model" in text:
        fix = "it offers neither safetensors nor pytorch_model.bin weights: choose a model that has them for PyTorch"
    elif no_network or caused_by(LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError):
        fix = not_reached(name)
    else:
        fix = _shorten(error)
    return _not_loaded(name, revision, fix)


def _shorten(error: Exception) -> str:
    """Return an error on one line, its class first where its text alone says little."""
    text = " ".join(str(error).split())[:300].rstrip(".")
    return text if isinstance(error, OSError | ValueError) and text else f"{type(error).__name__}: {text}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
