"""What produced a result: versions, hardware, source revision, time. Nothing here influences the result."""

from __future__ import annotations

import datetime
import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import xprompt
from xprompt.distributed import process_group
from xprompt.files import sha256

_PACKAGES = ("torch", "transformers", "datasets", "tokenizers", "numpy", "scikit-learn")


def provenance(device: torch.device, dtype: torch.dtype, model: torch.nn.Module | None = None) -> dict[str, Any]:
    """Return the facts that a record keeps about its origin, as JSON values.

    Args:
        device: where the run is computed.
        dtype: of the backbone.
        model: the backbone; where it is spread over several devices, `device_map` says which module is where.

    Returns versions of Python and packages, hardware, threads, `processes` (how many share the run), device, dtype,
    a digest of the package's sources, git revision and whether the working tree was dirty, and the time in UTC.
    """
    placed = getattr(model, "hf_device_map", None)
    return {
        "xprompt": xprompt.__version__,
        "code": code_digest(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
        **_machine(device.type),
        "threads": torch.get_num_threads(),
        "processes": process_group().world_size,
        **({} if placed is None else {"device_map": {name: str(place) for name, place in placed.items()}}),
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        **_revision(),
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


#: Rooms and files that read records, or watch.
_MAKES_NO_NUMBERS = {"reporting", "cli", "planning", "bench", "reproduce.py", "html.py", "__main__.py"}


@functools.cache
def _machine(device: str) -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        cpu = f"{names[0]}, {len(names)} cores" if names else cpu
    return {"hardware": torch.cuda.get_device_name() if device == "cuda" else cpu, "system": platform.system()}


@functools.cache
def code_digest() -> str:
    """Return SHA-256 over the source files that make numbers: records with the same one were made by the same code."""
    package = Path(xprompt.__file__).parent
    files = [f for f in sorted(package.rglob("*.py")) if f.relative_to(package).parts[0] not in _MAKES_NO_NUMBERS]
    return sha256(b"".join(f"{f.relative_to(package).as_posix()} {sha256(f)}\n".encode() for f in files))


@functools.cache
def _revision() -> dict[str, Any]:
    def git(*words: str) -> str:
        here = Path(xprompt.__file__).parent  # whose every room makes numbers, or reads them
        # An installed package may lie in the working tree of another project.
        subprocess.run(["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True, check=True)
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"git_revision": git("rev-parse", "HEAD"), "git_dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.CalledProcessError):
        return {"git_revision": None, "git_dirty": None}
