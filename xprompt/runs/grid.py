"""The grid of runs behind a report: tasks × methods × seeds × protocols, checked before anything runs, then collected.

An executor that the caller hands over does the runs.
"""

from __future__ import annotations

import datetime
import logging
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from tqdm.auto import tqdm

from xprompt.config.methods import METHODS
from xprompt.config.profiles import PROFILES, get_profile
from xprompt.config.run_config import RunConfig
from xprompt.config.settings import MOST_SEED, PROTOCOLS, TuneSettings, dotted
from xprompt.data.release import Part, official_file, part_files
from xprompt.errors import ConfigError, DataError, did_you_mean, shown
from xprompt.files import path_of
from xprompt.runs.planned_runs import Executor
from xprompt.runs.processes import LocalExecutor
from xprompt.tasks.registry import get_task, split_tasks
from xprompt.tasks.superglue import TASKS
from xprompt.units import readable_duration

MOST_SEEDS = 10_000  # of one report


def choose_tasks(tasks: str | Sequence[str] | None, profile: str) -> list[str]:
    """Return the tasks' names from "all", a comma-separated text or a list; None or "" for the profile's default.

    Each is a name, or the path of a custom task's declaration. Raises `ConfigError` that lists the known tasks where
    one is unknown, or where two have the same name; `DataError` where a declaration's examples are missing.
    """
    if tasks is not None and not isinstance(tasks, (str, list, tuple)):
        raise ConfigError(f"tasks {shown(tasks)}: give a text such as 'rte,cb', or a list of names.")
    given = split_tasks(tasks) if isinstance(tasks, str) else list(tasks or ())
    if not given and isinstance(tasks, str) and tasks.strip():
        raise ConfigError(f"tasks {shown(tasks)} name none: give names such as 'rte,cb'; known: {', '.join(TASKS)}.")
    if not given:
        chosen = list(get_profile(profile).default_tasks)
    elif given == ["all"]:
        chosen = list(TASKS)
    else:
        chosen = [name.strip() if isinstance(name, str) else name for name in given]
    names = [get_task(name).name for name in chosen]
    if len(set(names)) < len(names):
        raise ConfigError(f"tasks {', '.join(names)}: one is given twice; name each task once.")
    return chosen


def choose_seeds(seeds: int | Sequence[int] | None, profile: str) -> list[int]:
    """Return the seeds 0 … n − 1 of a number n, or those of a list; None or [] for the profile's default number.

    Raises `ConfigError` where a number is not in 1 … `MOST_SEEDS`, or a list holds a seed twice or what is no seed.
    """
    if seeds is None or (isinstance(seeds, (list, tuple)) and not seeds):
        seeds = get_profile(profile).default_seeds
    try:
        number = isinstance(seeds, int) and not isinstance(seeds, bool)
        given: Any = range(min(int(seeds), MOST_SEEDS + 1)) if number else seeds  # type: ignore[arg-type]
        chosen = [operator.index(seed) for seed in given]
    except TypeError:
        chosen = []
    enough, unlike = 1 <= len(chosen) <= MOST_SEEDS, len(set(chosen)) == len(chosen)
    if not (enough and unlike and 0 <= min(chosen) <= max(chosen) <= MOST_SEED):
        raise ConfigError(
            f"seeds {shown(seeds)}: give how many (1 to {MOST_SEEDS:,}), or a list of different seeds of 0 or more."
        )
    return chosen


def choose_source(data_dir: str, tasks: Sequence[str], few_shot: int | str | None = "any") -> str:
    """Return the source of `data_dir`, or "" for the profile's own.

    Args:
        data_dir: a folder in the official release layout, or "".
        tasks: as `choose_tasks` returns them; a custom one has its own files.
        few_shot: as of `load_task`; "any": a task's whole training split or its official 32 examples will do.

    Raises `DataError` that lists the files where a task lacks some.
    """
    if not data_dir:
        return ""
    root = path_of(data_dir)
    if not root.is_dir():
        raise DataError(f"data folder {data_dir}: there is no such folder; give the one that contains CB/, RTE/, …")
    missing = []
    for task in map(get_task, tasks):
        has: dict[Part, bool] = {part: bool(part_files(task, root, part)) for part in get_args(Part)}
        wanted: Part = "few_shot" if few_shot == "official" or (few_shot == "any" and has["few_shot"]) else "train"
        own = task.files is not None  # a custom task
        missing += [official_file(task, part) for part in (wanted, "validation") if not (own or has[part])]
    if missing:
        raise DataError(
            f"data folder {data_dir} lacks {', '.join(missing)}: add these files as SuperGLUE releases them, or leave "
            "their tasks out."
        )
    return str(root)


