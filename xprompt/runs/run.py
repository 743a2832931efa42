"""A run from its settings to its record: what it starts from first, then its own method, under a lock."""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xprompt
from xprompt import html
from xprompt.backbones.base import Backbone
from xprompt.backbones.devices import threads_limited_to
from xprompt.backbones.hub import EMBEDDED
from xprompt.backbones.loading import load_backbone
from xprompt.config.run_config import RunConfig
from xprompt.data.loading import load_task
from xprompt.data.splits import Splits
from xprompt.distributed import process_group
from xprompt.errors import ConfigError, MemoryLimitError, StoreError, XPromptError, is_out_of_memory, shown
from xprompt.files import inside, path_of, state_of, try_folder
from xprompt.methods.base import MethodContext, load_method
from xprompt.prompts.collection import load_from_collection, names_in_collection
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.runs.planned_runs import threads_of
from xprompt.runs.provenance import provenance
from xprompt.runs.store import Store, run_id
from xprompt.signatures import check_arguments
from xprompt.streams import stream_seeds
from xprompt.tasks import metrics
from xprompt.tasks.registry import get_task
from xprompt.tasks.superglue import TASKS
from xprompt.training.callbacks import Callback, Callbacks
from xprompt.training.tensorboard import EventFiles, can_watch


@dataclass(frozen=True)
class RunResult:
    """A run's record and, where its method has one, the prompt it ends with."""

    record: dict[str, Any]
    folder: Path

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {100 * value:.1f}" for name, value in self.metrics.items())
        return f"RunResult({self._title()}, {self.record['protocol']}: {scores}; {str(self.folder)[-150:]})"

    def _title(self) -> str:
        return f"{self.record['task']} {self.record['method']} seed {self.record['seed']}"

    def _repr_html_(self) -> str:
        """Show the metrics beside the majority's, and the selection score while it was trained."""
        majority = self.record.get("majority") or {}
        rows = [["metric", "%", "majority class"]]
        for name, value in self.metrics.items():
            rows.append([name, f"{100 * value:.1f}", f"{100 * majority[name]:.1f}" if name in majority else ""])
        title = f"{self._title()}: {self.record['num_params']:,} trained parameters"
        return html.table(rows, title) + html.history(self.record["history"])

    @property
    def metrics(self) -> dict[str, float]:
        """On the report split, each in [0, 1]."""
        return self.record["metrics"]

    @property
    def score(self) -> float:
        """The mean of the metrics, in [0, 1]."""
        return self.record["score"]

    def load_prompt(self, stage: str = "") -> SoftPrompt:
        """Load the prompt after a stage: init_prompt, tuned_prompt, pruned_prompt, rewound_prompt; "": the last.

        Raises `StoreError` where it is not there: a published report keeps only the prompts that its notebooks read,
        and some methods leave none.
        """
        stage = stage or last_stage(self.record)
        if self.folder.exists():
            return SoftPrompt.load(inside(self.folder, stage))
        return load_from_collection(Store(self.folder.parents[1]).prompts, f"{self.record['run']}/{stage}")


def last_stage(record: Mapping[str, Any]) -> str:
    """Return the last stage of a run that left a prompt. Raises `StoreError` where its method leaves none."""
    stage = record["details"].get("final_stage")
    if stage is None:
        raise StoreError(
            f"run {record['run']} ({record['method']} of {record['task']}) left no prompt: its method has none that "
            "goes in front of an input. Choose a run of prompt_tuning or xprompt."
        )
    return stage


@dataclass(frozen=True)
class _How:
    """What changes no number of a run: bars, event files, callbacks, the time between two saved states, devices."""

    progress: bool
    watch: bool
    save_every: float
    device_map: str | None
    wait: bool
    callbacks: tuple[Callback, ...] = ()


#: Bytes that a store needs at least before a run is done: a few prompts, a record and a state to resume from.
ROOM = 16 * 2**20


