"""Save the state of an unfinished training loop, and resume from it to the same numbers.

<folder>/state.json               {"identity", "tensors", "sha256", "facts", "seal"}; replaced at once, and last
<folder>/<digits>.safetensors     the tensors that state.json names
"""

from __future__ import annotations

import contextlib
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

import xprompt
from xprompt.backbones.base import Backbone
from xprompt.data.tokenization import TokenizedDataset
from xprompt.distributed import process_group
from xprompt.errors import StoreError
from xprompt.files import sha256, write_atomically
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.training.candidate import Candidate

State = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass
class TrainerState:
    """How far a training loop has come; what belongs to one candidate is the candidate's own state.

    Attributes:
        step: optimiser steps done.
        evaluated: whether the evaluation after this step is done.
        width: candidates in one forward and backward pass; None: not chosen yet.
        consistent: False while several values change that belong together.
        began: when the loop began, by `time.perf_counter`, less the time before an interruption.
    """

    step: int = 0
    evaluated: bool = False
    width: int | None = 1
    consistent: bool = True
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Return the seconds since the loop began, with those before an interruption."""
        return time.perf_counter() - self.began

    @contextlib.contextmanager
    def update(self) -> Iterator[None]:
        """Change several values that belong together: no state is saved where an interruption comes in between."""
        self.consistent = False
        yield
        self.consistent = True

    def state_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"step": self.step, "evaluated": self.evaluated, "width": self.width, "seconds": self.seconds}

    def load_state_dict(self, facts: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, at the width asked for now, where one is."""
        self.step, self.evaluated = facts["step"], facts["evaluated"]
        self.width = facts["width"] if self.width is None else self.width
        self.began -= facts["seconds"]


SPARING = 10  # times what a state takes to write is trained before the next one
SMALL = 2**26  # bytes of trained values up to which a state is written while somebody waits


class Checkpointer:
    """Save one loop's state now and then, and restore it.

    Args:
        folder: of this loop; None: nothing is saved or restored.
        every: seconds between two saved states, and no less than `SPARING` times what the last one took to write.
        candidates: as they start.
        data: the tokenised splits that the loop uses.
        identity: JSON values that, with candidates, data and backbone, determine the loop's numbers. A state that was
            saved under other ones is not restored.
    """

    def __init__(
        self,
        folder: Path | None,
        every: float,
        candidates: Sequence[Candidate],
        backbone: Backbone,
        data: Sequence[TokenizedDataset],
        identity: dict[str, Any],
    ) -> None:
        self.folder, self.every, self.candidates = folder, every, candidates
        self.identity = "" if folder is None else _identify(candidates, backbone, data, identity)
        self.saved, self.wait, self.failed = time.perf_counter(), every, False

    def restore(self, state: TrainerState) -> float:
        """Load what an interrupted loop saved into `state` and the candidates; return the seconds it had taken.

        Where nothing usable was saved, change nothing and return 0.

        Raises:
            StoreError: the processes that share a run do not find the same state.
        """
        saved = None if self.folder is None else load_state(self.folder, self.identity)
        if not process_group().all_equal(-1 if saved is None else saved[1]["step"]):
            raise StoreError(
                f"the processes of this run do not find the same unfinished state in {self.folder}: "
                "put the report's folder where all of them can read it."
            )
        if saved is None:
            return 0.0
        tensors, facts = saved
        state.load_state_dict(facts)
        for i, (candidate, values) in enumerate(zip(self.candidates, facts["candidates"], strict=True)):
            candidate.load_state_dict(_with_prefix(tensors, f"{i}."), values)
        return facts["seconds"]

    def save(self, state: TrainerState, interrupted: bool = False) -> None:
        """Save the state, where it is time or the loop was interrupted.

        Where it cannot be written, warn once and go on.
        """
        if self.folder is None or not process_group().is_main or not state.consistent:
            return
        # On Ctrl-C nobody waits for gigabytes: a whole backbone is saved only when its time has come.
        began = time.perf_counter()
        if began - self.saved < self.wait and not (interrupted and self._is_small()):
            return
        tensors: dict[str, Tensor] = {}
        facts = state.state_dict() | {"candidates": []}
        for i, candidate in enumerate(self.candidates):
            candidate_tensors, values = candidate.state_dict()
            tensors |= {f"{i}.{name}": tensor for name, tensor in candidate_tensors.items()}
            facts["candidates"].append(values)
        try:
            save_state(self.folder, self.identity, tensors, facts)
        except StoreError as error:  # a full disk, say: training needs no state to go on
            if not self.failed:
                warnings.warn(f"{error} Training goes on; an interruption would cost it.", RuntimeWarning, stacklevel=2)
            self.failed = True
        self.saved = time.perf_counter()
        self.wait = max(self.every, SPARING * (self.saved - began))

    def _is_small(self) -> bool:
        trained = [parameter for candidate in self.candidates for parameter in candidate.parameters]
        return sum(parameter.nbytes for parameter in trained) <= SMALL


