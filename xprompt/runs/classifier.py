"""Use a finished prompt: a run's folder, a saved prompt or a PEFT folder becomes a function from texts to labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from xprompt.backbones.base import Backbone
from xprompt.backbones.loading import load_backbone
from xprompt.config.run_config import RunConfig
from xprompt.data.batching import batches
from xprompt.data.splits import TaskDataset, check_whole
from xprompt.errors import BackboneError, ConfigError, NotFiniteError, StoreError, shown
from xprompt.files import parse_json, path_of
from xprompt.prompts.card import CARD, PromptCard, TaskCard
from xprompt.prompts.peft import CONFIG as PEFT_CONFIG
from xprompt.prompts.peft import from_peft
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.runs.run import RunResult, last_stage
from xprompt.runs.store import RUN_ID, Store
from xprompt.signatures import check_arguments
from xprompt.tasks.custom import as_text, is_text
from xprompt.tasks.example import Example, RawExample, data_error, looks_the_same
from xprompt.tasks.registry import get_task
from xprompt.tasks.superglue import TASKS
from xprompt.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd

Label = bool | int | str
RECORD = "record.json"


@dataclass(frozen=True)
class Prediction:
    """One input's label, as the task's data writes it, and the probability of each label; they sum to 1."""

    label: Label
    probabilities: dict[Label, float]

    @property
    def probability(self) -> float:
        """Of the label."""
        return self.probabilities[self.label]

    def __repr__(self) -> str:
        each = ", ".join(f"{label!r}: {value:.3f}" for label, value in self.probabilities.items())
        return f"Prediction({self.label!r}, {{{each}}})"

    def __str__(self) -> str:
        return f"{self.label} ({100 * self.probability:.1f} %)"


class Classifier:
    """A prompt in front of its backbone, as a function from inputs to labels with probabilities.

    Probabilities are a softmax over the scores of the labels (`Backbone.label_scores`), and not calibrated.

    Attributes:
        backbone, prompt, task; `labels`, as the task's data writes them; `fields`, which an input has.
    """

    def __init__(self, backbone: Backbone, prompt: SoftPrompt, task: Task, max_source: int | None = None) -> None:
        self.backbone, self.task = backbone, task
        self.prompt = prompt.to(backbone.device)
        self.labels: tuple[Label, ...] = task.label_values
        self.fields = TaskCard.of(task).fields
        self._max_source = max_source or backbone.max_source
        self._verbalizer = backbone.verbalizer(task)

    def __repr__(self) -> str:
        labels = ", ".join(map(repr, self.labels))
        return f"Classifier({self.task.name}: {', '.join(self.fields)} → {labels:.200}; on {self.backbone.name})"

    @overload
    def __call__(self, inputs: str | Mapping[str, Any], *, batch_size: int = 64) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, inputs: pd.DataFrame, *, batch_size: int = 64) -> pd.DataFrame: ...
    @overload
    def __call__(self, inputs: Iterable[str | Mapping[str, Any]], *, batch_size: int = 64) -> list[Prediction]: ...
    def __call__(self, inputs: Any, *, batch_size: int = 64) -> Prediction | list[Prediction] | pd.DataFrame:
        """Return the label of each input and the probability of every label.

        Args:
            inputs: a text, where the task has one field; field → text; several of these
                (or `RawExample`s, which know their file and line); or a DataFrame with a column
                for each field, or a row of one. Other keys and columns are not looked at.
            batch_size: inputs a pass.

        Returns:
            a `Prediction`; a list of them; of a DataFrame one with its index, `label` and `p(<label>)` for each label.

        Raises:
            DataError: an input that lacks a field, or holds no text there; names the input and the field. A
                `batch_size` that is no whole number of at least 1.
            NotFiniteError: scores are not finite.
        """
        check_whole("batch_size", batch_size, 1)
        inputs = self._row(inputs)
        if isinstance(inputs, (str, Mapping)):
            return self._predict([self._example(inputs, 0, "the input")], batch_size)[0]
        if hasattr(inputs, "columns") and hasattr(inputs, "to_dict"):
            rows = self._rows(inputs)
            return self._as_frame(inputs, self._predict(rows, batch_size))
        if isinstance(inputs, bytes) or not isinstance(inputs, Iterable):
            raise data_error(
                "clf(…)", f"{type(inputs).__name__} {inputs!r:.60}", "a text, a dict, a list of these, or a DataFrame",
                "pass " + self._call_example(),
            )  # fmt: skip
        examples = [
            self._example(value.data, i, value.where, in_memory=False)
            if isinstance(value, RawExample)
            else self._example(value, i, f"input {i}")
            for i, value in enumerate(inputs)
        ]
        return self._predict(examples, batch_size)

    def _row(self, value: Any) -> Any:
        """Return a row of a DataFrame, a Series that is indexed by the fields, as a mapping; all else as it is."""
        is_series = hasattr(value, "to_dict") and hasattr(value, "index") and not hasattr(value, "columns")
        return value.to_dict() if is_series and set(self.fields) <= set(value.index) else value

    def _rows(self, frame: pd.DataFrame) -> list[Example]:
        columns = list(frame.columns)
        if repeated := [field for field in self.fields if columns.count(field) > 1]:
            raise data_error(
                f"the DataFrame, column '{repeated[0]}'", "it twice", "different names", "rename or remove one"
            )
        missing = [field for field in self.fields if field not in frame.columns]
        if missing:
            raise data_error(
                f"the DataFrame, column '{missing[0]}'", f"columns {', '.join(map(str, columns))}",
                f"a column for each of {', '.join(self.fields)}",
                f"rename a column with df.rename(columns=…){looks_the_same(missing[0], columns)}",
            )  # fmt: skip
        texts_of = [frame[field].tolist() for field in self.fields]
        rows = zip(frame.index, zip(*texts_of, strict=True), strict=True)
        return [
            self._example(dict(zip(self.fields, texts, strict=True)), i, f"row {name!r}")
            for i, (name, texts) in enumerate(rows)
        ]

    def _as_frame(self, frame: pd.DataFrame, predictions: list[Prediction]) -> pd.DataFrame:
        import pandas as pd

        columns: dict[str, list[Any]] = {"label": [p.label for p in predictions]}
        columns |= {f"p({label})": [p.probabilities[label] for p in predictions] for label in self.labels}
        return pd.DataFrame(columns, index=frame.index)

    def _example(self, value: Any, position: int, where: str, *, in_memory: bool = True) -> Example:
        if isinstance(value, str):
            if len(self.fields) > 1:
                raise data_error(
                    where, f"the text {value!r:.60}", f"a text for each of {', '.join(self.fields)}",
                    "pass " + self._call_example(),
                )  # fmt: skip
            value = {self.fields[0]: value}
        value = self._row(value)
        if not isinstance(value, Mapping):
            raise data_error(
                where, f"{type(value).__name__} {value!r:.60}", "a text or a dict", "pass " + self._call_example()
            )
        texts = {field: self.task.clean(_text(value, field, where, in_memory)) for field in self.fields}
        return Example(str(position), str(position), texts, 0)

    def _call_example(self) -> str:
        if len(self.fields) == 1:
            return 'clf("a sentence")'
        return "clf({" + ", ".join(f'"{field}": "…"' for field in self.fields) + "})"

    @torch.no_grad()
    def _predict(self, examples: Sequence[Example], batch_size: int) -> list[Prediction]:
        backbone, vectors = self.backbone, self.prompt()  # (P, H)
        data = TaskDataset(self.task, "input", tuple(examples))
        follows = backbone.label_positions(self._verbalizer)
        encoded = backbone.encode(data, len(vectors), follows, max_source=self._max_source)
        probabilities = torch.zeros(len(data), len(self.labels))  # (N, L)
        for batch in batches(encoded, batch_size, seed=None):
            scores = backbone.label_scores(vectors, batch, self._verbalizer)  # (B, L)
            probabilities[batch.index] = scores.softmax(dim=1).float().cpu()
        if not bool(torch.isfinite(probabilities).all()):
            raise NotFiniteError(
                "the scores of the labels are not finite: the prompt or the backbone holds such values, or they "
                "overflow in the backbone's dtype. Pass dtype='float32'."
            )
        best = probabilities.argmax(dim=1).tolist() if len(data) else []
        return [
            Prediction(self.labels[i], dict(zip(self.labels, row, strict=True)))
            for i, row in zip(best, probabilities.tolist(), strict=True)
        ]


@check_arguments
def classifier(
    prompt: str | Path | RunResult | SoftPrompt,
    *,
    backbone: str | Path | Backbone | None = None,
    task: str | Path | Task | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Classifier:
    """Make a function from texts to labels of a finished prompt.

    Args:
        prompt: a run's folder (`reports/nano/runs/<run ID>`), the folder of a saved prompt, of one of a run's stages or
            of `to_peft`; or a run's result, or a prompt, in memory.
        backbone: in place of the one that is named beside the prompt; needed where none is.
        task: the same for the task: its name, the path of a `task.json`, or a `Task`.
        device: as in `load_backbone`.
        dtype: default: that which the prompt was tuned in; of a backbone that is named here, as in `load_backbone`.

    Raises:
        StoreError: no prompt there, or files that are damaged.
        ConfigError: nothing says which backbone or which task the prompt is for.
        BackboneError: the backbone cannot be loaded, or is not the one that the prompt was tuned on.

    Example:
        >>> import xprompt as xp
        >>> backbone, splits = xp.load_backbone("nano"), xp.load_task("rte", limit_train=64, limit_validation=32)
        >>> settings = xp.PROFILES["nano"].tune.replace(steps=2, eval_every=2)
        >>> prompt, _ = xp.tune(backbone, xp.SoftPrompt.init(backbone, length=4), splits, settings)
        >>> clf = xp.classifier(prompt.save("my-prompt"))
        >>> clf({"premise": "Ann sold the boat.", "hypothesis": "The boat was sold."})
        Prediction('...', {'entailment': 0..., 'not_entailment': 0...})
    """
    held = prompt if isinstance(prompt, SoftPrompt) else None
    folder: Path | None = None
    if held is not None:
        card = held.card
    else:
        record, folder = _locate(prompt)
        card = PromptCard.read(folder)
        if card is None and record is not None:
            card = _card_of_record(record)
        if card is None and isinstance(prompt, RunResult | str | Path) and (folder.parent / RECORD).is_file():
            card = _card_of_record(_record(folder.parent))
        if not folder.is_dir() and record is not None:  # published: only the prompts that its notebooks read
            held = RunResult(record, folder.parent).load_prompt()
    posed = _task(task, card, folder)
    loaded = backbone if isinstance(backbone, Backbone) else _load(backbone, card, folder, device, dtype)
    if held is None:
        assert folder is not None
        is_peft = (folder / PEFT_CONFIG).is_file()
        held = from_peft(folder, loaded, pieces=1) if is_peft else SoftPrompt.load(folder)
    _check_backbone(card, loaded, held)
    return Classifier(loaded, held, posed, card.max_source if card is not None else None)


def _locate(prompt: str | Path | RunResult | SoftPrompt) -> tuple[dict[str, Any] | None, Path]:
    """Return a run's record, where it is one, and the folder of the prompt itself."""
    if isinstance(prompt, RunResult):
        record, folder = prompt.record, prompt.folder
    else:
        folder = path_of(str(prompt)).resolve()
        if any((folder / name).is_file() for name in ("prompt.safetensors", PEFT_CONFIG)):
            return None, folder
        record = _record(folder)
    return record, folder / last_stage(record)


