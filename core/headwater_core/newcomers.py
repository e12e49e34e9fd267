"""What items that nobody has met yet inherit from the learned items they are most like.

Co-visits are counted, so a new item has none and would rank below everything that has: it takes those of its nearest
learned items, a weighted mean, until it has its own. The functions serve and are measured alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headwater_core.co_visits import Bonuses, Indices, Weights

NEIGHBOURS = 10
"""From how many learned items one inherits."""
_SHARPNESS = 4
"""A neighbour counts by its cosine to this power; one that points away does not."""
_CHUNK, _NEWCOMERS_CHUNK = 65_536, 64
"""Learned items, and new ones, whose cosines are held at a time (16 MB)."""

Vectors = npt.NDArray[np.float32]


class Heritage(NamedTuple):
    """From which learned items each of m new ones inherits, and how much."""

    neighbours: Indices
    """(m, NEIGHBOURS)."""
    shares: Weights
    """(m, NEIGHBOURS), at least 0; they sum to 1, or are all 0 where there is nothing to inherit."""

    @classmethod
    def none(cls, m: int) -> Heritage:
        """Of m items that inherit nothing."""
        return cls(np.zeros((m, NEIGHBOURS), np.int64), np.zeros((m, NEIGHBOURS), np.float32))

    def at(self, places: Sequence[int]) -> Heritage:
        """Of those of the m."""
        return Heritage(self.neighbours[places], self.shares[places])

    def joined(self, other: Heritage) -> Heritage:
        """These, then the others."""
        neighbours = np.concatenate([self.neighbours, other.neighbours])
        return Heritage(neighbours, np.concatenate([self.shares, other.shares]))

    def of(self, bonuses: Bonuses, newcomers: Indices) -> Bonuses:
        """The bonuses, and those that newcomers (m,) inherit of them where that is more than what they have."""
        if not len(newcomers) or not len(bonuses.items):
            return bonuses
        inherited = (bonuses.of(self.neighbours.ravel()).reshape(self.shares.shape) * self.shares).sum(1)  # (m,)
        gains = inherited > bonuses.of(newcomers)
        own = ~np.isin(bonuses.items, newcomers[gains])
        items = np.concatenate([bonuses.items[own], newcomers[gains]])
        values = np.concatenate([bonuses.values[own], inherited[gains]]).astype(np.float32)
        order = np.argsort(items)
        return Bonuses(items[order], values[order])


def inherit(vectors: Vectors, learned: Indices, vectors_of: Callable[[Indices], Vectors]) -> Heritage:
    """Each new item's nearest learned items by cosine, and what each of them leaves it.

    Args:
        vectors: (m, d), of the new items.
        learned: (n,) which items can be inherited from.
        vectors_of: (c,) of the learned → (c, d), theirs.
    """
    heritage = Heritage.none(len(vectors))
    unit = unit_vectors(vectors)
    cosines = np.zeros_like(heritage.shares)
    for start in range(0, len(learned) if len(vectors) else 0, _CHUNK):
        rows = learned[start : start + _CHUNK]
        theirs = unit_vectors(vectors_of(rows)).T  # (d, c)
        for first in range(0, len(vectors), _NEWCOMERS_CHUNK):
            part = slice(first, first + _NEWCOMERS_CHUNK)
            _keep_nearest(heritage.neighbours[part], cosines[part], unit[part] @ theirs, rows)
    weights = cosines**_SHARPNESS
    return heritage._replace(shares=weights / np.maximum(weights.sum(1, keepdims=True), 1e-12))


def _keep_nearest(neighbours: Indices, best: Vectors, found: Vectors, rows: Indices) -> None:
    """Put what is nearer of rows (c,), by their cosines found (p, c), into neighbours and their cosines best (p, k)."""
    k = best.shape[1]
    nearest = np.argpartition(-found, min(k, found.shape[1]) - 1, axis=1)[:, :k]  # (p, k) at most
    cosines = np.concatenate([best, np.take_along_axis(found, nearest, 1)], axis=1)
    items = np.concatenate([neighbours, rows[nearest]], axis=1)
    kept = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    best[:], neighbours[:] = np.take_along_axis(cosines, kept, 1), np.take_along_axis(items, kept, 1)


def unit_vectors(vectors: Vectors) -> Vectors:
    """The vectors' directions, (n, d)."""
    directions: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return directions