def quick_settings(profile: str) -> dict[str, Any]:
    """Return settings that make a run of `profile` short: few examples and steps. Its scores mean nothing."""
    full, tiny = get_profile(profile), PROFILES["tiny"]

    def short(settings: TuneSettings, like: TuneSettings) -> TuneSettings:
        return settings.replace(
            steps=like.steps, epochs=None, eval_every=like.eval_every, batch_size=min(settings.batch_size, 8),
            accumulation=1, patience=None,
        )  # fmt: skip

    return {
        "limit_train": tiny.limit_train,
        "limit_validation": tiny.limit_validation,
        "tune": short(full.tune, tiny.tune),
        "fine_tune": short(full.fine_tune, tiny.fine_tune),
        "prune": full.prune.replace(
            token_ratios=tiny.prune.token_ratios,
            piece_ratios=tiny.prune.piece_ratios,
            importance_limit=tiny.prune.importance_limit,
            retune=short(full.prune.retune, tiny.prune.retune),
        ),
    }


def grid(
    profile: str,
    tasks: str | Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    protocols: Sequence[str] = ("held_out",),
    data_dir: str = "",
    quick: bool = False,
    **changes: Any,
) -> list[RunConfig]:
    """Return the settings of every run of a report, seed by seed, all of them checked.

    Args:
        profile: a name in `PROFILES`.
        tasks, seeds: as `choose_tasks` and `choose_seeds` take them; None for the profile's default.
        methods: names in `METHODS`; None or [] for the profile's default.
        protocols: names in `PROTOCOLS`.
        data_dir: a folder in the official release layout, or "" for the profile's own source.
        quick: few examples and steps, the first task and the first seed only.
        changes: other fields of `RunConfig`, the same in every run.

    Raises `ConfigError` or `DataError` before anything is run.
    """
    methods = methods or get_profile(profile).default_methods
    for given, known, what in ((methods, METHODS, "method"), (protocols, PROTOCOLS, "protocol")):
        if not isinstance(given, (list, tuple)):
            raise ConfigError(f"{what}s {shown(given)}: give a list; known: {', '.join(known)}.")
        unknown = [name for name in given if not isinstance(name, str) or name not in known]
        if unknown or not given:
            text = ", ".join(map(str, unknown)) or "(none given)"
            hint = did_you_mean(text, known)
            raise ConfigError(f"unknown {what} {text:.200}; known: {', '.join(known)}.{hint}")
        if len(set(given)) < len(given):
            raise ConfigError(f"{what}s {', '.join(given)}: one is given twice; name each once.")
    names, numbers = choose_tasks(tasks, profile), choose_seeds(seeds, profile)
    if quick:
        names, numbers = names[:1], numbers[:1]
        changes = quick_settings(profile) | changes
    source = choose_source(data_dir, names, changes.get("few_shot"))
    common = {"profile": profile, "source": source, **changes}
    return [
        RunConfig(**{**common, "task": task, "method": method, "seed": seed, "protocol": protocol})
        for seed in numbers
        for protocol in protocols
        for task in names
        for method in methods
    ]


