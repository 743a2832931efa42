"""Race untrained masks: by loss on growing parts of the selection split, the worse dropped before any is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xprompt.backbones.base import Backbone
from xprompt.config.settings import TuneSettings
from xprompt.data.splits import TaskDataset
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.streams import stream_seed
from xprompt.training.evaluation import evaluate_many

#: Examples of the first heat; each later one doubles what was seen.
FIRST_HEAT = 32
#: Standard errors by which a mask is clearly worse than the best.
BOUND = 2.0
#: Masks that a race leaves: 9, 3 and 1 are what successive halving keeps of them.
NUM_LEFT = 9


@dataclass(frozen=True)
class Race:
    """Which of C masks are left, and what each lost on the examples it was scored on.

    Attributes:
        left: indices of the masks that are left, ascending.
        losses: C times (n,), of each mask's first n examples in the race's order; n differs between masks.
    """

    left: list[int]
    losses: list[np.ndarray]

    @classmethod
    def without(cls, count: int) -> Race:
        """Return what is left of `count` masks where there is no race: all of them, scored on nothing."""
        return cls(list(range(count)), [np.empty(0)] * count)


def race(
    backbone: Backbone,
    prompts: Sequence[SoftPrompt],
    data: TaskDataset,
    settings: TuneSettings,
    *,
    seed: int = 0,
) -> Race:
    """Race C pruned prompts, untrained, until nine are left; fewer than that are not raced.

    The data is in random order. All masks are scored on its first 32 examples, those that go on then on the next 32,
    64, 128 …, so that no mask sees an example twice. After each heat `survivors` says which go on. The last heat is
    the one that leaves nine, or has seen all examples.

    Args:
        prompts: C times (P, H), pruned and rewound; unchanged.
        data: the split that candidates are selected on.
        settings: of retraining, whose evaluation batch size and objective are used.
        seed: of the data's order.

    Source: none in the paper, whose limitations ask for a search without exhaustive retraining. Races: Maron and
    Moore (1994); paired differences within one: Moore and Lee (1994); halving by a growing budget: Jamieson and
    Talwalkar (2016). Differs from a Hoeffding race: the losses are unbounded, so the bound is a normal one.
    """
    order = np.random.default_rng(stream_seed(seed, "race")).permutation(len(data))
    left, losses = list(range(len(prompts))), [np.empty(0) for _ in prompts]
    mildest = max(left, key=lambda i: prompts[i].num_params)
    while len(left) > NUM_LEFT and (seen := len(losses[left[0]])) < len(data):
        part = data.take(order[seen : max(FIRST_HEAT, 2 * seen)].tolist())
        evaluations = evaluate_many(
            backbone, [prompts[i] for i in left], part, batch_size=settings.eval_batch_size,
            objective=settings.objective,
        )  # fmt: skip
        for i, evaluation in zip(left, evaluations, strict=True):
            losses[i] = np.append(losses[i], evaluation.require_finite(part.split).losses)
        last = seen + len(part) == len(data)
        kept = survivors(np.stack([losses[i] for i in left]), NUM_LEFT, left.index(mildest), last)
        left = [left[i] for i in kept]
    return Race(left, losses)


def num_left(masks: int) -> int:
    """Return how many of so many masks a race leaves."""
    return min(masks, NUM_LEFT)


def most_raced(masks: int, num_examples: int) -> int:
    """Return the examples that a race scores at most, over all its masks: half of these go on after a heat.

    Args:
        num_examples: of the split that it is held on.
    """
    total = seen = 0
    while masks > NUM_LEFT and seen < num_examples:
        part = min(max(FIRST_HEAT, 2 * seen), num_examples) - seen
        total, seen, masks = total + masks * part, seen + part, max(NUM_LEFT, -(-masks // 2))
    return total


def survivors(losses: np.ndarray, fewest: int, mildest: int, last: bool = False) -> list[int]:
    """Return which of C masks go on after a heat, ascending: the better half, without the clear losers.

    A clear loser's paired difference to the best, example by example, is more than `BOUND` standard errors above 0.
    `fewest` of them and the mildest mask go on all the same: a lower loss untrained need not be the better score
    after retraining, and the mildest mask is the one that has lost the least. Of equals the first go on.

    Args:
        losses: (C, n), every mask's on the same n >= 1 examples; one alone has no spread, and its errors count as 0.
        fewest: how many a race leaves; at least 2.
        mildest: which mask prunes the least.
        last: whether there are no further examples: then `fewest` go on.
    """
    order = np.argsort(losses.mean(axis=1), kind="stable")  # (C,), best first
    differences = losses[order] - losses[order[0]]  # (C, n)
    count = losses.shape[1]  # n
    errors = differences.std(axis=1, ddof=min(1, count - 1)) / np.sqrt(count)  # (C,)
    loses = differences.mean(axis=1) > BOUND * errors  # (C,)
    num_on = fewest if last else max(fewest, min(np.count_nonzero(~loses), -(-len(losses) // 2)))
    on = order[np.argsort(loses, kind="stable")][:num_on].tolist()  # clear losers after all others
    return sorted(on if mildest in on else [*on[:-1], mildest])
