"""Run the comparisons on each backbone and device; note which could not be measured, and why."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch

from xprompt.backbones.loading import load_backbone
from xprompt.bench import t5_scale, writer
from xprompt.bench.rows import Findings, hardware_of
from xprompt.bench.sizes import BACKBONES, COMPARISONS, HEADLINES, comparisons_of, size_of
from xprompt.errors import BackboneError, ConfigError, did_you_mean
from xprompt.files import path_of, try_folder
from xprompt.runs.provenance import provenance

log = logging.getLogger("xprompt")
NO_GPU = "needs a GPU, and there is none here"


def measure(
    output: str | Path,
    *,
    only: Iterable[str] = (),
    backbones: Iterable[str] = BACKBONES,
    quick: bool = False,
    device: str = "",
    retrain_share: float = 0.1,
) -> pd.DataFrame:
    """Measure, write the bench folder, and return the rows of its bench.csv.

    Args:
        output: the folder; comparisons that are not measured now keep the rows they have there.
        only: names in `COMPARISONS`; none: all.
        backbones: of "nano" and "smollm2".
        quick: a few rounds of a few steps: checks that everything works, the numbers mean nothing.
        device: "cpu" or "cuda"; "": the CPU and, where there is one, the GPU.
        retrain_share: share of the grid's retraining that the search needs, for the hours of the paper's grid.

    Raises:
        ConfigError: an unknown name, nothing to measure, no GPU where one was asked for, or quick rows beside others.
        StoreError: the folder cannot be written; before anything is measured.
    """
    chosen = list(only) or list(COMPARISONS)
    unknown = [*(n for n in chosen if n not in COMPARISONS), *(b for b in backbones if b not in BACKBONES)]
    if unknown:
        raise ConfigError(
            f"unknown {', '.join(unknown)}: choose comparisons among {', '.join(COMPARISONS)}, backbones among "
            f"{', '.join(BACKBONES)}.{did_you_mean(unknown[0], (*COMPARISONS, *BACKBONES))}"
        )
    if device not in ("", "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"device {device!r}: give cpu, or cuda where there is a GPU.")
    devices = [device] if device else ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    backbones = list(backbones)
    found = [comparisons_of(name, kind, chosen) for name in backbones for kind in devices]
    if not any(found) and "t5_scale" not in chosen:
        raise ConfigError(
            f"nothing to measure: {', '.join(chosen)} is not made with {', '.join(backbones) or 'no backbone'} on "
            f"{', '.join(devices)}; choose other comparisons, or leave --backbones and --device out."
        )
    output = path_of(output)
    if writer.holds_other_kind(output, quick):
        raise ConfigError(
            f"{output} holds {'rows at full length' if quick else 'quick rows'}, among which "
            f"{'quick ones' if quick else 'others'} would be mixed unmarked: give another folder."
        )
    try_folder(output)
    for name in backbones:
        for kind in devices:
            _on_backbone(output, name, kind, comparisons_of(name, kind, chosen), quick)
        if "cuda" not in devices:
            _write(output, _empty(comparisons_of(name, "cuda", chosen), name, _why_no_gpu()), "cpu", quick)
    if "t5_scale" in chosen:
        _scale(output, devices, quick, retrain_share)
    return writer.read_rows(output / "bench.csv")


def read_or_measure(
    folders: Iterable[str | Path], output: str | Path, only: Iterable[str] = (), *, quick: bool = True
) -> tuple[pd.DataFrame, Path]:
    """Return a bench's rows and its folder: the first of `folders` with a bench.csv, else one measured into `output`.

    Folders that were looked at before, and have none, are named on standard output.

    Args:
        only, quick: as in `measure`, which then measures nano alone.
    """
    absent: list[str] = []
    for folder in map(path_of, folders):
        if (folder / "bench.csv").exists():
            if absent:
                print(f"no bench.csv in {', '.join(absent)}: that of {folder} is read")
            return writer.read_rows(folder / "bench.csv"), folder
        absent.append(str(folder))
    if absent:
        print(f"no bench.csv in {', '.join(absent)}: measured now")
    return measure(output, only=only, backbones=("nano",), quick=quick), path_of(output)


def _on_backbone(output: str | Path, name: str, kind: str, comparisons: list[str], quick: bool) -> None:
    if not comparisons:
        return
    size = size_of(name, quick, kind)
    try:
        backbone = load_backbone(name, device=kind, max_source=size.max_source)
    except BackboneError as error:
        _write(output, _empty(comparisons, name, str(error)), kind, quick)
        return
    for comparison in comparisons:
        if comparison == "peft_step" and importlib.util.find_spec("peft") is None:
            _write(output, _empty([comparison], name, "needs the package peft"), kind, quick)
            continue
        start = time.perf_counter()
        measured = importlib.import_module(f"xprompt.bench.{comparison}").measure
        found: Findings = measured(backbone, size, hardware_of(backbone.device))
        for fact in found.facts:
            fact["size"] = size.facts()
        _write(output, found, kind, quick, backbone.dtype)
        log.info("%s on %s, %s: %.0f s", comparison, name, kind, time.perf_counter() - start)


def _scale(output: str | Path, devices: list[str], quick: bool, retrain_share: float) -> None:
    found = Findings()
    if "cuda" in devices:
        found = t5_scale.measure(torch.device("cuda"), rounds=5 if quick else 20, retrain_share=retrain_share)
    else:
        for row, shape in t5_scale.names():
            found.missing([row], shape, _why_no_gpu())
    _write(output, found, devices[-1], quick)


def _empty(comparisons: Iterable[str], backbone: str, reason: str) -> Findings:
    found = Findings()
    for comparison in comparisons:
        found.missing(HEADLINES[comparison], backbone, reason)
    return found


def _why_no_gpu() -> str:
    return "left out by --device cpu" if torch.cuda.is_available() else NO_GPU


def _write(output: str | Path, found: Findings, kind: str, quick: bool, dtype: torch.dtype | None = None) -> None:
    dtype = dtype or (torch.float32 if kind == "cpu" else torch.bfloat16)  # a backbone's own, else the shapes'
    about = {**provenance(torch.device(kind), dtype), "quick": quick}
    writer.write(output, found, about)