def collect(
    configs: Sequence[RunConfig],
    run: Executor | Callable[[RunConfig], Any],
    *,
    progress: bool = False,
    interim: Callable[[Sequence[Mapping[str, Any]], Sequence[RunConfig]], str] | None = None,
) -> list[dict[str, Any]]:
    """Do the runs and return their records in the order of `configs`, with a line on standard output for each.

    Args:
        configs: what to run.
        run: an executor, as `xprompt.get_executor` makes it, or what does one run, one after another; its result has
            `.record`, as that of `xprompt.run`.
        progress: show a bar of the runs as well.
        interim: makes a text of records and `configs`, such as `rp.tables.so_far`, that is printed whenever a seed of
            a task has all its methods and runs are left to do. The records are those of such seeds, of the first
            run's protocol.

    Where runs go in parallel, a run's line appears when it ends. A + in place of its number marks a run that was not
    asked for, but that another one starts from; it has a line only where it was done now. A run that the store had
    already is called read. The time left is estimated from the runs of the same method that were done now.
    """
    began = datetime.datetime.now(datetime.timezone.utc)
    _show_progress()
    executor = LocalExecutor(run) if callable(run) else run
    records: dict[int, dict[str, Any]] = {}
    begun: set[int | None] = set()
    spent: dict[str, list[float]] = {}
    sets, names = _by_task_and_seed(configs), _run_names(configs)
    bar = tqdm(total=len(configs), desc="runs", unit="run", disable=not progress, leave=False)
    for step in executor.each(configs):
        bar.update(len(records) - bar.n)
        name = names.get(step.position) or (_run_name(step.config) if step.config else "")
        if step.note:
            print(f"    {name}{': ' if name else ''}{step.note}", flush=True)
        elif step.record is None:
            begun.add(step.position)
            print(f"{_number(len(records) + 1, configs)} {name} …", flush=True)
        elif step.config is not None:
            read = done_before(step.record, began)
            if read and step.position is None:  # nobody asked for it, and nothing was done
                continue
            if not read:
                spent.setdefault(step.config.method, []).append(step.seconds)
            if step.position is not None:
                records[step.position] = step.record
            number = _number(len(records) if step.position is not None else "+", configs)
            to_do = [config for position, config in enumerate(configs) if position not in records]
            points = f"{100 * step.record['score']:.1f} points"
            points += ", read" if read else f" in {readable_duration(step.seconds)}"
            start = "   " if step.position in begun else f"{number} {name}:"
            left = _left(to_do, spent, executor.workers)
            print(f"{start} {points}{left}", flush=True)
            whole = [places for places in sets if records.keys() >= places]
            if interim and to_do and not read and any(step.position in places for places in whole):
                among = [records[place] for places in whole for place in sorted(places)]
                print(f"\n{interim(among, configs)}{left}\n", flush=True)
    bar.close()
    return [records[position] for position in range(len(configs))]


def done_before(record: Mapping[str, Any], moment: datetime.datetime) -> bool:
    """Return whether a run was begun before a moment, to the second: asked for later, it was read and not run."""
    started = record.get("provenance", {}).get("started")
    return started is not None and datetime.datetime.fromisoformat(started) < moment.replace(microsecond=0)


def _run_name(config: RunConfig) -> str:
    return f"{get_task(config.task).name} {config.method} seed {config.seed} {config.protocol}"


def _run_names(configs: Sequence[RunConfig]) -> dict[int | None, str]:
    """Name each run by its place; runs that would have one name show the settings in which they differ."""
    places: dict[str, list[int]] = {}
    for place, config in enumerate(configs):
        places.setdefault(_run_name(config), []).append(place)
    names: dict[int | None, str] = {}
    for name, alike in places.items():
        settings = [dotted(configs[place].settings()) for place in alike]
        shown: list[str] = []
        for key in dict.fromkeys(key for values in settings for key in values):
            # Each that leaves fewer runs with the same name: steps do, and not what follows from them.
            if _variants(settings, [*shown, key]) > _variants(settings, shown):
                shown.append(key)
        for place, values in zip(alike, settings, strict=True):
            names[place] = " ".join([name, *(f"{key}={values.get(key)}" for key in shown)])
    return names


def _variants(settings: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> int:
    return len({str([values.get(key) for key in keys]) for values in settings})


def _by_task_and_seed(configs: Sequence[RunConfig]) -> list[set[int]]:
    """Return the places of the runs of each task and seed, of the first run's protocol."""
    sets: dict[tuple[str, int], set[int]] = {}
    for place, config in enumerate(configs):
        if config.protocol == configs[0].protocol:
            sets.setdefault((config.task, config.seed), set()).add(place)
    return list(sets.values())


def _number(number: int | str, configs: Sequence[RunConfig]) -> str:
    return f"[{number:>{len(str(len(configs)))}}/{len(configs)}]"


def _left(to_do: Sequence[RunConfig], spent: Mapping[str, Sequence[float]], workers: int) -> str:
    """Estimate how long the remaining runs will take, in parallel; "" where no run of a method has finished yet."""
    if not to_do or any(config.method not in spent for config in to_do):
        return ""
    means = {method: sum(seconds) / len(seconds) for method, seconds in spent.items()}
    return f", {readable_duration(sum(means[config.method] for config in to_do) / min(workers, len(to_do)))} left"


def _show_progress() -> None:
    """Print what the library logs to standard output, where a notebook shows it; a second call adds nothing."""
    log = logging.getLogger("xprompt")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("    %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
