"""What a report will take on this machine, before anything is downloaded: runs, parameters, memory, hours."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from statistics import mean
from typing import Any

import torch

from xprompt.backbones.devices import threads_limited_to
from xprompt.backbones.hub import EMBEDDED
from xprompt.backbones.loading import load_backbone
from xprompt.backbones.pretrained import load_config
from xprompt.backbones.shapes import count_parameters, known_config
from xprompt.config.overrides import check_used, override, without_dot
from xprompt.config.profiles import PROFILES, get_profile
from xprompt.config.run_config import RunConfig
from xprompt.config.settings import TuneSettings
from xprompt.data.loading import load_task
from xprompt.errors import ConfigError
from xprompt.files import path_of
from xprompt.planning.footprint import Footprint, measure
from xprompt.planning.machine import Machine, backbone_rate, probe_machine
from xprompt.planning.workload import MARGIN, RunEstimate, Sizes, plan_run
from xprompt.runs.grid import grid
from xprompt.runs.planned_runs import threads_of
from xprompt.tasks.registry import get_task
from xprompt.units import readable_size

#: Characters of a rendered source, where the data are not on this machine: the mean over the release's training split,
#: and the longest of both splits (BoolQ: both over the validation split; COPA: an estimate, not counted).
CHARACTERS = {
    "boolq": (647, 4867),
    "cb": (350, 1217),
    "copa": (130, 250),
    "multirc": (1692, 3673),
    "rte": (342, 1440),
    "wic": (111, 296),
    "wsc": (162, 523),
}
#: Assumed for English and 32,000 pieces; SmolLM2's 49,000 give 4.2 to 4.7 on these tasks.
CHARACTERS_PER_TOKEN = 4.2
#: Share of the matrix rate that a whole step reaches on a CPU: 0.7 to 1.3 measured on T5 small's and base's shapes in
#: float32, on a busy machine.
ON_CPU = 0.8
#: The same on a GPU, of models so large that they do not wait for their kernels to start; and how many parameters more
#: add one to it where they do. Measured on one H200 with sources of 256 tokens, 16 a step (`t5_scale` in the bench):
#: 0.06 of T5 Large, 0.23 of XL, 0.50 of XXL.
ON_GPU, PARAMETERS_A_SHARE = 0.5, 13e9


@dataclass(frozen=True)
class Forecast:
    """Every run of a report, and the machine it was estimated for."""

    profile: str
    footprint: Footprint
    machine: Machine
    rate: float  # operations per second that a step sustains
    timed: bool  # whether the rate was measured on the backbone itself
    local: bool  # whether the backbone is on this machine
    sizes: dict[str, Sizes]
    runs: list[RunEstimate]
    changes: dict[str, Any] = field(default_factory=dict)  # of the profile's settings, by name

    @cached_property
    def seconds(self) -> float:
        """Seconds of all runs, one after another."""
        return sum(run.operations for run in self.runs) / self.rate

    @property
    def weights(self) -> int:
        """Bytes of the weights in the dtype that runs use."""
        return self.footprint.parameters * self.machine.dtype.itemsize

    @property
    def too_large(self) -> list[RunEstimate]:
        """Runs that the device, or main memory on the way to it, cannot hold."""
        return [run for run in self.runs if not self.holds(run)]

    def holds(self, run: RunEstimate) -> bool:
        """Return whether memory is enough for a run. Every run loads the backbone, even one that trains nothing."""
        return run.memory <= self.machine.free and self.weights <= self.machine.memory


def forecast(
    profile: str,
    tasks: str = "",
    seeds: int | None = None,
    data_dir: str = "",
    methods: Sequence[str] | None = None,
    *,
    backbone: str = "",
    changes: Mapping[str, Any] | None = None,
    machine: Machine | None = None,
    timed: bool = True,
) -> Forecast:
    """Estimate the main table's runs of `python -m xprompt reproduce` with the same choices.

    Args:
        profile, tasks, seeds, data_dir: as on the command line.
        methods: default: the profile's.
        backbone: in place of the profile's: a folder, a .gguf file or a hub id.
        changes: other settings of the runs by name, such as "dtype" or "tune.steps"; "protocol" is one of them.
        machine: default: this one, measured for a second.
        timed: time a step of the backbone where it is on this machine; False: always take the matrix rate.

    Raises:
        ConfigError, DataError, BackboneError: wrong choices; an architecture that is neither known nor on this machine.
    """
    own, changes = get_profile(profile), dict(changes or {})
    protocol = changes.get("protocol", "held_out")
    chosen = grid(
        profile, tasks, methods, seeds, [protocol], data_dir, backbone=backbone,
        **{name: value for name, value in without_dot(changes).items() if name != "protocol"},
    )  # fmt: skip
    check_used(list(dict.fromkeys(config.method for config in chosen)), protocol, changes)
    configs = _with_parents([override(config, changes) for config in chosen])
    if not configs:
        raise ConfigError(f"profile {profile!r} with methods {methods!r}: no run to plan; name one method or more.")
    backbone = configs[0].backbone
    known = known_config(backbone)
    footprint = measure(known if known is not None else load_config(backbone, local=True))
    machine = machine or probe_machine(backbone, configs[0].dtype)
    sizes = {config.task: _sizes(config) for config in configs if config.seed == configs[0].seed}
    rate = machine.rate * efficiency(machine.device.type, footprint.parameters)
    here = timed and is_here(backbone)
    if here:
        loaded = load_backbone(backbone, max_source=own.max_source, dtype=configs[0].dtype)
        task, most = configs[0].task, 2 * machine.rate  # two seconds of products, at most
        length = sizes[task].mean_tokens
        with threads_limited_to(threads_of(configs[0])):
            rate = backbone_rate(loaded, footprint, get_task(task), own.tune.batch_size, length, own.length, most)
    runs = [plan_run(config, footprint, sizes[config.task], machine.dtype) for config in configs]
    return Forecast(profile, footprint, machine, rate, here, is_here(backbone), sizes, runs, changes)


def efficiency(device: str, parameters: int) -> float:
    """Return the share of the matrix rate that a step of a backbone is taken to reach; it was not timed itself."""
    return min(ON_GPU, parameters / PARAMETERS_A_SHARE) if device == "cuda" else ON_CPU


def _with_parents(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """The runs, each after its parents, none twice."""
    planned: dict[str, RunConfig] = {}
    for config in configs:
        for run in (*_with_parents(config.parents), config):
            planned.setdefault(json.dumps(run.settings(), sort_keys=True), run)
    return list(planned.values())


def _sizes(config: RunConfig) -> Sizes:
    """Counted where the data are on this machine; else the published counts and lengths."""
    task = get_task(config.task).with_pattern(config.pattern)
    published = config.source == "hub" and task.files is None  # a custom task's files are here, whatever the source
    if published:
        train, validation = task.statistics
        train = min(train, config.limit_train or train)
        validation = min(validation, config.limit_validation or validation)
        average, longest = (characters / CHARACTERS_PER_TOKEN for characters in CHARACTERS[task.name])
    else:
        splits = load_task(
            task, config.source, few_shot=config.few_shot, limit_train=config.limit_train,
            limit_validation=config.limit_validation,
        )  # fmt: skip
        lengths = [len(task.render(r)) / CHARACTERS_PER_TOKEN for r in (*splits.train, *splits.validation)]
        train, validation, average, longest = len(splits.train), len(splits.validation), mean(lengths), max(lengths)
    cap = config.max_source
    return Sizes(
        train, validation, min(cap, math.ceil(average)), min(cap, math.ceil(longest)), not published
    )  # fmt: skip


def is_here(backbone: str) -> bool:
    """Return whether a backbone is on this machine in any case: embedded, from a package, a folder or a GGUF file."""
    return backbone in EMBEDDED or os.path.exists(path_of(backbone))


def advise(plan: Forecast) -> list[str]:
    """Return the least harmful changes that make a plan fit that is too large; [] where it fits."""
    if not plan.too_large:
        return []
    change = Callable[[list[RunConfig]], list[RunConfig]]
    offered: list[tuple[int, str, change]] = [
        (1, "prune.side_by_side=1 (the same numbers, slower)",
         lambda runs: [c.replace(prune=c.prune.replace(side_by_side=1)) for c in runs]),
        (1, "gradient_checkpointing=True in tune, fine_tune and prune.retune (the same numbers, slower)",
         lambda runs: [_trained(c, lambda s: s.replace(gradient_checkpointing=True)) for c in runs]),
        (1, "accumulation=batch_size and eval_batch_size=4 in tune, fine_tune and prune.retune (the same numbers, "
         "slower)", lambda runs: [_narrow(c) for c in runs]),
        (2, "dtype='bfloat16' (half the memory; slower on many CPUs)",
         lambda runs: [c.replace(dtype="bfloat16") for c in runs]),
        (4, "without fine_tuning", lambda runs: [c for c in runs if c.method != "fine_tuning"]),
    ]  # fmt: skip
    harmless_first = sorted(
        (chosen for count in range(1, len(offered) + 1) for chosen in combinations(offered, count)),
        key=lambda chosen: sum({harm for harm, _, _ in chosen}),
    )
    for chosen in harmless_first:
        configs = [run.config for run in plan.runs]
        for _, _, apply in chosen:
            configs = apply(configs)
        if configs and _fits(plan, configs):
            return [words for _, words, _ in chosen]
    return [_elsewhere(plan)]


def _fits(plan: Forecast, configs: Sequence[RunConfig]) -> bool:
    dtype = torch.bfloat16 if configs[0].dtype == "bfloat16" else plan.machine.dtype
    runs = [plan_run(config, plan.footprint, plan.sizes[config.task], dtype) for config in configs]
    return not replace(plan, runs=runs, machine=replace(plan.machine, dtype=dtype)).too_large


def _narrow(config: RunConfig) -> RunConfig:
    """One example at a time, the same batches and the same numbers."""
    return _trained(config, lambda s: s.replace(accumulation=s.batch_size, eval_batch_size=min(4, s.eval_batch_size)))


def _trained(config: RunConfig, change: Callable[[TuneSettings], TuneSettings]) -> RunConfig:
    prune = config.prune.replace(retune=change(config.prune.retune))
    return config.replace(tune=change(config.tune), fine_tune=change(config.fine_tune), prune=prune)


def _elsewhere(plan: Forecast) -> str:
    least = min(plan.machine.free, plan.machine.memory)
    configs = {name: known_config(PROFILES[name].backbone) for name in PROFILES}
    sizes = {name: 2 * MARGIN * count_parameters(config) for name, config in configs.items() if config is not None}
    smaller = [name for name, size in sizes.items() if size < least]
    other = f"take --profile {smaller[-1]}, whose weights fit in bfloat16, or " if smaller else ""
    needed = max(run.memory for run in plan.runs)
    return f"{other}find a machine with {readable_size(needed)} of memory on one device"
