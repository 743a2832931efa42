"""Pictures drawn from run records, nothing re-run: differences, ratio pairs, training curves, importance and masks.

They are SVG that a page holds as it is: text and axes take the page's colours, light or dark, and a seed's dot or line
leads to its run's page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xprompt.reporting import saliency, wording
from xprompt.reporting.figures import method_style
from xprompt.reporting.forest import PROMPT_PAIRS, Link
from xprompt.reporting.forest import forest as draw_forest
from xprompt.reporting.panels import panels

Record = Mapping[str, Any]

# Colours that stand for the page's own, and are replaced by them in the SVG.
_INK, _FAINT, _GROUND = "#010203", "#040506", "#070809"
_PAGE = {_INK: "currentColor", _FAINT: "var(--pst-color-border)", _GROUND: "var(--pst-color-background)"}
_LOOK: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "xprompt", "font.size": 10, "axes.titlesize": 10, "axes.labelsize": 9.5,
    "xtick.labelsize": 9, "ytick.labelsize": 9.5, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _FAINT,
    "xtick.color": _INK, "ytick.color": _INK, "grid.color": _FAINT, "axes.grid": True, "axes.grid.axis": "x",
    "axes.axisbelow": True, "axes.facecolor": "none", "figure.facecolor": "none", "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "xtick.major.size": 0, "ytick.major.size": 0,
}  # fmt: skip
_TUNED = ("prompt_tuning",)
_RETRAINED = ("xprompt", "prompt_tuning_matched")


def forest(
    rows: pd.DataFrame,
    link: Link,
    compared: Sequence[tuple[str, str]] = PROMPT_PAIRS,
    *,
    width: float = 7.0,
    every_task: bool = False,
) -> str | None:
    """Draw the forest plot for a page. Arguments as of `forest.forest`; None where no two methods share a seed."""
    with mpl.rc_context(_LOOK):
        figure = draw_forest(
            rows, compared, width=width, every_task=every_task, link=link, ink=_INK, ground=_GROUND
        )  # fmt: skip
        return None if figure is None else to_svg(figure, str(figure.get_label()))


def ratio_maps(records: Sequence[Record]) -> str | None:
    """Draw for each task what each pair of prune ratios gains over the unpruned prompt, the mean over seeds, in points.

    Args:
        records: run records of one protocol. Scores are on the split that the runs selected on. Of a task with runs
            of several searches the grid's are shown: the others stop candidates early.

    Returns the SVG, or None where no XPrompt run has the prompt-tuning run that it started from.
    """
    unpruned = {_key(r): r["details"]["best_score"] for r in records if r["method"] == "prompt_tuning" and _best(r)}
    searched = [r for r in records if r["method"] == "xprompt" and _key(r) in unpruned and _candidates(r)]
    by_task: dict[str, list[Record]] = {}
    for record in searched:
        by_task.setdefault(record["task"], []).append(record)
    maps = {}
    for task, found in by_task.items():
        grids = [r for r in found if r["details"].get("search", {}).get("strategy") == "grid"]
        lines = [
            (c["token_ratio"], c["piece_ratio"], 100 * (c["selection_score"] - unpruned[_key(r)]))
            for r in grids or found for c in _candidates(r) if c.get("selection_score") is not None
        ]  # fmt: skip
        table = pd.DataFrame(lines, columns=["token", "piece", "gain"])
        table = table.pivot_table(index="token", columns="piece", values="gain", aggfunc="mean")
        searches = sorted({r["details"].get("search", {}).get("strategy", "halving") for r in found})
        maps[task] = table, len({r["seed"] for r in grids or found}), "" if grids else ", " + ", ".join(searches)
    maps = {task: entry for task, entry in maps.items() if entry[0].size > 1}
    if not maps:
        return None
    # A few pairs lose so much that a scale which holds them would show the others in one colour.
    limit = max(
        1.0, float(np.nanquantile([abs(v) for table, _, _ in maps.values() for v in table.to_numpy().flat], 0.7))
    )
    with mpl.rc_context({**_LOOK, "axes.grid": False}):
        figure, grid = panels(len(maps), 2.5, 2.35)
        for axes, (task, (table, n, note)) in zip(grid, maps.items(), strict=True):
            image = axes.pcolormesh(table.to_numpy(), cmap="RdBu", vmin=-limit, vmax=limit)
            axes.set_xticks(np.arange(table.shape[1]) + 0.5, _ratios(table.columns))
            axes.set_yticks(np.arange(table.shape[0]) + 0.5, _ratios(table.index))
            axes.set_title(f"{wording.task(task)}, {wording.seeds(n)}{note}")
            axes.set_xlabel("piece prune ratio")
            axes.set_ylabel("token prune ratio")
        figure.colorbar(image, ax=grid, label="points over the unpruned prompt", shrink=0.6, aspect=30, extend="both")
        return to_svg(figure, f"Heat maps of the prune ratios' gains for {', '.join(map(wording.task, maps))}")


def curves(records: Sequence[Record], link: Link, retraining: bool = False) -> str | None:
    """Draw the selection score against the step, a panel for each task and a line for each seed.

    Args:
        records: run records of one protocol.
        link: run ID → address of the run's page.
        retraining: retraining of pruned prompts and of the matched budget; else prompt tuning.
    """
    methods = _RETRAINED if retraining else _TUNED
    chosen = [r for r in records if r["method"] in methods and len(_points(r)[0]) > 1]
    tasks = list(dict.fromkeys(r["task"] for r in chosen))
    if not chosen:
        return None
    with mpl.rc_context({**_LOOK, "axes.grid.axis": "y"}):
        figure, grid = panels(len(tasks), 2.5, 2.1)
        for axes, task in zip(grid, tasks, strict=True):
            for record in chosen:
                if record["task"] == task:
                    steps, scores = _points(record)
                    colour, marker = method_style(record["method"])
                    (line,) = axes.plot(steps, scores, color=colour, lw=1.1, alpha=0.85, marker=marker, ms=3)
                    line.set_url(link(record["run"]))
            axes.set_title(wording.task(task))
            axes.set_xlabel("step")
            axes.set_ylabel("selection score")
        handles = [mpl.lines.Line2D([], [], color=method_style(m)[0], marker=method_style(m)[1], ms=4) for m in methods]
        figure.legend(handles, [wording.method(m) for m in methods], loc="outside lower center", ncols=2)
        return to_svg(figure, f"Selection score by step for {', '.join(map(wording.task, tasks))}")


def importance_gallery(records: Sequence[Record], link: Link, limit: int = 60) -> str | None:
    """Draw the importance of every piece of each XPrompt run's prompt, a row of maps a task; pruned pieces are grey.

    Args:
        records: run records of one protocol.
        link: run ID → address of the run's page.
        limit: maps at most.

    A map's colours span three decades below its own largest value.
    """
    with mpl.rc_context({**_LOOK, "axes.grid": False}):
        figure = saliency.gallery(records, link, limit)
        if figure is None:
            return None
        tasks = dict.fromkeys(axes.get_ylabel() for axes in figure.axes if axes.get_ylabel())
        return to_svg(figure, f"Importance of prompt pieces after pruning for {', '.join(tasks)}")


def to_svg(figure: Figure, label: str) -> str:
    """Return a figure as SVG for a page: in the page's colours, scalable, with a text for those who do not see it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for stand_in, colour in _PAGE.items():
        text = text.replace(stand_in, colour)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # the same names in every figure: one page holds several
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"<a xlink:href=", '<a target="_top" xlink:href=', text)
    size = re.search(r'width="([\d.]+)pt" height="[\d.]+pt"', text)
    wide = 4 / 3 * float(size[1]) if size else 600
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{_quote(label)}"', text, count=1)
    return (
        f'<div class="picture" tabindex="0" role="group" aria-label="{_quote(label.split(":")[0])}">'
        f'<div style="max-width:{wide:.0f}px;min-width:{min(wide, 390):.0f}px">'
        + re.sub(r"\n\s*\n", "\n", text).strip() + "</div></div>"
    )  # fmt: skip


def _quote(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def _key(record: Record) -> tuple[Any, ...]:
    """What a run shares with the prompt-tuning run that it starts from."""
    shared = [record["config"].get(name) for name in ("tune", "length", "init", "few_shot", "limit_train", "pattern")]
    return record["task"], record["seed"], record["protocol"], str(shared)


def _best(record: Record) -> bool:
    return (record.get("details") or {}).get("best_score") is not None


def _candidates(record: Record) -> Sequence[Mapping[str, Any]]:
    return (record.get("details") or {}).get("candidates") or ()


def _points(record: Record) -> tuple[list[int], list[float]]:
    """Steps and selection scores in points, as far as they were finite."""
    known = [h for h in record.get("history") or () if h.get("selection_score") is not None]
    return [h["step"] for h in known], [100 * h["selection_score"] for h in known]


def _ratios(values: Iterable[Any]) -> list[str]:
    """Write prune ratios without the 0 in front: many stand at a small panel."""
    return [f"{ratio:g}".removeprefix("0") or "0" for ratio in values]
