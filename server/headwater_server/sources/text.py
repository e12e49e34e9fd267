"""What reads like what the user turned to lately."""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np

from headwater_core.dislikes import voters
from headwater_core.strategies import TEXT
from headwater_server.item_space import Found
from headwater_server.sources.candidate_source import Asked
from headwater_server.text_keeper import TextKeeper

_ITEMS = 10
"""So many of the history's last items are read."""
_DECAY = 0.8
"""How much less each earlier one counts than the one after it."""


class TextSource:
    """The items whose texts are nearest to the texts of the history's last items, by the text encoder alone."""

    name: ClassVar[str] = TEXT
    on_loop: ClassVar[bool] = False

    def __init__(self, keeper: TextKeeper) -> None:
        """Args: keeper: has the texts' features; while it has not read them this source proposes nothing."""
        self._keeper = keeper

    def propose(self, asked: Asked, k: int) -> list[Found]:
        """See `CandidateSource`; an item's score is its cosine to the weighted mean of those texts."""
        space = self._keeper.space
        if space is None:
            return []
        latest = [event for event in reversed(asked.history) if event.item_id]
        against = [asked.event_weights.get(event.event_type, 0.0) <= 0.0 for event in latest]
        speaking = voters([event.item_id for event in latest], against)
        item_ids = dict.fromkeys(latest[at].item_id for at in speaking)
        read = list(space.features(itertools.islice(item_ids, _ITEMS)).values())
        if not read:
            return []
        mean = (np.stack(read) * _DECAY ** np.arange(len(read))[:, None]).sum(0)  # (n, F) -> (F,)
        unit = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
        return [Found(item_id, score, self.name) for score, item_id in space.scored(unit, k, asked.passes)]
