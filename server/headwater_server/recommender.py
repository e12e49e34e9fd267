"""The way of a request: history → interests, bonuses → candidates → filters → strategy → the final check → a slate."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from headwater_core.errors import DatabaseUnavailableError
from headwater_core.events import HistoryEvent
from headwater_core.registry import STABLE
from headwater_core.shards import Vectors
from headwater_server.catalogue_view import CatalogueView
from headwater_server.embedder import UserEmbedder
from headwater_server.errors import NotReadyError
from headwater_server.filters import ItemFilter, unknown_categories
from headwater_server.item_space import Found
from headwater_server.popularity import RecentPopularity
from headwater_server.queries import Audience, RecommendQuery
from headwater_server.query_features import QueryFeatures
from headwater_server.reload import Generations
from headwater_server.serving_generation import ServingGeneration
from headwater_server.strategy import CO_VISIT, FRESH, POPULAR, TOWER, Candidate, diversify, make_slate, place_fresh
from headwater_server.user_states import UserState, UserStates

HISTORY_UNAVAILABLE = "history"
QUERIES_UNAVAILABLE = "queries"
NEVER_AGAIN = frozenset({"dislike", "hide"})
"""Items with such an event in the history are left out even when seen items are not."""
STATE_LIMIT_S = 1.0
"""A database that takes longer to give a history counts as away: an answer without it beats none."""
_CONTEXT_EVENT = "view"
_DIVERSITY_POOL = 5
"""Candidates per place among which variety is looked for."""
_INLINE_ITEMS = 20_000
"""Searching so few items takes well under a millisecond."""
_REASONS = {
    TOWER: "close to what you did lately",
    CO_VISIT: "others went on to this after what you did lately",
    POPULAR: "popular now",
    FRESH: "new, and close to what you did lately",
}

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Slate:
    """What a request is answered with."""

    generation: ServingGeneration
    candidates: list[Candidate]
    has_more: bool
    degraded_parts: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an audience when its answer is made."""

    history: tuple[HistoryEvent, ...]
    seen_item_ids: frozenset[str] | set[str]
    state: UserState | None
    """The stored part; None when it could not be read."""
    is_stored_only: bool
    degraded_parts: list[str]


