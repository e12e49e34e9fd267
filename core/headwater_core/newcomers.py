"""What items that nobody has met yet inherit from the learned items they are most like.

Co-visits are counted, so a new item has none and would rank below everything that has: it takes those of its nearest
learned items, a weighted mean, until it has its own. The functions serve and are measured alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headwater_core.co_visits import Bonuses, Indices, Weights

NEIGHBOURS = 10
"""From how many learned items one inherits."""
_SHARPNESS = 4
"""A neighbour counts by its cosine to this power."""
_CHUNK = 65_536
"""Learned items whose cosines are held at a time."""

Vectors = npt.NDArray[np.float32]


class Inheritance(NamedTuple):
    """Who inherits from whom."""

    newcomers: Indices
    """(m,), different."""
    neighbours: Indices
    """(m, k), learned items."""
    shares: Weights
    """(m, k), at least 0; each newcomer's sum to 1, or are all 0 where nothing is like it."""

    def __len__(self) -> int:
        """How many inherit."""
        return len(self.newcomers)

    def joined(self, other: Inheritance) -> Inheritance:
        """Both; they are about different newcomers and inherit from the same learned items."""
        if not len(self) or not len(other):
            return self if len(self) else other
        return Inheritance(
            np.concatenate([self.newcomers, other.newcomers]),
            np.concatenate([self.neighbours, other.neighbours]),
            np.concatenate([self.shares, other.shares]),
        )

    def of(self, bonuses: Bonuses) -> Bonuses:
        """The bonuses, and those that newcomers inherit of them; what a newcomer has of its own makes way."""
        if not len(self) or not len(bonuses.items):
            return bonuses
        inherited = (bonuses.of(self.neighbours.ravel()).reshape(self.shares.shape) * self.shares).sum(1)  # (m,)
        own = ~np.isin(bonuses.items, self.newcomers)
        gains = inherited > 0
        items = np.concatenate([bonuses.items[own], self.newcomers[gains]])
        values = np.concatenate([bonuses.values[own], inherited[gains].astype(np.float32)])
        order = np.argsort(items)
        return Bonuses(items[order], values[order])


NOBODY = Inheritance(np.empty(0, np.int64), np.empty((0, 0), np.int64), np.empty((0, 0), np.float32))


def inherit(
    newcomers: Indices, vectors: Vectors, learned: Indices, vectors_of: Callable[[Indices], Vectors]
) -> Inheritance:
    """Each newcomer's nearest learned items by cosine, and what each of them leaves it.

    Args:
        newcomers: (m,) which items inherit.
        vectors: (m, d), theirs.
        learned: (n,) which items can be inherited from.
        vectors_of: (c,) of the learned → (c, d), theirs.
    """
    k = min(NEIGHBOURS, len(learned))
    if not len(newcomers) or not k:
        return NOBODY
    unit = unit_vectors(vectors)
    nearest, cosines = np.empty((len(newcomers), 0), np.int64), np.empty((len(newcomers), 0), np.float32)
    for start in range(0, len(learned), _CHUNK):
        part = learned[start : start + _CHUNK]
        cosines = np.concatenate([cosines, unit @ unit_vectors(vectors_of(part)).T], axis=1)
        nearest = np.concatenate([nearest, np.broadcast_to(part, (len(newcomers), len(part)))], axis=1)
        if cosines.shape[1] > k:
            kept = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
            cosines, nearest = np.take_along_axis(cosines, kept, 1), np.take_along_axis(nearest, kept, 1)
    weights = np.maximum(cosines, 0.0) ** _SHARPNESS
    shares = weights / np.maximum(weights.sum(1, keepdims=True), 1e-12)
    return Inheritance(newcomers, nearest, shares.astype(np.float32))


def unit_vectors(vectors: Vectors) -> Vectors:
    """The vectors' directions, (n, d)."""
    directions: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return directions
