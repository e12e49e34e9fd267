"""New items: those that nobody, or hardly anybody, has met yet."""

from __future__ import annotations

from typing import ClassVar

from headwater_core.strategies import FRESH
from headwater_server.item_space import Found
from headwater_server.sources.candidate_source import Asked


class FreshSource:
    """The new items that fit the user."""

    name: ClassVar[str] = FRESH
    on_loop: ClassVar[bool] = False

    def __init__(self, top_share: float) -> None:
        """Args: top_share: a new item fits when its direction is among this share of the catalogue's best."""
        self._top_share = top_share

    def propose(self, asked: Asked, k: int) -> list[Found]:
        """See `CandidateSource`."""
        found = asked.space.fitting_new(asked.interests, k, self._top_share, asked.passes, asked.gains)
        return [Found(each.item_id, each.score, self.name) for each in found]
