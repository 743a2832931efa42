"""Splits in a few lines: counts, two examples as rendered, and what looks wrong before anything is trained."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from xprompt import nano
from xprompt.config.pattern import fields_in
from xprompt.data.splits import Splits, TaskDataset

PIECES_A_WORD = 2.5  # of plain English `nano` makes about 1.3; above this it spells


def count_labels(data: TaskDataset) -> dict[str, int]:
    """Return label → examples, for every label of the task, those without one included."""
    counts = Counter(data.labels)
    return {str(label): counts[i] for i, label in enumerate(data.task.label_values)}


def describe_splits(splits: Splits, examples: int = 2) -> str:
    """Return the splits as text: counts, labels with their words, and the first examples as the backbone sees them."""
    task = splits.task
    lines = [f"{task.name}: {', '.join(task.metrics)}; from {splits.source}; fingerprint {splits.fingerprint[:12]}"]
    for name, data in splits.parts.items():
        counts = ", ".join(f"{label} {count:,}" for label, count in count_labels(data).items())
        lines.append(f"{name}: {len(data):,} examples ({counts})")
    for number, example in enumerate(splits.train.examples[:examples], start=1):
        lines += [f"example {number}:", *(f"    {line}" for line in task.render(example).split("\n"))]
        lines.append(f"    → {task.label_text(example.label)}  (label {task.label_values[example.label]})")
    return "\n".join(lines)


def warnings_about(splits: Splits) -> list[str]:
    """Return what looks wrong, a sentence each: labels that are missing, examples in both splits, inputs that spell."""
    found = []
    for name, data in splits.parts.items():
        counts = count_labels(data)
        missing = [label for label, count in counts.items() if not count]
        if len(data) and len(missing) == len(counts) - 1:
            found.append(f"{name} has one label alone: nothing can be learned from it, or measured on it.")
        elif len(data) and missing:
            found.append(f"{name} has no example of {', '.join(missing)}.")
        texts: dict[str, set[int]] = {}
        for example in data:
            texts.setdefault(splits.task.render(example), set()).add(example.label)
        contradicted = sum(len(labels) > 1 for labels in texts.values())
        if contradicted:
            found.append(f"{contradicted:,} inputs of {name} stand there with different labels.")
    seen = {splits.task.render(example) for example in splits.train}
    shared = sum(splits.task.render(example) in seen for example in splits.validation)
    if shared:
        found.append(f"{shared:,} of {len(splits.validation):,} validation inputs are in train too.")
    pieces = pieces_a_word(splits.train)
    if pieces > PIECES_A_WORD:
        found.append(
            f"nano has {pieces:.1f} pieces a word for these texts: it spells them letter by letter. Use "
            "--profile smollm2, or another backbone."
        )
    return found


def pieces_a_word(data: TaskDataset, limit: int = 200) -> float:
    """Return how many pieces `nano`'s tokenizer makes of a word, over the first examples' own texts; 0 without any.

    Counted are the fields that the template shows: a group's name is not read by the backbone.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(nano.__file__).parent / "checkpoint" / "tokenizer.json"))
    shown = fields_in(data.task.template)
    texts = [example.fields[name] for example in data.examples[:limit] for name in shown]
    words = sum(len(text.split()) for text in texts)
    return sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts) / words if words else 0.0
