"""Tiny language models built in memory, and examples short enough to follow by hand."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from xprompt.backbones.base import Backbone
from xprompt.backbones.loading import wrap
from xprompt.data.splits import Splits, TaskDataset
from xprompt.tasks.example import Example
from xprompt.tasks.registry import get_task

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # more threads than cores wait for each other
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))

#: A folder with the real release, never part of the project: tests that read it skip where it is not there.
SUPERGLUE = Path(os.environ.get("XPROMPT_SUPERGLUE") or Path(__file__).parents[2] / "shared" / "superglue")
NO_SUPERGLUE = "no SuperGLUE release here: set XPROMPT_SUPERGLUE to a folder that has it"
WORDS = ("the", "cat", "dog", "sat", "ran", "on", "under", "mat", "hill", "and", "then", "it", "was", "red", "blue")


def tiny_tokenizer(closes: bool) -> PreTrainedTokenizerFast:
    """A BPE tokenizer whose label words are single pieces; T5's kind closes every input with </s>."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    text = [
        "hypothesis: premise: entailment not_entailment contradiction neutral True False Answer: " + " ".join(WORDS)
    ]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False)
    tokenizer.train_from_iterator(text * 3, trainer)
    if closes:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def tiny_model(kind: str, dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> Backbone:
    """A random T5 ("seq2seq") or Llama ("decoder") of a few thousand parameters."""
    torch.manual_seed(0)
    if kind == "seq2seq":
        model = T5ForConditionalGeneration(
            T5Config(vocab_size=320, d_model=32, d_kv=8, num_heads=4, d_ff=64, num_layers=2, dropout_rate=dropout,
                     decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
        )  # fmt: skip
    else:
        model = LlamaForCausalLM(
            LlamaConfig(vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                        num_attention_heads=4, num_key_value_heads=2, attention_dropout=dropout,
                        pad_token_id=0, eos_token_id=1, bos_token_id=1)
        )  # fmt: skip
    with torch.no_grad():  # larger than the usual start, so that scores differ visibly from example to example
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)
    if dtype == torch.float64:
        exact_norms(model)
    return wrap(model.to(dtype), tiny_tokenizer(kind == "seq2seq"), name=f"tiny-{kind}", max_source=64)


def exact_norms(module: torch.nn.Module) -> None:
    """Swap the norms for torch's own: T5's and Llama's compute in float32 whatever the model's dtype."""
    for name, child in module.named_children():
        if type(child).__name__ in ("T5LayerNorm", "LlamaRMSNorm"):
            norm = torch.nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon)
            norm.weight = child.weight
            setattr(module, name, norm)
        else:
            exact_norms(child)


def tiny_data(size: int, split: str, seed: int = 0, task: str = "rte") -> TaskDataset:
    """Sentence pairs of random words; the label says whether the two share their first word."""
    rng = random.Random(f"{seed}/{split}")
    records = []
    for i in range(size):
        a, b = (rng.choices(WORDS, k=rng.randint(3, 9)) for _ in range(2))
        if i % 2:
            b[0] = a[0]
        fields = {"premise": " ".join(a), "hypothesis": " ".join(b)}
        records.append(Example(f"{split}-{seed}-{i}", f"{split}-{seed}-{i}", fields, int(a[0] != b[0])))
    return TaskDataset(get_task(task), split, tuple(records))


@pytest.fixture(params=["seq2seq", "decoder"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def backbone(kind: str) -> Backbone:
    return tiny_model(kind)


@pytest.fixture
def backbone64(kind: str) -> Backbone:
    return tiny_model(kind, torch.float64)


@pytest.fixture
def splits() -> Splits:
    return Splits(get_task("rte"), tiny_data(24, "train"), tiny_data(16, "validation"), "test")


def empty_release(folder: Path, *names: str) -> None:
    """Make folders of the official release whose files have no examples."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for file in ("train.jsonl", "val.jsonl"):
            (folder / name / file).touch()
