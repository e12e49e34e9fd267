"""What is popular now: event weights that halve every so many events."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator

CAPACITY = 200_000
"""Items counted at most: those of the highest weights."""
_RESCALE_AT = 1e100
_FORGET_BELOW = 1e-6
"""A weight this far decayed counts for nothing."""
_PRUNE_EVERY = 10_000


class RecentPopularity:
    """Decayed event weight per item.

    The decay runs with the log, not with the clock: after `half_life_events` further events an old one counts half. So
    imported years and a quiet night change nothing by themselves.
    """

    def __init__(
        self, half_life_events: int = 20_000, known: Container[str] | None = None, capacity: int = CAPACITY
    ) -> None:
        """Make an empty count.

        Args:
            half_life_events: how many events halve an older one's weight.
            known: the items that may be ranked; events may name any others too. None: all.
            capacity: how many items are counted.
        """
        self._growth = 2.0 ** (1.0 / half_life_events)
        self._known = known
        self._capacity = capacity
        self._scale = 1.0
        self._weights: dict[str, float] = {}
        self._ranking: list[str] | None = None
        """None: to be made anew."""
        self._changes_since_ranking = 0
        self._adds_since_pruning = 0

    def __len__(self) -> int:
        """How many items are counted."""
        return len(self._weights)

    def add(self, item_id: str, weight: float) -> None:
        """Count one event of positive weight on an item."""
        self._scale *= self._growth
        self._weights[item_id] = self._weights.get(item_id, 0.0) + weight * self._scale
        self._changes_since_ranking += 1
        self._adds_since_pruning += 1
        if self._adds_since_pruning >= _PRUNE_EVERY or self._scale > _RESCALE_AT:
            self._prune()

    def admit(self, item_id: str) -> None:
        """An item became known: what was counted of it before is ranked from now on."""
        if item_id in self._weights:
            self._ranking = None

    def remove(self, item_id: str) -> None:
        """Forget an item."""
        self._weights.pop(item_id, None)

    def score(self, item_id: str) -> float:
        """The item's decayed weight, in units of an event of weight 1 that just happened."""
        return self._weights.get(item_id, 0.0) / self._scale

    def ranking(self) -> Iterator[str]:
        """Ids of known items, most popular first; of the last events, one for each 100 items, is not reflected yet."""
        if self._ranking is None or self._changes_since_ranking > len(self._weights) // 100:
            ranked = [item_id for item_id in self._weights if self._known is None or item_id in self._known]
            self._ranking = sorted(ranked, key=self._weights.__getitem__, reverse=True)
            self._changes_since_ranking = 0
        return iter(self._ranking)

    def _prune(self) -> None:
        """Scale the weights back, and drop what counts for nothing any more or is one too many."""
        scaled = {item_id: total / self._scale for item_id, total in self._weights.items()}
        kept = {item_id: total for item_id, total in scaled.items() if total >= _FORGET_BELOW}
        if len(kept) > self._capacity:
            kept = dict(heapq.nlargest(self._capacity, kept.items(), key=lambda entry: entry[1]))
        self._weights, self._scale, self._adds_since_pruning = kept, 1.0, 0
