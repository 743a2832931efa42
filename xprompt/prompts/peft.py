"""Prompts to and from PEFT's folder format, one JSON file and one safetensors tensor, without importing PEFT."""

from __future__ import annotations

import json
import shutil
import tempfile
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
from xprompt.errors import BackboneError, NotFiniteError, StoreError, shown
from xprompt.files import TEMPORARY, cannot_write, parse_json, replace_folder, write_atomically
from xprompt.prompts.card import PromptCard, card_for, write_card
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.tasks.task import Task

CONFIG, WEIGHTS, TENSOR = "adapter_config.json", "adapter_model.safetensors", "prompt_embeddings"


def to_peft(
    prompt: SoftPrompt, backbone: Backbone, folder: str | Path, *, task: Task | None = None, **more: Any
) -> Path:
    """Write a folder that `peft.PeftModel.from_pretrained` loads.

    Tokens pruned in mode "drop" are left out, so that there are fewer virtual tokens; pruned pieces, and tokens
    pruned in mode "zero", are stored as zeros. PEFT attends to every prompt position, as both modes do.

    Args:
        prompt: (P, H), tuned or pruned.
        backbone: the one it was tuned on; PEFT checks its name only where it loads the model itself.
        folder: created where it does not exist.
        task: what the prompt is for, where the prompt does not know; goes into the folder, for `xprompt.classifier`.
        more: other fields of `PromptCard`, such as `metrics`.

    Returns:
        the folder, written whole or left as it was.

    Raises:
        NotFiniteError: a value is infinite or not a number.
        StoreError: the folder cannot be written, or holds another adapter.

    Differs: PEFT's default for encoder-decoders stores the prompt twice, for encoder and decoder, and never uses
    the second; an export says 1 and stores it once.
    """
    vectors = prompt().detach().cpu().contiguous()  # (Q, H)
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "SEQ_2_SEQ_LM" if backbone.kind == "seq2seq" else "CAUSAL_LM",
        "base_model_name_or_path": str(backbone.name),
        "inference_mode": True,
        "num_virtual_tokens": len(vectors),
        "token_dim": vectors.shape[1],
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
        **_shape_for_peft(backbone),
    }
    folder = Path(folder)
    if not vectors.isfinite().all():
        raise NotFiniteError(
            "the prompt holds values that are infinite or not numbers: it is not exported. Tune it again from the last "
            "finite one, at a lower learning rate."
        )
    _refuse_another_adapter(folder, config)
    card = card_for(prompt.card, backbone if task is not None else None, task, more)
    staging = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder.parent))
        if folder.exists():  # what else lies there stays
            shutil.copytree(folder, staging, dirs_exist_ok=True)
        write_atomically(staging / WEIGHTS, save({TENSOR: vectors}, metadata={"format": "pt"}))
        write_atomically(staging / CONFIG, json.dumps(config, indent=2) + "\n")
        write_card(staging, card, "peft", prompt.describe())
        staging.chmod(0o755)
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
    found = {key: next((n for n in (getattr(config, a, None) for a in of) if n), None) for key, of in names.items()}
    return {key: int(number) for key, number in found.items() if number}


def _refuse_another_adapter(folder: Path, config: dict[str, Any]) -> None:
    """Raise `StoreError` where the folder is a file, or holds an adapter that is no prompt of this backbone."""
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file: give a folder to export to.")
    if not (folder / CONFIG).exists():
        return
    try:
        there = parse_json((folder / CONFIG).read_text(encoding="utf-8"))
        same = all(there[name] == config[name] for name in ("peft_type", "base_model_name_or_path"))
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise StoreError(
            f"{folder} holds another adapter ({CONFIG}), which an export would replace: give another folder, or delete "
            "that one."
        )


def from_peft(folder: str | Path, backbone: Backbone, *, pieces: int = 16) -> SoftPrompt:
    """Read a prompt that PEFT's prompt tuning saved, ready to be scored and pruned.

    Where it holds rows for encoder and decoder, the encoder's (the first) are taken, as PEFT does.

    Raises:
        StoreError: files are missing or damaged, another PEFT method wrote them, or the width is another backbone's.
    """
    folder = Path(folder)
    try:
        config = parse_json((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"{CONFIG} is no object")
        kind, count = config.get("peft_type"), config.get("num_virtual_tokens")
        if kind != "PROMPT_TUNING":
            raise StoreError(f"{folder} holds {shown(kind)}, not 'PROMPT_TUNING': only a soft prompt can be read.")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"num_virtual_tokens is {shown(count)}, and has to be 1 or more")
        rows = load((folder / WEIGHTS).read_bytes())[TENSOR]  # (P, H), or (2 P, H) for encoder and decoder
        if rows.dim() != 2 or not rows.is_floating_point() or not rows.isfinite().all():
            raise ValueError(f"{TENSOR} is no matrix of finite numbers")
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"{folder} holds no readable PEFT prompt ({type(error).__name__}: {error}); it needs {CONFIG} and "
            f"{WEIGHTS} with the tensor {TENSOR}, as PEFT's prompt tuning saves them."
        ) from error
    if rows.shape[1] != backbone.hidden_size or len(rows) < count:
        raise StoreError(
            f"{folder} holds {len(rows)} rows of width {rows.shape[1]} for {count} virtual tokens; {backbone.name} "
            f"needs {count} or more of width {backbone.hidden_size}: load the backbone it was tuned on."
        )
    prompt = SoftPrompt(rows[:count].float().to(backbone.device), pieces=pieces)
    prompt.card = PromptCard.read(folder)
    return prompt


@torch.no_grad()
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
        "virtual tokens": len(prompt()),
    }


def next_logits(model: Any, ids: Tensor, backbone: Backbone) -> Float[Tensor, " V"]:
    """Return the logits of a plain transformers or PEFT model where the label begins, for one example's ids (1, T)."""
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if backbone.kind == "seq2seq":
        inputs["decoder_input_ids"] = torch.full_like(ids[:, :1], model.config.decoder_start_token_id)
    return model(**inputs).logits[0, -1]
