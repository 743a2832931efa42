"""Tuning with subnormal values taken for zero, as every step has it on a CPU, against tuning that keeps them."""

from __future__ import annotations

from contextlib import nullcontext
from unittest import mock

import torch

from xprompt.backbones.base import Backbone
from xprompt.bench.harness import interleave
from xprompt.bench.rows import Findings, throughput
from xprompt.bench.sizes import Size
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.training.tune import tune


def measure(backbone: Backbone, size: Size, hardware: str) -> Findings:
    """Measure examples tuned on per second either way, and how far the two tuned prompts are apart."""
    found = Findings()
    splits = size.splits(train=size.batch * size.steps, selection=1)
    settings = size.settings(backbone.name, size.steps)
    prompt = SoftPrompt.init(backbone, size.length)
    tuned: dict[str, torch.Tensor] = {}

    def ours() -> None:
        tuned["ours"] = tune(backbone, prompt, splits, settings).prompt().detach()

    def kept() -> None:
        with mock.patch("xprompt.training.loop.subnormals_as_zero", lambda _: nullcontext()):
            tuned["kept"] = tune(backbone, prompt, splits, settings).prompt().detach()

    sides = {"kept": kept, "ours": ours}
    seconds = interleave(sides, size.rounds, device=backbone.device)
    work = dict.fromkeys(sides, float(size.batch * size.steps))
    found.timings("subnormals", backbone.name, hardware, seconds, work, "examples")
    found.rows.append(throughput("subnormals", backbone.name, hardware, seconds, work, baseline="kept", ours="ours"))
    gap = float((tuned["kept"] - tuned["ours"]).abs().max())
    found.facts.append({"name": "subnormals", "backbone": backbone.name, "hardware": hardware, "largest_gap": gap})
    return found
