"""Prompts to and from PEFT's folder format, one JSON file and one safetensors tensor, without importing PEFT."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from xprompt.backbones.base import Backbone
from xprompt.data.batching import batches
from xprompt.data.splits import TaskDataset
from xprompt.errors import BackboneError, ConfigError, StoreError, shown
from xprompt.files import (
    TEMPORARY,
    cannot_write,
    new_folder,
    parse_json,
    path_of,
    replace_folder,
    sha256,
    sync_folder,
    write_atomically,
)  # fmt: skip
from xprompt.prompts.card import CARD, README, PromptCard, card_for, write_card
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.signatures import check_arguments
from xprompt.tasks.task import Task

METHOD = "PROMPT_TUNING"
CONFIG, WEIGHTS, TENSOR = "adapter_config.json", "adapter_model.safetensors", "prompt_embeddings"
_PICKLED = "adapter_model.bin"
PEFT_TASKS = {"seq2seq": "SEQ_2_SEQ_LM", "decoder": "CAUSAL_LM"}


@check_arguments
def to_peft(
    prompt: SoftPrompt,
    backbone: Backbone,
    folder: str | Path,
    *,
    task: Task | None = None,
    overwrite: bool = False,
    **more: Any,
) -> Path:
    """Write a folder that `peft.PeftModel.from_pretrained` loads, whole or not at all.

    Tokens pruned in mode "drop" are left out, so that there are fewer virtual tokens; pruned pieces, and tokens
    pruned in mode "zero", are stored as zeros. PEFT attends to every prompt position, as both modes do.

    Args:
        prompt: (P, H), tuned or pruned.
        backbone: the one it was tuned on; PEFT checks its name only where it loads the model itself.
        folder: created where it does not exist; other files in it stay.
        task: what the prompt is for, where the prompt does not know; goes into the folder, for `xprompt.classifier`.
        overwrite: replace an adapter that is there already, whatever it is. The same one may always be written again.
        more: other fields of `PromptCard`, such as `metrics`.

    Returns:
        the folder.

    Raises:
        ConfigError: a prompt of another width, or without a surviving token.
        NotFiniteError: a value is infinite or not a number.
        StoreError: the folder holds another adapter or a model, or cannot be written.

    Differs: PEFT's default for encoder-decoders stores the prompt twice, for encoder and decoder, and never uses
    the second; an export says 1 and stores it once.
    """
    folder = path_of(folder)
    prompt.check_finite()
    vectors = prompt().detach().cpu().contiguous()  # (Q, H)
    if not len(vectors) or vectors.shape[1] != backbone.hidden_size:
        raise ConfigError(
            f"a prompt of {len(vectors)} surviving tokens of width {vectors.shape[1]} was to be exported; "
            f"{backbone.name} needs at least one, of width {backbone.hidden_size}."
        )
    config = {
        "peft_type": METHOD,
        "task_type": PEFT_TASKS[backbone.kind],
        "base_model_name_or_path": str(backbone.name),
        "inference_mode": True,
        "num_virtual_tokens": len(vectors),
        "token_dim": vectors.shape[1],
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
        **_shape_for_peft(backbone),
    }
    weights = save({TENSOR: vectors}, metadata={"format": "pt"})
    files = {WEIGHTS: weights, CONFIG: (json.dumps(config, indent=2) + "\n").encode()}
    card = card_for(prompt.card, backbone if task is not None else None, task, more)
    _refuse_what_lies_there(folder, files, overwrite)
    staging = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Inside a folder that is there: it may be a link to another disk, where files are moved at once all the same.
        staging = new_folder(folder if folder.exists() else folder.parent, TEMPORARY)
        for name, content in files.items():
            write_atomically(staging / name, content)
        if (folder / README).is_file():  # one of somebody else's is kept
            shutil.copy2(folder / README, staging)
        write_card(staging, card, "peft", prompt.describe())
        if folder.exists():
            _move_into(staging, folder)
        else:
            replace_folder(staging, folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return folder


def _shape_for_peft(backbone: Backbone) -> dict[str, int]:
    """Return what PEFT else infers from the model's configuration, and fails where that has other names for it."""
    config = backbone.model.config.get_text_config()
    names = {
        "num_attention_heads": ("num_attention_heads", "n_heads", "n_head", "num_heads", "encoder_attention_heads"),
        "num_layers": ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "encoder_layers"),
    }
    found = {key: next((n for n in (getattr(config, a, None) for a in of) if n), 1) for key, of in names.items()}
    return {key: int(number) for key, number in found.items()}


def _refuse_what_lies_there(folder: Path, files: dict[str, bytes], overwrite: bool) -> None:
    """Raise `StoreError` where the folder is a file, holds a model, or an adapter that is not to be replaced."""
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file: give a folder to export to.")
    if (folder / "config.json").exists():
        raise StoreError(
            f"{folder} holds a model (config.json), to which transformers would apply an adapter beside it: "
            "export to another folder."
        )
    there = [name for name in (CONFIG, WEIGHTS, _PICKLED) if (folder / name).exists()]
    same = there == [CONFIG, WEIGHTS] and all(sha256(folder / name) == sha256(files[name]) for name in there)
    if there and not same and not overwrite:
        raise StoreError(
            f"{folder} holds another adapter already ({', '.join(there)}): export to another folder, or pass "
            "overwrite=True to replace it."
        )


