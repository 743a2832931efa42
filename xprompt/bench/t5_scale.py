"""Steps of prompt tuning at the paper's sizes: T5 v1.1 shapes with random weights, on a GPU.

Owns the shapes, the operations a step has to do, and the hours of the paper's grid that follow. Never says anything
about quality: random weights take the time of trained ones and learn nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from types import SimpleNamespace

import torch
from transformers import T5Config, T5ForConditionalGeneration

from xprompt.backbones.base import Backbone, Verbalizer
from xprompt.backbones.loading import wrap
from xprompt.bench.harness import once, paired_ratio
from xprompt.bench.rows import Findings, Row, hardware_of
from xprompt.config.settings import TuneSettings
from xprompt.data.batching import Batch
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.training.candidate import Candidate
from xprompt.training.evaluation import prompt_rows


@dataclass(frozen=True)
class Shape:
    """A T5 v1.1 in numbers; both stacks have `layers` layers. Source: the T5 v1.1 model cards."""

    width: int
    inner: int
    layers: int
    heads: int
    head: int = 64
    vocabulary: int = 32128


SHAPES = {
    "t5-large": Shape(1024, 2816, 24, 16),
    "t5-xl": Shape(2048, 5120, 24, 32),
    "t5-xxl": Shape(4096, 10240, 24, 64),
}
SOURCES = (128, 256)
BATCH, LENGTH = 16, 20
TINY = Shape(32, 64, 2, 4, 8, 128)
"""For rehearsals on a CPU."""
# SuperGLUE training examples of the paper's seven tasks. Source: paper Tab 8; Wang et al. (2019), Tab 1.
TRAIN_EXAMPLES = {
    "boolq": 9427, "cb": 250, "copa": 400, "multirc": 27243, "rte": 2490, "wic": 5428, "wsc": 554,
}  # fmt: skip


def model_of(shape: Shape) -> T5ForConditionalGeneration:
    """A T5 v1.1 of that shape with random weights: gated GELU, one table of embeddings, a head of its own."""
    config = T5Config(
        vocab_size=shape.vocabulary, d_model=shape.width, d_kv=shape.head, d_ff=shape.inner, num_layers=shape.layers,
        num_heads=shape.heads, feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=0, eos_token_id=1,
        tie_word_embeddings=False,  # type: ignore[call-arg]
    )  # fmt: skip
    # Its own configuration takes that argument for the scale of the head alone, and unties or ties everything at once.
    config.tie_word_embeddings = False
    config.decoder_start_token_id = 0
    model = T5ForConditionalGeneration(config)
    model.set_input_embeddings(model.shared)
    return model


def build(shape: Shape, device: torch.device, dtype: torch.dtype, name: str) -> Backbone:
    """A frozen T5 v1.1 of that shape with random weights, made on the device. Its tokenizer only knows its end."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = model_of(shape)
    finally:
        torch.set_default_dtype(before)
    return wrap(model, SimpleNamespace(eos_token_id=1, pad_token_id=0), name=name, max_source=max(SOURCES))


class Step:
    """One optimiser step on random ids, as `tune` does it: loss, backward, update. Call it to run it.

    Args:
        backbone: as `build` makes it.
        source, batch, length: source tokens T, examples B, prompt tokens P.
    """

    def __init__(self, backbone: Backbone, source: int, batch: int = BATCH, length: int = LENGTH) -> None:
        rows = backbone.embedding_rows()[2 : 2 + length].float()
        self.prompt = SoftPrompt(rows, pieces=16)
        self.candidate = Candidate(
            self.prompt, list(self.prompt.parameters()), TuneSettings(steps=10**6), self.prompt.clone
        )
        self.candidate.start(batch, "train", 0)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(2, len(backbone.embedding_rows()), (batch, source), generator=generator)
        index = torch.arange(batch)
        self.batch = Batch(ids, torch.ones_like(ids), index % 2, index).to(backbone.device)
        self.verbalizer = Verbalizer(((5,), (6,)), torch.tensor([5, 6], device=backbone.device))
        self.backbone = backbone

    def __call__(self) -> None:
        vectors, prompt_mask, prompt_index = prompt_rows([self.prompt], [len(self.batch)], self.backbone.device)
        loss = self.backbone.loss(vectors, self.batch, self.verbalizer, prompt_mask, prompt_index=prompt_index).mean()
        loss.backward()
        self.candidate.step(loss.detach())


