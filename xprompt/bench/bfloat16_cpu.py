"""Tuning steps on a CPU with the backbone in bfloat16, against float32; the prompt is float32 in both."""

from __future__ import annotations

import torch

from xprompt.backbones.base import Backbone
from xprompt.backbones.loading import load_backbone
from xprompt.bench.harness import interleave
from xprompt.bench.rows import Findings, throughput
from xprompt.bench.sizes import Size
from xprompt.bench.tuning_steps import TuningSteps
from xprompt.prompts.soft_prompt import SoftPrompt

SIDES = ("float32", "bfloat16")


def multiplies_bfloat16() -> bool:
    """Tell whether this CPU multiplies bfloat16 itself: elsewhere each product converts both ways, and is slower."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def measure(backbone: Backbone, size: Size, hardware: str) -> Findings:
    """Measure examples tuned on per second in either dtype, and how much the tuned prompts' movements agree."""
    found = Findings()
    if not multiplies_bfloat16():
        found.missing(["bfloat16_cpu"], backbone.name, "needs a CPU with amx_bf16 or avx512_bf16")
        return found
    splits = size.splits(train=size.batch * size.steps, selection=1)
    settings = size.settings(backbone.name, size.steps)
    prompt = SoftPrompt.init(backbone, size.length)
    backbones = {
        dtype: load_backbone(backbone.name, device="cpu", dtype=dtype, max_source=size.max_source) for dtype in SIDES
    }
    tuned: dict[str, SoftPrompt] = {}
    steps = {dtype: TuningSteps.over(one, prompt, splits, settings) for dtype, one in backbones.items()}

    def tune(dtype: str) -> None:
        tuned[dtype] = steps[dtype]()

    sides = {dtype: lambda dtype=dtype: tune(dtype) for dtype in SIDES}
    seconds = interleave(sides, size.rounds, device=backbone.device)
    work = dict.fromkeys(sides, float(len(splits.train)))
    found.timings("bfloat16_cpu", backbone.name, hardware, seconds, work, "examples")
    found.rows.append(
        throughput("bfloat16_cpu", backbone.name, hardware, seconds, work, baseline="float32", ours="bfloat16")
    )
    moved = [(tuned[dtype]() - prompt()).detach().flatten() for dtype in SIDES]  # (P · H,)
    cosine = float(torch.cosine_similarity(*moved, dim=0))
    found.facts.append({"name": "bfloat16_cpu", "backbone": backbone.name, "hardware": hardware, "cosine": cosine})
    return found
