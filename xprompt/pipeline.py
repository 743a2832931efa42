"""A run from its settings to its record: tune, score, prune, rewind, re-train, and the baselines beside it.

Owns the order of the stages and what a record holds. Never trains or prunes by itself.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xprompt
from xprompt import metrics
from xprompt.backbone import Backbone, load_backbone
from xprompt.config import RunConfig
from xprompt.data import Splits, load_task
from xprompt.evaluation import Evaluation, evaluate_many
from xprompt.importance_scores import importance
from xprompt.prompts import SoftPrompt
from xprompt.provenance import provenance
from xprompt.pruning import Order
from xprompt.search import Candidate, best, grouped, search_grid
from xprompt.settings import TuneSettings
from xprompt.store import Store, run_name
from xprompt.tasks import get_task
from xprompt.training import History, fine_tune, tune, tune_many


@dataclass(frozen=True)
class RunResult:
    """A run's record and, where its method has one, the prompt it ends with."""

    record: dict[str, Any]
    folder: Path

    @property
    def metrics(self) -> dict[str, float]:
        """On the report split, each in [0, 1]."""
        return self.record["metrics"]

    @property
    def score(self) -> float:
        """The mean of the metrics, in [0, 1]."""
        return self.record["score"]

    def load_prompt(self, stage: str = "") -> SoftPrompt:
        """The prompt after a stage: init_prompt, tuned_prompt, pruned_prompt or rewound_prompt; the last where empty."""
        return SoftPrompt.load(self.folder / (stage or self.record["details"]["final_stage"]))


@dataclass
class _Outcome:
    """What a method hands back to be recorded."""

    report: Evaluation
    num_params: int
    history: list[dict[str, Any]] = field(default_factory=list)
    prompts: dict[str, SoftPrompt] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    num_cut: int = 0
    seconds_before: float = 0.0


@dataclass(frozen=True)
class _Setting:
    """What every method works with."""

    config: RunConfig
    backbone: Backbone
    splits: Splits
    store: Store
    progress: bool

    def report(self, prompt: SoftPrompt | None, backbone: Backbone | None = None) -> Evaluation:
        """Evaluate on the split that is reported."""
        tune_settings: TuneSettings = self.config.tune  # type: ignore[assignment]
        return evaluate_many(
            backbone or self.backbone, [prompt], self.splits.validation,
            batch_size=tune_settings.eval_batch_size, objective=tune_settings.objective,
        )[0]  # fmt: skip


def run(
    config: RunConfig, store: Store | str | Path | None = None, *, progress: bool = False, force: bool = False
) -> RunResult:
    """Do a run, or read it where the store has it already.

    A run's name is the hash of its settings, its examples, its backbone's weights and the library's version.

    Args:
        config: the settings; see `RunConfig`.
        store: where records live; default `reports/<profile>`.
        progress: show bars.
        force: run again even where a record exists, and replace it.

    Raises:
        ConfigError, DataError, BackboneError: before any training starts.
    """
    store = Store(Path("reports") / config.profile) if store is None else store
    store = store if isinstance(store, Store) else Store(store)
    get_task(config.task)
    splits = load_splits(config)
    backbone = _backbone(config.backbone, config.dtype, config.revision, config.max_source)
    name = run_name(config.identity(), splits.fingerprint, backbone.fingerprint, xprompt.__version__)
    record = None if force else store.get(name)
    if record is None:
        with store.lock(name):
            record = None if force else store.get(name)  # another process may have done it meanwhile
            if record is None:
                record = _run(_Setting(config, backbone, splits, store, progress), name)
    return RunResult(record, store.path(name))


def load_splits(config: RunConfig) -> Splits:
    """The examples of a run: few-shot, limited, and with a selection split where the protocol holds one out."""
    splits = _task(config.task, config.source, config.few_shot, config.limit_train, config.limit_validation,
                   config.seed if isinstance(config.few_shot, int) else 0)  # fmt: skip
    if config.protocol == "held_out":
        return _hold_out(splits, config.selection, config.seed, config.selection_limit)
    return splits


@functools.lru_cache(maxsize=8)
def _task(name: str, source: str, few_shot: Any, limit_train: Any, limit_validation: Any, seed: int) -> Splits:
    return load_task(
        name, source, seed=seed, few_shot=few_shot, limit_train=limit_train, limit_validation=limit_validation
    )


