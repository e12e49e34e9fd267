"""What is popular now: event weights that halve every so many events."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

_RESCALE_AT = 1e100


class RecentPopularity:
    """Decayed event weight per item.

    The decay runs with the log, not with the clock: after `half_life_events` further events an old one counts half. So
    imported years and a quiet night change nothing by themselves.
    """

    def __init__(self, half_life_events: int = 20_000) -> None:
        """Make an empty count. Args: half_life_events: how many events halve an older one's weight."""
        self._growth = 2.0 ** (1.0 / half_life_events)
        self._scale = 1.0
        self._weights: dict[str, float] = {}
        self._ranking: list[str] = []
        self._changes_since_ranking = 0

    def add(self, item_id: str, weight: float) -> None:
        """Count one event of positive weight on an item."""
        self._scale *= self._growth
        self._weights[item_id] = self._weights.get(item_id, 0.0) + weight * self._scale
        self._changes_since_ranking += 1
        if self._scale > _RESCALE_AT:
            self._weights = {item: total / self._scale for item, total in self._weights.items()}
            self._scale = 1.0

    def remove(self, item_id: str) -> None:
        """Forget an item."""
        self._weights.pop(item_id, None)

    def score(self, item_id: str) -> float:
        """The item's decayed weight, in units of an event of weight 1 that just happened."""
        return self._weights.get(item_id, 0.0) / self._scale

    def ranking(self) -> Iterator[str]:
        """Item ids, most popular first; at most 1 % of the events counted are not reflected yet."""
        if not self._ranking or self._changes_since_ranking > max(16, len(self._weights) // 100):
            self._ranking = heapq.nlargest(len(self._weights), self._weights, key=self._weights.__getitem__)
            self._changes_since_ranking = 0
        return iter(self._ranking)
