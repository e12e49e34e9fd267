"""Fitting the ranker: from what was shown, where, and what came of it, to weights. Pure.

What stands higher is acted on more, whatever it is. So the log-odds of an action are a sum of what the candidate's
features say and of what its place does (an additive position tower, as in Guo et al., PAL, RecSys 2019): the places
take their part in fitting, and only the features' part ranks. Held-out users decide whether it may serve: clicks count
by the inverse of how much their place helped (Joachims et al., WSDM 2017).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headwater_core.ranker import FEATURES, Features, Ranker, Weight

MAX_PLACE = 50
"""From this place on all are alike."""
HELD_OUT = 5
"""One user in so many judges."""
_RIDGE = 1.0
_STEPS = 25
_CLIP = 10.0
"""No action counts more than so many times one at the first place."""
_RESAMPLES = 2_000

Numbers = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


class Shown(NamedTuple):
    """Items that were shown, n of them, slate after slate."""

    features: Features
    """(n, F)."""
    place: Numbers
    """(n,), from 1."""
    worth: Values
    """(n,), what the actions on it were worth; 0: there was none."""
    slate: Numbers
    """(n,), which slate, ascending."""
    user: Numbers
    """(n,), whose: a stable hash."""

    def of(self, kept: npt.NDArray[np.bool_]) -> Shown:
        """Some of it."""
        features, place, worth, slate, user = self
        return Shown(features[kept], place[kept], worth[kept], slate[kept], user[kept])


class Fit(NamedTuple):
    """What was learned."""

    ranker: Ranker
    places: Values
    """(MAX_PLACE,), what each place adds to the log-odds, 0 for the first."""


class Gain(NamedTuple):
    """How much better held-out users' actions stand in the ranker's order than in the one that was served."""

    users: int
    mean: float
    """Of the discounted gain of each action, as it would be if every place were looked at alike; over users."""
    low: float
    """The lower end of its 95 % interval."""

    @property
    def is_sure(self) -> bool:
        """Whether the ranker's order is better, and not by chance."""
        return self.users > 1 and self.low > 0.0


def divided(shown: Shown) -> tuple[Shown, Shown]:
    """What to learn from, and what judges: other users."""
    is_held_out = shown.user % HELD_OUT == 0
    return shown.of(~is_held_out), shown.of(is_held_out)


def fit(shown: Shown) -> Fit:
    """The weights that make the actions most likely, none of them large without need.

    Args:
        shown: with actions and without.

    Raises:
        ValueError: everything was acted on, or nothing.
    """
    acted = shown.worth > 0
    if not acted.any() or acted.all():
        raise ValueError("a ranker needs items that were acted on, and others")
    raw = shown.features.astype(np.float64)
    mean, deviation = raw.mean(0), raw.std(0)
    varies = deviation > 1e-6
    scaled = np.where(varies, (raw - mean) / np.where(varies, deviation, 1.0), 0.0)  # (n, F)
    at = np.minimum(shown.place, MAX_PLACE) - 1
    places = np.zeros((len(raw), MAX_PLACE - 1))
    below = at > 0
    places[np.flatnonzero(below), at[below] - 1] = 1.0  # the first is what the others are measured from
    inputs = np.concatenate([scaled, places, np.ones((len(raw), 1))], axis=1)  # (n, F + places + 1)
    ridge = np.array([_RIDGE] * (inputs.shape[1] - 1) + [1e-6])
    weight = np.where(acted, shown.worth / shown.worth[acted].mean(), 1.0)
    solution = _logistic(inputs, acted.astype(np.float64), weight, ridge)
    own = solution[: len(FEATURES)] / np.where(varies, deviation, np.inf)
    columns = zip(FEATURES, own.tolist(), raw.min(0).tolist(), raw.max(0).tolist(), strict=True)
    weights = {name: Weight(*values) for name, *values in columns if values[0]}
    return Fit(Ranker(weights), np.concatenate([[0.0], solution[len(FEATURES) : -1]]))


def judged(found: Fit, shown: Shown) -> Gain:
    """How the ranker's order compares with the one served. Args: shown: of users that it was not fitted on."""
    scores = found.ranker.scores(shown.features)
    # Within a slate: the best first, ties as they stood.
    order = np.lexsort((shown.place, -scores, shown.slate))
    starts = np.flatnonzero(np.diff(shown.slate[order], prepend=-1))
    lengths = np.diff(np.append(starts, len(order)))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, lengths) + 1
    acted = shown.worth > 0
    looked_at = np.exp(found.places[np.minimum(shown.place[acted], MAX_PLACE) - 1])
    counts = shown.worth[acted] / np.clip(looked_at, 1.0 / _CLIP, None)
    gains = counts * (_discount(rank[acted]) - _discount(shown.place[acted]))
    users, whose = np.unique(shown.user[acted], return_inverse=True)
    if not len(users):
        return Gain(0, 0.0, 0.0)
    of_user = np.bincount(whose, gains) / np.bincount(whose, counts)
    drawn = np.random.default_rng(0).integers(0, len(users), (_RESAMPLES, len(users)))
    return Gain(len(users), float(of_user.mean()), float(np.quantile(of_user[drawn].mean(1), 0.025)))


def _discount(rank: Numbers) -> Values:
    discount: Values = 1.0 / np.log2(rank + 1.0)
    return discount


def _logistic(inputs: Values, acted: Values, weight: Values, ridge: Values) -> Values:
    """Ridge logistic regression by Newton's method. (n, m), (n,), (n,), (m,) → (m,)."""
    solution = np.zeros(inputs.shape[1])
    for _ in range(_STEPS):
        likely = 1.0 / (1.0 + np.exp(-np.clip(inputs @ solution, -30.0, 30.0)))
        gradient = inputs.T @ (weight * (likely - acted)) + ridge * solution
        curvature = (inputs * (weight * likely * (1.0 - likely))[:, None]).T @ inputs + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        solution -= step
        if np.abs(step).max() < 1e-6:
            break
    return solution
