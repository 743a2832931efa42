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


def multiplies_bfloat16() -> bool:
    """Tell whether this CPU multiplies bfloat16 itself: elsewhere each product converts both ways, and is slower."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def names(size: Size) -> list[str]:
    """Return the names of the rows that `measure` makes: one for each length of the prompt."""
    return [f"bfloat16_cpu_p{length}" for length in size.lengths]


def measure(backbone: Backbone, size: Size, hardware: str) -> Findings:
    """Measure examples tuned on per second in either dtype, and how much the tuned prompts' movements agree.

    Args:
        backbone: in float32; loaded once more, by its name, in bfloat16.
    """
    found = Findings()
    if not multiplies_bfloat16():
        found.missing(names(size), backbone.name, "needs a CPU with amx_bf16 or avx512_bf16")
        return found
    splits = size.splits(train=size.batch * size.steps, selection=1)
    settings = size.settings(backbone.name, size.steps)
    narrow = load_backbone(backbone.name, device="cpu", dtype="bfloat16", max_source=size.max_source)
    for name, length in zip(names(size), size.lengths, strict=True):
        prompt = SoftPrompt.init(backbone, length)
        steps = {
            dtype: TuningSteps.over(one, prompt, splits, settings)
            for dtype, one in (("float32", backbone), ("bfloat16", narrow))
        }
        seconds = interleave(steps, size.rounds, device=backbone.device)
        work = dict.fromkeys(steps, float(len(splits.train)))
        found.timings(name, backbone.name, hardware, seconds, work, "examples")
        found.rows.append(throughput(name, backbone.name, hardware, seconds, work, baseline="float32", ours="bfloat16"))
        wide, short = ((tune()() - prompt()).detach().flatten() for tune in steps.values())  # (P · H,) each
        cosine = float(torch.cosine_similarity(wide, short, dim=0))
        found.facts.append({"name": name, "backbone": backbone.name, "hardware": hardware, "cosine": cosine})
    return found
