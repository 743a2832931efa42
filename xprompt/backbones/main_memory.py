"""How much main memory is left: of the machine, and of the container or job that the process runs in."""

from __future__ import annotations

from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")  # control groups of Linux, version 2
_OWN = Path("/proc/self/cgroup")


def available_memory() -> int:
    """Return the bytes of main memory that this process can have now."""
    return min([psutil.virtual_memory().available, *_left_in_groups()])


def _left_in_groups() -> list[int]:
    """Return what each control group with a limit has left: the process's own, and those around it."""
    left = []
    try:
        name = next(line[3:] for line in _OWN.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    own = _GROUPS / name.strip("/")
    for group in (own, *own.parents):
        try:
            limit, used = (int((group / file).read_text()) for file in ("memory.max", "memory.current"))
            counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such group, or no limit ("max")
            continue
        left.append(max(0, limit - used + int(counts.get("inactive_file", 0))))  # files' pages that give way
    return left
