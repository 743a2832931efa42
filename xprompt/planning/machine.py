"""How fast this machine is, measured in a second or two: matrix products, or steps of a backbone that is here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from xprompt.backbones.base import Backbone
from xprompt.backbones.devices import choose_device, choose_dtype, free_bytes
from xprompt.backbones.main_memory import available_memory
from xprompt.backbones.subnormals import subnormals_as_zero
from xprompt.data.batching import Batch
from xprompt.planning.footprint import Footprint
from xprompt.tasks.task import Task


@dataclass(frozen=True)
class Machine:
    """The hardware to run on.

    Attributes:
        device, dtype: those a run would use.
        name: of the GPU, or of the CPU's threads.
        free: bytes of the device's memory that are available now.
        memory: bytes of main memory that are available now; weights pass through it on their way to a GPU.
        rate: floating-point operations per second of large matrix products, measured.
    """

    device: torch.device
    dtype: torch.dtype
    name: str
    free: int
    memory: int
    rate: float


def probe_machine(backbone: str, dtype: str | None = None, seconds: float = 1.0) -> Machine:
    """Measure this machine for about `seconds`, in the dtype that `load_backbone` would use for this backbone."""
    device = choose_device(None)
    chosen = choose_dtype(dtype, backbone, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    memory = available_memory()
    return Machine(device, chosen, name, free_bytes(device), memory, matrix_rate(device, chosen, seconds))


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Measure operations per second of square matrix products, the median over `seconds`, of three at least."""
    width = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < 4 or time.perf_counter() - began < seconds:
        taken.append(_timed(lambda: left @ right, device))
    return 2 * width**3 / median(taken[1:])  # the first one pays for what is set up once


def backbone_rate(
    backbone: Backbone, footprint: Footprint, task: Task, rows: int, length: int, prompt: int, most: float
) -> float:
    """Measure the operations per second of a prompt-tuning step of this backbone, on random tokens.

    Args:
        rows, length, prompt: B, T and P of the timed batch.
        most: upper limit on a step's operations; fewer rows are timed where a whole batch needs more.

    Operations are those of `Footprint.operations`, so that the rate turns the same counts into seconds.
    """
    rows = max(1, min(rows, int(most / footprint.operations(1, length + prompt, "tune"))))
    ids = torch.randint(3, len(backbone.embedding_rows()), (rows, length), generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(rows, dtype=torch.long)
    batch = Batch(ids, torch.ones_like(ids), labels, labels)
    verbalizer = backbone.verbalizer(task)
    vectors = torch.zeros(
        1, prompt, backbone.hidden_size, device=backbone.device, dtype=backbone.dtype, requires_grad=True
    )  # one prompt for all rows, as in tuning

    def step() -> None:
        with subnormals_as_zero(backbone.device):
            index = torch.zeros(rows, dtype=torch.long)
            torch.autograd.grad(backbone.loss(vectors, batch, verbalizer, prompt_index=index).sum(), vectors)

    step()
    seconds = min(_timed(step, backbone.device) for _ in range(2))
    return footprint.operations(rows, length + prompt, "tune") / seconds


def _timed(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
