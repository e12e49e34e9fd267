"""What is like the items that the user looks at just now."""

from __future__ import annotations

from typing import ClassVar

from headwater_core.strategies import CONTEXT
from headwater_server.item_space import Found
from headwater_server.sources.candidate_source import Asked


class ContextSource:
    """The nearest neighbours, by the cosine of their vectors, of the request's context items."""

    name: ClassVar[str] = CONTEXT
    on_loop: ClassVar[bool] = False

    def propose(self, asked: Asked, k: int) -> list[Found]:
        """See `CandidateSource`; an item's score is its highest cosine to one of them."""
        best: dict[str, float] = {}
        for item_id in asked.context_item_ids:
            for found in asked.space.similar(item_id, k, asked.passes):
                best[found.item_id] = max(best.get(found.item_id, -1.0), found.score)
        ranked = sorted(best, key=lambda each: (-best[each], each))[:k]
        return [Found(item_id, best[item_id], self.name) for item_id in ranked]
