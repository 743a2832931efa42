"""Run the notebooks and write a report; `python -m xprompt reproduce` is its command line."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xprompt.backbones.hub import EMBEDDED
from xprompt.config.profiles import get_profile
from xprompt.errors import ConfigError, did_you_mean, shown
from xprompt.files import holds_other_work, path_of, sha256, try_folder
from xprompt.reporting import book, facts
from xprompt.reporting.layout import HANDED_OVER, MAIN, Report
from xprompt.reporting.notebooks import Kernel, execute, parameters_of
from xprompt.runs.executors import get_executor
from xprompt.runs.grid import choose_seeds, choose_source, choose_tasks
from xprompt.runs.planned_runs import THREADS
from xprompt.runs.processes import count_processes
from xprompt.tasks.superglue import TASKS
from xprompt.units import align_columns

ROOT = Path(__file__).resolve().parents[1]  # of a checkout
_PACKAGED = Path(__file__).resolve().with_name("notebooks")  # in a wheel; a checkout has them beside the package
INSTALLED = _PACKAGED.is_dir()
NOTEBOOKS = _PACKAGED if INSTALLED else ROOT / "notebooks"
#: What a plain call executes, in minutes: the method, the main results and what is drawn from them, first use.
CORE = (
    "00_walkthrough", "01_main_results", "05_importance_maps", "10_peft", "11_custom_task", "12_speed_and_scale",
    "A_tasks_and_templates",
)  # fmt: skip
ALL = "all"
TIMEOUT = 72.0  # hours for one notebook
ROOM = 64 * 2**20  # bytes that a report needs at least: its runs, notebooks and book
PATIENCE = 15  # seconds that an interrupted cell has to keep its work, before its kernel is killed
LONGEST_TIMEOUT = 24.0 * 365
#: Option → the notebook parameters that it sets.
_SETS = {
    "--tasks": ("tasks", "task", "task_json"), "--seeds": ("seeds",), "--data-dir": ("data_dir",),
    "--backbone": ("backbone_name",),
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Checked choices: the notebooks, each with its parameters, and what is handed to all their kernels.

    Attributes:
        notebooks: path → the parameters it is given.
        handed_over: the arguments of `Report` in the kernels, the folder relative to the notebooks.
        timeout: hours after which a notebook is stopped.
    """

    profile: str
    output: Path
    notebooks: dict[Path, dict[str, Any]]
    quick: bool
    handed_over: dict[str, Any]
    timeout: float = TIMEOUT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m xprompt reproduce` with these arguments, and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return importlib.import_module("xprompt.__main__").main(["reproduce", *given])  # the command line is above this


def make_plan(
    profile: str = "nano",
    tasks: str = "",
    seeds: int | None = None,
    data_dir: str = "",
    only: Sequence[str] | None = None,
    output: str | Path = "",
    quick: bool = False,
    settings: Mapping[str, Any] | None = None,
    notebooks: str | Path = NOTEBOOKS,
    executor: str = "local",
    executor_options: Mapping[str, Any] | None = None,
    timeout: float = TIMEOUT,
    backbone: str = "",
) -> Plan:
    """Check every choice before anything is run.

    Args:
        profile, tasks, seeds, data_dir, output, quick: as the command line has them.
        only: names of notebooks; ["all"]: every one; none: those of `CORE`.
        settings: notebook parameter → value; given to each chosen notebook that has the parameter.
        notebooks: the folder of notebooks.
        executor, executor_options: as `xprompt.get_executor` takes them, for the notebooks with a grid of runs.
        timeout: hours after which a notebook is stopped, above 0.
        backbone: in place of the profile's, for notebooks that have the parameter: a folder, a .gguf file, a hub id.

    A notebook is given the parameters that it declares; the report's folder, quick and the executor go to its kernel
    beside them (`Plan.handed_over`). One of a single task takes the first of `tasks`, and `11_custom_task` the first
    that is a path. Paths are relative to the notebooks' folder, where they are executed. Raises `ConfigError` or
    `DataError`, also where tasks, seeds or data_dir would reach none of the notebooks in `only`.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= LONGEST_TIMEOUT:
        raise ConfigError(
            f"--timeout {shown(timeout)}: give hours above 0, up to {LONGEST_TIMEOUT:g}; {TIMEOUT:g} by default."
        )
    folder = path_of(notebooks).resolve()
    names = choose_tasks(tasks, profile)
    numbers = choose_seeds(seeds, profile)
    source = choose_source(data_dir, names)
    names = _seen_from(folder, names)
    root = path_of(output).resolve() if output else locate_reports() / (f"{profile}-quick" if quick else profile)
    if (root / "notebooks").resolve() == folder or holds_other_work(root):
        raise ConfigError(
            f"--output {root} holds notebooks or an index.html that are no report's, and would be overwritten: give a "
            "folder of its own, such as reports/mine."
        )
    given = {"--tasks": tasks, "--seeds": seeds, "--data-dir": data_dir, "--backbone": backbone}
    settings = _check_settings(settings or {}, given, profile, folder)
    get_executor(executor, root, **(executor_options or {}))
    offered: dict[str, Any] = {"profile": profile, "data_dir": _path_from(folder, source) if source else ""}
    handed_over = {
        "output": _path_from(folder, root), "quick": quick, "executor": executor,
        "executor_options": dict(executor_options or {}),
    }  # fmt: skip
    # Where nobody chose, each notebook's own default: the main results take the profile's, the costly search less.
    if tasks:
        custom = [name for name in names if name not in TASKS]
        offered |= {"tasks": names, "task": names[0]} | ({"task_json": custom[0]} if custom else {})
    if seeds is not None:
        offered["seeds"] = numbers
    if backbone:
        offered["backbone_name"] = _name_or_path(folder, backbone)
    plan: dict[Path, dict[str, Any]] = {}
    declared: set[str] = set()
    for path in _choose_notebooks(folder, only):
        try:
            known = parameters_of(path)
        except ConfigError:  # it fails when its turn comes, and the others run
            plan[path] = {}
            continue
        wanted = {**offered, **settings}
        plan[path] = {name: value for name, value in wanted.items() if name in known}
        declared |= known.keys()
    without = [path.stem for path, taken in plan.items() if backbone and "backbone_name" not in taken]
    if without:  # whose results would be of the profile's, in one report with the others
        takes = [path.stem for path in sorted(folder.glob("*.ipynb")) if "backbone_name" in parameters_of(path)]
        raise ConfigError(
            f"--backbone {shown(backbone)}: {', '.join(without)} would use the profile's; name by --only what takes "
            f"another: {', '.join(takes) or 'none does'}."
        )
    have = sorted(declared)
    for option, value in given.items():
        reached = not have or any(name in taken for taken in plan.values() for name in _SETS[option])
        if only and list(only) != [ALL] and value not in ("", None) and not reached:
            raise ConfigError(
                f"{option} {shown(value)}: {', '.join(path.stem for path in plan)} would not use it; leave it out, or "
                f"set by --set a parameter that is there: {', '.join(have)}."
            )
    if unused := settings.keys() - declared:
        raise ConfigError(
            f"no chosen notebook has a parameter {', '.join(sorted(unused))}; they have: {', '.join(have)}."
            f"{did_you_mean(min(unused), have)}"
        )
    if executor != "local" and not any(map(_has_grid, plan)):
        raise ConfigError(
            f"--executor {executor}: {', '.join(path.stem for path in plan)} has no runs to distribute; leave it out."
        )
    return Plan(profile, root, plan, quick, handed_over, timeout)


def _check_settings(
    settings: Mapping[str, Any], given: Mapping[str, Any], profile: str, folder: Path
) -> dict[str, Any]:
    """Return the notebooks' parameters of --set; refuse one that an option sets, which was checked and would not count.

    Args:
        given: option → its value, empty where it was left out.
        folder: of the notebooks, from where paths are read: of tasks, data, a backbone.
    """
    if "profile" in settings:
        raise ConfigError(f"--set profile={settings['profile']!s:.80}: give it by its option, --profile.")
    for option, value in given.items():
        for name in _SETS[option]:
            if value not in ("", None) and name in settings:
                raise ConfigError(
                    f"{option} {shown(value)} and --set {name}={settings[name]!s:.80}: both set {name}; leave one out."
                )
    paths: dict[str, Any] = {
        name: _name_or_path(folder, settings[name])
        for name in ("data_dir", "backbone_name", "task_json")
        if isinstance(settings.get(name), str)
    }
    tasks, task = settings.get("tasks"), settings.get("task")
    if tasks:
        paths["tasks"] = _seen_from(folder, choose_tasks(tasks, profile))
    if task:
        chosen = choose_tasks(task, profile)
        if len(chosen) > 1:
            raise ConfigError(f"--set task={task!s:.80}: it is one task; for several give --tasks.")
        paths["task"] = _seen_from(folder, chosen)[0]
    return {**settings, **paths}


def _seen_from(folder: Path, tasks: Sequence[str]) -> list[str]:
    """Return tasks' names as they are, and the paths of custom ones as seen from a folder."""
    return [name if name in TASKS else _path_from(folder, name) for name in tasks]


def _name_or_path(folder: Path, given: str) -> str:
    """Return a path that is there as seen from a folder; a name, as of an embedded backbone or on the hub, as it is."""
    return given if given in ("", *EMBEDDED) or not path_of(given).exists() else _path_from(folder, given)


def _path_from(folder: Path, place: str | Path) -> str:
    """Return a path as seen from a folder; the whole one where there is no way, as to another drive of Windows."""
    path = path_of(place)
    try:
        return os.path.relpath(path, folder)
    except ValueError:
        return os.path.abspath(path)


def reproduce(plan: Plan) -> int:
    """Execute the planned notebooks, write manifest and book, print a short table; return 0, or 1 where one failed.

    Raises `StoreError` where the report's folder cannot be written or has no room, or its manifest is damaged, and
    `ConfigError` where a quick report would go into the folder of a real one, before any notebook is run.
    """
    report = Report(plan.output)
    for folder in (plan.output, report.tables, report.figures, report.notebooks, report.store.runs):
        try_folder(folder, ROOM)
    report.manifest()  # whose damage would be found when the first table is done
    Report(plan.output, quick=plan.quick).refuse_quick_in_real()
    with _environment({HANDED_OVER: json.dumps(plan.handed_over)}), book.kept_fresh(report):  # kernels inherit it
        failed = _execute_all(plan, report)
    manifest = facts.complete(report, profile=plan.profile, quick=plan.quick)
    book.build(report)
    _print_summary(report, manifest, {path.stem for path in plan.notebooks}, failed)
    return 1 if failed else 0


def locate_reports() -> Path:
    """Return the folder of reports: a checkout's, or, where the package is installed, that of the working folder."""
    return (Path.cwd() if INSTALLED else ROOT) / "reports"


def _execute_all(plan: Plan, report: Report) -> list[str]:
    """Execute the plan's notebooks and return the names of those that failed, in the plan's order.

    Where runs keep one core busy each, those with a grid of runs go one after another, and the others beside them, in
    the time that is left: the main table comes first. These go last to first: the walkthrough reads runs of the main
    results, and would else do them itself, slowly. Such small notebooks share a kernel's process, so that each need not
    import everything again.
    """
    threads, at_a_time = get_profile(plan.profile).threads, _notebooks_at_a_time(plan)
    grids = deque(path for path in plan.notebooks if at_a_time == 1 or _has_grid(path))
    others = deque(path for path in plan.notebooks if path not in grids)
    failed: set[str] = set()
    stopping = threading.Event()

    def work(kernel: Kernel, sources: Sequence[Callable[[], Path]]) -> None:
        try:
            for take in sources:
                with suppress(IndexError):  # nothing is left there
                    while not stopping.is_set():
                        path = take()
                        state = _execute_one(plan, path, report.notebooks.resolve() / path.name, kernel, at_a_time > 1)
                        if stopping.is_set():
                            return
                        report.note_notebook(path.stem, state)
                        if state["status"] != "done":
                            failed.add(path.stem)
                            print(f"\n{path.stem} {state['status']}", file=sys.stderr, flush=True)
                        if threads is None:  # a large backbone: its memory is free before the next begins
                            kernel.end()
        finally:
            kernel.end()

    folder = next(iter(plan.notebooks)).parent
    lanes = [
        (Kernel(folder), [grids.popleft, others.popleft]), (Kernel(folder, gives_way=True), [others.pop])
    ][:at_a_time]  # fmt: skip
    shared = {name: str(threads) for name in THREADS} if at_a_time > 1 else {}
    with _environment(shared), ThreadPoolExecutor(at_a_time) as pool:
        working = [pool.submit(work, *lane) for lane in lanes]
        try:
            for ended in as_completed(working):
                ended.result()
        except BaseException:  # Ctrl-C, say: keep what is done, and end the kernels
            stopping.set()
            for _ in range(PATIENCE):
                for kernel, _sources in lanes:
                    kernel.interrupt()
                if not wait(working, timeout=1).not_done:
                    break
            for kernel, _sources in lanes:
                kernel.kill()
            raise
    return [path.stem for path in plan.notebooks if path.stem in failed]


def _execute_one(plan: Plan, path: Path, executed: Path, kernel: Kernel, labelled: bool) -> dict[str, Any]:
    """Execute a notebook and return how it went, as the manifest has it."""
    number, parameters, start = list(plan.notebooks).index(path) + 1, plan.notebooks[path], time.perf_counter()
    print(f"\n=== {path.stem} ({number} of {len(plan.notebooks)}) ===", flush=True)
    label = f"{path.stem.partition('_')[0]} | " if labelled else ""
    try:
        error = execute(path, executed, parameters, timeout=3600 * plan.timeout, kernel=kernel, label=label)
    except ConfigError as wrong:
        error = str(wrong)
    return {
        "file": f"notebooks/{path.name}",
        "html": f"book/notebooks/{path.stem}.html",
        "status": "done" if error is None else f"failed: {error}",
        "seconds": round(time.perf_counter() - start, 1),
        "parameters": parameters,
        **({"sha256": sha256(executed)} if executed.exists() else {}),
    }


def _notebooks_at_a_time(plan: Plan) -> int:
    """Return 2 where this machine does several runs of the profile at a time, and nobody asked for one; else 1."""
    given = plan.handed_over
    alone = given["executor"] != "local" or given["executor_options"].get("workers") == 1
    return 1 if alone or len(plan.notebooks) == 1 or count_processes([get_profile(plan.profile).threads]) == 1 else 2


def _has_grid(path: Path) -> bool:
    return "report.executor()" in path.read_text("utf-8", "replace")


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _choose_notebooks(folder: Path, only: Sequence[str] | None) -> list[Path]:
    known = sorted(folder.glob("*.ipynb"))
    if not known:
        raise ConfigError(f"{folder} holds no notebooks: run from a clone of the project, which has them.")
    if not only:
        return [path for path in known if path.stem in CORE] or known
    by_name = {path.stem: path for path in known}
    given = [name.strip() for names in only for name in names.split(",")]
    wanted = [name.removesuffix(".ipynb") for name in given if name]
    if not wanted:
        raise ConfigError(f"--only {', '.join(only)} names no notebook; there are: {', '.join(by_name)}; or all.")
    if ALL in wanted:
        if len(set(wanted)) > 1:
            raise ConfigError(f"--only {', '.join(wanted)}: all is every notebook; leave all out, or the others.")
        return known
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        hint = did_you_mean(unknown[0], by_name)
        raise ConfigError(f"no notebook {', '.join(unknown)}; there are: {', '.join(by_name)}; or all.{hint}")
    return [path for path in known if path.stem in wanted]


def _print_summary(report: Report, manifest: Mapping[str, Any], executed: set[str], failed: Sequence[str]) -> None:
    """Print the main table and what these notebooks found; the folder may hold others, of earlier calls."""
    found = {item: entry for item, entry in manifest["items"].items() if entry["notebook"] in executed}
    table = found.get(MAIN, {}).get("table")
    print()
    if table:
        print(table["title"])
        print(align_columns([table["columns"], *table["rows"]]))
    for item in found.values():
        for sentence in item.get("table", {}).get("statements", [])[:3]:
            print(f"- {sentence}")
    if failed:
        print(f"\nFailed: {', '.join(failed)}; executed as far as they went in {report.notebooks}.")
        print("The same command resumes from there: finished runs are kept.")
    print(f"\nReport: {report.index}")
