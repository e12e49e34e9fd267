"""What many turn to now: overall, and in the categories that the user turns to."""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from typing import ClassVar

from headwater_core.strategies import CATEGORY, POPULAR
from headwater_server.catalogue_view import CatalogueView
from headwater_server.item_space import Found
from headwater_server.popularity import RecentPopularity
from headwater_server.profiles import category_weights
from headwater_server.sources.candidate_source import Asked

_CATEGORIES = 3
"""So many of the user's categories are looked into, the strongest."""


class PopularSource:
    """What the generation says is trending, where it found that this matters; then what is popular now."""

    name: ClassVar[str] = POPULAR
    on_loop: ClassVar[bool] = True

    def __init__(self, popularity: RecentPopularity) -> None:
        """Args: popularity: counts the events that this server hears of."""
        self._popularity = popularity

    def propose(self, asked: Asked, k: int) -> list[Found]:
        """See `CandidateSource`."""
        trending = dict.fromkeys(asked.generation.trending)
        popular = (item_id for item_id in self._popularity.ranking() if item_id not in trending)
        passing = (item_id for item_id in itertools.chain(trending, popular) if asked.passes(item_id))
        return [Found(each, self._popularity.score(each), self.name) for each in itertools.islice(passing, k)]


class CategorySource:
    """What is popular now in the categories of what the user did lately."""

    name: ClassVar[str] = CATEGORY
    on_loop: ClassVar[bool] = True

    def __init__(self, popularity: RecentPopularity, view: CatalogueView) -> None:
        """Args: popularity: as PopularSource; view: knows the items of a category."""
        self._popularity, self._view = popularity, view

    def propose(self, asked: Asked, k: int) -> list[Found]:
        """See `CandidateSource`; an item's score is its popularity times what its categories count for the user."""
        affinities = category_weights(asked.history, asked.event_weights, self._view.items)
        strongest = heapq.nlargest(_CATEGORIES, affinities, key=affinities.__getitem__)
        total = sum(affinities[category] for category in strongest)
        scores: defaultdict[str, float] = defaultdict(float)
        for category in strongest:
            share = affinities[category] / total
            for item_id in self._view.in_category(category):
                scores[item_id] += share * self._popularity.score(item_id)
        ranked = sorted((item_id for item_id in scores if scores[item_id] > 0), key=lambda each: (-scores[each], each))
        passing = (item_id for item_id in ranked if asked.passes(item_id))
        return [Found(item_id, scores[item_id], self.name) for item_id in itertools.islice(passing, k)]
