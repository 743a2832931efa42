"""The book's own pages: front page, pictures, all tables, all runs, what was run, and a page for every run."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from xprompt.config.methods import METHODS, Method
from xprompt.config.settings import dotted
from xprompt.reporting import book_chapters, claims, facts, pictures, wording
from xprompt.reporting.forest import REFERENCE_PAIRS
from xprompt.reporting.layout import ITEMS, MAIN, Report
from xprompt.reporting.rows import tasks_in, tidy
from xprompt.tasks.superglue import TASKS
from xprompt.units import readable_duration

Record = dict[str, Any]


@dataclass
class Contents:
    """What a book shows, read once.

    Attributes:
        root: the report's folder.
        manifest: as the report has it, with the facts of its runs.
        records: run ID → record, of every run that is done.
        quick: IDs of the runs that are cut short and mean nothing.
    """

    root: Path
    manifest: dict[str, Any]
    records: dict[str, Record]
    quick: set[str] = field(default_factory=set)

    @cached_property
    def main(self) -> list[Record]:
        """The records of the main results, by one protocol; while they are going on, those done so far."""
        item = self.manifest["items"].get(MAIN, {})
        if item and (self.is_quick or not item.get("quick")):
            chosen = [record for run, record in self.records.items() if run in set(item["runs"])]
        else:
            chosen = _comparable(r for r in self.records.values() if self.is_quick or r["run"] not in self.quick)
        places = Counter((r["profile"], r["backbone"]) for r in chosen)
        place = places.most_common(1)[0][0] if places else None
        chosen = [r for r in chosen if (r["profile"], r["backbone"]) == place]
        protocols = {r["protocol"] for r in chosen}
        protocol = "held_out" if "held_out" in protocols else min(protocols, default="")
        return [r for r in chosen if r["protocol"] == protocol]

    @cached_property
    def differing(self) -> dict[str, str]:
        """Run → the settings, such as "few_shot 32", that most of the method's main runs have not; "" where none are.

        Of a method that is not in the main results, all runs count.
        """
        settings = {run: _distinguishing(record["config"]) for run, record in self.records.items()}
        methods = {run: record["method"] for run, record in self.records.items()}
        main = {record["run"]: record["method"] for record in self.main}
        usual = [run for run, method in methods.items() if run in main or method not in main.values()]
        runs = Counter(methods[run] for run in usual)
        having = Counter((methods[run], setting) for run in usual for setting in settings[run])
        return {
            run: ", ".join(setting for setting in settings[run] if 2 * having[method, setting] <= runs[method])
            for run, method in methods.items()
        }

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The tidy rows of the main results."""
        return tidy(self.main)

    @property
    def is_quick(self) -> bool:
        """Whether the whole report is."""
        return bool(self.manifest.get("quick"))

    @property
    def is_few_shot(self) -> bool:
        """Whether the main results are of runs on a few examples."""
        return bool(self.main) and all(r["config"].get("few_shot") for r in self.main)

    @property
    def statuses(self) -> dict[str, str]:
        """Notebook → "done", or why it is not."""
        return {name: state["status"] for name, state in self.manifest["notebooks"].items()}

    @property
    def published(self) -> dict[str, str]:
        """The path in the project of each table and figure → its item, where this is a published report's book."""
        if "published" not in self.manifest:
            return {}
        folder = f"reports/published/{self.root.name}"
        return {f"{folder}/{file}": item for item, entry in self.manifest["items"].items() for file in entry["files"]}

    @property
    def verdicts(self) -> list[claims.Verdict]:
        """A verdict for every claim; a quick run decides none."""
        if self.is_quick:
            return [claims.Verdict(claim) for claim in claims.CLAIMS.values()]
        noted = {name: of for name, of in self.manifest.get("claims", {}).items() if not of.get("quick")}
        verdicts = claims.judge(self.rows, noted, self.is_few_shot)
        return [
            replace(verdict, basis=self._basis(verdict, noted[verdict.claim.name] if verdict.noted else {}))
            for verdict in verdicts
        ]

    def _basis(self, verdict: claims.Verdict, noted: Mapping[str, Any]) -> str:
        """The tasks that a notebook measured a claim on, and the seeds, where the main results have others."""
        if verdict.measured is None or self.rows.empty:
            return ""
        found, seeds = {self.records[run]["task"] for run in noted.get("runs", ()) if run in self.records}, ""
        tasks = "" if found >= set(tasks_in(self.rows)) else wording.named(sorted(found), 2)
        if 1 < verdict.measured.n != self.rows["seed"].nunique():  # one seed is named in the interval's place
            seeds = wording.seeds(verdict.measured.n)
        return ", ".join(filter(None, (tasks, seeds)))

    @property
    def name(self) -> str:
        """The book's name: what the runs are of."""
        return f"XPrompt, {self.manifest.get('profile') or 'custom'}"

    @property
    def title(self) -> str:
        """The book's name, marked where the runs mean nothing."""
        return self.name + (" (quick run)" if self.is_quick else "")

    @property
    def about(self) -> str:
        """The main results' runs in one line."""
        if not self.main:
            return "No run is done yet." if not self.records else f"{len(self.records)} runs are done."
        tasks = tasks_in(self.rows)
        seeds = {r["seed"] for r in self.main}
        shots = sorted({str(r["config"]["few_shot"]) for r in self.main if r["config"].get("few_shot")})
        steps = sorted(
            {r["history"][-1]["step"] for r in self.main if r["method"] == "prompt_tuning" and r.get("history")}
        )
        custom = any(r["task"].endswith(".json") or r["task"] not in TASKS for r in self.main)
        generated = self.main[0].get("source") == "nano"
        kind = "custom task" if custom else "generated task" if generated else "task"
        parts = [
            f"backbone {self.main[0]['backbone']}",
            wording.counted(len(tasks), kind) + (f" ({', '.join(map(wording.task, tasks))})" if len(tasks) < 4 else ""),
            f"few-shot: {', '.join(shots)}" if shots else "",
            wording.counted(len(seeds), "seed"),
            f"prompt tuning for {' or '.join(map(str, steps))} steps" if steps else "",
            wording.PROTOCOLS.get(self.main[0]["protocol"], self.main[0]["protocol"]),
            wording.counted(len(self.main), "run"),
        ]  # fmt: skip
        return " · ".join(part for part in parts if part)


