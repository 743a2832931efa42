"""What a saved prompt needs to be used: its backbone, its task and its score, as `xprompt.json` and as a model card."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field, StrictBool, StrictInt, StrictStr, model_validator
from torch import nn

import xprompt
from xprompt.config.pattern import fields_in
from xprompt.config.settings import Settings
from xprompt.errors import ConfigError, StoreError, XPromptError
from xprompt.files import parse_json, path_of, write_atomically
from xprompt.nano.sizes import SIZES
from xprompt.tasks.metrics import METRICS
from xprompt.tasks.superglue import TASKS, parse_fields
from xprompt.tasks.task import Task

CARD, README = "xprompt.json", "README.md"
_MARK = "<!-- Written with the prompt by xprompt; remove this line to keep your own text. -->"
_HUB_NAMES = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
_APACHE = ("HuggingFaceTB/SmolLM2-", "google/t5-")  # how the names of models begin that have this licence
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


class DescribedBackbone(Protocol):
    """The part of a backbone that a card names."""

    name: str
    kind: str
    fingerprint: str
    max_source: int

    @property
    def model(self) -> nn.Module:
        """The language model."""

    @property
    def dtype(self) -> Any:
        """Dtype of the weights."""


class TaskCard(Settings):
    """A task's declaration, without its examples; the fields are those of `Task`."""

    name: str = Field(min_length=1)
    title: str
    template: str
    label_values: tuple[StrictBool | StrictInt | StrictStr, ...]
    label_words: tuple[str, ...]
    label_field: str = "label"
    metrics: tuple[str, ...]
    cut_field: str
    cut_side: Literal["start", "end"] = "end"

    @model_validator(mode="after")
    def _is_consistent(self) -> TaskCard:
        if fields_in(self.template).count(self.cut_field) != 1:
            raise ValueError(f"template needs {{{self.cut_field}}}, the cut_field, exactly once")
        values, words = ({(type(v), v) for v in self.label_values}, {word.strip() for word in self.label_words} - {""})
        if not 2 <= len(self.label_values) == len(values) == len(self.label_words) == len(words):
            raise ValueError("label_values and label_words need two or more, as many of either, all different")
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown or not self.metrics:
            raise ValueError(f"metrics are one or more of {', '.join(METRICS)}, not {list(self.metrics)}")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that the template names, in order."""
        return tuple(dict.fromkeys(fields_in(self.template)))

    @classmethod
    def of(cls, task: Task) -> TaskCard:
        """Return the card of a task."""
        return cls(**{name: getattr(task, name) for name in cls.model_fields})

    def task(self) -> Task:
        """Return the task, which renders and scores as the one it was made of; it has no files of examples."""
        clean = TASKS[self.name].clean if self.name in TASKS else str
        return Task(**dict(self), folder="", parse=partial(parse_fields, self.fields), clean=clean)


class PromptCard(Settings):
    """What is needed to use a prompt: which backbone it goes in front of, and how an input is posed and answered.

    Args:
        backbone: as `load_backbone` takes it; the whole path of a local folder or file.
        revision: the commit of a hub model.
        kind, dtype, fingerprint: of the backbone that the prompt was tuned on.
        max_source: longest source in tokens, without the prompt.
        source: where the examples came from.
        metrics: on the reported split, each in [0, 1]; empty where it was not reported.
        run, method, seed: of the run that left it.
    """

    format: Literal[1] = 1
    version: str = xprompt.__version__
    backbone: str
    revision: str | None = None
    kind: str
    dtype: str
    fingerprint: str
    max_source: int = Field(ge=1)
    task: TaskCard
    source: str = ""
    metrics: dict[str, float] = {}
    run: str = ""
    method: str = ""
    seed: int | None = None

    @classmethod
    def of(cls, backbone: DescribedBackbone, task: Task, source: str = "", **more: Any) -> PromptCard:
        """Return the card of a prompt for this backbone and task.

        Args:
            more: `metrics`, `run`, `method`, `seed`, `revision`.
        """
        place = path_of(backbone.name)
        is_local = backbone.name not in (*SIZES, "smollm2") and place.exists()
        more.setdefault("revision", getattr(getattr(backbone.model, "config", None), "_commit_hash", None))
        return cls(
            backbone=str(place.resolve()) if is_local else backbone.name,
            kind=backbone.kind, dtype=str(backbone.dtype).removeprefix("torch."), fingerprint=backbone.fingerprint,
            max_source=backbone.max_source, task=TaskCard.of(task), source=source, **more,
        )  # fmt: skip

    @property
    def score(self) -> float | None:
        """The mean of the metrics, in [0, 1]; None where there are none."""
        return sum(self.metrics.values()) / len(self.metrics) if self.metrics else None

    @property
    def base_model(self) -> str:
        """The backbone's name on the hub, or what comes nearest: the name of its folder or file."""
        return _HUB_NAMES.get(self.backbone) or (
            self.backbone if _HUB_ID.fullmatch(self.backbone) else Path(self.backbone).name
        )

    @classmethod
    def read(cls, folder: str | Path) -> PromptCard | None:
        """Return the card beside a prompt; None where there is none. Raises `StoreError` where it is damaged."""
        path = path_of(folder) / CARD
        try:
            return cls(**parse_json(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, XPromptError) as error:
            raise StoreError(f"{path} cannot be read ({error}): save the prompt again.") from error


def card_for(
    card: PromptCard | None, backbone: DescribedBackbone | None, task: Task | None, more: dict[str, Any]
) -> PromptCard | None:
    """Return a prompt's card with what is given in its place. Raises `ConfigError` where that names half of one."""
    if backbone is not None and task is not None:
        return PromptCard.of(backbone, task, **more)
    if backbone is None and task is None and not (more and card is None):
        return card.replace(**more) if card is not None and more else card
    raise ConfigError("a saved prompt's card needs both the backbone and the task: pass backbone= and task=.")


def write_card(folder: Path, card: PromptCard | None, library: Literal["xprompt", "peft"], about: str) -> None:
    """Write `xprompt.json` and the model card `README.md` beside a prompt; without a card, remove those of another.

    A README that somebody else wrote is left as it is.

    Args:
        about: what the prompt is, in a sentence: its length and what is pruned.
    """
    readme = folder / README
    ours = not readme.exists() or _MARK in readme.read_text(encoding="utf-8", errors="replace")
    if card is None:
        for stale in [folder / CARD, *([readme] if ours else [])]:
            stale.unlink(missing_ok=True)
        return
    write_atomically(folder / CARD, card.model_dump_json(indent=1) + "\n")
    if ours:
        write_atomically(readme, model_card(card, library, about))


def model_card(card: PromptCard, library: Literal["xprompt", "peft"], about: str) -> str:
    """Return the model card: YAML front matter as the hub reads it, then what the prompt is and how it is used."""
    from huggingface_hub import EvalResult, ModelCardData

    task, dataset = card.task, re.sub(r"\W+", "_", card.task.name).lower()
    licence = "apache-2.0" if card.base_model in SIZES or card.base_model.startswith(_APACHE) else None
    dataset_name = f"{task.title} (generated)" if card.source == "nano" else task.title
    results = [
        EvalResult("text-classification", dataset, dataset_name, name, value) for name, value in card.metrics.items()
    ]
    data = ModelCardData(
        base_model=card.base_model, library_name=library, license=licence, pipeline_tag="text-classification",
        tags=["prompt-tuning", "soft-prompt", "xprompt"], model_name=f"{task.name}-prompt" if results else None,
        eval_results=results or None,
    )  # fmt: skip
    example = (
        '"a sentence"' if len(task.fields) == 1 else "{" + ", ".join(f'"{field}": "…"' for field in task.fields) + "}"
    )
    labels = zip(task.label_values, task.label_words, strict=True)
    scores = [f"| {name} | {100 * value:.1f} |" for name, value in card.metrics.items()]
    lines = [
        "---", data.to_yaml(), "---", _MARK, "",
        f"# A soft prompt for {task.title}", "",
        f"{about} It goes in front of the frozen language model `{card.base_model}`"
        + (f" at revision `{card.revision}`" if card.revision else "") + ".", "",
        "```python", "import xprompt as xp", "", 'clf = xp.classifier("this folder")', f"clf({example})", "```", "",
        "| | |", "|---|---|", f"| template | `{task.template}` |".replace("\n", "⏎"),
        *(f"| label `{value}` | answered by `{word}` |" for value, word in labels),
        f"| longest input | {card.max_source} tokens |", *scores,
        *([f"| made by | {card.method}, seed {card.seed}, run {card.run} |"] if card.run else []), "",
    ]  # fmt: skip
    return "\n".join(lines)