def _hold_out(splits: Splits, share: float, seed: int, at_most: int) -> Splits:
    return splits.hold_out(share, seed=seed, at_most=at_most)


@functools.lru_cache(maxsize=1)
def _backbone(name: str, dtype: str | None, revision: str | None, max_source: int) -> Backbone:
    return load_backbone(name, dtype=dtype, revision=revision, max_source=max_source)


def _run(setting: _Setting, name: str) -> dict[str, Any]:
    config, splits, backbone = setting.config, setting.splits, setting.backbone
    made = provenance(backbone.device, backbone.dtype)
    started = time.perf_counter()
    outcome = _METHODS[config.method](setting)
    seconds = time.perf_counter() - started
    held = splits.selection
    record = {
        "run": name,
        "profile": config.profile,
        "backbone": config.backbone,
        "task": config.task,
        "method": config.method,
        "seed": config.seed,
        "protocol": config.protocol,
        "config": config.identity(),
        "metrics": outcome.report.metrics,
        "score": outcome.report.score,
        "majority": metrics.majority(
            splits.task, splits.train.labels, splits.validation.labels, splits.validation.groups
        ),
        "selection_split": held.split if held is not None else splits.validation.split,
        "report_split": splits.validation.split,
        "num_params": outcome.num_params,
        "counts": {
            "train": len(splits.train),
            "selection": len(held) if held is not None else len(splits.validation),
            "validation": len(splits.validation),
            "cut": outcome.num_cut,
        },
        "seconds": {"total": round(seconds, 2), "with_prompt_tuning": round(seconds + outcome.seconds_before, 2)},
        "history": outcome.history,
        "details": outcome.details | {"final_stage": next(reversed(outcome.prompts), None)},
        "provenance": made | {
            "backbone_fingerprint": backbone.fingerprint,
            "data_fingerprint": splits.fingerprint,
            "backbone_params": backbone.num_params,
            "dropout": config.tune.dropout if config.tune else False,
        },
    }

    def write_files(folder: Path) -> None:
        for stage, prompt in outcome.prompts.items():
            prompt.save(folder / stage)

    setting.store.put(record, write_files)
    stored = setting.store.get(name)
    assert stored is not None
    return stored


def _entries(stage: str, history: History) -> list[dict[str, Any]]:
    return [{"stage": stage, **entry} for entry in history.entries]


def _summary(history: History) -> dict[str, Any]:
    return {k: v for k, v in asdict(history).items() if k != "entries"}


def _majority(setting: _Setting) -> _Outcome:
    splits = setting.splits
    commonest = max(range(len(splits.task.label_words)), key=splits.train.labels.count)
    found = metrics.compute(
        splits.task, [commonest] * len(splits.validation), splits.validation.labels, splits.validation.groups
    )
    return _Outcome(Evaluation(found, metrics.score(found), float("nan"), ()), 0)


def _zero_shot(setting: _Setting) -> _Outcome:
    return _Outcome(setting.report(None), 0)


def _fine_tuning(setting: _Setting) -> _Outcome:
    config = setting.config
    tuned, history = fine_tune(
        setting.backbone, setting.splits, config.fine_tune, seed=config.seed, progress=setting.progress  # type: ignore[arg-type]
    )
    return _Outcome(
        setting.report(None, tuned), tuned.num_params, _entries("fine_tuning", history),
        details=_summary(history), num_cut=history.num_cut,
    )  # fmt: skip


def _prompt_tuning(setting: _Setting, length: int | None = None) -> _Outcome:
    config = setting.config
    start = SoftPrompt.init(
        setting.backbone, length or config.length, config.init or "vocab", config.seed,
        pieces=config.pieces, task=setting.splits.task,
    )  # fmt: skip
    tuned, history = tune(
        setting.backbone, start, setting.splits, config.tune, seed=config.seed, progress=setting.progress  # type: ignore[arg-type]
    )
    return _Outcome(
        setting.report(tuned), tuned.num_params, _entries("prompt_tuning", history),
        {"init_prompt": start, "tuned_prompt": tuned}, _summary(history), history.num_cut,
    )  # fmt: skip


