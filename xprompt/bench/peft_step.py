"""One training step and one evaluation, against PEFT's prompt tuning.

Both objectives are compared like with like: cross-entropy among the label words, and the label string's likelihood
over the whole vocabulary. PEFT's batches come in random order, as a shuffling loader gives them, and once more in our
length buckets, which shows how much of the gain the buckets are.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean

from xprompt.backbones.base import Backbone
from xprompt.bench.harness import interleave
from xprompt.bench.peft_side import PeftPrompt
from xprompt.bench.rows import Findings, Row, throughput
from xprompt.bench.sizes import Size
from xprompt.bench.tuning_steps import TuningSteps
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.tasks.metrics import compute
from xprompt.training.evaluation import evaluate
from xprompt.training.tune import tune

#: Row name → (baseline's side, our side).
TRAIN = {
    "peft_train_words": ("peft words random", "ours words"),
    "peft_train_words_bucketed": ("peft words bucketed", "ours words"),
    "peft_train_string": ("peft string random", "ours string"),
    "peft_train_string_bucketed": ("peft string bucketed", "ours string"),
    "peft_train_as_used": ("peft string random as used", "ours words"),
}
EVALUATE = {"peft_eval": ("peft in order", "ours"), "peft_eval_bucketed": ("peft bucketed", "ours")}
_HELD = 2  # examples on the selection split, evaluated twice per call: few, since the steps are measured


def measure(backbone: Backbone, size: Size, hardware: str) -> Findings:
    """Measure throughput of training and evaluation, and the accuracy that both sides reach in equally many steps."""
    found = Findings()
    prompt = SoftPrompt.init(backbone, size.length)
    _training(found, backbone, size, hardware, prompt)
    _evaluation(found, backbone, size, hardware, prompt)
    _accuracy(found, backbone, size, hardware)
    return found


def _training(found: Findings, backbone: Backbone, size: Size, hardware: str, prompt: SoftPrompt) -> None:
    splits = size.splits(train=size.steps * size.batch, selection=_HELD)
    other = PeftPrompt(backbone, prompt, splits)
    words = size.settings(backbone.name, size.steps)
    string = words.replace(objective="generation")
    sides: dict[str, Callable[[], object]] = {
        "ours words": lambda: tune(backbone, prompt, splits, words),
        "peft words random": lambda: other.tune(words),
        "peft words bucketed": lambda: other.tune(words, bucketed=True),
        # The steps alone, on both sides: evaluation with this objective generates text, which is not a step.
        "ours string": lambda: TuningSteps.over(backbone, prompt, splits, string)(),
        "peft string random": lambda: other.tune(string),
        "peft string bucketed": lambda: other.tune(string, bucketed=True),
        "peft string random as used": lambda: other.tune(string, as_used=True),
    }
    seconds = interleave(sides, size.rounds, device=backbone.device)
    work = {side: float(size.steps * size.batch) for side in sides}
    found.timings("peft_train", backbone.name, hardware, seconds, work, "examples")
    for name, (baseline, ours) in TRAIN.items():
        found.rows.append(throughput(name, backbone.name, hardware, seconds, work, baseline=baseline, ours=ours))
    lengths = [len(row) for row in backbone.encode(splits.train).ids]
    facts = {"source_tokens_mean": mean(lengths), "source_tokens_max": max(lengths), "settings": words.model_dump()}
    found.facts.append({"name": "peft_train", "backbone": backbone.name, "hardware": hardware, **facts})


def _evaluation(found: Findings, backbone: Backbone, size: Size, hardware: str, prompt: SoftPrompt) -> None:
    splits = size.splits(train=size.batch, selection=_HELD, validation=size.examples)
    other, data = PeftPrompt(backbone, prompt, splits), splits.validation
    rows = size.settings(backbone.name, 1).eval_batch_size

    def theirs(bucketed: bool) -> dict[str, float]:
        predicted = other.predict(backbone.encode(data), rows, bucketed=bucketed)
        return compute(data.task, predicted, data.labels, data.groups)

    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: evaluate(backbone, prompt, data, batch_size=rows),
        "peft in order": lambda: theirs(False),
        "peft bucketed": lambda: theirs(True),
    }
    seconds = interleave(sides, size.rounds, device=backbone.device)
    work = {side: float(len(data)) for side in sides}
    found.timings("peft_eval", backbone.name, hardware, seconds, work, "examples")
    for name, (baseline, ours) in EVALUATE.items():
        found.rows.append(throughput(name, backbone.name, hardware, seconds, work, baseline=baseline, ours=ours))
    facts = {"same_metrics": evaluate(backbone, prompt, data, batch_size=rows) == theirs(False), "batch": rows}
    found.facts.append({"name": "peft_eval", "backbone": backbone.name, "hardware": hardware, **facts})


def _accuracy(found: Findings, backbone: Backbone, size: Size, hardware: str) -> None:
    """Tune both from the same prompt, in the same number of steps; mean accuracy over seeds, in points.

    PEFT's accuracy is the last step's; ours the first's or the last's, whichever is better on the selection split.
    """
    settings = size.settings(backbone.name, size.accuracy_steps)
    reached: dict[str, list[float]] = {"ours": [], "peft random": [], "peft bucketed": []}
    splits = size.splits(
        train=min(3000, size.accuracy_steps * size.batch), selection=size.accuracy_examples,
        validation=size.accuracy_examples,
    )  # fmt: skip
    data = splits.validation
    held = backbone.encode(data)
    for seed in range(size.seeds):
        prompt = SoftPrompt.init(backbone, size.length, seed=seed)
        other = PeftPrompt(backbone, prompt, splits)
        ours = tune(backbone, prompt, splits, settings, seed=seed).prompt
        reached["ours"].append(evaluate(backbone, ours, data)["accuracy"])
        for side, bucketed in (("peft random", False), ("peft bucketed", True)):
            other.tune(settings, seed=seed, bucketed=bucketed)
            predicted = other.predict(held, settings.eval_batch_size)
            reached[side].append(compute(data.task, predicted, data.labels, data.groups)["accuracy"])
    points = {side: 100 * mean(values) for side, values in reached.items()}
    for name, side in (("peft_accuracy", "peft random"), ("peft_accuracy_bucketed", "peft bucketed")):
        found.rows.append(Row(name, backbone.name, hardware, points[side], points["ours"], "points"))
    facts = {"accuracy": reached, "steps": size.accuracy_steps, "examples": len(data), "seeds": size.seeds}
    found.facts.append({"name": "peft_accuracy", "backbone": backbone.name, "hardware": hardware, **facts})
