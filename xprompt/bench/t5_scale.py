"""Prompt-tuning steps at the paper's sizes, on a GPU: T5 v1.1 with random weights, as slow as trained ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from transformers import T5Config, T5ForConditionalGeneration

from xprompt.backbones.base import Backbone, Verbalizer
from xprompt.backbones.loading import wrap
from xprompt.backbones.shapes import known_config
from xprompt.bench.harness import once, paired_ratio
from xprompt.bench.rows import Findings, Row, hardware_of
from xprompt.bench.tuning_steps import TuningSteps
from xprompt.config.settings import TuneSettings
from xprompt.data.batching import Batch
from xprompt.planning import footprint
from xprompt.planning.machine import matrix_rate
from xprompt.prompts.soft_prompt import SoftPrompt

SHAPES: dict[str, Any] = {f"t5-{size}": known_config(f"google/t5-{size}-lm-adapt") for size in ("large", "xl", "xxl")}
"""Name → configuration; the names are those of bench.csv's rows."""
SOURCES = (128, 256)
BATCH, LENGTH = 16, 20
# SuperGLUE training examples of the paper's seven tasks. Source: paper Tab 9; Wang et al. (2019), Tab 1.
TRAIN_EXAMPLES = {
    "boolq": 9427, "cb": 250, "copa": 400, "multirc": 27243, "rte": 2490, "wic": 5428, "wsc": 554,
}  # fmt: skip


def build(config: T5Config, device: torch.device, dtype: torch.dtype, name: str) -> Backbone:
    """Build a frozen T5 of that configuration with random weights on the device. Its tokenizer only knows its end."""
    config = copy.deepcopy(config)
    # T5Config takes that argument for the scale of the head alone, and this for two tables: v1.1 has both.
    config.tie_word_embeddings = False
    config.decoder_start_token_id = 0
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = T5ForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.set_input_embeddings(model.shared)
    tokens = SimpleNamespace(eos_token_id=1, pad_token_id=0, backend_tokenizer=SimpleNamespace(to_str=str))
    return wrap(model, tokens, name=name, max_source=max(SOURCES))


def step(backbone: Backbone, source: int, batch: int = BATCH, length: int = LENGTH) -> TuningSteps:
    """Return one optimiser step on random ids, to be called.

    Args:
        backbone: as `build` makes it.
        source, batch, length: T, B and P.
    """
    prompt = SoftPrompt(backbone.embedding_rows()[2 : 2 + length].float(), pieces=16)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, len(backbone.embedding_rows()), (batch, source), generator=generator)
    index = torch.arange(batch)
    rows = Batch(ids, torch.ones_like(ids), index % 2, index).to(backbone.device)
    verbalizer = Verbalizer(((5,), (6,)), torch.tensor([5, 6], device=backbone.device))
    return TuningSteps(backbone, prompt, [rows], verbalizer, TuneSettings(steps=1))


def grid_hours(
    samples_per_second: float,
    *,
    examples: Mapping[str, int] = TRAIN_EXAMPLES,
    epochs: float = 100,
    pairs: int = 81,
    retrain_share: float = 1.0,
) -> float:
    """Return hours of the paper's grid on one GPU for one seed: each task tuned once, then retrained for each pair.

    Args:
        samples_per_second: training throughput in examples.
        examples: task → size of its training split.
        epochs: of tuning and of each retraining, without early stopping: an upper bound. Source: paper §4.1.
        pairs: of prune ratios. Source: paper §3.2 (nine by nine).
        retrain_share: the search's retraining examples as a share of the grid's; 1 is the grid.

    Evaluation and importance are not counted.
    """
    return sum(examples.values()) * epochs * (1 + pairs * retrain_share) / samples_per_second / 3600


def names(shapes: Mapping[str, T5Config] = SHAPES) -> list[tuple[str, str]]:
    """Return (row name, backbone) of every row that `measure` makes."""
    return [(f"t5_share_{source}", shape) for shape in shapes for source in SOURCES] + [
        ("paper_grid_hours", shape) for shape in shapes
    ]


def measure(
    device: torch.device, *, shapes: Mapping[str, T5Config] = SHAPES, dtype: torch.dtype = torch.bfloat16,
    rounds: int = 20, batch: int = BATCH, retrain_share: float = 0.1,
) -> Findings:  # fmt: skip
    """Measure samples per second, peak memory and share of the matrix rate by shape and source length; derive hours.

    Args:
        retrain_share: of our search, for the hours; the search's records give it, and 0.1 is its limit.
    """
    found, hardware = Findings(), hardware_of(device)
    for name, config in shapes.items():
        backbone, counted = build(config, device, dtype, name), footprint.measure(config)
        rate = matrix_rate(device, dtype)
        for source in SOURCES:
            timed = step(backbone, source, batch)
            for _ in range(3):
                once(timed, device)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            seconds = [once(timed, device) for _ in range(rounds)]
            peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
            operations = counted.operations(batch, source + LENGTH, "tune")
            found.timings(
                "t5_scale", name, hardware, {f"source {source}": seconds}, {f"source {source}": batch}, "samples"
            )
            shares = [operations / taken / rate for taken in seconds]
            samples = batch / median(seconds)
            ratio = paired_ratio(shares, [1.0] * rounds)
            found.rows.append(
                Row(f"t5_share_{source}", name, hardware, rate / 1e12, rate * ratio[0] / 1e12, "TFLOP/s", *ratio)
            )
            found.facts.append(
                {"name": "t5_scale", "backbone": name, "hardware": hardware, "source": source, "batch": batch,
                 "prompt": LENGTH, "dtype": str(dtype), "parameters": backbone.num_params,
                 "samples_per_second": samples, "peak_bytes": peak, "matrix_rate": rate,
                 "operations": operations, "share": ratio[0],
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
        del backbone, timed
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return found
