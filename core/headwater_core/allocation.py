"""Who gets which arm: by a hash that stays, or by Thompson sampling within bounds. Pure.

Thompson sampling (Thompson 1933) shows an arm with the probability that it is the best one. Here that probability is
worked out first and then drawn from, so it is known exactly for every slate, and an operator's bounds can hold. Of an
interleaved slate every place is drawn; then there is evidence enough to be more decided (`thompson_shares`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headwater_core.experiments import Arm

_DRAWS = 20_000
_SEED = 20_331
_STEPS = 60
Shares = npt.NDArray[np.float64]


class Record(NamedTuple):
    """What an arm showed and earned, the older the less it counts."""

    slates: float
    """Interleaved: places."""
    reward: float
    """At most `slates`."""


def by_hash(key: str, salt: str, shares: Sequence[float]) -> int:
    """The place of the share that a key falls into: always the same one, and independent of other salts."""
    digest = hashlib.sha256(f"{salt}\x00{key}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64 * sum(shares)
    return min(int(np.searchsorted(np.cumsum(shares), point, side="right")), len(shares) - 1)


def thompson_shares(records: Sequence[Record], arms: Sequence[Arm], decided: float = 1.0) -> Shares:
    """(n,), which sum to 1: how likely each arm is the best, as far as its bounds let it.

    An arm's mean reward is a Beta variable over what it earned and missed, each counted from 1.

    Args:
        records: (n,) of the arms.
        arms: their bounds, which can hold together.
        decided: the power that these probabilities are raised to before they are made to sum to 1 again. With 2 an arm
            gets what two draws agree on. What is forgotten has to be tried again and again, and with 1 that costs an
            arm that is surely bad far more than what its min_share keeps up.
    """
    earned = np.array([record.reward for record in records])
    missed = np.array([max(0.0, record.slates - record.reward) for record in records])
    drawn = np.random.default_rng(_SEED).beta(1.0 + earned, 1.0 + missed, (_DRAWS, len(records)))
    best = (np.bincount(drawn.argmax(1), minlength=len(records)) / _DRAWS) ** decided
    return within_bounds(best / best.sum(), [arm.min_share for arm in arms], [arm.max_share for arm in arms])


def within_bounds(shares: Shares, low: Sequence[float], high: Sequence[float]) -> Shares:
    """The nearest shares that keep the bounds and sum to 1: all are moved by as much, those at a bound stay.

    This is the Euclidean projection on the bounded simplex; by how much is found by bisection.

    Args:
        shares: (n,), summing to 1.
        low, high: (n,); the lows sum to at most 1, the highs to at least 1.
    """
    least, most = np.asarray(low, np.float64), np.asarray(high, np.float64)
    down, up = -1.0, 1.0
    for _ in range(_STEPS):
        middle = (down + up) / 2
        if np.clip(shares + middle, least, most).sum() < 1.0:
            down = middle
        else:
            up = middle
    return np.clip(shares + up, least, most)
