"""What goes along with a training loop and changes none of its numbers: an observer, and states to resume from.

Owns when an observer is told, and when a loop's state is written and taken up again. Never trains or evaluates.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

import xprompt
from xprompt.backbones.base import Backbone
from xprompt.data.tokenization import TokenizedDataset
from xprompt.distributed import process_group
from xprompt.errors import StoreError
from xprompt.training.candidate import Candidate
from xprompt.training.checkpoint import load_state, save_state


class Callback(Protocol):
    """Told what happens in a loop, in the main process only; what it raises ends the loop."""

    def started(self, stage: str, candidates: Mapping[int, Candidate]) -> None:
        """All candidates, before the first evaluation; their histories hold what a resumed loop had done before."""

    def evaluated(self, stage: str, candidates: Mapping[int, Candidate]) -> None:
        """Those that were just evaluated, by their place; each history's last entry is new."""

    def finished(self, stage: str) -> None:
        """The loop has ended, or was interrupted."""


@dataclass
class Callbacks:
    """For one run; its loops are numbered in the order they start in, which is always the same.

    Args:
        observer: told of every evaluation.
        folder: where a loop's state is written; None: nowhere.
        every: seconds between two states. A loop that is done sooner writes none, unless it is interrupted.
    """

    observer: Callback | None = None
    folder: Path | None = None
    every: float = 30.0
    resumed_seconds: float = 0.0  # what the loops had taken before they were interrupted
    started: int = 0

    def stage(self, describe: str) -> str:
        """The next loop's name, which names its folder too."""
        self.started += 1
        return f"{self.started}-{re.sub('[^a-z0-9]+', '-', describe.lower()).strip('-')}"


@dataclass
class TrainerState:
    """Where a loop stands: after which step, whether that step's evaluation is done, and between changes or amid."""

    step: int = 0
    evaluated: bool = False
    width: int | None = 1
    amid: bool = False
    random: dict[str, torch.Tensor] = field(default_factory=dict)


class Checkpointer:
    """One loop's way: its observer is told, its state written and taken up.

    Args:
        identity: JSON values that say, with the candidates and the data, what the loop's numbers depend on.
    """

    def __init__(
        self,
        callbacks: Callbacks,
        describe: str,
        candidates: Sequence[Candidate],
        backbone: Backbone,
        data: Sequence[TokenizedDataset],
        identity: dict[str, Any],
    ) -> None:
        self.callbacks, self.candidates, self.backbone = callbacks, candidates, backbone
        self.name = callbacks.stage(describe)
        self.folder = None if callbacks.folder is None else callbacks.folder / self.name
        self.observer = callbacks.observer if process_group().is_main else None
        self.draws = any(c.settings.dropout for c in candidates)
        self.identity = "" if self.folder is None else self._identify(data, identity)
        self.began = self.saved = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the loop began, with the time before an interruption."""
        return time.perf_counter() - self.began

    def start(self, width: int | None) -> TrainerState:
        """Where the loop starts: at step 0, or where it was interrupted."""
        position = TrainerState(width=width)
        found = None if self.folder is None else load_state(self.folder, self.identity)
        if not process_group().all_equal(-1 if found is None else found[1]["step"]):
            raise StoreError(
                f"the processes of this run do not find the same unfinished state in {self.folder}: "
                "put the report's folder where all of them can read it."
            )
        if found is not None:
            self._take_up(position, *found)
        if self.observer is not None:
            self.observer.started(self.name, dict(enumerate(self.candidates)))
        self.stepped(position)
        return position

    def stepped(self, position: TrainerState) -> None:
        """Remember the random state between two steps, which dropout draws from."""
        if self.folder is not None and self.draws:
            position.random = {"cpu": torch.get_rng_state()}
            if self.backbone.device.type == "cuda":
                position.random["cuda"] = torch.cuda.get_rng_state(self.backbone.device)

    def evaluated(self, due: Sequence[int]) -> None:
        """Tell the observer of the candidates at these places."""
        if self.observer is not None:
            self.observer.evaluated(self.name, {place: self.candidates[place] for place in due})

    def keep(self, position: TrainerState, interrupted: bool = False) -> None:
        """Write the state, where enough time has passed or the loop was interrupted between two changes."""
        now = time.perf_counter()
        if self.folder is None or not process_group().is_main or position.amid:
            return
        small = all(candidate.prompt is not None for candidate in self.candidates)
        if now - self.saved < self.callbacks.every and not (interrupted and small):
            return
        tensors = {f"random.{name}": value for name, value in position.random.items()}
        facts: dict[str, Any] = {"step": position.step, "evaluated": position.evaluated, "width": position.width}
        facts["seconds"], facts["candidates"] = self.seconds, []
        for place, candidate in enumerate(self.candidates):
            own, plain = candidate.state_dict()
            tensors |= {f"{place}.{name}": tensor for name, tensor in own.items()}
            facts["candidates"].append(plain)
        save_state(self.folder, self.identity, tensors, facts)
        self.saved = time.perf_counter()

    def end(self) -> None:
        """Tell the observer that nothing more comes."""
        if self.observer is not None:
            self.observer.finished(self.name)

    def _take_up(self, position: TrainerState, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        for place, (candidate, plain) in enumerate(zip(self.candidates, facts["candidates"], strict=True)):
            start = f"{place}."
            own = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
            candidate.load_state_dict(own, plain)
        position.step, position.evaluated, position.width = facts["step"], facts["evaluated"], facts["width"]
        if "random.cpu" in tensors:
            torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.backbone.device)
        self.began -= facts["seconds"]
        self.callbacks.resumed_seconds += facts["seconds"]

    def _identify(self, data: Sequence[TokenizedDataset], identity: dict[str, Any]) -> str:
        """Everything the loop's numbers depend on, the versions that computed them among it."""
        facts = identity | {
            "stage": self.name,
            "backbone": self.backbone.fingerprint,
            "dtype": str(self.backbone.dtype),
            "device": self.backbone.device.type,
            "processes": process_group().world_size,
            "versions": [xprompt.__version__, torch.__version__],
            "settings": [candidate.settings.model_dump(mode="json") for candidate in self.candidates],
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for split in data:
            digest.update(json.dumps([split.ids, split.labels, split.groups]).encode())
        for prompt in (candidate.prompt for candidate in self.candidates):
            if prompt is not None:
                digest.update(f"{prompt.mode} {prompt.embeddings.dtype} {tuple(prompt.embeddings.shape)}".encode())
                for tensor in (prompt.embeddings.detach(), prompt.token_mask, prompt.piece_mask):
                    digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
