"""C pruned prompts trained in one pass, against the same C one after another: throughput, selected checkpoints, memory.

The names of rows and sides, "side by side" among them, are those of bench.csv.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from xprompt.backbones.base import Backbone
from xprompt.bench import memory
from xprompt.bench.harness import interleave
from xprompt.bench.rows import Findings, Row, throughput
from xprompt.bench.rows import memory as memory_row
from xprompt.bench.sizes import Size
from xprompt.config.profiles import get_profile
from xprompt.data.batching import batches
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.pruning.importance import Importance, importance
from xprompt.pruning.prune import prune, rewind
from xprompt.training.memory import predict_bytes
from xprompt.training.tune import TuneResult, tune, tune_many

_HELD, _TRAIN = 32, 2000  # examples to select on, and to tune the first prompt on
_RATIOS = (0.1, 0.3, 0.5, 0.7)
_CLOSE = 1e-3  # of the larger entries; float32 rounding, grown over a few steps


def candidates(prompt: SoftPrompt, scores: Importance, count: int) -> list[SoftPrompt]:
    """Return C prompts as a search makes them: one prompt, pruned by different pairs of ratios and rewound."""
    pairs = [(token, piece) for token in _RATIOS for piece in _RATIOS]
    return [rewind(prune(prompt, scores, *pairs[number % len(pairs)]), prompt) for number in range(count)]


def tuned(backbone: Backbone, size: Size) -> tuple[SoftPrompt, Importance]:
    """Return a tuned prompt and its scores, which a search starts from.

    An untuned prompt would not do: far from its optimum, rounding errors grow tenfold per step, and two ways of
    computing the same float32 step diverge.
    """
    train = min(size.accuracy_steps * size.batch, _TRAIN)
    splits = size.splits(train=train, selection=min(_HELD, size.examples))
    settings = size.settings(backbone.name, size.accuracy_steps)
    prompt = tune(backbone, SoftPrompt.init(backbone, size.length), splits, settings).prompt
    return prompt, importance(backbone, prompt, splits.train, limit=size.examples, batch_size=size.batch)


def work(
    backbone: Backbone, size: Size, prompts: list[SoftPrompt], **changes: Any
) -> dict[str, Callable[[], list[TuneResult]]]:
    """Return three sides of C candidates with the same steps, batches and checkpoints, at retraining's learning rate.

    "side by side" in passes as wide as `tune_many` chooses, "one pass" all C in one, "one by one" each by `tune`.
    """
    count = len(prompts)
    splits = size.splits(train=size.candidate_steps * size.batch, selection=min(_HELD, size.examples))
    rate = get_profile(backbone.name).prune.retune.learning_rate
    settings = size.settings(backbone.name, size.candidate_steps, learning_rate=rate, **changes)
    return {
        "side by side": lambda: tune_many(backbone, prompts, splits, [settings] * count),
        "one pass": lambda: tune_many(backbone, prompts, splits, [settings] * count, width=count),
        "one by one": lambda: [tune(backbone, prompt, splits, settings) for prompt in prompts],
    }


def memory_job(backbone: Backbone, size: Mapping[str, object], count: int, side: str) -> Callable[[], object]:
    """Return one side's work for `memory.peak_of`, whatever the values; `size` as `Size.facts` gives it."""
    prompt = SoftPrompt.init(backbone, size["length"])  # type: ignore[arg-type]
    order = torch.arange(prompt.length * prompt.pieces).float().view(prompt.length, -1)
    scores = Importance(order[:, 0], order, 1)
    return work(backbone, Size(**size), candidates(prompt, scores, count))[side]  # type: ignore[arg-type]


def measure(backbone: Backbone, size: Size, hardware: str) -> Findings:
    """Measure throughput and peak memory for each C, and count the selected checkpoints that are the same."""
    found, start = Findings(), tuned(backbone, size)
    for count in size.counts:
        prompts = candidates(*start, count)
        sides = work(backbone, size, prompts)
        seconds = interleave(sides, size.rounds, device=backbone.device)
        amount = {side: float(count * size.candidate_steps * size.batch) for side in sides}
        name, unit = f"side_by_side_c{count}", "candidate-examples"
        found.timings(name, backbone.name, hardware, seconds, amount, unit)
        shown = {name: "side by side", f"{name}_one_pass": "one pass"} if count > 1 else {name: "side by side"}
        for row, ours in shown.items():
            found.rows.append(
                throughput(row, backbone.name, hardware, seconds, amount, baseline="one by one", ours=ours,
                           unit=f"{unit}/s")
            )  # fmt: skip
    most = size.counts[-1]
    often = work(backbone, size, prompts, eval_every=max(1, size.candidate_steps // 4))
    together, apart = often["side by side"](), often["one by one"]()
    same = sum(same_checkpoint(a, b) for a, b in zip(together, apart, strict=True))
    name = f"side_by_side_c{most}_same_checkpoints"
    found.rows.append(Row(name, backbone.name, hardware, float(most), float(same), "checkpoints"))
    _memory(found, backbone, size, hardware)
    return found


def same_checkpoint(one: TuneResult, other: TuneResult) -> bool:
    """Return whether both selected the same step, with the same score and, to rounding, the same values."""
    a, b = one.prompt.masked().detach(), other.prompt.masked().detach()
    return (
        one.history.best_step == other.history.best_step
        and one.history.best_score == other.history.best_score
        and bool((a - b).abs().max() <= _CLOSE * b.abs().max())
    )


def predicted(backbone: Backbone, size: Size) -> int:
    """Return the bytes that one candidate adds to a pass, by the package's prediction for the longest batch."""
    splits = size.splits(train=size.candidate_steps * size.batch, selection=min(_HELD, size.examples))
    encoded = backbone.encode(splits.train)
    batch = list(batches(encoded, size.batch, seed=None))[-1]
    return predict_bytes(backbone, size.length, batch, backbone.verbalizer(splits.task))


def _memory(found: Findings, backbone: Backbone, size: Size, hardware: str) -> None:
    def peak(count: int, side: str) -> float:
        arguments = {"size": size.facts(), "count": count, "side": side}
        return float(memory.peak_of(f"{__name__}:memory_job", backbone, arguments, fresh=size.fresh))

    most, each = size.counts[-1], predicted(backbone, size)
    peaks = {count: peak(count, "one pass") for count in size.counts}
    name = f"side_by_side_c{most}_one_pass"
    alone = peak(most, "one by one")
    found.rows.append(memory_row(f"{name}_memory", backbone.name, hardware, alone, peaks[most]))
    # The prediction is what each candidate adds; the pass of one candidate holds the rest.
    expected = peaks[size.counts[0]] + (most - size.counts[0]) * each
    found.rows.append(memory_row(f"{name}_memory_predicted", backbone.name, hardware, expected, peaks[most]))
    found.facts.append(
        {"name": "side_by_side_memory", "backbone": backbone.name, "hardware": hardware, "one_pass_bytes": peaks,
         "predicted_bytes_a_candidate": each, "one_by_one_bytes": alone, "fresh_process": size.fresh}
    )  # fmt: skip
