"""What the learned ranker reads of candidates when a slate is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from headwater_core.events import EventType
from headwater_core.ranker import AFFINITY, AGE, FEATURES, GAIN, POPULARITY, PROBABILITY, SCORE, Features
from headwater_server.catalogue_view import CatalogueView
from headwater_server.fusion import K
from headwater_server.item_space import Found
from headwater_server.popularity import RecentPopularity
from headwater_server.profiles import category_weights
from headwater_server.sources.candidate_source import Asked

_AT = {name: place for place, name in enumerate(FEATURES)}
_DAY_US = 86_400_000_000
_FLOOR = 1e-6
"""Probabilities below this are alike."""


class CandidateFeatures:
    """Works out what the ranker reads of candidates."""

    def __init__(
        self, view: CatalogueView, popularity: RecentPopularity, event_types: Callable[[], Mapping[str, EventType]]
    ) -> None:
        """Args: view: the catalogue; popularity: what others turn to now; event_types: gives the registered types."""
        self._view = view
        self._popularity = popularity
        self._event_types = event_types

    def begun(
        self, asked: Asked, item_ids: Sequence[str], proposals: Mapping[str, Sequence[Found]], now_us: int
    ) -> Features:
        """Features (n, F) of n items, but for the model's. For the event loop."""
        features = np.zeros((len(item_ids), len(FEATURES)), np.float32)
        row_of = {item_id: row for row, item_id in enumerate(item_ids)}
        for source, found in proposals.items():
            for rank, each in enumerate(found, start=1):
                if (row := row_of.get(each.item_id)) is not None:
                    features[row, _AT[source]] = K / (K + rank)
        items = self._view.items
        weights = category_weights(asked.history, asked.event_weights, items)
        total = sum(weights.values()) or 1.0
        for item_id, row in row_of.items():
            features[row, _AT[POPULARITY]] = math.log1p(self._popularity.score(item_id))
            item = items.get(item_id)
            if item is None:
                continue
            published_us = item.publish_time_us if item.publish_time_us is not None else item.update_time_us
            features[row, _AT[AGE]] = math.log1p(max(0, now_us - published_us) / _DAY_US)
            features[row, _AT[AFFINITY]] = sum(weights.get(each, 0.0) for each in set(item.categories)) / total
        return features

    def completed(self, features: Features, asked: Asked, item_ids: Sequence[str]) -> Features:
        """The features with what towers and heads say; of items without a vector, nothing. For the compute threads."""
        rows = [asked.space.row(item_id) for item_id in item_ids]
        places = [place for place, row in enumerate(rows) if row is not None]
        known = [row for row in rows if row is not None]
        if known:
            scores = asked.generation.score(asked.space, asked.interests, known, asked.history)
            event_types = self._event_types()
            known_types = (event_types.get(name) for name in asked.generation.learned_types)
            worth = [0.0 if each is None else each.target_weight for each in known_types]
            expected = scores.probabilities @ np.array(worth, np.float32)
            features[places, _AT[SCORE]] = scores.ranking
            features[places, _AT[GAIN]] = asked.gains.of(np.array(known, np.int64))
            features[places, _AT[PROBABILITY]] = np.log(np.maximum(expected, _FLOOR))
        return features
