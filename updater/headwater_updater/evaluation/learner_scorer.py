"""Towers and co-visits as a scorer of all candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from headwater_core.events import HistoryEvent
from headwater_core.histories import collate, kept_length, tokens
from headwater_core.towers import score
from headwater_updater.learner import Learner

_CHUNK_ELEMENTS = 8_000_000


class LearnerScorer:
    """An item's score is its inner product with the interest that suits it best plus its bonus, as in serving.

    A user of whom nothing is known gets what is popular: the items by how often they were a target.

    Attributes:
        item_ids: the candidates.
        learner: what scores.
    """

    def __init__(self, learner: Learner, item_ids: Sequence[str]) -> None:
        """Takes the item vectors as they are now.

        Args:
            learner: knows all of the candidates.
            item_ids: the candidates.
        """
        self.item_ids = item_ids
        self.learner = learner
        self._rows = np.array([learner.row(item_id) for item_id in item_ids], np.int64)
        self._table = torch.from_numpy(learner.item_vectors(np.arange(len(learner.item_ids) + 1)))  # (n + 1, d)
        self._candidates = self._table[torch.from_numpy(self._rows)]  # (N, d)
        self._popularity = learner.counts[self._rows].astype(np.float32)  # (N,)

    @torch.inference_mode()
    def score_batch(
        self, histories: Sequence[Sequence[HistoryEvent]], query_times_us: Sequence[int] | None = None
    ) -> np.ndarray:
        """(B,) histories → (B, N) float32; see `Scorer`."""
        learner = self.learner
        learner.user_tower.eval()
        config = learner.config.tower
        # As servers do: so much of a history is kept that enough is left without events on items that are not known.
        times_us = [None] * len(histories) if query_times_us is None else query_times_us
        sequences = [
            tokens(events[-kept_length(config) :], config, learner.row, time_us)
            for events, time_us in zip(histories, times_us, strict=True)
        ]
        scores = np.tile(self._popularity, (len(histories), 1))  # (B, N)
        known = [index for index, sequence in enumerate(sequences) if len(sequence)]
        chunk = max(1, _CHUNK_ELEMENTS // (max(1, len(self.item_ids)) * config.n_interests))
        for start in range(0, len(known), chunk):
            part = known[start : start + chunk]
            tensors = collate([sequences[index] for index in part], config, learner.text_features)
            interests = learner.user_tower(tensors, self._table[tensors.item_rows])  # (b, K, d)
            scores[part] = score(interests, self._candidates).numpy()
            for index in part if learner.blend.is_active else ():
                scores[index] += learner.bonuses(sequences[index], learner.blend).of(self._rows)
        return scores