def _move_into(staging: Path, folder: Path) -> None:
    """Put what was written in the place of what lies there. Without its configuration a folder is no adapter."""
    (folder / CONFIG).unlink(missing_ok=True)
    for name in (_PICKLED, WEIGHTS, CARD, README, CONFIG):
        if (staging / name).exists():
            os.replace(staging / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    sync_folder(folder)


@check_arguments
def from_peft(folder: str | Path, backbone: Backbone, *, pieces: int = 16) -> SoftPrompt:
    """Read a prompt that PEFT's prompt tuning saved, ready to be scored and pruned.

    Tokens and pieces that are zero throughout are read as pruned, in mode "zero": so `to_peft` stores them.

    Where it holds rows for encoder and decoder, the encoder's (the first) are taken, as PEFT does.

    Raises:
        StoreError: files are missing or damaged, another PEFT method wrote them, or they do not fit the backbone.
    """
    folder = path_of(folder)
    try:
        config = parse_json((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"{CONFIG} holds no JSON object")
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    if config.get("peft_type") != METHOD:
        raise StoreError(
            f"{folder} holds {shown(config.get('peft_type'))}, not '{METHOD}': only a soft prompt can be read."
        )
    count, task = config.get("num_virtual_tokens"), config.get("task_type")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise StoreError(
            f"{folder} says num_virtual_tokens={shown(count)} in {CONFIG}: it must be a whole number of at least 1."
        )
    if task in PEFT_TASKS.values() and task != PEFT_TASKS[backbone.kind]:
        raise StoreError(
            f"{folder} holds a prompt for {task}, and {backbone.name} is a {PEFT_TASKS[backbone.kind]}: load the "
            "backbone it was tuned on."
        )
    try:
        rows = load((folder / WEIGHTS).read_bytes())[TENSOR]  # (P, H), or (2 P, H) for encoder and decoder
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _unreadable(folder, error) from error
    if rows.dim() != 2 or not rows.is_floating_point() or len(rows) not in (count, 2 * count):
        raise StoreError(
            f"{folder} holds {TENSOR} of shape {list(rows.shape)} in {rows.dtype} for {count} virtual tokens: it must "
            f"be [{count}, H] or, for encoder and decoder, [{2 * count}, H], in floating-point numbers."
        )
    if rows.shape[1] != backbone.hidden_size or config.get("token_dim", rows.shape[1]) != rows.shape[1]:
        raise StoreError(
            f"{folder} holds {len(rows)} rows of width {rows.shape[1]} (token_dim in {CONFIG}: "
            f"{config.get('token_dim')}); {backbone.name} needs width {backbone.hidden_size}: load the backbone it was "
            "tuned on."
        )
    if not rows[:count].isfinite().all():
        raise StoreError(f"{folder} holds values that are infinite or not numbers in {WEIGHTS}: tune the prompt again.")
    prompt = SoftPrompt(rows[:count].float().to(backbone.device), pieces=pieces)
    prompt.piece_mask.copy_(prompt.embeddings.unflatten(1, (prompt.pieces, -1)).any(dim=-1))  # (P, K)
    prompt.token_mask.copy_(prompt.piece_mask.any(dim=1))  # (P,)
    prompt.card = PromptCard.read(folder)
    return prompt


def _unreadable(folder: Path, error: Exception) -> StoreError:
    pickled = "; adapter_model.bin, which could run code, is not read" if (folder / _PICKLED).is_file() else ""
    return StoreError(
        f"{folder} holds no readable PEFT prompt ({type(error).__name__}: {error}); it needs {CONFIG} and {WEIGHTS} "
        f"with the tensor {TENSOR}, as PEFT's prompt tuning saves them{pickled}."
    )


@torch.no_grad()
@check_arguments
def compare_with_peft(model: Any, prompt: SoftPrompt, backbone: Backbone, data: TaskDataset) -> dict[str, float]:
    """Measure how far a model that PEFT loaded is from ours, over every example of a split.

    Both see the same token ids, one example at a time and without padding, as PEFT is used: the shape of a batch alone
    moves float32 logits in the fifth decimal.

    Args:
        model: what `peft.PeftModel.from_pretrained` returned, with the weights that `backbone` has.
        prompt: (P, H), the one that was exported.

    Returns:
        "max logit difference" (over examples and labels), "same predictions" (share, in [0, 1]) and "virtual tokens".

    Raises:
        BackboneError: two label words begin with the same token, so that no single logit distinguishes them.
    """
    verbalizer = backbone.verbalizer(data.task)
    if verbalizer.first is None:
        raise BackboneError(
            f"{backbone.name} begins two label words of {data.task.name} with the same token: their first logits "
            "cannot be compared. Choose label words with different first tokens."
        )
    ours, theirs = [], []  # N × (1, labels), N × (labels,)
    for batch in batches(backbone.encode(data), 1, seed=None):
        ours.append(backbone.label_scores(prompt(), batch, verbalizer).double())
        logits = next_logits(model, batch.input_ids.to(backbone.device), backbone)
        theirs.append(logits[verbalizer.first.to(logits.device)].double().to(backbone.device))
    a, b = torch.cat(ours), torch.stack(theirs)  # (N, labels)
    return {
        "max logit difference": float((a - b).abs().max()),
        "same predictions": float((a.argmax(1) == b.argmax(1)).float().mean()),
        "virtual tokens": prompt.num_vectors,
    }


def next_logits(model: Any, ids: Tensor, backbone: Backbone) -> Float[Tensor, " V"]:
    """Return the logits of a plain transformers or PEFT model where the label begins, for one example's ids (1, T)."""
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if backbone.kind == "seq2seq":
        inputs["decoder_input_ids"] = torch.full_like(ids[:, :1], model.config.decoder_start_token_id)
    return model(**inputs).logits[0, -1]
