"""`python -m xprompt bench`: measure speed and memory against the baselines."""

from __future__ import annotations

import argparse
import logging

from xprompt.bench.sizes import BACKBONES, COMPARISONS
from xprompt.cli.arguments import split_names

HELP = "measure speed and memory against baselines"
DESCRIPTION = (
    "Measure speed and memory, ours and the baseline in turns, and write bench.csv and the raw timings. Run nothing "
    "else on the machine meanwhile. Rows that are not measured now are kept."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser this subcommand's choices."""
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help=f"one of {', '.join(COMPARISONS)}; "
                        "may be given again; default: all")  # fmt: skip
    parser.add_argument("--backbones", default=",".join(BACKBONES), metavar="A,B", help="default: %(default)s")
    parser.add_argument("--device", default="", help="cpu or cuda; default: the CPU, and the GPU where there is one")
    parser.add_argument("--retrain-share", type=float, default=0.1, metavar="X", help="share of the grid's retraining "
                        "that the search needs, for the hours of the paper's grid; default: %(default)s")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a few steps: checks that everything works; the numbers "
                        "mean nothing")  # fmt: skip
    parser.add_argument("--output", default="", metavar="FOLDER", help="default: reports/bench, or reports/bench-quick")


def execute(chosen: argparse.Namespace) -> int:
    """Measure what was chosen, print the table and return 0."""
    from xprompt.bench.measuring import measure  # torch, pandas and matplotlib come with these
    from xprompt.reporting.bench_figures import bench_table
    from xprompt.reporting.tables import to_text
    from xprompt.reproduce import locate_reports

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("xprompt").setLevel(logging.INFO)
    output = chosen.output or locate_reports() / ("bench-quick" if chosen.quick else "bench")
    table = bench_table(
        measure(
            output, only=chosen.only, backbones=split_names(chosen.backbones), quick=chosen.quick,
            device=chosen.device, retrain_share=chosen.retrain_share,
        )
    )  # fmt: skip
    print(to_text(table))
    print(f"\nBench: {output}")
    return 0
