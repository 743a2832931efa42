"""To train a prompt, C prompts side by side, or (the baseline) the whole backbone: one loop for all three.

Owns what is trained and what is handed back. Never prunes, never picks between methods; the steps are `loop`'s.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from xprompt.backbones.base import Backbone
from xprompt.backbones.loading import wrap
from xprompt.config.settings import TuneSettings
from xprompt.data.splits import Splits
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.training.callbacks import Callbacks
from xprompt.training.candidate import Candidate, History
from xprompt.training.loop import Loop


class TuneResult(NamedTuple):
    """The best checkpoint on the selection split, and how it came about."""

    prompt: SoftPrompt
    history: History


class FineTuneResult(NamedTuple):
    """A fine-tuned copy of the backbone at its best checkpoint, and how it came about."""

    backbone: Backbone
    history: History


def tune(
    backbone: Backbone,
    prompt: SoftPrompt,
    splits: Splits,
    settings: TuneSettings,
    *,
    seed: int = 0,
    progress: bool = False,
    callbacks: Callbacks | None = None,
) -> TuneResult:
    """Tune a copy of the prompt in front of the frozen backbone.

    Args:
        splits: trained on `train`; checkpoints are chosen on `selection`, or on `validation` where nothing was held
            out (the paper's protocol).
        seed: of the data order.
        callbacks: an observer, and where to resume from after an interruption; it changes no number.

    Returns:
        (prompt, history): the best checkpoint, step 0 and the last step among them. The prompt given is unchanged.

    Source: paper §3.1, §4.1.
    """
    return tune_many(backbone, [prompt], splits, [settings], seeds=[seed], progress=progress, callbacks=callbacks)[0]


def tune_many(
    backbone: Backbone,
    prompts: Sequence[SoftPrompt],
    splits: Splits,
    settings: Sequence[TuneSettings],
    *,
    seeds: Sequence[int] | None = None,
    width: int | None = None,
    halving_schedule: Mapping[int, int] | None = None,
    progress: bool = False,
    describe: str = "tuning",
    callbacks: Callbacks | None = None,
) -> list[TuneResult]:
    """Tune copies of C prompts side by side in front of the frozen backbone.

    Each has its own optimiser, schedule, masks, data order, early stopping and best checkpoint, and gets the same
    numbers as if it were tuned alone: rows of a batch do not see one another, and the sum of C losses has each
    prompt's own gradient.

    Args:
        settings: one for each prompt; objective, batch sizes, accumulation and dropout must agree.
        seeds: of the data orders; candidates with the same seed share their batches. Default: all 0.
        width: candidates in one forward and backward pass; None: as many as memory holds. Where it runs out all the
            same, the width is halved and the pass done again. Never changes a result.
        rungs: step → how many go on after it: the best on the selection split so far, of equals the lower loss. The
            others keep what they have (successive halving). Each is an evaluation of all that are left.
        callbacks: an observer, and where to resume from after an interruption; it changes no number.

    Processes that share a run (`distributed.together`) each take their share of every batch, and end with the same
    prompts, those of one process alone up to the rounding of sums.
    """
    candidates = []
    for prompt, one in zip(prompts, settings, strict=True):
        own = prompt.clone().to(backbone.device)
        candidates.append(Candidate(own, list(own.parameters()), one, own.clone))
    loop = Loop(
        backbone, candidates, splits, list(seeds or [0] * len(candidates)), progress, describe, halving_schedule
    )
    loop.run(callbacks or Callbacks(), width)
    return [TuneResult(c.best, c.history) for c in candidates]


def fine_tune(
    backbone: Backbone,
    splits: Splits,
    settings: TuneSettings,
    *,
    seed: int = 0,
    progress: bool = False,
    callbacks: Callbacks | None = None,
) -> FineTuneResult:
    """Train every weight of a copy of the backbone, without a prompt: the paper's upper baseline.

    The backbone given is unchanged. Source: paper §4.1 (fine-tuning).
    """
    model = copy.deepcopy(backbone.model)
    own = wrap(model, backbone.tokenizer, name=backbone.name, max_source=backbone.max_source)
    model.requires_grad_(True)
    snapshot = lambda: {k: v.detach().clone() for k, v in model.state_dict().items()}  # noqa: E731
    candidate = Candidate(None, list(model.parameters()), settings, snapshot)
    Loop(own, [candidate], splits, [seed], progress, "fine-tuning").run(callbacks or Callbacks())
    model.load_state_dict(candidate.best)
    model.requires_grad_(False)
    return FineTuneResult(own, candidate.history)