def read(report: Report) -> Contents:
    """Read a report's manifest and records; nothing is written. Damaged runs are left out."""
    manifest = report.manifest()
    records = {record["run"]: record for record in sorted(report.store.records(), key=_place)}
    quick: set[str] = set()
    real: set[str] = set()
    for item in manifest["items"].values():
        (quick if item.get("quick", manifest.get("quick")) else real).update(item["runs"])
    if records or "runs" not in manifest:
        main = manifest["items"].get(MAIN, {}).get("runs", ())
        manifest = {**manifest, "runs": facts.summarize_runs(records, main)}
    return Contents(report.root, manifest, records, quick - real)


def write(contents: Contents, others: Iterable[str] = ()) -> dict[str, str]:
    """Return the pages of the book but those of single runs: path in the Sphinx project → MyST Markdown."""
    drawn = _draw(contents)
    notebooks = sorted((contents.root / "notebooks").glob("*.ipynb"))
    guides = book_chapters.guide_titles()
    manifest = contents.manifest
    order = sorted(
        manifest["items"], key=lambda item: (item not in ITEMS, item not in ITEMS or ITEMS.index(item), item)
    )
    shared = {
        "book": contents, "manifest": manifest, "items": [(item, manifest["items"][item]) for item in order],
        "titles": {path.stem: book_chapters.title_of(path) for path in notebooks}, "guides": guides,
        "has_pictures": bool(drawn), "others": list(others), "drawn": drawn,
        "forest": pictures.forest(contents.rows, _link, width=3.9) if len(contents.rows) else None,
        "caveats": facts.caveats(manifest), "mixed_codes": facts.mixed_codes, "protocols": wording.PROTOCOLS,
    }  # fmt: skip
    pages = {"index.md": "index.md.j2", "tables.md": "tables.md.j2", "runs.md": "runs.md.j2", "facts.md": "facts.md.j2"}
    if drawn:
        pages["pictures.md"] = "pictures.md.j2"
    return {name: _render(template, **shared) for name, template in pages.items()}


