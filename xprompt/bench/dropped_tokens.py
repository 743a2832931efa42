"""Evaluation with pruned tokens dropped from the sequence, against the full prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from xprompt.backbones.base import Backbone
from xprompt.bench import memory
from xprompt.bench.harness import interleave
from xprompt.bench.rows import Findings, throughput
from xprompt.bench.rows import memory as memory_row
from xprompt.bench.sizes import Size
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.pruning.importance import Importance
from xprompt.pruning.prune import prune
from xprompt.training.evaluation import evaluate

RATIOS = (0.5, 0.8)


def pruned(backbone: Backbone, length: int, ratio: float) -> SoftPrompt:
    """Return a prompt of `length` tokens with that share of them pruned and dropped; ratio 0 is the full prompt."""
    prompt = SoftPrompt.init(backbone, length)
    generator = torch.Generator().manual_seed(0)
    scores = Importance(
        torch.rand(length, generator=generator), torch.rand(length, prompt.pieces, generator=generator), 1
    )
    return prune(prompt, scores, ratio, 0.0, mode="drop")


def work(backbone: Backbone, size: Size, length: int, ratio: float) -> Callable[[], object]:
    """Return one evaluation of such a prompt, to be called."""
    prompt = pruned(backbone, length, ratio)
    data = size.splits(train=1, selection=1, validation=size.examples).validation
    rows = size.settings(backbone.name, 1).eval_batch_size
    return lambda: evaluate(backbone, prompt, data, batch_size=rows)


def memory_job(backbone: Backbone, size: Mapping[str, object], length: int, ratio: float) -> Callable[[], object]:
    """Return the same for `memory.peak_of`; `size` as `Size.facts` gives it."""
    return work(backbone, Size(**size), length, ratio)  # type: ignore[arg-type]


def measure(backbone: Backbone, size: Size, hardware: str) -> Findings:
    """Measure examples per second and peak memory for each length and each share of dropped tokens."""
    found = Findings()
    examples = len(size.splits(train=1, selection=1, validation=size.examples).validation)
    for length in size.lengths:
        labels = {0.0: "full", **{ratio: f"drop {ratio:.0%}" for ratio in RATIOS}}
        sides = {label: work(backbone, size, length, ratio) for ratio, label in labels.items()}
        seconds = interleave(sides, size.rounds, device=backbone.device)
        amount = {side: float(examples) for side in sides}
        found.timings(f"dropped_p{length}", backbone.name, hardware, seconds, amount, "examples")
        peaks = {
            ratio: memory.peak_of(f"{__name__}:memory_job", backbone,
                                  {"size": size.facts(), "length": length, "ratio": ratio}, fresh=size.fresh)
            for ratio in labels
        }  # fmt: skip
        for ratio in RATIOS:
            name = f"dropped_p{length}_{ratio:.0%}".removesuffix("%")
            found.rows.append(
                throughput(name, backbone.name, hardware, seconds, amount, baseline="full", ours=f"drop {ratio:.0%}")
            )
            found.rows.append(
                memory_row(f"{name}_memory", backbone.name, hardware, float(peaks[0]), float(peaks[ratio]))
            )
        found.facts.append(
            {"name": f"dropped_p{length}_memory", "backbone": backbone.name, "hardware": hardware,
             "bytes": {str(ratio): peak for ratio, peak in peaks.items()}, "fresh_process": size.fresh}
        )  # fmt: skip
    return found
