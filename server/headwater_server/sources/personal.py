"""What the user's own history speaks for: by the towers, by co-visits, by itself, and by all of them together."""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np

from headwater_core.co_visits import Bonuses
from headwater_core.strategies import BLEND, CO_VISIT, REPEAT, TOWER
from headwater_server.item_space import Found
from headwater_server.sources.candidate_source import Asked


class TowerSource:
    """The items nearest to one of the user's interests."""

    name: ClassVar[str] = TOWER
    on_loop: ClassVar[bool] = False

    def propose(self, asked: Asked, k: int) -> list[Found]:
        """See `CandidateSource`."""
        only = None if asked.only is None else filter(asked.passes, asked.only)
        return asked.space.retrieve(asked.interests, k, asked.passes, only, asked.excluded)


class CoVisitSource:
    """What others went on to after the history's last items; new items inherit of what they are like."""

    name: ClassVar[str] = CO_VISIT
    on_loop: ClassVar[bool] = False

    def propose(self, asked: Asked, k: int) -> list[Found]:
        """See `CandidateSource`."""
        return _strongest(asked.space.inherited(asked.generation.co_visit_bonuses(asked.history)), asked, k, self.name)


class RepeatSource:
    """What the user keeps coming back to: the history's own items, those of late first."""

    name: ClassVar[str] = REPEAT
    on_loop: ClassVar[bool] = False

    def propose(self, asked: Asked, k: int) -> list[Found]:
        """See `CandidateSource`."""
        return _strongest(asked.generation.repeat_bonuses(asked.history), asked, k, self.name)


class BlendSource:
    """The items of the highest sum of what towers, co-visits, repeats and the trend say, as the generation weighs them.

    Exact: an item that any of them speaks for is scored by all of them.
    """

    name: ClassVar[str] = BLEND
    on_loop: ClassVar[bool] = False

    def propose(self, asked: Asked, k: int) -> list[Found]:
        """See `CandidateSource`."""
        only = None if asked.only is None else filter(asked.passes, asked.only)
        interests = asked.interests * np.float32(asked.weights.get(TOWER, 1.0))
        return asked.space.retrieve(interests, k, asked.passes, only, asked.excluded, asked.gains)


def _strongest(bonuses: Bonuses, asked: Asked, k: int, name: str) -> list[Found]:
    order = np.lexsort((bonuses.items, -bonuses.values))
    ranked = ((asked.space.item_id(int(bonuses.items[at])), float(bonuses.values[at])) for at in order)
    return [Found(*each, name) for each in itertools.islice((each for each in ranked if asked.passes(each[0])), k)]
