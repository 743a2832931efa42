"""Prompts to and from PEFT's folder format, one JSON file and one safetensors tensor, without importing PEFT."""

from __future__ import annotations

import json
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
from xprompt.errors import BackboneError, StoreError, shown
from xprompt.files import parse_json, write_atomically
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
        the folder.

    Differs: PEFT's default for encoder-decoders stores the prompt twice, for encoder and decoder, and never uses
    the second; an export says 1 and stores it once.
    """
    vectors = prompt().detach().cpu().contiguous()  # (Q, H)
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "SEQ_2_SEQ_LM" if backbone.kind == "seq2seq" else "CAUSAL_LM",
        "base_model_name_or_path": backbone.name,
        "inference_mode": True,
        "num_virtual_tokens": len(vectors),
        "token_dim": vectors.shape[1],
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
    }
    folder = Path(folder)
    card = card_for(prompt.card, backbone if task is not None else None, task, more)
    write_atomically(folder / WEIGHTS, save({TENSOR: vectors}, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    write_card(folder, card, "peft", prompt.describe())
    return folder


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
            raise ValueError(f"{CONFIG} holds {shown(config)}, not one JSON object")
        kind, count = config.get("peft_type"), config.get("num_virtual_tokens")
        if kind != "PROMPT_TUNING":  # before the files that other kinds of adapter do not have
            raise StoreError(f"{folder} holds {kind!s:.80}, not PROMPT_TUNING: only a soft prompt can be read.")
        rows = load((folder / WEIGHTS).read_bytes())[TENSOR]  # (P, H), or (2 P, H) for encoder and decoder
        if type(count) is not int or count < 1:
            raise ValueError(f"num_virtual_tokens in {CONFIG} is {shown(count)}, not a whole number of 1 or more")
        if rows.dim() != 2:
            raise ValueError(f"{TENSOR} has the shape {tuple(rows.shape)}, not rows and columns")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise StoreError(
            f"{folder} holds no readable PEFT prompt ({error}); it needs {CONFIG} and {WEIGHTS} with the tensor "
            f"{TENSOR}, as PEFT's prompt tuning saves them."
        ) from error
    if rows.shape[1] != backbone.hidden_size or len(rows) < count:
        raise StoreError(
            f"{folder} holds {len(rows)} rows of width {rows.shape[1]} for {shown(count)} virtual tokens; "
            f"{backbone.name} needs that many or more of width {backbone.hidden_size}: load the backbone it was tuned on."
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
