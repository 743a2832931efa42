"""XPrompt: soft prompts tuned in front of a frozen language model, then pruned hierarchically, rewound, re-trained.

Owns the public names. They are imported on first use, so that reporting never pays for (or needs) torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "XPromptError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "BackboneError": "errors",
    "StoreError": "errors",
    "TuneSettings": "config",
    "PruneSettings": "config",
    "Profile": "config",
    "Pattern": "config",
    "RunConfig": "config",
    "METHODS": "config",
    "PROTOCOLS": "config",
    "PROFILES": "profiles",
    "TASKS": "tasks",
    "get_task": "tasks",
    "OwnTask": "own_tasks",
    "load_task": "data",
    "SoftPrompt": "prompts",
    "load_backbone": "architectures",
    "Backbone": "backbone",
    "importance": "importance_scores",
    "Importance": "importance_scores",
    "prune": "pruning",
    "rewind": "pruning",
    "tune": "training",
    "tune_many": "training",
    "fine_tune": "training",
    "evaluate": "evaluation",
    "predict": "evaluation",
    "run": "pipeline",
    "find": "pipeline",
    "load_splits": "pipeline",
    "RunResult": "pipeline",
    "Store": "store",
    "get_executor": "executors",
    "to_peft": "interop",
    "from_peft": "interop",
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
