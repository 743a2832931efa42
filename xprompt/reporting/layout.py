"""The files of a report under reports/<profile>/, and the manifest that says which runs each comes from."""

from __future__ import annotations

import io
import json
import math
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from xprompt.errors import ConfigError, did_you_mean
from xprompt.files import cannot_write, clear_temporary, inside, path_of, sha256, write_atomically
from xprompt.reporting import tables, wording
from xprompt.reporting.claims import CLAIMS, Verdict, averages
from xprompt.reporting.statistics import Interval
from xprompt.runs.executors import get_executor
from xprompt.runs.manifest import read_manifest, write_manifest
from xprompt.runs.planned_runs import Executor
from xprompt.runs.store import Store

ITEMS = ("fig1", "fig2", "fig5", "fig6", "fig7", "fig9", "fig10", *(f"tab{i}" for i in range(1, 11)))
BEYOND = "beyond-"  # how the ids of our own items start
_OUR_ITEM = re.compile(rf"{BEYOND}[\w.-]+")
MAIN = "tab1"  # the main results
HANDED_OVER = "XPROMPT_REPORT"  # environment variable of a notebook's kernel: JSON, the arguments of `Report`


class Report:
    """A report's folder; creating the object writes nothing.

    Args:
        output: the folder, such as reports/nano.
        notebook: the name of the notebook that writes to it, for the manifest.
        quick: whether runs are cut to a few examples and steps.
        executor, executor_options: where runs are done, as `xprompt.get_executor` takes them.
        live: whether somebody watches, so that bars, curves and sliders move; else they are pictures.
    """

    def __init__(
        self,
        output: str | Path,
        notebook: str = "",
        *,
        quick: bool = False,
        executor: str = "local",
        executor_options: Mapping[str, Any] | None = None,
        live: bool = False,
    ) -> None:
        self.root = path_of(output)
        self.notebook = notebook
        self.quick = quick
        self.live = live
        self._executor, self._executor_options = executor, dict(executor_options or {})
        self.tables = self.root / "tables"
        self.figures = self.root / "figures"
        self.notebooks = self.root / "notebooks"
        self.index = self.root / "index.html"
        self.manifest_path = self.root / "manifest.json"

    @classmethod
    def open(cls, notebook: str, profile: str, *, quick: bool = False) -> Report:
        """Return the report that a notebook writes to.

        `xprompt reproduce` hands folder, executor and quick over to the notebook's kernel in the environment variable
        `HANDED_OVER`. Without it, as in Jupyter, the folder is reports/<profile> next to the folder notebooks/, or
        where the notebook runs; runs are done on this machine, and somebody watches.

        Args:
            notebook: the notebook's own name, such as "01_main_results".
            profile: a name in `PROFILES`.
            quick: cut runs to a few examples and steps, in a folder of its own: the report's with "-quick" after it.

        Raises `ConfigError` where the variable is not what `reproduce` writes, or a quick report would go into a folder
        that holds a real one.
        """
        text = os.environ.get(HANDED_OVER, "")
        try:
            given: dict[str, Any] = (
                json.loads(text) if text else {"output": _home() / "reports" / profile, "live": True}
            )
            if quick and not given.get("quick"):
                output = Path(given["output"])
                given |= {"quick": True, "output": output.with_name(f"{output.name}-quick")}
            report = cls(notebook=notebook, **given)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ConfigError(
                f"{HANDED_OVER}={text!r}: {error}; needed JSON with output, quick, executor and executor_options, as "
                "`xprompt reproduce` sets it. Unset it to work without."
            ) from error
        report.refuse_quick_in_real()
        return report

    def refuse_quick_in_real(self) -> None:
        """Raise `ConfigError` where this report is quick and its folder holds tables or figures that are not."""
        real = [name for name, item in self.manifest()["items"].items() if not item.get("quick")] if self.quick else []
        if real:
            raise ConfigError(
                f"{self.root} holds a report that is not quick ({', '.join(real)[:80]}): quick runs would overwrite "
                "it. Give another folder, or leave the folder out: quick reports have their own."
            )

    def executor(self) -> Executor:
        """Return what does this report's runs and keeps them in its store."""
        return get_executor(self._executor, self.store, **self._executor_options)

    @property
    def store(self) -> Store:
        """Return the store with this report's run records."""
        return Store(self.root)

    def save_table(
        self,
        item: str,
        table: pd.DataFrame,
        title: str,
        *,
        rows: pd.DataFrame | None = None,
        runs: Iterable[str] = (),
        statements: Sequence[str] = (),
    ) -> pd.DataFrame:
        """Write tables/<item>.md, .tex and .csv, note them in the manifest, and return `table` to be shown.

        Args:
            item: the paper's id, such as "tab1", or "beyond-…" for ours.
            table: the table as people read it, texts in cells.
            title: the caption.
            rows: tidy rows for the .csv; None writes `table` itself there.
            runs: IDs of runs behind the table, in addition to those in the column "run" of `rows`.
            statements: sentences about the table for the report's page.
        """
        _check(item)
        texts = {
            "csv": (table if rows is None else rows).to_csv(index=False, lineterminator="\n"),
            "md": f"{title}\n\n{tables.to_markdown(table)}",
            "tex": tables.to_latex(table, title),
        }
        shown = {
            "title": title,
            "columns": [str(column) for column in table.columns],
            "rows": [[str(value) for value in row] for row in table.to_numpy()],
            "statements": list(statements),
        }
        files = {f"tables/{item}.{suffix}": text.encode() for suffix, text in texts.items()}
        self._save(item, "table", files, _runs(rows, runs), shown)
        return table

    def save_figure(
        self,
        item: str,
        figure: Figure,
        title: str,
        *,
        rows: pd.DataFrame | None = None,
        runs: Iterable[str] = (),
        finding: str = "",
    ) -> Picture:
        """Write figures/<item>.png and .svg, note them in the manifest, and return the picture to be shown.

        The files say by themselves what they show: the finding stands above the figure, caption and seeds below it.

        Args:
            item: the paper's id, such as "fig1", or "beyond-…" for ours.
            figure: the drawn figure; it is left as it is.
            title: the caption, which explains marks and bars.
            rows, runs: where the runs behind the figure are named, as in `save_table`.
            finding: what the figure shows, in one sentence.
        """
        _check(item)
        files, formats = {}, dict[str, dict[str, Any]](png={}, svg={"metadata": {"Date": None}})
        written = _write_around(figure, f"{title} {_seeds(rows, figure, title)}".strip(), finding)
        with _legends_in_place(figure):
            for suffix, options in formats.items():
                figure.savefig(drawn := io.BytesIO(), format=suffix, dpi=160, bbox_inches="tight", **options)
                files[f"figures/{item}.{suffix}"] = drawn.getvalue() if suffix == "svg" else _with_palette(drawn)
        for text in written:
            text.remove()
        self._save(item, "figure", files, _runs(rows, runs), {"title": title})
        return Picture(self.figures / f"{item}.png", round(90 * figure.get_figwidth()))

    def save_claim(self, name: str, measured: Interval, *, runs: Iterable[str] = ()) -> str:
        """Note in the manifest what was measured of one of the paper's claims, for the book's front page.

        Returns the claim, its verdict and the number as a line.

        Args:
            name: a name in `xprompt.reporting.claims.CLAIMS`.
            measured: the number and its interval over seeds, in the claim's unit and direction.
            runs: IDs of the runs behind it.

        Raises `ConfigError` where there is no such claim.
        """
        if name not in CLAIMS:
            raise ConfigError(f"no claim {name!r}; known: {', '.join(CLAIMS)}.{did_you_mean(name, CLAIMS)}")
        low, high = (None if math.isnan(bound) else float(bound) for bound in (measured.low, measured.high))
        claim = {"mean": float(measured.mean), "low": low, "high": high, "n": measured.n, "quick": self.quick,
                 "notebook": self.notebook, "runs": sorted(set(runs))}  # fmt: skip
        self.change(lambda manifest: {**manifest, "claims": {**manifest.get("claims", {}), name: claim}})
        unit, judged = CLAIMS[name].unit, Verdict(CLAIMS[name], measured).judgement
        number = wording.with_span(measured, signed=unit == "points")
        return f"Claim '{CLAIMS[name].text}': {judged}, {number} {unit}"

    def save_claims(self, names: Iterable[str], gaps: pd.DataFrame, *, runs: Iterable[str] = ()) -> list[str]:
        """Note several claims that compare two methods as `save_claim` does, and return a line for each.

        Args:
            names: as of `save_claim`; a claim whose methods are not compared in `gaps` is left out.
            gaps: as `xprompt.reporting.statistics.differences` returns them.
            runs: IDs of the runs behind them.
        """
        measured, runs = averages(gaps), list(runs)
        return [self.save_claim(n, measured[CLAIMS[n].pair], runs=runs) for n in names if CLAIMS[n].pair in measured]

    def manifest(self) -> dict[str, Any]:
        """Return the manifest, an empty one where there is none. Raises `StoreError` where it is damaged."""
        return read_manifest(self.manifest_path)

    def note_notebook(self, name: str, state: Mapping[str, Any]) -> None:
        """Note in the manifest how a notebook was executed, whatever others write there at the same time."""
        self.change(lambda m: {**m, "notebooks": dict(sorted({**m["notebooks"], name: dict(state)}.items()))})

    def change(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Read, change and write the manifest while no other process does; return it.

        Tables and figures are written by `change` too, so that two writers of one leave it as one of them wrote it.
        """
        lock = self.store.locks / "manifest.lock"
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock):
                for folder in (self.tables, self.figures):
                    clear_temporary(folder, 0)  # only who holds this lock writes there
                clear_temporary(self.root)
                manifest = change(self.manifest())
                manifest.pop("published", None)  # the digests of what has been published, which this no longer is
                write_manifest(self.manifest_path, manifest)
        except OSError as error:
            raise cannot_write(lock, error) from error
        return manifest

    def _save(
        self, item: str, kind: str, files: Mapping[str, bytes], runs: Sequence[str], about: Mapping[str, Any]
    ) -> None:
        """Write an item's files and note them in the manifest."""

        def change(manifest: dict[str, Any]) -> dict[str, Any]:
            for name, content in files.items():
                write_atomically(inside(self.root, name), content)
            items = dict(manifest["items"])
            old = items.get(item, {})
            parts = {k: old[k] for k in ("table", "figure") if k in old and old["notebook"] == self.notebook}
            digests = {name: sha256(content) for name, content in files.items()}
            parts[kind] = {**about, "files": list(files), "sha256": digests, "runs": list(runs)}
            items[item] = {
                "notebook": self.notebook,
                "quick": self.quick,
                "files": [file for part in parts.values() for file in part["files"]],
                "runs": sorted({run for part in parts.values() for run in part["runs"]}),
                **parts,
            }
            return {**manifest, "items": items}

        self.change(change)


def _home() -> Path:
    """The folder that reports/ is in: the one above notebooks/, or, for a notebook elsewhere, its own."""
    return Path("..") if Path.cwd().name == "notebooks" else Path(".")


@dataclass(frozen=True)
class Picture:
    """A saved figure that a notebook shows `width` pixels wide, whichever matplotlib backend it uses."""

    path: Path
    width: int

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return self.path.read_bytes(), {"width": self.width}


def _with_palette(png: io.BytesIO) -> bytes:
    """Return a PNG of 256 colours in a third of the bytes: published figures are kept, and once more in notebooks."""
    image = Image.open(png)
    few = image.convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(out := io.BytesIO(), "PNG", optimize=True, dpi=image.info["dpi"])
    return out.getvalue()


def _check(item: str) -> None:
    if item not in ITEMS and not _OUR_ITEM.fullmatch(item):
        raise ConfigError(
            f"item {item!r} is no table or figure of the paper ({', '.join(ITEMS)}): use one of these, or an id of "
            f"your own, {BEYOND!r} with letters, digits, '-', '_' and '.' after it."
        )


@contextmanager
def _legends_in_place(figure: Figure) -> Iterator[None]:
    """Keep a figure's legends where its layout has them: by default they move to the edge of what is saved."""
    figure.draw_without_rendering()
    engine = figure.get_layout_engine()
    figure.set_layout_engine("none")
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0, 0, 1, 1), transform=figure.transFigure)
    try:
        yield
    finally:
        for legend in figure.legends:
            legend.set_bbox_to_anchor(None)
        figure.set_layout_engine(engine)


