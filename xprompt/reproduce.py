"""Run the notebooks and write a report; `python -m xprompt reproduce` is its command line."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xprompt.config.profiles import PROFILES
from xprompt.errors import ConfigError, XPromptError
from xprompt.reporting import site
from xprompt.reporting.layout import HANDED_OVER, MAIN, Report
from xprompt.reporting.notebooks import execute, parameters_of
from xprompt.runs.executors import EXECUTORS, get_executor
from xprompt.runs.grid import choose_seeds, choose_source, choose_tasks
from xprompt.tasks.superglue import TASKS

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Plan:
    """Checked choices: the notebooks, each with its parameters, and what is handed to all their kernels.

    Attributes:
        notebooks: path → the parameters it is given.
        handed_over: the arguments of `Report` in the kernels, the folder relative to the notebooks.
    """

    profile: str
    output: Path
    notebooks: dict[Path, dict[str, Any]]
    quick: bool
    handed_over: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 all done, 1 a notebook failed, 2 wrong choices, 130
    interrupted.
    """
    chosen = parser().parse_args(arguments)
    try:
        plan = make_plan(
            chosen.profile, chosen.tasks, chosen.seeds, chosen.data_dir, chosen.only, chosen.output, chosen.quick,
            _settings(chosen.set), chosen.notebooks, chosen.executor, _executor_options(chosen),
        )  # fmt: skip
        return reproduce(plan)
    except XPromptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        logging.getLogger("asyncio").disabled = True  # of the cell that was cut off, in pages
        print("\nInterrupted: finished runs are kept, and the same command goes on from here.", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Return the command line; its help is the manual."""
    own = argparse.ArgumentParser(
        prog="nox -s reproduce --",
        description="Run the notebooks and write a report: tables, figures, executed notebooks and a page over them. "
        "Runs that are already in the report's folder are read, so a call that was interrupted goes on where it was.",
    )
    own.add_argument("--profile", default="nano", help=f"backbone and settings: {', '.join(PROFILES)}; default: nano")
    own.add_argument("--tasks", default="", metavar="A,B", help=f"tasks, or 'all': {', '.join(TASKS)}; "
                     "or the path of a task.json of your own; default: the profile's own choice, "
                     "and one for the search's comparison")  # fmt: skip
    own.add_argument("--seeds", type=int, metavar="N", help="how many seeds, 0 to N-1; "
                     "default: the profile's own number, and one for the search's comparison")  # fmt: skip
    own.add_argument("--data-dir", default="", metavar="FOLDER", help="SuperGLUE in its official release layout "
                     "(CB/train.jsonl, …); default: the profile's own source")  # fmt: skip
    own.add_argument("--only", action="append", metavar="NOTEBOOK", help="this notebook alone, such as "
                     "01_main_results; may be given again; default: all of them")  # fmt: skip
    own.add_argument("--output", default="", metavar="FOLDER", help="the report's folder; default: reports/<profile>")
    own.add_argument("--quick", action="store_true", help="a few examples and steps, one task, one seed: shows in a "
                     "minute that everything works; the numbers mean nothing")  # fmt: skip
    own.add_argument("--executor", choices=EXECUTORS, default="local", help="where the runs are done: on this machine, "
                     "or on Ray, here or on a cluster; the tables are the same; default: local")  # fmt: skip
    own.add_argument("--workers", type=int, metavar="N", help="runs at a time, in processes of their own; default: "
                     "local: one, but with the nano profile one a core; ray: as many as there is room for")  # fmt: skip
    with_ray = "with --executor ray: "
    own.add_argument("--address", metavar="HOST:PORT", help=with_ray + "a running cluster, all of whose machines see "
                     "the report's folder; 'auto': the one of this machine; default: this machine alone")  # fmt: skip
    own.add_argument("--cpus-per-run", type=float, metavar="C", help=with_ray + "CPUs, and so threads, of a run; "
                     "default: 1")  # fmt: skip
    own.add_argument("--gpus-per-run", type=float, metavar="G", help=with_ray + "GPUs of a run; 0.25 puts four runs on "
                     "each; default: 1 where there are any")  # fmt: skip
    own.add_argument("--set", action="append", metavar="NAME=VALUE", default=[], help="another notebook parameter, in "
                     "JSON or a plain word, such as --set 'protocols=[\"paper\", \"held_out\"]'")  # fmt: skip
    own.add_argument("--notebooks", default=str(ROOT / "notebooks"), help=argparse.SUPPRESS)
    return own


def make_plan(
    profile: str = "nano",
    tasks: str = "",
    seeds: int | None = None,
    data_dir: str = "",
    only: Sequence[str] | None = None,
    output: str | Path = "",
    quick: bool = False,
    settings: Mapping[str, Any] | None = None,
    notebooks: str | Path = ROOT / "notebooks",
    executor: str = "local",
    executor_options: Mapping[str, Any] | None = None,
) -> Plan:
    """Check every choice before anything is run.

    Args:
        profile, tasks, seeds, data_dir, only, output, quick: as the command line has them.
        settings: notebook parameter → value; given to each chosen notebook that has the parameter.
        notebooks: the folder of notebooks.
        executor, executor_options: as `xprompt.get_executor` takes them, for the notebooks with a grid of runs.

    A notebook is given the parameters that it declares; the report's folder, quick and the executor go to its kernel
    beside them (`Plan.handed_over`). Paths are relative to the notebooks' folder, where they are executed. Raises
    `ConfigError` or `DataError`.
    """
    folder = Path(notebooks).resolve()
    names = choose_tasks(tasks, profile)
    numbers = choose_seeds(seeds, profile)
    source = choose_source(data_dir, names)
    names = [name if name in TASKS else os.path.relpath(name, folder) for name in names]
    if quick:
        quick_output = ROOT / "reports" / f"{profile}-quick"
    root = Path(output).resolve() if output else (quick_output if quick else ROOT / "reports" / profile)
    get_executor(executor, root, **(executor_options or {}))
    offered = {
        "profile": profile, "task": names[0], "data_dir": os.path.relpath(source, folder) if source else "",
    }  # fmt: skip
    handed_over = {
        "output": os.path.relpath(root, folder), "quick": quick, "executor": executor,
        "executor_options": dict(executor_options or {}),
    }  # fmt: skip
    # Where nobody chose, each notebook's own default: the main results take the profile's, the costly search less.
    offered |= ({"tasks": names} if tasks else {}) | ({} if seeds is None else {"seeds": numbers})
    plan: dict[Path, dict[str, Any]] = {}
    unused = set(settings or {})
    for path in _choose_notebooks(folder, only):
        known = parameters_of(path)
        wanted = {**offered, **(settings or {})}
        plan[path] = {name: value for name, value in wanted.items() if name in known}
        unused -= set(known)
    if unused:
        have = sorted({name for path in plan for name in parameters_of(path)})
        raise ConfigError(
            f"no chosen notebook has a parameter {', '.join(sorted(unused))}; they have: {', '.join(have)}."
        )
    if executor != "local" and not any("report.executor()" in path.read_text(encoding="utf-8") for path in plan):
        raise ConfigError(
            f"--executor {executor}: {', '.join(path.stem for path in plan)} has no runs to distribute; leave it out."
        )
    return Plan(profile, root, plan, quick, handed_over)


def reproduce(plan: Plan) -> int:
    """Execute the planned notebooks, write manifest and page, print a short table; return 0, or 1 where one failed."""
    report = Report(plan.output)
    failed = []
    for number, (path, parameters) in enumerate(plan.notebooks.items(), 1):
        print(f"\n=== {path.stem} ({number} of {len(plan.notebooks)}) ===", flush=True)
        start = time.perf_counter()
        with _environment(HANDED_OVER, json.dumps(plan.handed_over)):  # the kernel inherits it
            error = execute(path, report.notebooks / path.name, parameters)
        state = {
            "file": f"notebooks/{path.name}",
            "html": f"notebooks/{path.stem}.html",
            "status": "done" if error is None else f"failed: {error}",
            "seconds": round(time.perf_counter() - start, 1),
            "parameters": parameters,
        }
        report.update(notebooks=dict(sorted({**report.manifest()["notebooks"], path.stem: state}.items())))
        if error is not None:
            failed.append(path.stem)
            print(f"\n{path.stem} failed: {error}", file=sys.stderr, flush=True)
    manifest = site.complete(report, profile=plan.profile, quick=plan.quick)
    site.build(report)
    _print_summary(report, manifest, failed)
    return 1 if failed else 0


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _choose_notebooks(folder: Path, only: Sequence[str] | None) -> list[Path]:
    known = sorted(folder.glob("*.ipynb"))
    if not known:
        raise ConfigError(f"{folder} holds no notebooks: run from a clone of the project, which has them.")
    if not only:
        return known
    by_name = {path.stem: path for path in known}
    wanted = [name.strip().removesuffix(".ipynb") for names in only for name in names.split(",")]
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        raise ConfigError(f"no notebook {', '.join(unknown)}; there are: {', '.join(by_name)}.")
    return [path for path in known if path.stem in wanted]


def _executor_options(chosen: argparse.Namespace) -> dict[str, Any]:
    names = ("address", "workers", "cpus_per_run", "gpus_per_run")
    return {name: getattr(chosen, name) for name in names if getattr(chosen, name) is not None}


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: give NAME=VALUE.")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _print_summary(report: Report, manifest: Mapping[str, Any], failed: Sequence[str]) -> None:
    table = manifest["items"].get(MAIN, {}).get("table")
    print()
    if table:
        rows = [table["columns"], *table["rows"]]
        widths = [max(len(row[i]) for row in rows) for i in range(len(table["columns"]))]
        print(table["title"])
        for row in rows:
            print(
                "  ".join(
                    text.ljust(w) if i == 0 else text.rjust(w)
                    for i, (text, w) in enumerate(zip(row, widths, strict=True))
                )
            )
    for item in manifest["items"].values():
        for sentence in item.get("table", {}).get("statements", [])[:3]:
            print(f"- {sentence}")
    if failed:
        print(f"\nFailed: {', '.join(failed)}; executed as far as they went in {report.notebooks}.")
        print("The same command goes on from there: finished runs are kept.")
    print(f"\nReport: {report.index}")


if __name__ == "__main__":
    sys.exit(main())
