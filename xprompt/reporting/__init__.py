"""Run records → tidy rows → tables, figures and the report's page.

Owns everything a reader of a report sees. Never imports torch and never trains: what it shows was measured by runs
that it names.
"""

from __future__ import annotations

from xprompt.reporting import choices, figures, published, search_report, tables, wording
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
from xprompt.runs.grid import choose_seeds, choose_source, choose_tasks, collect, grid, quick_settings

__all__ = [
    "COLUMNS", "PAIRS", "Interval", "Report", "choices", "choose_seeds", "choose_source", "choose_tasks", "collect",
    "differences", "figures", "grid", "interval", "protocol_differences", "published", "quick_settings",
    "search_report", "summarize", "tables", "tidy", "with_average", "wording",
]  # fmt: skip
