"""What each method does between a backbone with its data and a reported score: XPrompt, its controls, the baselines.

Owns the stages of each method, in order. Never reads or writes a record: `pipeline` does.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from xprompt.backbones.base import Backbone
from xprompt.config.run_config import RunConfig
from xprompt.data.splits import Splits
from xprompt.methods.ratio_search import Tried, best, cost, retrain, search
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.pruning.importance import importance
from xprompt.pruning.prune import Order
from xprompt.tasks import metrics
from xprompt.training.callbacks import Along
from xprompt.training.candidate import History
from xprompt.training.evaluation import Evaluation, evaluate_many
from xprompt.training.tune import fine_tune, tune


@dataclass
class Outcome:
    """What a method hands back to be recorded."""

    report: Evaluation
    num_params: int
    history: list[dict[str, Any]] = field(default_factory=list)
    prompts: dict[str, SoftPrompt] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    num_cut: int = 0
    seconds_before: float = 0.0


@dataclass(frozen=True)
class Setting:
    """What every method works with."""

    config: RunConfig
    backbone: Backbone
    splits: Splits
    run: Callable[[RunConfig], Any]  # another run that this one builds on: done once, else read
    progress: bool
    along: Along = field(default_factory=Along)

    def report(self, prompt: SoftPrompt | None, backbone: Backbone | None = None) -> Evaluation:
        """Evaluate on the split that is reported."""
        return evaluate_many(
            backbone or self.backbone, [prompt], self.splits.validation,
            batch_size=self.config.tune.eval_batch_size, objective=self.config.tune.objective,
        )[0]  # fmt: skip


def _entries(stage: str, history: History) -> list[dict[str, Any]]:
    return [{"stage": stage, **entry} for entry in history.entries]


def _summary(history: History) -> dict[str, Any]:
    return {k: v for k, v in asdict(history).items() if k != "entries"}


def _majority(setting: Setting) -> Outcome:
    splits = setting.splits
    reported = splits.validation
    found = metrics.majority(splits.task, splits.train.labels, reported.labels, reported.groups)
    return Outcome(Evaluation(found, metrics.score(found), float("nan"), ()), 0)


def _zero_shot(setting: Setting) -> Outcome:
    return Outcome(setting.report(None), 0)


def _fine_tuning(setting: Setting) -> Outcome:
    config = setting.config
    tuned, history = fine_tune(
        setting.backbone,
        setting.splits,
        config.fine_tune,
        seed=config.seed,
        progress=setting.progress,
        along=setting.along,
    )
    return Outcome(
        setting.report(None, tuned), tuned.num_params, _entries("fine_tuning", history),
        details=_summary(history), num_cut=history.num_cut,
    )  # fmt: skip


def _prompt_tuning(setting: Setting, length: int | None = None) -> Outcome:
    config = setting.config
    start = SoftPrompt.init(
        setting.backbone, length or config.length, config.init, config.seed,
        pieces=config.pieces, task=setting.splits.task,
    )  # fmt: skip
    tuned, history = tune(
        setting.backbone,
        start,
        setting.splits,
        config.tune,
        seed=config.seed,
        progress=setting.progress,
        along=setting.along,
    )
    return Outcome(
        setting.report(tuned), tuned.num_params, _entries("prompt_tuning", history),
        {"init_prompt": start, "tuned_prompt": tuned}, _summary(history), history.num_cut,
    )  # fmt: skip


def _tuned(setting: Setting) -> tuple[SoftPrompt, float, int]:
    """The tuned prompt that pruning starts from: the prompt-tuning run of the same settings, done once."""
    before = setting.run(setting.config.but(method="prompt_tuning"))
    prompt = before.load_prompt("tuned_prompt").to(setting.backbone.device)
    return prompt, before.record["seconds"]["total"], before.record["counts"]["cut"]


def _xprompt(setting: Setting, order: Order = "lowest") -> Outcome:
    config, backbone = setting.config, setting.backbone
    tuned, seconds, num_cut = _tuned(setting)
    began = time.perf_counter()
    scores = importance(
        backbone, tuned, setting.splits.train, limit=config.prune.importance_limit,
        batch_size=config.tune.batch_size, objective=config.tune.objective, progress=setting.progress,
    )  # fmt: skip
    scored = time.perf_counter() - began
    tried = search(
        backbone, tuned, scores, setting.splits, config.prune, order=order, seed=config.seed,
        progress=setting.progress, along=setting.along,
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
        "importance": {
            "token": scores.token.tolist(),
            "piece": scores.piece.tolist(),
            "num_examples": scores.num_examples,
            "seconds": round(scored, 3),
        },  # fmt: skip
        "candidates": [_candidate(c) for c in tried],
        "search": {"strategy": config.prune.search}
        | cost(tried, config.prune, len(setting.splits.selection or setting.splits.validation)),
        **_summary(chosen.history),
    }
    return Outcome(
        setting.report(final), final.num_params, _entries("rewind", chosen.history),
        {"tuned_prompt": tuned, "pruned_prompt": chosen.pruned, "rewound_prompt": final}, details, num_cut, seconds,
    )  # fmt: skip


def _candidate(candidate: Tried) -> dict[str, Any]:
    return {
        "token_ratio": candidate.token_ratio,
        "piece_ratio": candidate.piece_ratio,
        "num_params": candidate.prompt.num_params,
        "selection_score": candidate.score,
        "best_step": candidate.history.best_step,
        "last_step": candidate.history.entries[-1]["step"],
        "before_retraining": candidate.history.entries[0]["selection_score"],
    }


def _matched(setting: Setting) -> Outcome:
    """Prompt tuning given what XPrompt gets after it: the same extra steps, the same number of candidates.

    Nothing is pruned; the candidates differ in their data order, and the best on the selection split is kept.
    """
    config = setting.config
    tuned, seconds, num_cut = _tuned(setting)
    seeds = [config.seed + 1000 * i for i in range(len(config.prune.grid()))]
    results = retrain(
        setting.backbone, [tuned] * len(seeds), setting.splits, config.prune, seeds=seeds, progress=setting.progress,
        describe="matched", along=setting.along,
    )  # fmt: skip
    chosen = max(results, key=lambda r: r.history.best_score)
    details = {"candidates": [{"selection_score": r.history.best_score} for r in results], **_summary(chosen.history)}
    return Outcome(
        setting.report(chosen.prompt), chosen.prompt.num_params, _entries("matched", chosen.history),
        {"tuned_prompt": chosen.prompt}, details, num_cut, seconds,
    )  # fmt: skip


def _length(setting: Setting) -> Outcome:
    """Prompt tuning from the start at the number of tokens that survived XPrompt. Source: paper §5.3."""
    pruned = setting.run(setting.config.but(method="xprompt"))
    return _prompt_tuning(setting, length=pruned.record["details"]["surviving_tokens"])


METHOD_OF: dict[str, Callable[[Setting], Outcome]] = {
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