def run_pages(contents: Contents) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield for every run its page's name, what the theme's template shows, and that template."""
    named: dict[str, list[tuple[str, str]]] = {}
    for item, entry in contents.manifest["items"].items():
        title = entry.get("table", entry.get("figure", {})).get("title") or item
        for run in entry["runs"]:
            named.setdefault(run, []).append((item, title.partition(":")[0].partition(" (")[0]))
    several = len({record["backbone"] for record in contents.records.values()}) > 1
    for run, record in contents.records.items():
        title = f"{wording.method(record['method'])} on {wording.task(record['task'])}, seed {record['seed']}"
        title += f", {record['backbone']}" * several
        body = _render(
            "run.html.j2", record=record, title=title, quick=contents.is_quick or run in contents.quick,
            items=named.get(run, []), parents=_parents(contents, record), details=record.get("details") or {},
            protocols=wording.PROTOCOLS, differing=contents.differing[run],
        )  # fmt: skip
        yield f"runs/{run}", {"title": title, "body": body}, "run.html"


def _draw(contents: Contents) -> dict[str, tuple[str, str]]:
    """Heading → (what it shows, SVG), of the pictures that the runs give."""
    main, rows = contents.main, contents.rows
    drawn = {
        "All differences": (
            "Each pair of methods on each task, paired by seed. A mark is filled where 0 is outside the 95 % interval; "
            "a small dot is a seed; it leads to its run.",
            pictures.forest(rows, _link, width=8.2, every_task=True) if len(rows) else None,
        ),
        "Distance to the references": (
            "How far full fine-tuning is above prompt tuning, and prompt tuning above the majority class.",
            pictures.forest(rows, _link, REFERENCE_PAIRS, width=8.2, every_task=True) if len(rows) else None,
        ),
        "Prune ratios": (
            "What each pair of prune ratios scores on the selection split, less what the unpruned prompt scores there: "
            "blue gains, red loses. The pair is chosen on this split, so that the best cell is optimistic; where "
            "halving searched, a stopped pair has the score that it was stopped with.",
            pictures.ratio_maps(main),
        ),
        "Prompt tuning": ("The score on the selection split, a line for each seed; it leads to its run.",
                          pictures.curves(main, _link)),
        "Retraining": ("The chosen prompt's score on the selection split after pruning and rewinding, and that of the "
                       "matched budget, where nothing is pruned.", pictures.curves(main, _link, retraining=True)),
        "Importance": ("The importance of every piece (columns) of every token (rows), brighter is higher; what is "
                       "pruned is grey. A map leads to its run.", pictures.importance_gallery(main, _link)),
    }  # fmt: skip
    return {heading: (text, svg) for heading, (text, svg) in drawn.items() if svg}


def _place(record: Record) -> tuple[Any, ...]:
    """Where a run stands in tables: by task, method, protocol and seed."""
    orders = ((record["task"], list(TASKS)), (record["method"], list(METHODS)))
    places = [(known.index(name), "") if name in known else (len(known), name) for name, known in orders]
    return *places, record["protocol"], record["seed"], record["run"]


def _comparable(records: Iterable[Record]) -> list[Record]:
    """Runs that differ in task, method, seed and protocol alone: of each method those with its commonest settings."""
    by_method: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        config = {k: v for k, v in record["config"].items() if k not in ("task", "seed", "protocol")}
        by_method.setdefault(record["method"], {}).setdefault(str(sorted(config.items())), []).append(record)
    return [record for groups in by_method.values() for record in max(groups.values(), key=len)]


def _parents(contents: Contents, record: Record) -> list[Record]:
    """The runs that this one started from, one of each source task, where a single record here has their settings."""
    method = METHODS.get(record["method"])
    parent = METHODS.get(method.parent or "") if method else None
    if method is None or parent is None:
        return []
    tasks = list(record["config"]["source_tasks"]) if method.num_sources else [record["task"]]
    wanted, found = _inherited(record["config"], method, parent), []
    for task in tasks:
        fitting = [
            other
            for other in contents.records.values()
            if other["method"] == parent.name
            and other["task"] == task
            and all(other.get(name) == record.get(name) for name in ("seed", "protocol", "backbone", "source"))
            and _inherited(other["config"], method, parent) == wanted
        ]
        found += fitting if len(fitting) == 1 else []
    return found


def _inherited(config: Mapping[str, Any], method: Method, parent: Method) -> dict[str, Any]:
    """What the settings of a run of `method` have in common with those of the run of `parent` that it started from."""
    differing = {"method", "learning_rates"} | ({"prune"} - parent.settings)
    if method.num_sources:
        differing |= {"task", "source_tasks", "pattern"}
    tune = dict(config.get("tune") or {})
    if method.takes_learning_rate:  # which then stands in `tune`, and is not the parent's
        tune.pop("learning_rate", None)
    elif rate := config.get("learning_rates", {}).get(parent.name):
        tune["learning_rate"] = rate
    set_here = {name: value for name, value in config.items() if name not in differing and value}
    return {**set_here, "tune": tune}


def _link(run: str) -> str:
    return f"runs/{run}.html"


def _curve(record: Record) -> list[tuple[int, float]]:
    return [(h["step"], 100 * h["selection_score"]) for h in record.get("history") or ()
            if h.get("selection_score") is not None]  # fmt: skip


def _steps(record: Record) -> str:
    """How long a run trains: steps or epochs, and behind a plus those of retraining; empty where it does not."""
    config, method = record["config"], METHODS.get(record["method"])
    settings = [config.get(name) for name in ("tune", "fine_tune") if method is None or name in method.settings]
    if method is None or method.work in ("search", "retraining"):
        settings.append((config.get("prune") or {}).get("retune"))
    lengths = [f"{of['steps']}" if of.get("steps") else f"{of.get('epochs'):g} epochs" for of in settings if of]
    return " + ".join(lengths) if record.get("history") else ""


def _distinguishing(config: Mapping[str, Any]) -> list[str]:
    """A run's settings as "name value" that the table of runs does not show anyway, or that follow from others."""
    shown = ("task", "method", "seed", "protocol", "profile", "backbone", "source")
    sources = [f"source task {name}" for name in config.get("source_tasks") or ()]
    others = {name: value for name, value in config.items() if name not in (*shown, "source_tasks")}
    return [*sources, *(f"{name} {value}" for name, value in dotted(others).items() if not name.endswith("eval_every"))]


def _cell_text(value: Any) -> str:
    return html.escape(str(value)).replace("\n", "<br>")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("xprompt.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"cell": _cell_text, "flat": dotted, "curve": _curve, "steps": _steps}
    environment.globals |= {
        "method": wording.method, "task": wording.task, "points": wording.points, "duration": readable_duration,
        "metric": lambda name: wording.METRICS.get(name, name), "count": wording.counted, "link": _link,
    }  # fmt: skip
    return environment


_ENVIRONMENT = _environment()


def _render(template: str, **context: Any) -> str:
    return _ENVIRONMENT.get_template(template).render(**context)
