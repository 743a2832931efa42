"""Speed and memory, measured: every figure is a ratio of two things timed side by side in one run.

Owns `python -m xprompt.bench`, called by `nox -s bench`, and what a notebook needs of it. Never decides a result:
nothing that a run of the method does depends on what is measured here.
"""

from __future__ import annotations

from xprompt.bench.measuring import measure, read_or_measure
from xprompt.bench.rows import COLUMNS, Findings, Row
from xprompt.bench.writer import add_rows

__all__ = ["COLUMNS", "Findings", "Row", "add_rows", "measure", "read_or_measure"]