def operations(shape: Shape, source: int, batch: int = BATCH, length: int = LENGTH) -> float:
    """Floating-point operations that a step does: 4 · parameters · tokens, plus attention.

    Forward and the gradient of the activations are 2 operations a parameter and token each; weights have no gradient.
    Only parameters that a token passes through count: the encoder's for encoder tokens, the decoder's for its one
    token. 4 · *all* parameters · encoder tokens would claim twice the work that there is, and the keys and values of
    cross-attention, which our scoring never forms, a tenth more. Attention: queries by keys and weights by values are
    4 operations a pair of positions and head dimension forward, and twice that backward.
    """
    d, i = shape.width, shape.heads * shape.head
    attention, feed = 4 * d * i, 3 * d * shape.inner
    tokens = source + length
    encoder = shape.layers * (attention + feed) * tokens
    decoder = shape.layers * (2 * attention + feed)
    pairs = shape.layers * i * tokens * tokens
    return float(batch * (4 * (encoder + decoder) + 12 * pairs))


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int = 8192, rounds: int = 20) -> float:
    """Operations a second of the card on one large matrix product: what a step's share is taken of."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    once(lambda: a @ b, device)
    return 2 * side**3 / median(once(lambda: a @ b, device) for _ in range(rounds))


def grid_hours(
    samples_per_second: float,
    *,
    examples: Mapping[str, int] = TRAIN_EXAMPLES,
    epochs: float = 100,
    pairs: int = 81,
    retrain_share: float = 1.0,
) -> float:
    """Hours on one card of the paper's grid for one seed: every task tuned once, then re-trained for every pair.

    Args:
        samples_per_second: training throughput, examples.
        examples: of each task's training split.
        epochs: of the tuning and of each re-training, without early stopping: an upper bound. Source: paper §4.1.
        pairs: of ratios. Source: paper §3.2 (nine by nine).
        retrain_share: re-training examples of the search as a share of the grid's; 1 is the grid itself.

    Evaluation and importance are left out on both sides.
    """
    return sum(examples.values()) * epochs * (1 + pairs * retrain_share) / samples_per_second / 3600


def names(shapes: Mapping[str, Shape] = SHAPES) -> list[tuple[str, str]]:
    """(row name, backbone) of every row that `measure` makes."""
    return [(f"t5_share_{source}", shape) for shape in shapes for source in SOURCES] + [
        ("paper_grid_hours", shape) for shape in shapes
    ]


def measure(
    device: torch.device, *, shapes: Mapping[str, Shape] = SHAPES, dtype: torch.dtype = torch.bfloat16,
    rounds: int = 20, batch: int = BATCH, side: int = 8192, retrain_share: float = 0.1,
) -> Findings:  # fmt: skip
    """For each shape and source length: samples a second, peak memory, share of the matrix rate; then the hours.

    Args:
        retrain_share: of our search, for the hours; measured by the search's own records, 0.1 is its limit.
    """
    found, hardware = Findings(), hardware_of(device)
    for name, shape in shapes.items():
        backbone = build(shape, device, dtype, name)
        for source in SOURCES:
            step = Step(backbone, source, batch)
            for _ in range(3):
                once(step, device)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            seconds = [once(step, device) for _ in range(rounds)]
            peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
            rate = matrix_rate(device, dtype, side)
            found.timings(
                "t5_scale", name, hardware, {f"source {source}": seconds}, {f"source {source}": batch}, "samples"
            )
            shares = [operations(shape, source, batch) / taken / rate for taken in seconds]
            samples = batch / median(seconds)
            ratio = paired_ratio(shares, [1.0] * rounds)
            found.rows.append(
                Row(f"t5_share_{source}", name, hardware, rate / 1e12, rate * ratio[0] / 1e12, "TFLOP/s", *ratio)
            )
            found.facts.append(
                {"name": "t5_scale", "backbone": name, "hardware": hardware, "source": source, "batch": batch,
                 "prompt": LENGTH, "dtype": str(dtype), "parameters": backbone.num_params,
                 "samples_per_second": samples, "peak_bytes": peak, "matrix_rate": rate,
                 "operations": operations(shape, source, batch), "share": ratio[0],
                 "share_if_all_parameters_counted": 4 * backbone.num_params * batch * (source + LENGTH)
                 / median(seconds) / rate}
            )  # fmt: skip
        grid, ours = (grid_hours(samples, retrain_share=share) for share in (1.0, retrain_share))
        found.rows.append(Row("paper_grid_hours", name, hardware, grid, ours, "hours", grid / ours))
        found.facts.append(
            {"name": "paper_grid_hours", "backbone": name, "hardware": hardware, "source": SOURCES[-1],
             "examples": TRAIN_EXAMPLES, "epochs": 100, "pairs": 81, "retrain_share": retrain_share,
             "samples_per_second": samples}
        )  # fmt: skip
        del backbone, step
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return found
