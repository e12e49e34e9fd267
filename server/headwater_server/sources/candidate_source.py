"""The interface of what proposes items, and what such a source is asked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from headwater_core.co_visits import Bonuses
from headwater_core.events import HistoryEvent
from headwater_core.shards import Vectors
from headwater_server.item_space import Found, ItemSpace
from headwater_server.serving_generation import ServingGeneration


@dataclass(frozen=True)
class Asked:
    """One request, as sources see it."""

    generation: ServingGeneration
    space: ItemSpace
    """The generation's items, as they were when the request began."""
    history: Sequence[HistoryEvent]
    """Oldest event first; what the user looks at just now comes last, as views."""
    interests: Vectors
    """(K, d); (0, d) of nobody in particular."""
    context_item_ids: Sequence[str]
    passes: Callable[[str], bool]
    """The filters' decision on one item."""
    only: Sequence[str] | None = None
    """Of a selective filter: every item that can pass, and perhaps others."""
    excluded: frozenset[str] = frozenset()
    """Items that do not pass whatever else is true of them."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """How much each source counts in a blend."""
    event_weights: Mapping[str, float] = field(default_factory=dict)
    """How much an event of a type says about what its user turns to; 0 where it speaks against its item."""

    @functools.cached_property
    def gains(self) -> Bonuses:
        """What is added to the towers' scores, by row; worked out once, whichever sources read it."""
        return self.generation.gains(self.space, self.history, self.weights)


class CandidateSource(Protocol):
    """Proposes items. It may raise, and may be slow: then the answer is made without it, and says so."""

    name: ClassVar[str]
    on_loop: ClassVar[bool]
    """Whether it reads what only the event loop may read; it must be quick then."""

    def propose(self, asked: Asked, k: int) -> list[Found]:
        """At most k different items that pass, best first; scores are comparable within one answer alone."""
        ...
