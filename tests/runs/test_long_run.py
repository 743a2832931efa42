"""Nothing piles up over many runs in one process."""

from __future__ import annotations

from dataclasses import replace

from tests.runs.long_run import MEMORY, long_run


def test_what_a_process_holds_stays_flat_over_runs(tmp_path):
    """The short form; `python tests/runs/long_run.py` does 500."""
    first, last = long_run(tmp_path, 24)
    assert last.grown(first) == {}
    assert last.locks <= 1 and last.staged == last.unfinished == 0  # one lock is the manifest's
    assert replace(last, files=first.files + 1, memory=first.memory + MEMORY + 1).grown(first) == {
        "memory": MEMORY + 1, "files": 1,
    }  # fmt: skip
