"""The way of a search: words and meaning → candidates → one order → the user's taste → the final check."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from headwater_core.errors import DatabaseUnavailableError
from headwater_core.item_search import MAX_WORDS, Matches
from headwater_core.search_words import title_key, words
from headwater_server.catalogue_view import CatalogueView
from headwater_server.filters import unknown_categories
from headwater_server.fusion import Fused, Ranking, fuse
from headwater_server.queries import SearchQuery
from headwater_server.query_features import QueryFeatures
from headwater_server.recommender import Recommender
from headwater_server.text_keeper import TextKeeper

TEXT = "text"
VECTOR = "vector"
TASTE = "taste"
DEPTH = 100
"""So many items of each source are fused, or as many as are wanted, if that is more."""
TEXT_LIMIT_S = 1.0
"""A database that takes longer to look words up counts as away."""
SOME_WORDS_WEIGHT = 0.25
"""What the words count where no item has all of them: then what is meant says more than what is written."""
TASTE_WEIGHT = 0.1
"""What the user's taste counts beside what was searched for: enough to order items that fit alike."""
_EXACT = 1.0
"""Added to titles of exactly the query's words: more than all rankings together can give."""
_DEEPER = 4
_DEEPEST = 10_000
"""How many items with the words are looked at, at most, where a filter refuses nearly all."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a search is answered with."""

    generation: int
    """Whose towers know the user's taste; 0 while none is loaded."""
    items: list[Fused]
    degraded_parts: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


class Searcher:
    """Finds items by what is written in them and by what it means."""

    def __init__(
        self,
        recommender: Recommender,
        view: CatalogueView,
        keeper: TextKeeper,
        query_features: QueryFeatures,
        *,
        find: Callable[[str, int], Awaitable[Matches]],
        run_in_compute: Callable[..., Awaitable[Any]],
        now_us: Callable[[], int],
        text_limit_s: float = TEXT_LIMIT_S,
    ) -> None:
        """Join the parts.

        Args:
            recommender: knows histories and tastes.
            view: items for filters and titles.
            keeper: the items' text features.
            query_features: the query's.
            find: looks words up in the database; see `ItemSearch.find`.
            run_in_compute: runs a blocking computation off the event loop.
            now_us: the clock, microseconds since 1970 UTC.
            text_limit_s: how long looking up may take.
        """
        self._recommender = recommender
        self._view = view
        self._keeper = keeper
        self._query_features = query_features
        self._find = find
        self._run_in_compute = run_in_compute
        self._now_us = now_us
        self._text_limit_s = text_limit_s

    async def search(self, query: SearchQuery) -> Findings:
        """The answer to a checked request.

        Raises:
            DatabaseUnavailableError: the consistency token needs the database and it is away, or nothing can be
                searched at all.
        """
        typed = words(query.text)
        notices = unknown_categories(query.item_filter, self._view)
        if len(set(typed)) > MAX_WORDS:
            notices.append(f"query: only the first {MAX_WORDS} of its words are looked up")
        if not typed:
            return Findings(0, [], [], [*notices, "query: has no letter and no digit"])
        known, by_words, by_meaning = await asyncio.gather(
            self._recommender.known(query.audience), self._by_words(query), self._by_meaning(query)
        )
        degraded_parts = list(known.degraded_parts)
        degraded_parts += [part for part, found in ((TEXT, by_words), (VECTOR, by_meaning)) if found is None]
        if by_words is None and by_meaning is None:
            raise DatabaseUnavailableError("neither words nor meanings can be searched now")
        rankings = {name: found for name, found in ((TEXT, by_words), (VECTOR, by_meaning)) if found is not None}
        fused = fuse(rankings)
        generation, taste = await self._recommender.by_taste(query.audience, known, [item.item_id for item in fused])
        if taste:
            fused = [
                item._replace(sources=tuple(source for source in item.sources if source != TASTE))
                for item in fuse({**rankings, TASTE: Ranking(taste, TASTE_WEIGHT)})
            ]
        key = title_key(typed)
        items, now_us = self._view.items, self._now_us()
        # Items may have gone or been hidden while the answer was made: nothing hidden ever leaks.
        shown = [item for item in fused if query.item_filter.passes(items.get(item.item_id), now_us)]
        exact = [item._replace(score=item.score + _EXACT) for item in shown if self._key(item.item_id) == key]
        rest = [item for item in shown if self._key(item.item_id) != key]
        return Findings(generation, (exact + rest)[: query.page_size], degraded_parts, notices)

    async def _by_words(self, query: SearchQuery) -> Ranking | None:
        """What has the query's words; None while the database cannot say."""
        wanted = max(DEPTH, query.page_size)
        limit = wanted
        while True:
            try:
                async with asyncio.timeout(self._text_limit_s):
                    matches = await self._find(query.text, limit)
            except (DatabaseUnavailableError, TimeoutError):
                return None
            now_us = self._now_us()
            passing = [
                item_id
                for item_id in matches.item_ids
                if query.item_filter.passes(self._view.items.get(item_id), now_us)
            ]
            if len(passing) >= wanted or len(matches.item_ids) < limit or limit >= _DEEPEST:
                return Ranking(passing[:wanted], 1.0 if matches.have_all_words else SOME_WORDS_WEIGHT)
            limit *= _DEEPER

    async def _by_meaning(self, query: SearchQuery) -> Ranking | None:
        """Whose texts mean what the query means; None while that cannot be told."""
        space = self._keeper.space
        if space is None:
            return None
        try:
            [features] = await self._run_in_compute(self._query_features, [query.text])
        except Exception:  # noqa: BLE001 - whoever gives the features has noted why; the words are searched all the same
            return None
        items, now_us = self._view.items, self._now_us()

        def passes(item_id: str) -> bool:
            return query.item_filter.passes(items.get(item_id), now_us)

        return Ranking(await self._run_in_compute(space.nearest, features, max(DEPTH, query.page_size), passes))

    def _key(self, item_id: str) -> str:
        item = self._view.items.get(item_id)
        return title_key(words(item.title)) if item is not None else ""
