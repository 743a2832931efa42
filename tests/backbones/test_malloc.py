"""Freed memory is kept: blocks that a step makes again are not asked for, and cleared, again."""

import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, torch
from xprompt.backbones.malloc import keep_freed_memory
kept = keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    return [torch.ones(2**20) for _ in range(16)]  # 64 MiB
for _ in range(5):
    step()
before = faults()
for _ in range(5):
    step()
print(kept, faults() - before)
"""


def run(**environment: str) -> tuple[str, int]:
    """Whether the process says that it keeps memory, and how many pages it was given anew in five steps."""
    own = {k: v for k, v in os.environ.items() if "MALLOC" not in k}
    found = subprocess.run(
        [sys.executable, "-c", STEPS], env=own | environment, capture_output=True, text=True, check=True
    )
    kept, faults = found.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_a_step_finds_the_memory_that_the_one_before_it_freed():
    kept, faults = run()
    assert kept == "True" and faults < 500


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc reads these")
@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"])
def test_what_the_environment_says_is_left_alone(name):
    kept, faults = run(**{name: str(2**17)})
    assert kept == "False" and faults > 10_000, "every block is given back and asked for again"