def _tuned(setting: _Setting) -> tuple[SoftPrompt, float, int]:
    """The tuned prompt that pruning starts from: the prompt-tuning run of the same settings, done once."""
    before = run(setting.config.but(method="prompt_tuning"), setting.store, progress=setting.progress)
    prompt = before.load_prompt("tuned_prompt").to(setting.backbone.device)
    return prompt, before.record["seconds"]["total"], before.record["counts"]["cut"]


def _xprompt(setting: _Setting, order: Order = "lowest") -> _Outcome:
    config, backbone = setting.config, setting.backbone
    assert config.prune is not None and config.tune is not None
    tuned, seconds, num_cut = _tuned(setting)
    began = time.perf_counter()
    scores = importance(
        backbone, tuned, setting.splits.train, limit=config.prune.importance_limit,
        batch_size=config.tune.batch_size, objective=config.tune.objective, progress=setting.progress,
    )  # fmt: skip
    scored = time.perf_counter() - began
    tried = search_grid(
        backbone, tuned, scores, setting.splits, config.prune, order=order, seed=config.seed,
        progress=setting.progress,
    )  # fmt: skip
    chosen = best(tried)
    final = chosen.prompt
    details = {
        "token_ratio": chosen.token_ratio,
        "piece_ratio": chosen.piece_ratio,
        "surviving_tokens": int(final.surviving_tokens.sum()),
        "surviving_pieces": int(final.surviving_pieces.sum()),
        "token_mask": final.surviving_tokens.int().tolist(),
        "piece_mask": final.surviving_pieces.int().tolist(),
        "importance": {"token": scores.token.tolist(), "piece": scores.piece.tolist(),
                       "num_examples": scores.num_examples, "seconds": round(scored, 3)},  # fmt: skip
        "candidates": [_candidate(c) for c in tried],
        **_summary(chosen.history),
    }
    return _Outcome(
        setting.report(final), final.num_params, _entries("rewind", chosen.history),
        {"tuned_prompt": tuned, "pruned_prompt": chosen.pruned, "rewound_prompt": final}, details, num_cut, seconds,
    )  # fmt: skip


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "token_ratio": candidate.token_ratio,
        "piece_ratio": candidate.piece_ratio,
        "num_params": candidate.prompt.num_params,
        "selection_score": candidate.score,
        "best_step": candidate.history.best_step,
        "before_retraining": candidate.history.entries[0]["selection_score"],
    }


def _matched(setting: _Setting) -> _Outcome:
    """Prompt tuning given what XPrompt gets after it: the same extra steps, the same number of candidates.

    Nothing is pruned; the candidates differ in their data order, and the best on the selection split is kept.
    """
    config = setting.config
    assert config.prune is not None
    tuned, seconds, num_cut = _tuned(setting)
    seeds = [config.seed + 1000 * i for i in range(len(config.prune.grid()))]
    results = []
    for group in grouped(seeds, config.prune.side_by_side):
        results += tune_many(
            setting.backbone, [tuned] * len(group), setting.splits, [config.prune.retune] * len(group),
            seeds=group, progress=setting.progress, describe=f"matched {len(results) + len(group)}/{len(seeds)}",
        )  # fmt: skip
    chosen = max(results, key=lambda r: r.history.best_score)
    details = {"candidates": [{"selection_score": r.history.best_score} for r in results], **_summary(chosen.history)}
    return _Outcome(
        setting.report(chosen.prompt), chosen.prompt.num_params, _entries("matched", chosen.history),
        {"tuned_prompt": chosen.prompt}, details, num_cut, seconds,
    )  # fmt: skip


def _length(setting: _Setting) -> _Outcome:
    """Prompt tuning from the start at the number of tokens that survived XPrompt. Source: paper §5.3."""
    pruned = run(setting.config.but(method="xprompt"), setting.store, progress=setting.progress)
    return _prompt_tuning(setting, length=pruned.record["details"]["surviving_tokens"])


_METHODS: dict[str, Callable[[_Setting], _Outcome]] = {
    "majority": _majority,
    "zero_shot": _zero_shot,
    "fine_tuning": _fine_tuning,
    "prompt_tuning": _prompt_tuning,
    "prompt_tuning_matched": _matched,
    "prompt_tuning_length": _length,
    "xprompt": _xprompt,
    "xprompt_reversed": functools.partial(_xprompt, order="highest"),
    "xprompt_random": functools.partial(_xprompt, order="random"),
}
