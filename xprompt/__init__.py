"""XPrompt: soft prompts tuned in front of a frozen language model, then pruned hierarchically, rewound, retrained.

The public names, each imported on first use: `import xprompt as xp` takes no time, and reports need no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_HOME = {
    "XPromptError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "BackboneError": "errors",
    "StoreError": "errors",
    "NotFiniteError": "errors",
    "TuneSettings": "config.settings",
    "PruneSettings": "config.settings",
    "Profile": "config.profile",
    "Pattern": "config.pattern",
    "RunConfig": "config.run_config",
    "METHODS": "config.methods",
    "PROTOCOLS": "config.settings",
    "PROFILES": "config.profiles",
    "TASKS": "tasks.superglue",
    "get_task": "tasks.registry",
    "CustomTask": "tasks.custom",
    "OwnTask": "tasks.custom",
    "load_task": "data.loading",
    "task_from": "data.in_memory",
    "SoftPrompt": "prompts.soft_prompt",
    "load_backbone": "backbones.loading",
    "Backbone": "backbones.base",
    "importance": "pruning.importance",
    "Importance": "pruning.importance",
    "prune": "pruning.prune",
    "rewind": "pruning.prune",
    "masked_scores": "pruning.ablation",
    "masked_grid": "pruning.ablation",
    "MaskedGrid": "pruning.ablation",
    "leave_one_out": "pruning.ablation",
    "predictors": "pruning.ablation",
    "xprompt": "methods.xprompt",
    "XPromptResult": "methods.xprompt",
    "Callback": "training.callbacks",
    "Callbacks": "training.callbacks",
    "LiveCurve": "training.live_curve",
    "MetricLogger": "training.callbacks",
    "EventFiles": "training.tensorboard",
    "MlflowRuns": "training.mlflow",
    "WandbRuns": "training.wandb",
    "tune": "training.tune",
    "tune_many": "training.tune",
    "fine_tune": "training.tune",
    "evaluate": "training.evaluation",
    "predict": "training.evaluation",
    "run": "runs.run",
    "find": "runs.run",
    "load_splits": "runs.run",
    "RunResult": "runs.run",
    "Store": "runs.store",
    "get_executor": "runs.executors",
    "classifier": "runs.classifier",
    "Classifier": "runs.classifier",
    "Prediction": "runs.classifier",
    "to_peft": "prompts.peft",
    "from_peft": "prompts.peft",
    "compare_with_peft": "prompts.peft",
    "next_logits": "prompts.peft",
    "load_model": "backbones.pretrained",
    "read_or_measure": "bench.measuring",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'xprompt' has no attribute {name!r}")
    module = importlib.import_module(f"xprompt.{_HOME[name]}")
    value = getattr(module, name)
    globals()[name] = value  # a function may share its module's name: the public one wins
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
