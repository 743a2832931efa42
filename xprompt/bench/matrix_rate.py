"""The share of the machine's matrix rate that a tuning step reaches: its matrix products alone, against all of it.

The products of real steps, forward and backward, are recorded with their shapes and strides, and done once more on
random numbers with nothing in between. Attention counts as the products that it is made of, in fused kernels too: two
forward, four backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from xprompt.backbones.base import Backbone
from xprompt.bench.harness import interleave
from xprompt.bench.rows import Findings, throughput
from xprompt.bench.sizes import Size
from xprompt.bench.tuning_steps import TuningSteps
from xprompt.prompts.soft_prompt import SoftPrompt

#: aten's products → where their two factors stand among the arguments.
_FACTORS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}
_ATTENTION = "_scaled_dot_product_"  # how the names of all fused kernels start


@dataclass(frozen=True)
class Layout:
    """How a factor lies in memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        """Return the layout of a tensor."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    def random(self) -> Tensor:
        """Return random numbers that lie so."""
        span = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))
        return torch.randn(span, device=self.device).to(self.dtype).as_strided(self.shape, self.stride)


Product = tuple[Layout, Layout]


class ProductRecorder(TorchDispatchMode):
    """Record every matrix product inside the block, in order.

    Attributes:
        products: the factors' layouts, two or three dimensions each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _FACTORS:
            left, right = args[_FACTORS[name] : _FACTORS[name] + 2]
            self.products.append((Layout.of(left), Layout.of(right)))
        elif name.startswith(_ATTENTION):
            backward = name.endswith("_backward")
            query, key, value = args[1:4] if backward else args[:3]
            self.products += attention_products(query, key, value, backward)
        return func(*args, **(kwargs or {}))


def attention_products(query: Tensor, key: Tensor, value: Tensor, backward: bool) -> list[Product]:
    """Return the products that attention is made of, for queries (B, N, S, D), keys and values (B, M, A, D).

    Scores and their weighted values; backward the gradients of values, weights, queries and keys. What a fused kernel
    computes twice to save memory is no product of the step.
    """
    count = query.shape[0] * query.shape[1]

    def batch(rows: int, columns: int, transposed: bool = False) -> Layout:
        shape, stride = (count, rows, columns), (rows * columns, *((1, rows) if transposed else (columns, 1)))
        return Layout(shape, stride, query.dtype, query.device)

    s, a, d, e = query.shape[2], key.shape[2], query.shape[3], value.shape[3]
    if not backward:
        return [(batch(s, d), batch(d, a, True)), (batch(s, a), batch(a, e))]
    return [
        (batch(a, s, True), batch(s, e)),
        (batch(s, e), batch(e, a, True)),
        (batch(s, a), batch(a, d)),
        (batch(a, s, True), batch(s, d)),
    ]


def record(run: Callable[[], object]) -> list[Product]:
    """Return the products of one call."""
    with ProductRecorder() as recorder:
        run()
    return recorder.products


def operations(products: Sequence[Product]) -> int:
    """Return the floating-point operations of these products, two for each multiplication and addition."""
    return sum(2 * math.prod(left.shape) * right.shape[-1] for left, right in products)


def replay(products: Sequence[Product]) -> Callable[[], None]:
    """Return these products on random numbers, to be called; factors of one layout are one tensor."""
    factors = {layout: layout.random() for product in products for layout in product}
    pairs = [(factors[left], factors[right]) for left, right in products]

    @torch.no_grad()
    def run() -> None:
        for left, right in pairs:
            left @ right

    return run


def measure(backbone: Backbone, size: Size, hardware: str) -> Findings:
    """Measure operations per second of tuning steps, and of their products alone."""
    found = Findings()
    splits = size.splits(train=size.batch * size.steps, selection=1)
    prompt = SoftPrompt.init(backbone, size.length)
    steps = TuningSteps.over(backbone, prompt, splits, size.settings(backbone.name, size.steps))
    products = record(steps)
    sides: dict[str, Callable[[], object]] = {"products": replay(products), "steps": steps}
    seconds = interleave(sides, size.rounds, device=backbone.device)
    work = dict.fromkeys(sides, operations(products) / 1e9)
    found.timings("matrix_rate", backbone.name, hardware, seconds, work, "GFLOP")
    row = throughput("matrix_rate", backbone.name, hardware, seconds, work, baseline="products", ours="steps",
                     unit="GFLOP/s")  # fmt: skip
    found.rows.append(row)
    found.facts.append(
        {"name": "matrix_rate", "backbone": backbone.name, "hardware": hardware,
         "operations_a_step": operations(products) / len(steps.batches), "products_a_step": len(products)
         / len(steps.batches), "products_per_second": row.baseline, "step_per_second": row.ours, "share": row.ratio}
    )  # fmt: skip
    return found
