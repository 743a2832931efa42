"""Turn run records into tidy rows, and those into statistics, tables, figures, verdicts and the report's book.

The room never imports torch and never trains: every number comes from a run that it names. Its files in reading order:
rows (records → tidy rows), statistics (means, intervals, paired differences), paper (the paper's own numbers), wording
(titles, numbers and verdicts as text), tables, figures, ratio_search, trials, bench_figures (three special reports),
convergence (budget against score), explorer (sliders over the prune ratios), claims (the paper's claims and their
verdicts), layout (a report's files and manifest), facts (what was run, and what to know before believing it),
notebooks (executing them), pictures (drawn from records), book (the Sphinx book; its parts are book_pages,
book_chapters and book_extension).
"""

from __future__ import annotations

from xprompt.reporting import bench_figures, convergence, figures, paper, ratio_search, tables, trials, wording
from xprompt.reporting.explorer import RatioExplorer
from xprompt.reporting.layout import Report
from xprompt.reporting.rows import COLUMNS, tidy
from xprompt.reporting.statistics import (
    PAIRS,
    Interval,
    differences,
    interval,
    protocol_differences,
    summarize,
    with_average,
)
from xprompt.runs.grid import choose_seeds, choose_source, choose_tasks, collect, done, grid, quick_settings

__all__ = [
    "COLUMNS", "PAIRS", "Interval", "RatioExplorer", "Report", "bench_figures", "choose_seeds", "choose_source",
    "choose_tasks", "collect", "convergence", "differences", "done", "figures", "grid", "interval", "paper",
    "protocol_differences", "quick_settings", "ratio_search", "summarize", "tables", "tidy", "trials",
    "with_average", "wording",
]  # fmt: skip