def _record(folder: Path) -> dict[str, Any]:
    """Return the record in a run's folder, checked where the folder is in a store."""
    if folder.parent.name == "runs" and RUN_ID.fullmatch(folder.name):
        store = Store(folder.parents[1])
        record, fault = store.look(folder.name) if folder.exists() else (store.get(folder.name), "")
        if record is not None:
            return record
        if folder.exists():
            raise StoreError(
                f"{folder} is damaged ({fault}): do the run again, or restore its files; `python -m xprompt doctor` "
                "says what of a report is whole."
            )
    try:
        return parse_json((folder / RECORD).read_text(encoding="utf-8"))["record"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        within = sorted(path.parent.relative_to(folder) for path in folder.glob("*/prompt.safetensors"))[:5]
        hint = f" It holds {', '.join(map(str, within))}: name one of these." if within else ""
        raise StoreError(
            f"{folder} holds no prompt: needed a run's folder ({RECORD}), a saved prompt (prompt.safetensors) or a "
            f"PEFT folder ({PEFT_CONFIG}).{hint} Fix: check the path; `python -m xprompt ls runs` lists the runs."
        ) from error


def _card_of_record(record: dict[str, Any]) -> PromptCard | None:
    """Return the card of a run whose prompts have none; None for a custom task, whose declaration no record holds."""
    if record["task"] not in TASKS:
        return None
    config, made = record["config"], record["provenance"]
    settings = {name: config[name] for name in ("task", "profile", "method", "pattern", "revision") if name in config}
    settings["pattern"] = settings.get("pattern", "paper")
    posed = TASKS[record["task"]].with_pattern(RunConfig(**settings).pattern)
    return PromptCard(
        backbone=record["backbone"], revision=config.get("revision"), kind="", dtype=str(made.get("dtype", "")),
        fingerprint=made["backbone_fingerprint"], max_source=config["max_source"], task=TaskCard.of(posed),
        source=record["source"], metrics=record["metrics"], run=record["run"], method=record["method"],
        seed=record["seed"],
    )  # fmt: skip


def _task(given: str | Path | Task | None, card: PromptCard | None, folder: Path | None) -> Task:
    if given is not None:
        return given if isinstance(given, Task) else get_task(given)
    if card is None:
        raise ConfigError(
            f"nothing says which task {_named(folder)} is for ({CARD} is not beside it): pass task= and backbone=, or "
            "save it again with prompt.save(folder, backbone=…, task=…)."
        )
    return card.task.task()


def _load(given: str | Path | None, card: PromptCard | None, folder: Path | None, device: Any, dtype: Any) -> Backbone:
    if given is not None:
        return load_backbone(given, device=device, dtype=dtype)
    name, revision = (card.backbone, card.revision) if card is not None else _peft_backbone(folder)
    if dtype is None and card is not None:
        dtype = card.dtype or None  # as it was tuned: only so can the weights be compared
    try:
        return load_backbone(name, revision=revision, device=device, dtype=dtype)
    except BackboneError as error:
        raise BackboneError(f"{_named(folder)} goes in front of {name}. {error} Or pass backbone=.") from error


def _peft_backbone(folder: Path | None) -> tuple[str, str | None]:
    """Return what PEFT's own configuration names."""
    try:
        config = parse_json(((folder or Path()) / PEFT_CONFIG).read_text(encoding="utf-8"))
        return config["base_model_name_or_path"], config.get("revision")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"nothing says which backbone {_named(folder)} is for: pass backbone=.") from error


