"""The command `python -m xprompt.bench`, called by `nox -s bench`.

Owns the choices and the exit code. Never measures.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from xprompt.bench.measuring import NAMES, measure
from xprompt.bench.sizes import BACKBONES
from xprompt.errors import XPromptError
from xprompt.reporting.bench_figures import bench_table

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 measured, 2 wrong choices."""
    own = argparse.ArgumentParser(
        prog="nox -s bench --",
        description="Measure speed and memory, ours and the baseline side by side, and write bench.csv with the raw "
        "timings beside it. Leave the machine to it: other work is noise. Rows that are not measured now are kept.",
    )
    own.add_argument("--only", action="append", default=[], metavar="NAME", help=f"one of {', '.join(NAMES)}; may be "
                     "given again; default: all")  # fmt: skip
    own.add_argument("--backbones", default=",".join(BACKBONES), metavar="A,B", help="default: %(default)s")
    own.add_argument("--device", default="", help="cpu or cuda; default: the CPU, and the GPU where there is one")
    own.add_argument("--retrain-share", type=float, default=0.1, metavar="X", help="of the grid's re-training that the "
                     "search needs, for the hours of the paper's grid; default: %(default)s")  # fmt: skip
    own.add_argument("--quick", action="store_true", help="a few steps: shows that it works, the numbers mean nothing")
    own.add_argument("--output", default="", metavar="FOLDER", help="default: reports/bench, or reports/bench-quick")
    chosen = own.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("xprompt").setLevel(logging.INFO)
    output = chosen.output or ROOT / "reports" / ("bench-quick" if chosen.quick else "bench")
    try:
        rows = measure(
            output, only=chosen.only, backbones=chosen.backbones.split(","), quick=chosen.quick, device=chosen.device,
            retrain_share=chosen.retrain_share,
        )  # fmt: skip
    except XPromptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(bench_table(rows).to_string(index=False))
    print(f"\nBench: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
