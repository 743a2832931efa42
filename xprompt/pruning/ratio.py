"""What a prune ratio means: how many entries it removes. Without torch, so that a report counts by the same rule."""

from __future__ import annotations

from math import floor
from numbers import Real

from xprompt.errors import ConfigError, shown


def num_pruned(total: int, ratio: float) -> int:
    """Return how many of `total` entries a prune ratio removes: ratio · total, rounded half up; one always stays.

    Raises:
        ConfigError: the ratio is outside [0, 1).
    """
    if isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0 <= ratio < 1:
        raise ConfigError(
            f"a prune ratio of {shown(ratio)} was given; it must lie in [0, 1): the share that is *removed*."
        )
    # The tiny term undoes binary fractions such as 0.15 · 10 = 1.4999…, which should round up like 1.5.
    return min(floor(ratio * total + 0.5 + 1e-9), total - 1)