def _named(folder: Path | None) -> str:
    return "this prompt" if folder is None else str(folder)


def _check_backbone(card: PromptCard | None, backbone: Backbone, prompt: SoftPrompt) -> None:
    """Refuse another backbone than the prompt's; in another dtype its weights cannot be compared, only their width."""
    width = prompt.embeddings.shape[1]
    same_dtype = card is not None and card.dtype == str(backbone.dtype).removeprefix("torch.")
    if width != backbone.hidden_size or (card is not None and same_dtype and card.fingerprint != backbone.fingerprint):
        raise BackboneError(
            f"the prompt was tuned on other weights than {backbone.name} has here"
            + (f" ({card.backbone}, fingerprint {card.fingerprint}, not {backbone.fingerprint})" if card else "")
            + f"; it is {width} wide, the backbone {backbone.hidden_size}. Load the backbone that it was tuned on."
        )


def _text(value: Mapping[str, Any], field: str, where: str, in_memory: bool) -> str:
    """Return a field's text as a split would hold it: outer white space removed, numbers as JSON writes them.

    A truth value in memory is refused: tables and JSON write it differently, and which was trained on is not known.
    """
    if field not in value:
        raise data_error(
            f"{where}, field '{field}'", f"{', '.join(map(str, value)) or 'nothing'}", "every field of the template",
            f"add it{looks_the_same(field, value)}",
        )  # fmt: skip
    given = value[field]
    if in_memory and isinstance(given, (bool, np.bool_)):
        raise data_error(
            f"{where}, field '{field}'", shown(given, 60), "a text or a number",
            "write it as it was trained on: 'True' or 'False' of a table or rows in memory, 'true' or 'false' of JSON",
        )  # fmt: skip
    text = as_text(given.item() if isinstance(given, np.generic) else given)
    if not is_text(text):
        found = "an empty text" if text == "" else shown(given, 60)
        raise data_error(f"{where}, field '{field}'", found, "a text or a number", "fill it in, or leave the input out")
    return text
