"""The same numbers twice: whatever the locale, time zone, hash seed, folder, number of threads and number of workers.

Each variant is a process of its own, which makes the main results of the tiny profile as `01_main_results` does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TABLES = """import sys
import xprompt as xp
from xprompt import reporting as rp

report = rp.Report("report", executor_options={"workers": int(sys.argv[1])})
configs = rp.grid("tiny", ["rte"], ["majority", "prompt_tuning", "xprompt"], [0])
rows = rp.tidy(rp.collect(configs, report.executor()))
report.save_table("tab1", rp.tables.main_results(rows), "Tab 1", rows=rows)
report.save_table("beyond-comparison", rp.tables.against_paper(rows), "Beside the paper", runs=rows["run"])
report.save_table("beyond-differences", rp.tables.difference_table(rp.differences(rows, rp.PAIRS)), "Differences")
"""
SAME = {"LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
VARIANTS = {
    "first": (SAME, 1),
    "elsewhere, in parallel": (
        {"LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "1"},
        2,
    ),
    "two threads": ({**SAME, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}, 1),  # no spinning on a busy machine
}


def begin(folder: Path, changes: dict[str, str], workers: int) -> subprocess.Popen[str]:
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **changes}
    return subprocess.Popen(
        [sys.executable, "-c", TABLES, str(workers)], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Variant → its report's folder; all at the same time, which no result may depend on either."""
    root = tmp_path_factory.mktemp("variants")
    folders = {name: root / f"{number} {name}" for number, name in enumerate(VARIANTS)}
    for process in [begin(folders[name], *VARIANTS[name]) for name in VARIANTS]:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    return {name: folder / "report" for name, folder in folders.items()}


def contents(report: Path, pattern: str) -> dict[str, bytes]:
    return {path.relative_to(report).as_posix(): path.read_bytes() for path in sorted(report.glob(pattern))}


@pytest.mark.timeout(400)
class TestVariants:
    @pytest.mark.parametrize("name", ["elsewhere, in parallel", "two threads"])
    def test_the_tables_are_the_same_to_the_byte(self, reports, name):
        first = contents(reports["first"], "tables/*")
        assert len(first) == 9 and b"prompt_tuning" in first["tables/tab1.csv"]
        assert contents(reports[name], "tables/*") == first

    @pytest.mark.parametrize("name", ["elsewhere, in parallel", "two threads"])
    def test_the_stored_prompts_are_the_same_to_the_byte(self, reports, name):
        first = contents(reports["first"], "runs/*/*/prompt.safetensors")
        assert first and contents(reports[name], "runs/*/*/prompt.safetensors") == first

    def test_a_table_would_show_a_difference(self, reports):
        """The comparison compares something: scores are neither all equal nor missing."""
        lines = contents(reports["first"], "tables/tab1.csv")["tables/tab1.csv"].decode().splitlines()
        column = lines[0].split(",").index("value")
        assert len({line.split(",")[column] for line in lines[1:]}) > 1
