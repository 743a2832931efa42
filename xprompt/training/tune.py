"""Train a prompt, C prompts in parallel, or (the paper's upper baseline) the whole backbone: one loop for all three."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from xprompt.backbones.base import Backbone
from xprompt.backbones.loading import wrap
from xprompt.config.settings import TuneSettings
from xprompt.data.splits import Splits
from xprompt.errors import ConfigError, shown
from xprompt.prompts.card import PromptCard
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.signatures import check_arguments
from xprompt.training.callbacks import Callback, Callbacks, accept_along
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


@accept_along
@check_arguments
def tune(
    backbone: Backbone,
    prompt: SoftPrompt,
    splits: Splits,
    settings: TuneSettings,
    *,
    seed: int = 0,
    progress: bool = False,
    callbacks: Callbacks | Sequence[Callback] | None = None,
) -> TuneResult:
    """Tune a copy of the prompt in front of the frozen backbone.

    Args:
        prompt: (P, H); unchanged.
        splits: trained on `train`; checkpoints are chosen on `selection`, or on `validation` where nothing was held
            out (the paper's protocol).
        seed: of the data order.
        progress: show a bar.
        callbacks: a list of them, or `Callbacks`, which also say where to resume from; they change no number.

    Returns:
        (prompt, history): the best checkpoint, step 0 and the last step among them.

    Raises:
        DataError: there are no training examples.

    Source: paper §3.1, §4.1.

    Example:
        >>> import xprompt as xp
        >>> backbone, splits = xp.load_backbone("nano"), xp.load_task("rte", limit_train=64, limit_validation=32)
        >>> settings = xp.PROFILES["nano"].tune.replace(steps=4, eval_every=2)
        >>> prompt, history = xp.tune(backbone, xp.SoftPrompt.init(backbone, length=4), splits, settings)
        >>> [entry["step"] for entry in history.entries]
        [0, 2, 4]
    """
    return tune_many(backbone, [prompt], splits, [settings], seeds=[seed], progress=progress, callbacks=callbacks)[0]


@accept_along
@check_arguments
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
    callbacks: Callbacks | Sequence[Callback] | None = None,
) -> list[TuneResult]:
    """Tune copies of C prompts in parallel in front of the frozen backbone.

    Each has its own optimiser, schedule, masks, data order, early stopping and best checkpoint, and gets, up to
    rounding, the numbers that it gets alone: rows of a batch do not see one another, and the sum of C losses has each
    prompt's own gradient. With dropout, whose random numbers a pass's rows would share, passes hold one prompt each.

    Args:
        prompts: C ≥ 1 times (P, H), where P may differ; unchanged. The copies are float32 at least.
        settings: one for each prompt; objective, batch sizes, accumulation, dropout and gradient checkpointing must
            agree.
        seeds: of the data orders; candidates with the same seed share their batches. Default: all 0.
        width: candidates in one forward and backward pass, at least 1; None: as many as memory holds. Where memory runs
            out all the same, the width is halved and the pass done again. It changes a result by rounding alone. With
            dropout it is 1.
        halving_schedule: step → how many go on after it: the best on the selection split so far, of equals the lower
            loss. The others keep what they have (successive halving). All that are left are evaluated at that step.
        describe: what the loop is for, in bars, logs and the stage's name.
        splits, progress, callbacks: as in `tune`.

    Raises:
        ConfigError: no prompts, one that `check_tunable` refuses, not as many settings or seeds, a width below 1, or
            settings that must agree and do not.
        DataError: there are no training examples.
        NotFiniteError: every prompt diverged. One that does so beside others ends at its last finite checkpoint.

    Processes that share a run (`xprompt.distributed`) each take a shard of every batch, and end with the same
    prompts, which are those of one process up to the rounding of sums; with dropout each process draws its own numbers.
    """
    seeds = [0] * len(prompts) if seeds is None else list(seeds)
    if not len(prompts) == len(settings) == len(seeds) > 0 or (width is not None and width < 1):
        raise ConfigError(
            f"{len(prompts)} prompts, {len(settings)} settings, {len(seeds)} seeds and width={width} were given: give "
            "one or more prompts, as many settings and seeds, and a width of at least 1 (None: what memory holds)."
        )
    for prompt in prompts:
        check_tunable(backbone, prompt)
    candidates = []
    for prompt, prompt_settings in zip(prompts, settings, strict=True):
        trained = prompt.clone().to(backbone.device)
        if trained.embeddings.element_size() < 4:  # stepped in bfloat16, many values never move
            trained = trained.float()
        candidates.append(Candidate(trained, list(trained.parameters()), prompt_settings, trained.clone))
    Loop(backbone, candidates, splits, seeds, progress, describe, halving_schedule).run(callbacks, width)
    for candidate in candidates:
        candidate.best.card = PromptCard.of(backbone, splits.task, splits.source)
    return [TuneResult(candidate.best, candidate.history) for candidate in candidates]


def check_tunable(backbone: Backbone, prompt: SoftPrompt) -> None:
    """Refuse a prompt, (P, H), with nothing left, or with a surviving token that this backbone passes no gradient to.

    Raises `ConfigError`.
    """
    if not bool(prompt.surviving_pieces.any()):
        raise ConfigError(
            f"the masks of {prompt!r} keep 0 of {prompt.piece_mask.numel():,} pieces, so that nothing can be "
            "tuned: give a prompt in which one survives."
        )
    leading = (~prompt.masked().any(dim=1)).long().cumprod(dim=0).bool()  # (P,): zeros behind nothing but zeros
    stuck = (leading & prompt.surviving_tokens).nonzero().flatten().tolist()
    if stuck and backbone.keeps_zeros():
        raise ConfigError(
            f"{prompt!r} starts with tokens that survive and are zero throughout, {shown(stuck)}: {backbone.name} "
            "passes no gradient to them. Start from other values, as init='vocab', or prune them: set token_mask[i] to "
            "False for each."
        )


@accept_along
@check_arguments
def fine_tune(
    backbone: Backbone,
    splits: Splits,
    settings: TuneSettings,
    *,
    seed: int = 0,
    progress: bool = False,
    callbacks: Callbacks | Sequence[Callback] | None = None,
) -> FineTuneResult:
    """Train every weight of a copy of the backbone, without a prompt: the paper's upper baseline.

    The copy is float32 whatever the backbone's dtype: stepped in bfloat16, most weights never move. The backbone given
    is unchanged. Arguments as in `tune`.

    Returns:
        (backbone, history): the copy, frozen, at its best checkpoint, with a fingerprint and a name of its own: a
        prompt tuned in front of it fits no other weights.

    Source: paper §4.1 (fine-tuning).
    """
    model = copy.deepcopy(backbone.model)
    if backbone.dtype.itemsize < 4:
        model = model.float()
    name = f"{backbone.name} (fine-tuned)"  # no place to load it from: where it is needed, it is to be handed over
    trained = wrap(model, backbone.tokenizer, name=name, max_source=backbone.max_source)
    model.requires_grad_(True)

    def snapshot() -> dict[str, Tensor]:  # of what is trained; a tied weight has several names, and is here once
        return {name: value.detach().clone() for name, value in model.named_parameters()}

    candidate = Candidate(None, list(model.parameters()), settings, snapshot)
    Loop(trained, [candidate], splits, [seed], progress, "fine-tuning").run(callbacks)
    model.load_state_dict(candidate.best, strict=False)
    model.requires_grad_(False)
    trained.update_fingerprint()
    return FineTuneResult(trained, candidate.history)
