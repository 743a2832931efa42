"""The benchmark's table and figures: ratios with their intervals and goals, and memory."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xprompt.errors import ConfigError

NOT_MEASURED = "not measured"
ANY = ""
# (row name, backbone or any, on a GPU) → the goal for the ratio, set before anything was measured.
GOALS = {
    ("side_by_side_c8", "nano", False): 2.0,
    ("side_by_side_c8", "nano", True): 4.0,
    ("side_by_side_c8", "smollm2", True): 2.0,
    **{(name, ANY, gpu): 1.3 for name in ("peft_train_words", "peft_train_string") for gpu in (False, True)},
    **{("peft_eval", ANY, gpu): 1.5 for gpu in (False, True)},
    **{("importance_pass", ANY, gpu): round(1 / 1.3, 3) for gpu in (False, True)},
    **{(f"t5_share_{source}", shape, True): 0.4 for source in (128, 256) for shape in ("t5-xl", "t5-xxl")},
    ("matrix_rate", ANY, False): 0.6,
    **{(f"bfloat16_cpu_p{length}", ANY, False): 2.0 for length in (20, 100)},
    **{("search_cost", ANY, gpu): 10.0 for gpu in (False, True)},
}
# Start of a row's name → what the row compares; the longest start wins.
_TEXTS = {
    "side_by_side_c": "{} candidates in parallel",
    "peft_train_words": "training on label words, PEFT in random batches",
    "peft_train_words_bucketed": "training on label words, PEFT in our batches",
    "peft_train_string": "training on label strings, PEFT in random batches",
    "peft_train_string_bucketed": "training on label strings, PEFT in our batches",
    "peft_train_as_used": "training, each on its own default",
    "peft_eval": "evaluation, PEFT in the data's order",
    "peft_eval_bucketed": "evaluation, PEFT in our batches",
    "peft_accuracy": "accuracy, PEFT in random batches",
    "peft_accuracy_bucketed": "accuracy, PEFT in our batches",
    "importance_pass": "importance / one forward-backward pass",
    "importance_naive": "importance / loop over single examples",
    "dropped_p": "evaluation, {1} % of {0} tokens dropped",
    "subnormals": "tuning steps, subnormals as zero / kept",
    "matrix_rate": "tuning step's share of the matrix rate",
    "bfloat16_cpu_p": "tuning steps, bfloat16 / float32, {} tokens",
    "t5_share_": "share of matrix rate, source {}",
    "paper_grid_hours": "hours of the paper's grid, one seed",
    "search_cost": "retraining of the search / of the grid",
}
_ENDINGS = {
    "_predicted": " / its prediction",
    "_memory": ": peak memory",
    "_same_checkpoints": ": same checkpoint selected",
    "_one_pass": ", in one pass",
}
_SHARES = ("matrix_rate", "t5_share_")  # starts of rows whose ratio is a share, shown in percent
_MARKERS = "osD^vP"


def text(name: str) -> str:
    """Return a row's name in words; the name itself where it is not known."""
    core, ending = name, ""
    for suffix, words in _ENDINGS.items():
        if core.endswith(suffix):
            core, ending = core.removesuffix(suffix), words + ending
    if core in _TEXTS:
        return _TEXTS[core] + ending
    for start in sorted(_TEXTS, key=len, reverse=True):
        if core.startswith(start) and "{" in _TEXTS[start]:
            words = _TEXTS[start].format(*core.removeprefix(start).split("_"))
            return re.sub(r"^1 candidates", "1 candidate", words) + ending
    return name


def _each(rows: pd.DataFrame) -> Iterator[Any]:
    """Yield rows with their columns as attributes, whose types pandas does not know."""
    return iter(rows.itertuples(index=False))


def on_gpu(hardware: str) -> bool:
    """Tell whether a row's hardware is a GPU: a CPU's name ends with its number of threads."""
    return hardware != NOT_MEASURED and not hardware.endswith(("thread", "threads"))


def goal(name: str, backbone: str, hardware: str) -> float | None:
    """Return the goal for a comparison's ratio, or None where none was set."""
    gpu = on_gpu(hardware)
    return GOALS.get((name, backbone, gpu), GOALS.get((name, ANY, gpu)))


