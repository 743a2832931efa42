"""The peak memory of one piece of work, above what was there before it.

On the CPU the work runs in a fresh process: in a used one, memory that was freed but not returned would be used again
unseen. There glibc maps each block by itself and unmaps it when it is freed, so that the peak is what the work holds,
and not how its blocks fragment the heap.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from loky import ProcessPoolExecutor

from xprompt.backbones.base import Backbone
from xprompt.backbones.loading import load_backbone
from xprompt.backbones.malloc import give_back_freed_memory

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MAPPED = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}  # bytes; read by glibc as a process starts
_PAUSE = 0.002  # seconds between two readings where the kernel keeps no peak


def peak_of(job: str, backbone: Backbone, arguments: Mapping[str, Any], *, fresh: bool = True) -> int:
    """Return the bytes above the loaded backbone that a job needs at its peak.

    Args:
        job: "module:function"; the function takes a backbone and `arguments`, and returns the work as a callable.
            What it allocates before that does not count.
        fresh: on the CPU, load the backbone of that name in a fresh process. False measures in this one, which is
            quick and may see too little.
    """
    if backbone.device.type == "cpu" and fresh:
        request = (job, backbone.name, backbone.max_source, dict(arguments), torch.get_num_threads())
        with ProcessPoolExecutor(1, env=_MAPPED) as pool:
            return pool.submit(_in_own_process, *request).result()
    return _measured(_find(job)(backbone, **arguments), backbone.device)


def _in_own_process(job: str, name: str, max_source: int, arguments: dict[str, Any], threads: int) -> int:
    torch.set_num_threads(threads)
    backbone = load_backbone(name, device="cpu", max_source=max_source)
    return _measured(_find(job)(backbone, **arguments), backbone.device)


def _find(job: str) -> Callable[..., Callable[[], object]]:
    module, _, function = job.partition(":")
    return getattr(importlib.import_module(module), function)


def _measured(work: Callable[[], object], device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    give_back_freed_memory()
    before = psutil.Process().memory_info().rss
    try:
        _CLEAR.write_text("5")  # Linux: reset the peak to what is resident now
    except OSError:
        return _watched(work) - before
    work()
    peak = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024 - before


def _watched(work: Callable[[], object]) -> int:
    """The largest resident set that a second thread read while the work ran."""
    process, done, seen = psutil.Process(), threading.Event(), [0]

    def look() -> None:
        while not done.wait(_PAUSE):
            seen[0] = max(seen[0], process.memory_info().rss)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(seen[0], process.memory_info().rss)
