"""Where a backbone runs: device, dtype, the memory that is free there, and its random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from xprompt.backbones.main_memory import available_memory
from xprompt.errors import BackboneError
from xprompt.nano.sizes import SIZES

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, else the first GPU, else the CPU.

    Raises:
        BackboneError: a device that torch does not know or has not here, or one that only has shapes ("meta").
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise BackboneError(
            f"device {device!r} was given: it must be 'cpu', 'cuda', 'cuda:1', … Leave it out for the first GPU, else "
            "the CPU."
        ) from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise BackboneError(
            f"device {str(device)!r} was given, and torch {torch.__version__} sees no GPU here: leave device out "
            "for the CPU, or install a CUDA build of torch and its driver."
        )
    try:
        torch.zeros(1, device=place).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BackboneError(
            f"device {str(device)!r} was given, and torch {torch.__version__} cannot compute on it here: leave device "
            "out for the first GPU, else the CPU."
        ) from error
    return place


def choose_dtype(dtype: str | torch.dtype | None, name: str, device: torch.device) -> torch.dtype:
    """Return the dtype asked for, else bfloat16 on a GPU and float32 elsewhere (nano is always float32).

    Raises `BackboneError` naming the known dtypes.
    """
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" and name not in SIZES else torch.float32
    if isinstance(dtype, str) and dtype in _DTYPES:
        return _DTYPES[dtype]
    if not isinstance(dtype, torch.dtype) or dtype not in _DTYPES.values():
        raise BackboneError(f"unknown dtype {dtype!r}: choose one of {', '.join(_DTYPES)}.")
    return dtype


def avoid_cudnn_attention(device: torch.device) -> None:
    """On a GPU, let torch attend by its other kernels from now on, in the whole process.

    Where 64 positions are left of a multiple of 128, a mask is given and a row's scores are all far below zero, the
    backward pass of cuDNN's kernel gives NaN (torch 2.11 and later on an H100 or H200; pytorch/pytorch issue 196678).
    On an H200 with torch 2.11 eight runs of SmolLM2 ended in NaN, most likely by that; without this kernel they were
    not run again. For the whole process, since a recomputed block chooses its kernel again in the backward pass.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def free_bytes(device: torch.device) -> int:
    """Return the bytes of memory that a process can have on a device now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return available_memory()


def random_state_kept(active: bool = True) -> AbstractContextManager[None]:
    """Restore torch's own generators, of the CPU and of every GPU, after a block that seeds or draws from them."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()), enabled=active)


@contextmanager
def threads_limited_to(number: int | None) -> Iterator[None]:
    """Compute with as many CPU threads inside the block, so that no bit depends on the machine; None: as now."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