def bench_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table of bench.csv: what, where, the baseline and ours, the ratio with its interval, the goal."""
    table = []
    on_cpu = {
        (row.name, row.backbone) for row in _each(rows) if row.hardware != NOT_MEASURED and not on_gpu(row.hardware)
    }
    for row in _each(rows):
        set_goal = goal(row.name, row.backbone, row.hardware)
        is_gpu = row.hardware == NOT_MEASURED and (row.name, row.backbone) in on_cpu  # what else is open
        table.append(
            {
                "comparison": text(row.name),
                "backbone": row.backbone,
                "hardware": f"a GPU: {NOT_MEASURED}" if is_gpu else row.hardware,
                "baseline": _number(row.baseline),
                "ours": _number(row.ours),
                "unit": row.unit,
                "ratio": _ratio(row),
                "goal": "" if set_goal is None else _goal(row.name, set_goal),
            }
        )
    return pd.DataFrame(
        table, columns=["comparison", "backbone", "hardware", "baseline", "ours", "unit", "ratio", "goal"]
    )


def open_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the comparisons that were not measured, each with its backbone."""
    rows = rows[rows["hardware"] == NOT_MEASURED]
    return pd.DataFrame({"not measured": rows["name"].map(text), "backbone": rows["backbone"]}).reset_index(drop=True)


def statements(rows: pd.DataFrame) -> list[str]:
    """Return a sentence per measured goal: reached, missed, or undecided where the interval contains it."""
    sentences = []
    for row in _each(rows):
        wanted = goal(row.name, row.backbone, row.hardware)
        if wanted is None or not _known(row.ratio):
            continue
        low, high = (row.ratio_low, row.ratio_high) if _known(row.ratio_low) else (row.ratio, row.ratio)
        verdict = "reached" if low >= wanted else "missed" if high < wanted else "undecided: the interval contains it"
        sentences.append(
            f"{text(row.name)} ({row.backbone}): {_ratio(row)}, goal {_goal(row.name, wanted)}: {verdict}."
        )
    return sentences


