"""What batch schedulers send behaves as Ctrl-C: work kept, one sentence, an exit code that names the signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from xprompt.__main__ import main
from xprompt.cli.signals import Terminated, terminable

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")


@pytest.fixture(autouse=True)
def heard():
    """A suite under nohup has its children ignore SIGHUP, one in the background Ctrl-C; the tests send them."""
    before = {
        number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_becomes_an_interrupt_once_and_the_handlers_come_back(name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # a suite under nohup has SIGHUP ignored
    try:
        with pytest.raises(Terminated) as raised, terminable():
            try:
                os.kill(os.getpid(), number)
                time.sleep(5)
            finally:
                os.kill(os.getpid(), number)  # while work is being kept
        assert raised.value.number == number and isinstance(raised.value, KeyboardInterrupt)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_what_the_caller_had_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def start(output: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "xprompt", *arguments, "--output", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                            text=True)  # fmt: skip


def wait_for(path: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 120
    while not list(path.glob(pattern)):
        assert process.poll() is None and time.monotonic() < limit, process.stderr.read()
        time.sleep(0.05)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_run_that_is_told_to_end_keeps_its_state_and_is_resumed(tmp_path, name):
    choices = ("run", "--task", "rte", "--profile", "tiny", "--method", "prompt_tuning", "--no-watch",
               "--save-every", "0.2", "--set", "tune.steps=4000", "--set", "tune.eval_every=20")  # fmt: skip
    process = start(tmp_path, *choices)
    wait_for(tmp_path, "runs/.unfinished/*/*/state.json", process)
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert f"Interrupted by {name}: finished runs are kept" in said and "Traceback" not in said
    assert list(tmp_path.glob("runs/.unfinished/*/*/state.json")) and not list(tmp_path.glob("runs/.staging/*"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [1, 2])
def test_reproduce_that_is_told_to_end_takes_its_kernel_and_workers_along(tmp_path, workers):
    only = ["--only", "01_main_results"] + ["--only", "00_walkthrough"] * (workers > 1)  # which has a kernel then
    process = start(tmp_path, "reproduce", "--profile", "tiny", *only, "--workers", str(workers))
    wait_for(tmp_path, "runs/*/record.json", process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= (1 if workers == 1 else 1 + workers), "kernels are at work, and workers"
    process.terminate()
    _, said = process.communicate(timeout=90)
    assert process.returncode == 128 + signal.SIGTERM and "Interrupted by SIGTERM" in said.splitlines()[-1]
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert not list(tmp_path.glob("runs/.staging/*")) and not list(tmp_path.rglob(".writing-*"))


@pytest.mark.timeout(300)
def test_a_bench_that_is_told_to_end_says_so(tmp_path):
    process = start(tmp_path, "bench", "--quick", "--backbones", "nano")
    assert process.stderr is not None
    process.stderr.readline()  # its first comparison is done
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGHUP
    assert said.splitlines()[-1].startswith("Interrupted by SIGHUP: ") and "Traceback" not in said


def test_a_command_may_be_given_from_another_thread(capsys):
    """Python lets no other thread set a signal's handler."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["run", "--task", "rte", "--set", "x"])))
    thread.start()
    thread.join()
    assert codes == [2] and "--set x: give NAME=VALUE" in capsys.readouterr().err
