"""Small pictures of objects for notebooks: tables, heat maps and curves as inline HTML and SVG, without matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_CELL, _WIDTH, _HEIGHT, _LEFT, _BOTTOM = 11, 420, 150, 40, 22
_COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#8c564b", "#17becf")


def table(rows: Sequence[Sequence[object]], caption: str = "") -> str:
    """Return rows, the first of them the head, as an HTML table."""
    head, *body = [[escape(str(cell)) for cell in row] for row in rows]
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
    return f"<table><caption>{escape(caption)}</caption>{''.join(lines)}</table>"


def text(content: str, limit: int = 1000) -> str:
    """Return a text as it stands, line ends kept, its end left out where it is longer than `limit` characters."""
    cut = content if len(content) <= limit else content[: limit - 1] + "…"
    return f'<pre style="white-space:pre-wrap">{escape(cut)}</pre>'


def heat_map(
    rows: Sequence[Sequence[float | None]],
    caption: str,
    *,
    cell: int = _CELL,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    span: tuple[float, float] | None = None,
    chosen: tuple[int, int] | None = None,
) -> str:
    """Return a (P, K) map as SVG: the higher the value, the darker its cell; None, what is pruned, stays an outline.

    Colours run from the lowest to the highest value on a logarithmic scale where all values are positive.

    Args:
        cell: pixels of a cell's side.
        row_names, column_names: at the edges, "" for none; default: every fifth row's number, counted from 0.
        span: the values of the palest and the darkest colour; default: those in the map.
        chosen: (row, column) of a cell with a frame.
    """
    values = [value for row in rows for value in row if value is not None]
    ends = span or ((min(values), max(values)) if values else (0.0, 0.0))
    scale = math.log if values and min(*values, *ends) > 0 else float
    low, high = map(scale, ends)
    cells, wide = [], max(map(len, rows), default=0)
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            at = f'x="{_LEFT + j * cell}" y="{i * cell}" width="{cell - 1}" height="{cell - 1}"'
            if value is None:
                cells.append(f'<rect {at} fill="none" stroke="#999" stroke-width=".5"/>')
            else:
                dark = (scale(value) - low) / (high - low) if high > low else 1.0
                cells.append(f'<rect {at} fill-opacity="{0.08 + 0.92 * dark:.2f}"><title>{value:.3g}</title></rect>')
    names = row_names or [str(i) if i % 5 == 0 else "" for i in range(len(rows))]
    places = [(_LEFT - 4, i * cell + cell // 2 + 4, "end", name) for i, name in enumerate(names)]
    foot = cell * len(rows)
    places += [(_LEFT + j * cell + cell // 2, foot + 10, "middle", name) for j, name in enumerate(column_names)]
    marks = [
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(name)}</text>' for x, y, anchor, name in places if name
    ]
    if chosen is not None:
        at = f'x="{_LEFT + chosen[1] * cell}" y="{chosen[0] * cell + 1}" width="{cell - 1}" height="{cell - 2}"'
        marks.append(f'<rect {at} fill="none" stroke="{_COLOURS[1]}" stroke-width="2.5"/>')
    size = _LEFT + cell * wide + 2, foot + (14 if column_names else 0)
    return _svg(*size, [f'<g fill="{_COLOURS[0]}">', *cells, "</g>", *marks], caption)


def curve(lines: Mapping[str, Sequence[tuple[float, float]]], caption: str, end: float | None = None) -> str:
    """Return curves as SVG, each a list of (x, y) with x ascending, in one pair of axes with their ends written.

    Args:
        end: of the x axis, for curves that will go on; default: the last point's x.
    """
    points = [point for line in lines.values() for point in line if all(map(math.isfinite, point))]
    if not points:
        return f"<p>{escape(caption)}</p>"
    (left, right), (low, high) = ((min(axis), max(axis)) for axis in zip(*points, strict=True))
    right = right if end is None else max(right, end)
    wide, tall = (right - left) or 1, (high - low) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + (x - left) / wide * (_WIDTH - _LEFT - 8), 6 + (high - y) / tall * (_HEIGHT - 6 - _BOTTOM)

    drawn = []
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [place(*point) for point in line if all(map(math.isfinite, point))]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(f'<polyline points="{joined}" fill="none" stroke="{colour}"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>' for x, y in places]
        if len(lines) > 1:
            drawn.append(
                f'<text x="{_LEFT + 90 * number + 60}" y="{_HEIGHT - 4}" fill="{colour}">{escape(name)}</text>'
            )
    base = _HEIGHT - _BOTTOM
    drawn += [
        f'<path d="M{_LEFT} 4V{base}H{_WIDTH - 8}" fill="none" stroke="#999"/>',
        f'<text x="{_LEFT - 4}" y="12" text-anchor="end">{high:.3g}</text>',
        f'<text x="{_LEFT - 4}" y="{base}" text-anchor="end">{low:.3g}</text>' if high > low else "",
        f'<text x="{_LEFT}" y="{_HEIGHT - 4}">{left:g}</text>',
        f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 4}" text-anchor="end">{right:g}</text>',
    ]
    return _svg(_WIDTH, _HEIGHT, drawn, caption)


def history(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the selection score at every evaluation as a curve, one a stage; "" where nothing was evaluated."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        if entry.get("selection_score") is not None:
            lines.setdefault(entry.get("stage", ""), []).append((entry["step"], 100 * entry["selection_score"]))
    return curve(lines, "Selection score (%) by step") if lines else ""


def _svg(width: int, height: int, parts: Sequence[str], caption: str) -> str:
    """Return an SVG that names itself, with its caption below."""
    text = escape(caption)
    return (
        f'<figure style="margin:0;max-width:{max(width, 320)}px">'
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" '
        f'height="{height}" '
        f'font-size="9" font-family="sans-serif" fill="currentColor"><title>{text}</title>{"".join(parts)}</svg>'
        f'<figcaption style="color:inherit;text-align:left">{text}</figcaption></figure>'
    )
