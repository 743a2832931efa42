"""Small GGUF files, written by the `gguf` package from models that transformers made: no network, no download."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.conftest import WORDS

SHAPE = {"vocab_size": 320, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
LLAMA = {**SHAPE, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**LLAMA),
    "llama3": lambda: transformers.LlamaConfig(**LLAMA, rope_parameters=LLAMA3),
    "qwen2": lambda: transformers.Qwen2Config(**LLAMA, tie_word_embeddings=True),
    "gpt2": lambda: transformers.GPT2Config(**SHAPE, n_embd=64, n_layer=2, n_head=4),
    "mamba": lambda: transformers.MambaConfig(**SHAPE, hidden_size=64, state_size=8, num_hidden_layers=2,
                                              time_step_rank=4, tie_word_embeddings=True),
}  # fmt: skip
ROWS_IN = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")  # GPT-2 stores these as inputs × outputs


def make_model(kind: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)
    return model


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<pad>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(["Answer: True False question: premise: " + " ".join(WORDS)] * 3, trainer)
    return tokenizer


def write_gguf(
    path: Path, kind: str, quantised: gguf.GGMLQuantizationType | None = None, change=None, tensors=None, **keys
) -> transformers.PreTrainedModel:
    """Write a model to a file and return it.

    Args:
        quantised: of the matrices in the layers; None: float32.
        change: called with the writer before it writes; more keys.
        tensors: more tensors by name; None in place of one leaves it out.
        keys: in place of a key of the model's own, "rope.freq_base" as `rope__freq_base`; None leaves it out.
    """
    model, architecture = make_model(kind), kind.removesuffix("3")
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    values = {
        "block_count": config.num_hidden_layers, "embedding_length": config.hidden_size,
        "context_length": getattr(config, "max_position_embeddings", 512),
    }  # fmt: skip
    if kind == "mamba":
        values |= {"ssm.conv_kernel": config.conv_kernel, "ssm.state_size": config.state_size,
                   "ssm.time_step_rank": config.time_step_rank, "ssm.inner_size": config.intermediate_size,
                   "attention.layer_norm_rms_epsilon": config.layer_norm_epsilon}  # fmt: skip
    else:
        values["attention.head_count"] = config.num_attention_heads
    if kind == "gpt2":
        values |= {"feed_forward_length": 256, "attention.layer_norm_epsilon": config.layer_norm_epsilon}
    elif kind != "mamba":
        values |= {"feed_forward_length": config.intermediate_size, "attention.head_count_kv": 2,
                   "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
                   "rope.freq_base": config.rope_parameters["rope_theta"]}  # fmt: skip
    values |= {name.replace("__", "."): value for name, value in keys.items()}
    for name, value in values.items():
        if value is not None:
            add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
            (writer.add_string if isinstance(value, str) else add)(f"{architecture}.{name}", value)
    _write_tokenizer(writer)
    if change is not None:
        change(writer)
    stored = _tensors(model, architecture) | (tensors or {})
    for name, values in stored.items():
        if values is None:
            continue
        if quantised is not None and name.startswith("blk.") and values.ndim == 2:
            values = gguf.quants.quantize(values, quantised)
            writer.add_tensor(name, values, raw_dtype=quantised)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _write_tokenizer(writer: gguf.GGUFWriter) -> None:
    import json

    state = json.loads(byte_level().to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    tokens += [f"<unused{i}>" for i in range(320 - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in state["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)


def _tensors(model: transformers.PreTrainedModel, architecture: str) -> dict[str, np.ndarray]:
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], model.config.num_hidden_layers)
    stored = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = tensor.numpy()
        if name.endswith(".A_log"):
            values = -np.exp(values)
        if name.endswith("conv1d.weight") and values.ndim == 3:
            values = values[:, 0]
        if architecture == "gpt2" and name.endswith(ROWS_IN):
            values = values.T
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = model.config.num_attention_heads if "q_proj" in name else model.config.num_key_value_heads
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found is not None, name
        stored[found] = np.ascontiguousarray(values, dtype=np.float32)
    if getattr(model.config, "rope_parameters", None) and model.config.rope_parameters["rope_type"] == "llama3":
        rotary = model.model.rotary_emb
        width = model.config.hidden_size // model.config.num_attention_heads
        plain = 10000.0 ** -(torch.arange(0, width, 2) / width)
        stored["rope_freqs.weight"] = (plain / rotary.inv_freq).numpy().astype(np.float32)
    return stored
