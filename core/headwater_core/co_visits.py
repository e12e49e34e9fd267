"""Co-visits: what users met soon after an item, counted; the part of a score that remembers rather than generalises.

An item's score is the towers' plus a bonus for being what others met after the user's latest items. Counting beats
any learned vector on pairs that were seen often, and the towers on all the others; the sum beats both (the figures are
in docs/quality.md). The same functions serve, validate and evaluate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headwater_core.errors import InvalidFieldError

SUCCESSORS = 128
"""How many successors of one item are kept, at most."""
REPEAT_EVENTS = 200
"""So far back users return to what they had: further than the towers read. Servers keep as many events."""
HISTORY_EVENTS = 50
"""How many of a user's latest events on items speak for their successors."""

_BOUNDS: Mapping[str, tuple[float, float]] = {
    "strength": (0.0, 100.0),
    "repeat_strength": (0.0, 100.0),
    "trend_strength": (0.0, 100.0),
    "sharpness": (1.0, 1e6),
    "decay": (0.01, 1.0),
    "repeat_decay": (0.01, 1.0),
    "trend_half_life": (1.0, 1e9),
    "trend_sharpness": (1.0, 1e9),
}

_DENSE = 20
"""Items are summed in an array of all numbers that reaches to at most so many times what there is to sum."""

Indices = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Blend:
    """How co-visits join the towers' scores; chosen on validation, travels in the generation's manifest."""

    strength: float = 0.0
    """What a successor's bonus is multiplied with; 0: there is none."""
    repeat_strength: float = 0.0
    """The same for the items of the history themselves: users come back to what they had."""
    trend_strength: float = 0.0
    """The same for what everybody came to of late, whatever the history (`trends`)."""
    sharpness: float = 1000.0
    """A bonus grows as log(1 + sharpness * the item's share of the votes)."""
    decay: float = 0.8
    """How much less each earlier event of the history counts than the one after it."""
    repeat_decay: float = 1.0
    """The same where it speaks for its own item."""
    trend_half_life: float = 1_000
    """After how many further events an event counts half in the trend; one of `trends.HALF_LIVES`."""
    trend_sharpness: float = 1000.0
    """As sharpness, of the trend: high, and what nobody came to of late is all but left out."""

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InvalidFieldError: naming the field.
        """
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise InvalidFieldError(name, f"is {value!r}; must be a number from {low} to {high}")

    @property
    def is_active(self) -> bool:
        """Whether there is any bonus."""
        return self.strength > 0 or self.repeat_strength > 0 or self.trend_strength > 0

    def to_dict(self) -> dict[str, float]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Blend:
        """What `to_dict` wrote; a field left out takes its default.

        Raises:
            InvalidFieldError: naming the field that is unknown or out of bounds.
        """
        known = {field.name for field in fields(cls)}
        for name in content:
            if name not in known:
                raise InvalidFieldError(str(name), "is not a field of the blend")
        return cls(**content)


class Successors(NamedTuple):
    """What follows one item: different items and how much speaks for each."""

    items: Indices
    """(s,)."""
    weights: Weights
    """(s,), above 0."""


class Bonuses(NamedTuple):
    """What is added to the scores of some items; all others get nothing."""

    items: Indices
    """(b,), ascending, different."""
    values: Weights
    """(b,), at least 0."""

    def of(self, items: Indices) -> Weights:
        """What is added to the scores of these items. (n,) → (n,)."""
        if not len(self.items):
            return np.zeros(len(items), np.float32)
        at = np.minimum(np.searchsorted(self.items, items), len(self.items) - 1)
        return np.where(self.items[at] == items, self.values[at], np.float32(0))

    def joined(self, other: Bonuses) -> Bonuses:
        """Both together: what both give an item is added."""
        if not len(other.items) or not len(self.items):
            return self if len(self.items) else other
        items, values, _ = _summed(
            np.concatenate([self.items, other.items]), np.concatenate([self.values, other.values])
        )
        return Bonuses(items, values.astype(np.float32))

    def times(self, factor: float) -> Bonuses:
        """So many times as much; 0 times is nothing."""
        if factor == 1.0:
            return self
        return self._replace(values=self.values * np.float32(factor)) if factor else NO_BONUSES


NO_BONUSES = Bonuses(np.empty(0, np.int64), np.empty(0, np.float32))


def bonuses(latest: Sequence[Successors], visited: Indices, blend: Blend) -> Bonuses:
    """The bonuses that a history's items give.

    Each event votes for its successors with their weights, an event k places before the last with decay^k of them;
    and, apart, for its own item with repeat_decay^k.

    Args:
        latest: the successors of the history's last HISTORY_EVENTS events on items, the last event first.
        visited: (v,) the items of the history's last REPEAT_EVENTS events on items, the last event first.
        blend: how votes become bonuses.
    """
    found = NO_BONUSES
    if blend.strength and latest:
        # In float64: a small decay's powers times a small weight are 0 in float32.
        votes = np.concatenate([part.weights * np.float64(blend.decay**k) for k, part in enumerate(latest)])
        named = np.concatenate([part.items for part in latest])
        found = _rewarded(named, votes, blend.strength, blend.sharpness)
    if blend.repeat_strength and len(visited):
        votes = blend.repeat_decay ** np.arange(len(visited), dtype=np.float64)
        found = found.joined(_rewarded(visited, votes, blend.repeat_strength, blend.sharpness))
    return found


def trend_bonuses(trend: Successors, blend: Blend) -> Bonuses:
    """What trending items are given, whoever is asked for. Args: trend: items and how much happened to each."""
    if not blend.trend_strength:
        return NO_BONUSES
    return _rewarded(trend.items, trend.weights.astype(np.float64), blend.trend_strength, blend.trend_sharpness)


def _rewarded(named: Indices, votes: npt.NDArray[np.float64], strength: float, sharpness: float) -> Bonuses:
    if not len(named):
        return NO_BONUSES
    items, totals, total = _summed(named, votes)
    return Bonuses(items, (strength * np.log1p(sharpness * totals / total)).astype(np.float32))


def _summed(named: Indices, values: npt.NDArray[Any]) -> tuple[Indices, npt.NDArray[np.float64], float]:
    """Different items, ascending, each one's sum, and the sum of all."""
    if len(named) and named.max() < _DENSE * len(named):  # far quicker than sorting
        items = np.flatnonzero(np.bincount(named)).astype(np.int64, copy=False)
        totals = np.bincount(named, values)[items].astype(np.float64, copy=False)
    else:
        items, place = np.unique(named, return_inverse=True)
        totals = np.bincount(place, values, len(items)).astype(np.float64)
    return items, totals, float(totals.sum())