_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)


def save_state(folder: Path, identity: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Replace the folder's state by a new one, wholly or not at all.

    Args:
        identity: of the loop; only a loop with the same one reads the state.
        tensors: of any device and dtype.
        facts: JSON values; floats keep every bit.
    """
    content = _to_bytes(tensors)
    digest = sha256(content)
    name = f"{digest[:16]}.safetensors"
    write_atomically(folder / name, content)
    body = {"identity": identity, "tensors": name, "sha256": digest, "facts": facts}
    write_atomically(folder / "state.json", json.dumps(body | {"seal": _seal(body)}))
    for path in folder.glob("*.safetensors"):
        if path.name != name:
            path.unlink(missing_ok=True)


def load_state(folder: Path, identity: str) -> State | None:
    """Read what `save_state` wrote: (tensors, facts); None, with a `RuntimeWarning`, where it cannot be used."""
    if not (folder / "state.json").exists():
        return None
    try:
        body, content = read_state(folder)
        if body["identity"] != identity:
            raise ValueError("it was saved with other settings, data or versions")
        return load(content), body["facts"]
    except _UNREADABLE as error:
        warnings.warn(
            f"the unfinished state in {folder} cannot be used ({error}); this stage starts from its beginning.",
            RuntimeWarning, stacklevel=2,
        )  # fmt: skip
        return None


def read_state(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Return what `save_state` wrote, verified: (state.json's values, the tensors' file). Raises if damaged."""
    body = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if body.pop("seal") != _seal(body):
        raise ValueError("state.json does not match its own sha256")
    if Path(body["tensors"]).name != body["tensors"]:
        raise ValueError(f"it names a file elsewhere, {body['tensors']}")
    content = (folder / body["tensors"]).read_bytes()
    if sha256(content) != body["sha256"]:
        raise ValueError(f"{body['tensors']} does not match its sha256")
    return body, content


def verify_state(folder: Path) -> str:
    """Return what is wrong with a folder's saved state, in a few words; "" where nothing is."""
    try:
        read_state(folder)
    except _UNREADABLE as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _identify(
    candidates: Sequence[Candidate], backbone: Backbone, data: Sequence[TokenizedDataset], identity: dict[str, Any]
) -> str:
    """Return a digest of everything the loop's numbers depend on, with the versions that compute them."""
    facts = identity | {
        "backbone": backbone.fingerprint,
        "dtype": str(backbone.dtype),
        "device": backbone.device.type,
        "processes": process_group().world_size,
        "versions": [xprompt.__version__, torch.__version__],
        "settings": [candidate.settings.model_dump(mode="json") for candidate in candidates],
        "prompts": [_prompt_digest(candidate.prompt) for candidate in candidates],
        "data": [_data_digest(split) for split in data],
    }
    return sha256(json.dumps(facts, sort_keys=True).encode())


def _data_digest(data: TokenizedDataset) -> str:
    """Return a digest of the inputs, which hold the template already, and of what they are scored by."""
    parts = [data.ids, data.labels, data.groups, data.task.label_words, data.task.metrics]
    return sha256(json.dumps(parts).encode())


def _prompt_digest(prompt: SoftPrompt | None) -> str:
    return "" if prompt is None else f"{prompt.mode} {sha256(_to_bytes(prompt.state_dict()))}"


def _to_bytes(tensors: dict[str, Tensor]) -> bytes:
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def _seal(body: dict[str, Any]) -> str:
    return sha256(json.dumps(body, sort_keys=True).encode())


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
