"""Kills, full disks, damage and several processes on one store: what is read afterwards is whole and equal.

The loop of 500 runs in one process lies in `tests/runs/long_run.py`; `test_a_long_run_stays_flat` starts it.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.victim import names, record, write_files
from xprompt.errors import XPromptError
from xprompt.runs.store import Store

ROOT = Path(__file__).resolve().parents[2]
RUNS = 60
LONG_RUN = ROOT / "tests" / "runs" / "long_run.py"
pytestmark = pytest.mark.stress


def victim(root: Path, number: int = 0, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.fuzz.victim", str(root), str(number), str(RUNS)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, **options,
    )  # fmt: skip


def check_whole(root: Path) -> None:
    """Every run that is there is the one that was written, and none was set aside as damaged."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {each["run"]: each for each in Store(root).records()}
    assert found == {name: record(name, config) for name, config in names(RUNS).items() if name in found}
    assert not list((root / "runs").glob(".damaged/*"))


def test_killed_at_random_moments(tmp_path):
    """SIGKILL at moments spread over the whole work, 60 times; then the work is ended, and the table is complete."""
    rng, delay = random.Random(), 0.5
    for _ in range(60):
        process = victim(tmp_path)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, delay))
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL or not errors, errors
        delay = min(6.0, delay * 1.3) if not (tmp_path / "log").exists() else delay
        check_whole(tmp_path)
        if process.returncode == 0:  # it came to its end: begin again
            shutil.rmtree(tmp_path / "runs")
            (tmp_path / "log").unlink()
    process = victim(tmp_path)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    check_whole(tmp_path)
    assert {each["run"] for each in Store(tmp_path).records()} == set(names(RUNS))


def test_several_processes_on_one_store(tmp_path):
    """Each run is done once; what they leave is what one process leaves."""
    processes = [victim(tmp_path, number) for number in range(4)]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    check_whole(tmp_path)
    done = Counter(line.split()[0] for line in (tmp_path / "log").read_text().splitlines())
    assert done == dict.fromkeys(names(RUNS), 1)


@pytest.fixture(params=["tmpfs", "limit"])
def full_disk(request, tmp_path):
    """A folder with room for a few runs: a small tmpfs, or no file longer than a limit in this process."""
    folder = tmp_path / "small"
    folder.mkdir()
    if request.param == "limit":
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
        yield folder
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        return
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up(full_disk):
    """What was written before stays whole; what does not fit leaves nothing behind, and is refused."""
    store, kept, refused = Store(full_disk), [], 0
    for name, config in names(RUNS).items():
        try:
            store.put(record(name, config), write_files)
            kept.append(name)
        except (XPromptError, OSError):
            refused += 1
    assert refused
    assert [each["run"] for each in store.records()] == sorted(kept)
    assert not list((full_disk / "runs" / ".staging").iterdir())
    check_whole(full_disk)


def test_damaged_files(tmp_path):
    """A flipped bit, a cut, a deletion, or two files that change places: never read as whole."""
    rng = random.Random()
    for _ in range(300):
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        store = Store(tmp_path / "store")
        for name, config in list(names(4).items()):
            store.put(record(name, config), write_files)
        whole = {path: path.read_bytes() for path in sorted(store.runs.rglob("*")) if path.is_file()}
        path, other = rng.sample(list(whole), 2)
        content, place = whole[path], rng.randrange(len(whole[path]))
        harm = rng.choice(["flip", "cut", "delete", "swap"])
        if harm == "flip":
            path.write_bytes(content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :])
        elif harm == "cut":
            path.write_bytes(content[:place])
        elif harm == "delete":
            path.unlink()
        else:
            path.write_bytes(whole[other])
            other.write_bytes(content)
        harmed = {
            p.relative_to(store.runs).parts[0] for p, was in whole.items() if not p.exists() or p.read_bytes() != was
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            found = {each["run"]: each for each in store.records()}
        assert found == {name: record(name, config) for name, config in names(4).items() if name not in harmed}, harm


@pytest.mark.skipif(not LONG_RUN.is_file(), reason="tests/runs/long_run.py is not there")
def test_a_long_run_stays_flat():
    """500 runs in one process: memory, file handles and threads stay as they are after the first ones."""
    start = time.monotonic()
    done = subprocess.run([sys.executable, str(LONG_RUN)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, f"after {time.monotonic() - start:.0f} s"