def ratios(rows: pd.DataFrame) -> Figure:
    """Draw each comparison's ratio with its 95 % interval on a logarithmic axis, the line at 1, and the goals.

    Args:
        rows: of bench.csv. Rows of memory (see `memory`) and rows without a ratio are left out.

    Raises:
        ConfigError: no row has a ratio.
    """
    shown = rows[rows["ratio"].notna() & (rows["unit"] != "MiB")]
    if shown.empty:
        raise ConfigError("no row has a ratio: measure first, with `nox -s bench`.")
    places = list(dict.fromkeys(zip(shown["backbone"], shown["hardware"], strict=True)))
    names = sorted(dict.fromkeys(shown["name"]), key=_order)
    colours = sns.color_palette("colorblind", len(places))
    figure = Figure(figsize=(10.5, 2.0 + 0.13 * len(shown) + 0.17 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(1, color="0.25", lw=1.2)
    y, ticks = 0.0, []
    for name in names:
        part = [row for row in _each(shown) if row.name == name]
        for row in part:
            place = places.index((row.backbone, row.hardware))
            _point(axes, row, y, colours[place], _MARKERS[place % len(_MARKERS)])
            y += 1.0
        ticks.append(y - (len(part) + 1) / 2)
        axes.axhline(y, color="0.9", lw=0.8, zorder=0)
        y += 1.0
    axes.set_yticks(ticks, [text(name) for name in names], fontsize=9)
    axes.set_ylim(y - 1.0, -1.0)
    _ratio_axis(axes)
    axes.set_xlabel("ratio, ours better to the right of 1 (logarithmic)")
    handles = [
        Line2D([], [], color=colours[i], marker=_MARKERS[i % len(_MARKERS)], ls="", ms=7, label=", ".join(place))
        for i, place in enumerate(places)
    ]
    handles.append(Line2D([], [], color="black", marker="|", ms=14, mew=2, ls="", label="goal"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def memory(rows: pd.DataFrame) -> Figure:
    """Draw peak memory above the loaded backbone, the baseline's and ours, in MiB on a logarithmic axis.

    Where a row compares with a prediction, the prediction is the baseline.

    Raises:
        ConfigError: no row is of memory.
    """
    shown = rows[(rows["unit"] == "MiB") & rows["ours"].notna()].sort_values("name", key=lambda c: c.map(_order))
    if shown.empty:
        raise ConfigError("no row is of memory: measure first, with `nox -s bench`.")
    colours = sns.color_palette("colorblind")
    figure = Figure(figsize=(10.5, 1.7 + 0.42 * len(shown)), layout="constrained")
    axes = figure.subplots()
    at = np.arange(len(shown))
    axes.hlines(at, shown["baseline"], shown["ours"], color="0.6", lw=1.2, zorder=1)
    for column, colour, marker, above in (("baseline", colours[7], "s", -1), ("ours", colours[2], "o", 1)):
        axes.scatter(shown[column], at, color=colour, marker=marker, s=42, label=column, zorder=2)
        for place, value in zip(at, shown[column], strict=True):
            axes.annotate(_number(value), (value, place), xytext=(0, -9 * above), textcoords="offset points",
                          ha="center", va="center", fontsize=7, color=colour if above > 0 else "0.35")  # fmt: skip
    labels = [
        f"{text(row.name).replace(': peak memory', '')} ({row.backbone}{', GPU' if on_gpu(row.hardware) else ''})"
        for row in _each(shown)
    ]
    axes.set_yticks(at, labels, fontsize=9)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel("peak memory above the loaded backbone (MiB, logarithmic)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _point(axes: Axes, row: Any, y: float, colour: Any, marker: str) -> None:
    error = [[row.ratio - row.ratio_low], [row.ratio_high - row.ratio]] if _known(row.ratio_low) else None
    axes.errorbar([row.ratio], [y], xerr=error, fmt=marker, color=colour, ms=5, capsize=2, lw=1.4)
    wanted = goal(row.name, row.backbone, row.hardware)
    if wanted is not None:
        axes.plot([wanted], [y], marker="|", ms=10, mew=2, color="black", ls="", zorder=5)
    edge = row.ratio_high if _known(row.ratio_high) else row.ratio
    edge = wanted if wanted is not None and edge < wanted < 1.25 * edge else edge  # not on top of the goal
    shown = f"{100 * row.ratio:.0f} %" if _is_share(row.name) else f"{row.ratio:.2f}"
    axes.annotate(shown, (edge, y), xytext=(7, 0), textcoords="offset points",
                  va="center", fontsize=7)  # fmt: skip


def _ratio_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.1)
    low, high = axes.get_xlim()
    fine = (0.5, 0.6, 0.7, 0.8, 1, 1.2, 1.5, 2, 3, 4)
    wide = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
    marks = [mark for mark in (wide if high > 6 * low else fine) if low <= mark <= high]
    axes.set_xticks(marks, [f"{mark:g}×" for mark in marks])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.grid(False, axis="y")


def _order(name: str) -> tuple[int, list[int], str]:
    starts = list(_TEXTS)
    best = max((start for start in starts if name.startswith(start)), key=len, default="")
    numbers = [int(part) for part in "".join(c if c.isdigit() else " " for c in name).split()]
    return (starts.index(best) if best else len(starts), numbers, name)


def _known(value: Any) -> bool:
    return value is not None and not math.isnan(value)


def _number(value: Any) -> str:
    if not _known(value):
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _is_share(name: str) -> bool:
    return name.startswith(_SHARES)


def _goal(name: str, wanted: float) -> str:
    return f"≥ {100 * wanted:.0f} %" if _is_share(name) else f"≥ {wanted:.2g}"


def _ratio(row: Any) -> str:
    if not _known(row.ratio):
        return ""
    scale, digits, unit = (100, 0, " %") if _is_share(row.name) else (1, 2, "")
    value, *ends = (f"{scale * part:.{digits}f}" for part in (row.ratio, row.ratio_low, row.ratio_high) if _known(part))
    return f"{value}{unit}" + (f" [{', '.join(ends)}]" if ends else "")
