"""Turn run records into tidy rows, and those into statistics, tables, figures, verdicts and the report's book.

The room never imports torch and never trains: every number comes from a run that it names. Its files in reading order:
rows (records → tidy rows), statistics (means, intervals, paired differences), paper (the paper's own numbers), wording
(titles, numbers and verdicts as text), tables, figures, forest (paired differences drawn), ratio_search, trials,
bench_figures (three special reports), convergence (budget against score); by_seed and panels (what the reports on
pruning share), masking (Fig 2), variants (Fig 5, Tab 4), parameters (Tab 3), saliency (Fig 6, 7, 9, 10), harm (does
importance predict it?), hierarchy (where the paper is silent on pruning), budgets (what pruning gains by budget); scale
(Fig 1's gains), baselines (Tab 1 with all of them, Tab 8), one_setting (Tab 5, 6), few_shot (Tab 2), transfer (Tab 7),
neighbours (structured prompts, a task subspace), controls (more steps, candidates, pruning), resampling and evidence
(validation examples drawn again; how much differences prove), rounding (its share of the seeds' spread); explorer
(sliders over the prune ratios), claims (the paper's claims and their verdicts), layout (a report's files and manifest),
facts (what was run, and what to know before believing it), notebooks (executing them), pictures (drawn from records),
book (the Sphinx book; its parts are book_pages, book_chapters and book_extension).
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = (
    "baselines", "bench_figures", "budgets", "by_seed", "claims", "controls", "convergence", "evidence", "few_shot",
    "figures", "forest", "harm", "hierarchy", "masking", "neighbours", "one_setting", "paper", "parameters",
    "ratio_search", "resampling", "rounding", "saliency", "scale", "tables", "transfer", "trials", "variants",
    "wording",
)  # fmt: skip
_NAMES = {
    "xprompt.reporting.explorer": ("RatioExplorer",),
    "xprompt.reporting.layout": ("Report",),
    "xprompt.reporting.rows": ("COLUMNS", "tidy"),
    "xprompt.reporting.statistics": (
        "PAIRS", "Interval", "corrected", "differences", "interval", "protocol_differences", "summarize", "weakest",
        "with_average",
    ),
    "xprompt.runs.grid": (
        "choose_seeds", "choose_source", "choose_tasks", "collect", "grid", "quick_settings",
    ),
}  # fmt: skip
_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted([*_HOME, *_MODULES])


def __getattr__(name: str) -> Any:
    """Import a public name on first use: pandas, SciPy and seaborn, 1.5 s together, come with the first table."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HOME.get(name, f"{__name__}.{name}"))
    globals()[name] = value = getattr(module, name) if name in _HOME else module
    return value


def __dir__() -> list[str]:
    return __all__