@check_arguments
def run(
    config: RunConfig,
    store: Store | str | Path | None = None,
    *,
    progress: bool = False,
    force: bool = False,
    watch: bool = True,
    save_every: float = 30.0,
    device_map: str | None = None,
    wait: bool = True,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Do a run, or read it where the store has it already. The run that it starts from is done, or read, first.

    A run's ID is the hash of its settings, its examples, its backbone (weights, configuration and tokenizer) and the
    library's version.

    A run that is interrupted is resumed by the next call, to the same numbers: the state of its loops lies in
    <store>/runs/.unfinished/<run ID> until its record is written.

    Args:
        config: the settings; see `RunConfig`.
        store: where records live; default `reports/<profile>`.
        progress: show bars.
        force: run again even where a record exists, and replace it.
        watch: write TensorBoard event files to <store>/watch while it goes, where tensorboard is installed.
        save_every: seconds of training after which an interruption may cost work; a run that is done sooner writes
            no state.
        device_map: spread the backbone over several devices; see `load_backbone`.
        wait: where another process does the run, or one that it starts from, wait until it is done.
        callbacks: called around every training loop that is done now; a run that is read calls none.

    None of `progress`, `watch`, `save_every`, `device_map`, `wait` and `callbacks` is part of a run's ID.

    Raises:
        ConfigError, DataError, BackboneError: before any training starts.
        StoreError: the store cannot be written, or has no room; before anything is loaded where it holds nothing yet,
            before any training where it does.
        HeldError: another process does the run, and `wait` is False.
        NotFiniteError: training diverged.
        MemoryLimitError: there is too little memory.
    """
    if isinstance(save_every, bool) or not isinstance(save_every, (int, float)) or not 0 <= save_every < math.inf:
        raise ConfigError(f"save_every {shown(save_every)}: give seconds, a number of 0 or more.")
    get_task(config.task)  # before a folder is made
    store = _store(config, store)
    if store.is_empty:
        try_folder(store.runs, ROOM)
    elif process_group().is_main:
        store.clear_leftovers()
    with _memory_limit(config):
        return _read_or_do(config, store, _How(progress, watch, save_every, device_map, wait, tuple(callbacks)), force)


@contextlib.contextmanager
def _memory_limit(config: RunConfig) -> Iterator[None]:
    """Turn what allocators raise into one error."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if isinstance(error, XPromptError) or not is_out_of_memory(error):
            raise
        raise MemoryLimitError(
            f"{config.method} on {config.task} needs more memory than there is ({type(error).__name__}): set "
            "tune.accumulation or gradient_checkpointing, or dtype=bfloat16; `python -m xprompt plan` says what fits."
        ) from error


def _read_or_do(
    config: RunConfig, store: Store, how: _How, force: bool = False, with_prompts: bool = False
) -> RunResult:
    """Read a run, or do it where it is not there; `with_prompts`: also where only its record is, as of a published one.

    A run that starts from another needs its prompts.
    """
    result = None if force else _read(config, store, how.device_map, with_prompts)
    if result is None:
        parents = tuple(_read_or_do(parent, store, how, with_prompts=True) for parent in config.parents)
        result = _do(config, store, how, parents, force, with_prompts)
    return result


@check_arguments
def find(config: RunConfig, store: Store | str | Path | None = None) -> RunResult | None:
    """Return a run that the store has, or None; nothing is run. Arguments and errors as `run`'s."""
    return _read(config, _store(config, store))


def _read(
    config: RunConfig, store: Store, device_map: str | None = None, with_prompts: bool = False
) -> RunResult | None:
    """Read a run; of processes that share one, what the main process finds counts for all."""
    return _get(_prepare(config, device_map)[2], store, with_prompts)


def _get(name: str, store: Store, with_prompts: bool = False) -> RunResult | None:
    record = store.get(name) if process_group().is_main else None
    if with_prompts and record is not None and not _has_prompts(name, store):
        record = None
    if not process_group().broadcast_from_main(record is not None):
        return None
    record = store.get(name) if record is None else record
    if not process_group().all_equal(int(record is not None)):
        raise StoreError(
            f"run {name}: the main process finds it in {store.root}, and another one does not. Fix: give all processes "
            "of a run a folder that they share, by --output."
        )
    return None if record is None else RunResult(record, store.path(name))


def _has_prompts(name: str, store: Store) -> bool:
    kept = names_in_collection(store.prompts)
    return store.path(name).exists() or any(prompt.startswith(f"{name}/") for prompt in kept)


def _do(
    config: RunConfig, store: Store, how: _How, parents: tuple[RunResult, ...], force: bool, with_prompts: bool
) -> RunResult:
    """Do one run, its parents at hand, unless another process has done it meanwhile."""
    splits, backbone, name = _prepare(config, how.device_map)
    with store.lock(name, -1 if how.wait else 0) if process_group().is_main else contextlib.nullcontext():
        if force or _get(name, store, with_prompts) is None:
            known = None if force else store.get(name)  # a record alone
            try_folder(store.runs, ROOM)
            events = store.root / "watch" / f"{splits.task.name}-{config.method}-seed{config.seed}-{name}"
            callbacks = Callbacks(
                [*([EventFiles(events)] if how.watch and can_watch() else []), *how.callbacks],
                store.unfinished / name,
                how.save_every,
            )
            _record(MethodContext(config, backbone, splits, parents, how.progress, callbacks), name, store)
            if known is not None and process_group().is_main:
                _warn_if_other(known, store.get(name))
    process_group().barrier()
    result = _get(name, store)
    assert result is not None, "the run was written a moment ago"
    return result


def _warn_if_other(known: Mapping[str, Any], again: Mapping[str, Any] | None) -> None:
    """Warn where a run that was done again for its prompts is not what its record said: the new one counts now."""
    if again is not None and again["predictions"] != known["predictions"]:
        warnings.warn(
            f"run {known['run']} ({known['method']} of {known['task']}, seed {known['seed']}), done again for its "
            f"prompts, scores {100 * again['score']:.1f} where its record had {100 * known['score']:.1f}: another "
            "machine or version of the code computes otherwise. Tables from now on have the new score; to keep the "
            "old ones, work in a copy of the report.",
            RuntimeWarning, stacklevel=2,
        )  # fmt: skip


def _store(config: RunConfig, store: Store | str | Path | None) -> Store:
    return store if isinstance(store, Store) else Store(Path("reports") / config.profile if store is None else store)


def _prepare(config: RunConfig, device_map: str | None = None) -> tuple[Splits, Backbone, str]:
    """A run's examples, its backbone and its name."""
    splits = load_splits(config)
    state = _state(config.backbone)
    backbone = _backbone(config.backbone, config.dtype, config.revision, config.max_source, device_map, state)
    name = run_id(_identity(config, splits), splits.fingerprint, backbone.fingerprint, xprompt.__version__)
    return splits, backbone, name


def _state(name: str) -> tuple[tuple[str, int, int], ...]:
    """The state of the files that a source or backbone names; () for names that mean no folder, whatever lies here."""
    return () if name in (*EMBEDDED, "hub") else state_of(name)


def load_splits(config: RunConfig) -> Splits:
    """The examples of a run: few-shot, limited, and with a selection split where the protocol holds one out."""
    load = _task if config.task in TASKS else _task.__wrapped__  # a declaration's files may lie anywhere
    splits = load(
        config.task, config.pattern, config.source, config.few_shot, config.limit_train, config.limit_validation,
        config.seed if isinstance(config.few_shot, int) else 0, _state(config.source),
    )  # fmt: skip
    if config.protocol == "held_out":
        return splits.hold_out(config.selection, seed=config.seed, at_most=config.selection_limit)
    return splits


def _identity(config: RunConfig, splits: Splits) -> dict[str, Any]:
    """Return what a run's ID is made of; a custom task counts by its name, not by where its declaration lies."""
    identity = config.identity() | {"task": splits.task.name}
    if config.source_tasks:  # whose examples the result depends on too
        sources = [load_splits(source) for source in config.source_configs()]
        identity["source_tasks"] = {source.task.name: source.fingerprint for source in sources}
    return identity


@functools.lru_cache(maxsize=8)
def _task(
    name: str, pattern: Any, source: str, few_shot: Any, limit_train: Any, limit_validation: Any, seed: int, state: Any
) -> Splits:
    del state  # that of the source's files: of another one nothing is kept
    return load_task(
        get_task(name).with_pattern(pattern),
        source,
        seed=seed,
        few_shot=few_shot,
        limit_train=limit_train,
        limit_validation=limit_validation,
    )


_held: dict[Any, Backbone] = {}  # the last backbone of this process, by what it was asked for


def _backbone(
    name: str, dtype: str | None, revision: str | None, max_source: int, device_map: str | None, state: Any
) -> Backbone:
    key = (name, dtype, revision, max_source, device_map, state)
    if key not in _held:
        _held.clear()  # before the next one is loaded: memory need not hold both
        spread = {} if device_map is None else {"device_map": device_map}
        _held[key] = load_backbone(name, dtype=dtype, revision=revision, max_source=max_source, **spread)
    return _held[key]


def _record(context: MethodContext, name: str, store: Store) -> None:
    """Do the method's work and write its record."""
    config, splits, backbone = context.config, context.splits, context.backbone
    started = time.perf_counter()
    with threads_limited_to(threads_of(config)):
        made = provenance(backbone.device, backbone.dtype, backbone.model)
        outcome = load_method(config.method)(context)
    seconds = time.perf_counter() - started + context.callbacks.resumed_seconds
    record = {
        "run": name,
        "profile": config.profile,
        "backbone": Path(config.backbone).name if path_of(config.backbone).exists() else config.backbone,
        "source": splits.source if splits.source.startswith(("nano", "hub")) else Path(splits.source).name,
        "task": splits.task.name,
        "method": config.method,
        "seed": config.seed,
        "protocol": config.protocol,
        "config": _identity(config, splits),
        "metrics": outcome.report.metrics,
        "score": outcome.report.score,
        "predictions": list(outcome.report.predictions),
        "majority": metrics.majority(
            splits.task, splits.train.labels, splits.validation.labels, splits.validation.groups
        ),
        "selection_split": splits.selected_on.split,
        "report_split": splits.validation.split,
        "num_params": outcome.num_params,
        "counts": {
            "train": len(splits.train),
            "selection": len(splits.selected_on),
            "validation": len(splits.validation),
            "cut": outcome.num_cut,
        },
        "seconds": {"total": round(seconds, 2), "with_prompt_tuning": round(seconds + outcome.seconds_before, 2)},
        "history": outcome.history,
        "details": outcome.details | {"final_stage": next(reversed(outcome.prompts), None)},
        "provenance": made
        | {
            "backbone_fingerprint": backbone.fingerprint,
            "data_fingerprint": splits.fingerprint,
            "backbone_params": backbone.num_params,
            "dropout": config.training.dropout,
            "random_streams": stream_seeds(config.seed),
        },
    }

    def write_files(folder: Path) -> None:
        for stage, prompt in outcome.prompts.items():
            last = prompt is next(reversed(outcome.prompts.values()))
            facts = {"run": name, "method": config.method, "seed": config.seed, "source": record["source"]}
            facts |= {"revision": config.revision} if config.revision else {}
            facts["metrics"] = outcome.report.metrics if last else {}
            prompt.save(folder / stage, backbone=backbone, task=splits.task, **facts)

    if process_group().is_main:
        store.put(record, write_files)
        shutil.rmtree(store.unfinished / name, ignore_errors=True)
