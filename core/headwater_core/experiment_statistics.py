"""What an experiment says: rates, always-valid intervals, and whether users came to the arms as they should. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

LEVEL = 0.05
"""The intervals hold, all of them and at every look, with a probability of 1 - LEVEL."""
MISMATCH_AT = 1000.0
"""Evidence from which users are said to come to the arms otherwise than by their shares."""
_BEST_AT_USERS = 1000.0
"""The intervals are tightest at about so many users."""


class UserSums(NamedTuple):
    """What the users of one arm add up to."""

    users: int
    slates: float
    reward: float
    slates_squared: float
    reward_squared: float
    slates_reward: float
    """The sums over users of slates², reward² and slates * reward."""


class Rate(NamedTuple):
    """An arm's reward per slate."""

    value: float
    half_width: float
    """Of its always-valid interval; infinite before there are two users."""


def rate(sums: UserSums, level: float = LEVEL) -> Rate:
    """The reward per slate and how sure it is, whenever one looks.

    Users are independent, their slates are not: the variance is that of the ratio of two sums over users (the delta
    method), the interval an asymptotic confidence sequence (Waudby-Smith et al., Annals of Statistics 2024), which
    covers the truth at all times at once. So it may be looked at, and acted on, any number of times.
    """
    if not sums.slates:
        return Rate(0.0, math.inf)
    value = sums.reward / sums.slates
    n = sums.users
    if n < 2:
        return Rate(value, math.inf)
    residuals = sums.reward_squared - 2 * value * sums.slates_reward + value**2 * sums.slates_squared
    deviation = math.sqrt(max(0.0, residuals) / n) / (sums.slates / n)
    if not deviation:  # nobody has differed from anybody yet: what nobody did, one of n + 1 may do
        deviation = math.sqrt(1.0 / (n + 1)) / (sums.slates / n)
    tuned = (-2 * math.log(level) + math.log(-2 * math.log(level) + 1)) / _BEST_AT_USERS
    return Rate(
        value, deviation * math.sqrt(2 * (n * tuned + 1) / (n**2 * tuned) * math.log(math.sqrt(n * tuned + 1) / level))
    )


def leader(rates: Sequence[Rate]) -> int | None:
    """The place of the arm that is surely better than all others: its interval lies above theirs; None: there is none.

    The intervals of m arms have to hold together: give `rate` a level of LEVEL / m.
    """
    for place, one in enumerate(rates):
        if all(
            one.value - one.half_width > other.value + other.half_width
            for other in (*rates[:place], *rates[place + 1 :])
        ):
            return place
    return None


def mismatch(users: Sequence[int], shares: Sequence[float]) -> float:
    """How much speaks against users having come to the arms by their shares: a Bayes factor, valid whenever one looks.

    Under the shares it exceeds x with a probability of at most 1 / x, ever (Lindon & Malek, 2020): the evidence for
    unknown shares, uniform over all, against the stated ones.

    Args:
        users: of each arm.
        shares: above 0, summing to 1.
    """
    total, m = sum(users), len(users)
    unknown = math.lgamma(m) - math.lgamma(total + m) + sum(math.lgamma(count + 1) for count in users)
    stated = sum(count * math.log(share) for count, share in zip(users, shares, strict=True))
    return math.exp(min(700.0, unknown - stated))