def _write_around(figure: Figure, caption: str, finding: str) -> list[Text]:
    """Write a caption below a figure and a finding above it, in lines as wide as the figure; return both."""
    places = ((caption, -0.02, "top", 9.0, "normal"), (finding, 1.02, "bottom", 10.5, "bold"))
    written = []
    for text, y, align, size, weight in places:
        if text:
            lines = figure.text(0.01, y, "", va=align, fontsize=size, fontweight=weight, parse_math=False)
            for characters in range(max(20, int(figure.get_figwidth() * 160 / size)), 15, -1):
                lines.set_text(textwrap.fill(text, characters))
                if lines.get_window_extent().width <= 0.97 * figure.bbox.width:  # another reader's font may be wider
                    break
            written.append(lines)
    return written


def _seeds(rows: pd.DataFrame | None, figure: Figure, title: str) -> str:
    """How many seeds rows are of, as the end of a caption; empty where rows do not say, or the figure does already."""
    words = " ".join([title, *(text.get_text() for text in figure.findobj(Text))])
    said = re.search(r"\b(\d+ seeds?|(one|a single) seed)\b", words, re.I)
    if said or rows is None or "seed" not in rows or rows.empty:
        return ""
    count = rows["seed"].nunique()
    return f"{count} seeds." if count > 1 else "One seed: no intervals."


def _runs(rows: pd.DataFrame | None, runs: Iterable[str]) -> list[str]:
    from_rows = [] if rows is None or "run" not in rows else list(rows["run"])
    return sorted({run for run in [*from_rows, *runs] if run})
