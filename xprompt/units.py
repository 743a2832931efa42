"""Quantities and tables as people read them on a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence


def readable_duration(seconds: float) -> str:
    """Return seconds as a text in the unit that reads best: "99 s", "2 min", "1.7 h", "1,000 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours = seconds / 3600
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def readable_size(num_bytes: float) -> str:
    """Return bytes as a text in GiB, or in MiB where they are few."""
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**30 else f"{math.ceil(num_bytes / 2**20)} MiB"


def align_columns(rows: Sequence[Sequence[object]], left: int = 1) -> str:
    """Return rows as lines of padded columns: the first `left` to the left, the others to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if number < left else text.rjust(width)
            for number, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in texts
    )