class Recommender:
    """Answers from user states, the loaded generations and the catalogue view."""

    def __init__(
        self,
        states: UserStates,
        generations: Generations,
        embedder: UserEmbedder,
        view: CatalogueView,
        popularity: RecentPopularity,
        *,
        query_features: QueryFeatures,
        run_in_compute: Callable[..., Awaitable[Any]],
        now_us: Callable[[], int],
        fresh_every: int,
        fresh_every_below: int,
        fresh_top_share: float,
        state_limit_s: float = STATE_LIMIT_S,
    ) -> None:
        """Join the parts.

        Args:
            states: histories.
            generations: what is loaded.
            embedder: histories → interests.
            view: items for filters.
            popularity: what is popular now.
            query_features: tells whether searches are understood now.
            run_in_compute: runs a blocking computation off the event loop.
            now_us: the clock, microseconds since 1970 UTC.
            fresh_every: of the first places, one in so many goes to a new item that fits.
            fresh_every_below: below them, one in so many.
            fresh_top_share: how much of the catalogue still fits, by direction.
            state_limit_s: how long a history may take to come from the database.
        """
        self._states = states
        self._generations = generations
        self._embedder = embedder
        self._view = view
        self._popularity = popularity
        self._query_features = query_features
        self._run_in_compute = run_in_compute
        self._now_us = now_us
        self._fresh_every, self._fresh_every_below = fresh_every, fresh_every_below
        self._fresh_top_share = fresh_top_share
        self._state_limit_s = state_limit_s

    async def recommend(self, query: RecommendQuery) -> Slate:
        """The slate for a checked request.

        Raises:
            NotReadyError: the generation asked for is not loaded.
            DatabaseUnavailableError: the consistency token needs the database and it is away.
        """
        generation = self._generation(query)
        known = await self.known(query.audience)
        notices = self._notices(query)
        history = known.history + tuple(
            HistoryEvent(0, self._now_us(), _CONTEXT_EVENT, item_id)
            for item_id in query.context_item_ids
            if item_id in self._view.items
        )
        excluded = set(query.item_filter.excluded).union(query.context_item_ids)
        if query.page is not None:
            excluded.update(query.page.served_item_ids)
        if query.exclude_seen:
            excluded.update(known.seen_item_ids, (event.item_id for event in known.history))
        excluded.update(event.item_id for event in known.history if event.event_type in NEVER_AGAIN)
        item_filter = dataclasses.replace(query.item_filter, excluded=frozenset(excluded))
        if known.state is not None and known.is_stored_only and not query.context_item_ids:
            interests = await self._embedder.of_state(generation, known.state)
        elif history:
            interests = await self._embedder.of_history(generation, history)
        else:
            interests = generation.items.no_interests()
        degraded_parts = list(known.degraded_parts)
        if self._query_features.is_failing and any(event.query for event in history):
            degraded_parts.append(QUERIES_UNAVAILABLE)
        wanted = query.page_size + 1  # one more tells whether there is a next page
        pool = wanted * (_DIVERSITY_POOL if query.diversity > 0.0 else 1)
        # Listed here, on the event loop, where nothing changes the view meanwhile.
        candidates = item_filter.candidates(self._view) if item_filter.is_selective and len(interests) else None
        found, fitting = await self._compute(
            generation, self._retrieve, generation, history, interests, pool, item_filter, candidates
        )
        personal = [Candidate(*item) for item in found]
        slate = make_slate(personal, self._popular(generation, item_filter), pool)
        if query.diversity > 0.0:
            slate = self._diversified(generation, slate, query.diversity, wanted)
        has_more = len(slate) > query.page_size
        slate = slate[: query.page_size]
        before = len(query.page.served_item_ids) if query.page is not None else 0
        every, below = self._fresh_every, self._fresh_every_below
        slate = place_fresh(slate, [Candidate(*item) for item in fitting], every, below, before)
        # Items may have gone or been hidden while the answer was made: nothing hidden ever leaks.
        now_us = self._now_us()
        slate = [shown for shown in slate if item_filter.passes(self._view.items.get(shown.item_id), now_us)]
        return Slate(generation, slate, has_more, degraded_parts, notices)

    async def known(self, audience: Audience) -> Known:
        """The audience's history and seen items.

        Raises:
            DatabaseUnavailableError: the consistency token needs the database and it is away.
        """
        if audience.subject is None:
            return Known(audience.recent_events, frozenset(), None, False, [])
        try:
            async with asyncio.timeout(self._state_limit_s):
                state = await self._states.get(audience.subject, audience.min_position)
        except (DatabaseUnavailableError, TimeoutError) as error:
            if audience.min_position:
                raise DatabaseUnavailableError("the history cannot be read now") from error
            return Known(audience.recent_events, frozenset(), None, False, [HISTORY_UNAVAILABLE])
        history = (*state.history, *audience.recent_events)
        return Known(history, state.seen_item_ids, state, not audience.recent_events, [])

    async def interests(self, audience: Audience) -> tuple[ServingGeneration, Vectors, Sequence[HistoryEvent]]:
        """The generation that answers, the audience's interests (K, d) in it, and the history they rest on.

        Raises:
            NotReadyError: no generation is loaded.
            DatabaseUnavailableError: the history cannot be read.
        """
        generation = self._generations.serving(audience.subject)
        known = await self.known(audience)
        if known.degraded_parts:
            raise DatabaseUnavailableError("the history cannot be read now")
        return generation, await self._interests(generation, known), known.history

    async def by_taste(self, audience: Audience, known: Known, item_ids: Sequence[str]) -> tuple[int, list[str]]:
        """The generation that answers (0: none is loaded), and those of the items that it can score, best first.

        No items for an audience without a readable history: nothing is known of its taste.
        """
        try:
            generation = self._generations.serving(audience.subject)
        except NotReadyError:
            return 0, []
        interests = await self._interests(generation, known)
        if not len(interests):
            return generation.number, []

        def ordered() -> list[Found]:
            items = generation.items
            bonuses = generation.gains(items, known.history)
            return items.retrieve(interests, len(item_ids), lambda _: True, item_ids, bonuses=bonuses)

        return generation.number, [found.item_id for found in await self._compute(generation, ordered)]

    async def similar(self, item_id: str, k: int, item_filter: ItemFilter) -> tuple[ServingGeneration, list[Found]]:
        """The k items most like an item that the catalogue holds.

        Raises:
            NotReadyError: no generation is loaded.
        """
        generation = self._generations.by_label(STABLE)
        now_us = self._now_us()
        items = self._view.items
        found = await self._run_in_compute(
            generation.items.similar, item_id, k, lambda other: item_filter.passes(items.get(other), now_us)
        )
        now_us = self._now_us()
        return generation, [other for other in found if item_filter.passes(items.get(other.item_id), now_us)]

    def reasons(self, candidate: Candidate) -> list[str]:
        """Why a candidate is there, for a person to read."""
        return [_REASONS[candidate.source]]

    async def _compute(self, generation: ServingGeneration, call: Callable[..., Result], *arguments: Any) -> Result:
        """Run here what takes less time than two threads take to hand it over, else on the compute threads."""
        if generation.items.item_count <= _INLINE_ITEMS:
            return call(*arguments)
        found: Result = await self._run_in_compute(call, *arguments)
        return found

    async def _interests(self, generation: ServingGeneration, known: Known) -> Vectors:
        if known.state is not None and known.is_stored_only:
            return await self._embedder.of_state(generation, known.state)
        if known.history:
            return await self._embedder.of_history(generation, known.history)
        return generation.items.no_interests()

    def _generation(self, query: RecommendQuery) -> ServingGeneration:
        if query.generation:
            return self._generations.by_number(query.generation)
        if query.label:
            return self._generations.by_label(query.label)
        if query.page is not None:
            try:
                return self._generations.by_number(query.page.generation)
            except NotReadyError:
                pass  # the pinned generation is gone: the current one continues
        return self._generations.serving(query.audience.subject)

    def _notices(self, query: RecommendQuery) -> list[str]:
        return unknown_categories(query.item_filter, self._view) + [
            f"context_item_ids[{index}]: no item {item_id!r}"
            for index, item_id in enumerate(query.context_item_ids)
            if item_id not in self._view.items
        ]

    def _retrieve(
        self,
        generation: ServingGeneration,
        history: Sequence[HistoryEvent],
        interests: Vectors,
        k: int,
        item_filter: ItemFilter,
        candidates: Sequence[str] | None,
    ) -> tuple[list[Found], list[Found]]:
        """The k best items, and the new ones that fit."""
        now_us = self._now_us()
        items = self._view.items

        def passes(item_id: str) -> bool:
            return item_filter.passes(items.get(item_id), now_us)

        only = None if candidates is None else filter(passes, candidates)
        space = generation.items
        bonuses = generation.gains(space, history)
        found = space.retrieve(interests, k, passes, only, item_filter.excluded, bonuses)
        return found, space.fitting_new(interests, k, self._fresh_top_share, passes, bonuses)

    def _popular(self, generation: ServingGeneration, item_filter: ItemFilter) -> Iterator[Candidate]:
        """What the generation says is trending, where it found that this matters; then what is popular now."""
        now_us = self._now_us()
        trending = dict.fromkeys(generation.trending)
        popular = (item_id for item_id in self._popularity.ranking() if item_id not in trending)
        return (
            Candidate(item_id, self._popularity.score(item_id), POPULAR)
            for item_id in itertools.chain(trending, popular)
            if item_filter.passes(self._view.items.get(item_id), now_us)
        )

    def _diversified(
        self, generation: ServingGeneration, slate: list[Candidate], diversity: float, size: int
    ) -> list[Candidate]:
        placed = [
            (candidate, row) for candidate in slate if (row := generation.items.row(candidate.item_id)) is not None
        ]
        vectors = generation.items.vectors([row for _, row in placed])
        chosen = diversify([candidate for candidate, _ in placed], vectors, diversity, size)
        # What has no vector cannot be compared; it comes last rather than not at all.
        unplaced = [candidate for candidate in slate if generation.items.row(candidate.item_id) is None]
        return (chosen + unplaced)[:size]
