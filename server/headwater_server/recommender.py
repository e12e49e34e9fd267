"""The way of a request: history → interests → what the sources propose → the strategy → the final check → a slate."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from headwater_core.errors import DatabaseUnavailableError, InvalidFieldError
from headwater_core.events import NEVER_AGAIN, EventType, HistoryEvent
from headwater_core.experiments import Assignment
from headwater_core.ranker import Features
from headwater_core.registry import STABLE
from headwater_core.shards import Vectors
from headwater_core.strategies import (
    BLENDED,
    CATEGORY,
    CO_VISIT,
    CONTEXT,
    FRESH,
    LEARNED,
    REPEAT,
    TEXT,
    TOWER,
    Strategy,
)
from headwater_server.catalogue_view import CatalogueView
from headwater_server.embedder import UserEmbedder
from headwater_server.errors import NotReadyError
from headwater_server.experiment_book import Assigned, ExperimentBook
from headwater_server.explanations.removal import Raiser, raisers
from headwater_server.explanations.wording import unspoken
from headwater_server.filters import ItemFilter, unknown_categories
from headwater_server.interleaving import interleave
from headwater_server.item_space import Found
from headwater_server.kept_slates import Basis, KeptSlate, keep, kept, may_keep
from headwater_server.queries import Audience, RecommendQuery
from headwater_server.query_features import QueryFeatures
from headwater_server.reload import Generations
from headwater_server.serving_generation import ServingGeneration
from headwater_server.slate_maker import SlateMaker, diversity_of
from headwater_server.sources.candidate_source import Asked
from headwater_server.stages import EMBEDDING, FILTERS, HISTORY, timed
from headwater_server.strategy import Candidate
from headwater_server.strategy_book import NamedStrategy, StrategyBook
from headwater_server.user_states import UserState, UserStates

HISTORY_UNAVAILABLE = "history"
_SPARE = 10
"""So many similar items more are found than asked for: some may be hidden meanwhile."""
QUERIES_UNAVAILABLE = "queries"
STATE_LIMIT_S = 1.0
"""A database that takes longer to give a history counts as away: an answer without it beats none."""
_CONTEXT_EVENT = "view"
_NOTHING_LEARNED = "strategy.ranking: no ranker is learned yet; by ranks until then"
_BY_HISTORY = frozenset({TOWER, CO_VISIT, REPEAT, CONTEXT, FRESH, TEXT})
"""What proposes items by their scores for a history."""
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Slate:
    """What a request is answered with."""

    generation: ServingGeneration
    strategy: NamedStrategy
    candidates: Sequence[Candidate]
    has_more: bool
    degraded_parts: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    assignment: Assignment | None = None
    """The experiment that answered, and with which arm; None: none took the request."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Interleaved: by arm, with which probability a place is its own."""
    raisers: Mapping[str, Sequence[Raiser]] = field(default_factory=dict)
    """The events that raised each item, where that was asked for."""
    features: Mapping[str, Features] = field(default_factory=dict)
    """What the learned ranker read of each item, (F,), where there is one to be learned."""
    kept: KeptSlate | None = None
    """What was given before on the same basis, if it is given again."""
    is_kept: bool = False
    """Whether nothing of it was made anew."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an audience when its answer is made."""

    history: tuple[HistoryEvent, ...]
    seen_item_ids: frozenset[str] | set[str]
    state: UserState | None
    """The stored part; None when it could not be read."""
    version: int
    """Of the stored part when the history was taken from it: events come in while an answer is made."""
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
        maker: SlateMaker,
        strategies: StrategyBook,
        experiments: ExperimentBook,
        *,
        event_types: Callable[[], Mapping[str, EventType]],
        query_features: QueryFeatures,
        run_in_compute: Callable[..., Awaitable[Any]],
        now_us: Callable[[], int],
        state_limit_s: float = STATE_LIMIT_S,
    ) -> None:
        """Join the parts.

        Args:
            states: histories.
            generations: what is loaded.
            embedder: histories → interests.
            view: items for filters.
            maker: makes slates of what sources propose.
            strategies: what makes slates.
            experiments: which of them answers whom.
            event_types: gives the registered types.
            query_features: tells whether searches are understood now.
            run_in_compute: runs a blocking computation off the event loop.
            now_us: the clock, microseconds since 1970 UTC.
            state_limit_s: how long a history may take to come from the database.
        """
        self._states = states
        self._generations = generations
        self._embedder = embedder
        self._view = view
        self._maker = maker
        self._strategies = strategies
        self._experiments = experiments
        self._event_types = event_types
        self._query_features = query_features
        self._run_in_compute = run_in_compute
        self._now_us = now_us
        self._state_limit_s = state_limit_s

    async def recommend(self, query: RecommendQuery, named: NamedStrategy | None = None) -> Slate:
        """The slate for a checked request.

        Args:
            query: the request.
            named: makes the slate; None: the one that the request names, else an experiment's arm, else the default.

        Raises:
            InvalidFieldError: the request names a strategy that is not there.
            NotReadyError: the generation asked for is not loaded.
            DatabaseUnavailableError: the consistency token needs the database and it is away.
        """
        with timed(HISTORY):
            known = await self.known(query.audience)
        assigned = None if named is not None else self._assigned(query, known)
        arms = dict.fromkeys(assigned.turns if assigned else ())
        generation = self._generation(query, next((arm.label for arm in arms), ""))
        if assigned is None or assigned.assignment.arm:
            named = named or self._strategy(query, next((arm.strategy for arm in arms), ""))
            slate, item_filter = await self._slate(query, known, generation, named)
            candidates = self._still_shown(slate, item_filter)
            if len(candidates) < len(slate.candidates):  # once more: what has gone leaves its place to another
                slate, item_filter = await self._slate(query, known, generation, named)
                candidates = self._still_shown(slate, item_filter)
            assignment = assigned.assignment if assigned else None
            return replace(slate, candidates=candidates, assignment=assignment)
        answers = await asyncio.gather(
            *(self._slate(query, known, generation, self._strategy(query, arm.strategy)) for arm in arms)
        )
        made = [slate for slate, _ in answers]
        slates = {arm.name: self._still_shown(*answer) for arm, answer in zip(arms, answers, strict=True)}
        return replace(
            made[0],
            candidates=interleave(slates, [arm.name for arm in assigned.turns]),
            has_more=any(slate.has_more for slate in made),
            degraded_parts=list(dict.fromkeys(part for slate in made for part in slate.degraded_parts)),
            assignment=assigned.assignment,
            shares=assigned.shares,
            raisers={item_id: events for slate in reversed(made) for item_id, events in slate.raisers.items()},
            features={item_id: read for slate in made for item_id, read in slate.features.items()},
            kept=None,
            is_kept=all(slate.is_kept for slate in made),
        )

    async def _slate(
        self, query: RecommendQuery, known: Known, generation: ServingGeneration, named: NamedStrategy
    ) -> tuple[Slate, ItemFilter]:
        """What one strategy answers, and what it lets pass: some of it may have gone meanwhile."""
        strategy = named.strategy
        notices = self._notices(query)
        basis = self._basis(query, known, generation, named)
        if basis is not None and (again := self._kept(known, basis)) is not None:
            slate = Slate(
                generation, named, again.candidates, again.has_more, notices=notices, kept=again, is_kept=True
            )
            return slate, replace(query.item_filter, only=strategy.limits)
        with timed(FILTERS):
            item_filter = self._filter(query, known, strategy)
        asked, degraded_parts = await self._asked(query, known, generation, item_filter, strategy)
        made = await self._maker.make(query, strategy, asked)
        raised = await self._raisers(query, asked, made.candidates)
        if strategy.ranking == LEARNED and not generation.ranker:
            notices.append(_NOTHING_LEARNED)
        missing = [*degraded_parts, *made.left_out]
        if basis is not None and not made.features and may_keep(made.asked, missing):
            self._keep(known, KeptSlate(basis, made.candidates, made.has_more, []))
        return (
            Slate(
                generation,
                named,
                made.candidates,
                made.has_more,
                missing,
                notices,
                raisers=raised,
                features=made.features,
            ),
            item_filter,
        )

    def _still_shown(self, slate: Slate, item_filter: ItemFilter) -> list[Candidate]:
        """The slate without what has gone or been hidden while the answer was made: nothing hidden ever leaks."""
        now_us, items = self._now_us(), self._view.items
        with timed(FILTERS):
            return [each for each in slate.candidates if item_filter.passes(items.get(each.item_id), now_us)]

    def _basis(
        self, query: RecommendQuery, known: Known, generation: ServingGeneration, named: NamedStrategy
    ) -> Basis | None:
        """What the answer rests on; None where it rests on more than that, too."""
        # Variety goes by texts, too, whose features may arrive at any moment.
        is_varied = diversity_of(query, named.strategy) > 0.0
        if known.state is None or not known.is_stored_only or query.context_item_ids or query.explain or is_varied:
            return None
        return Basis(
            known.version,
            generation.number,
            generation.items.version,
            self._view.revision,
            self._event_types(),
            named,
            query.page_size,
            query.page,
            query.item_filter,
            query.exclude_seen,
        )

    def _kept(self, known: Known, basis: Basis) -> KeptSlate | None:
        """The answer that was given before on the same basis, if it holds still."""
        slate = kept(known.state.slates, basis) if known.state is not None else None
        if slate is None:
            return None
        now_us, items = self._now_us(), self._view.items
        with timed(FILTERS):
            holds = all(basis.item_filter.passes(items.get(each.item_id), now_us) for each in slate.candidates)
        return slate if holds else None

    def _keep(self, known: Known, slate: KeptSlate) -> None:
        """Keep an answer, unless an event came meanwhile: part of it may rest on the history with it, part without."""
        if known.state is not None and known.state.version == known.version:
            keep(known.state.slates, slate)

    def _filter(self, query: RecommendQuery, known: Known, strategy: Strategy) -> ItemFilter:
        excluded = set(query.item_filter.excluded).union(query.context_item_ids)
        if query.page is not None:
            excluded.update(query.page.served_item_ids)
        if query.exclude_seen:
            excluded.update(known.seen_item_ids, (event.item_id for event in known.history))
        if known.state is not None:
            excluded.update(known.state.unwanted_item_ids)
        excluded.update(event.item_id for event in query.audience.recent_events if event.event_type in NEVER_AGAIN)
        return replace(query.item_filter, excluded=frozenset(excluded), only=strategy.limits)

    async def _asked(
        self,
        query: RecommendQuery,
        known: Known,
        generation: ServingGeneration,
        item_filter: ItemFilter,
        strategy: Strategy,
    ) -> tuple[Asked, list[str]]:
        """The request as sources see it, and what of it is missing."""
        now_us = self._now_us()
        items = self._view.items
        history = known.history + tuple(
            HistoryEvent(0, now_us, _CONTEXT_EVENT, item_id) for item_id in query.context_item_ids if item_id in items
        )
        with timed(EMBEDDING):
            interests = await self._interests(generation, known, history)
        missing = list(known.degraded_parts)
        if self._query_features.is_failing and any(event.query for event in history):
            missing.append(QUERIES_UNAVAILABLE)

        def passes(item_id: str) -> bool:
            return item_filter.passes(items.get(item_id), now_us)

        asked = Asked(
            generation=generation,
            space=generation.items,
            history=history,
            interests=interests,
            context_item_ids=[item_id for item_id in query.context_item_ids if item_id in items],
            passes=passes,
            # Listed here, on the event loop, where nothing changes the view meanwhile.
            only=item_filter.candidates(self._view) if item_filter.is_selective and len(interests) else None,
            excluded=item_filter.excluded,
            weights={name: strategy.weight_of(name) for name in BLENDED},
            event_weights=self._event_weights(strategy) if _reads_categories(strategy) else {},
        )
        return asked, missing

    def _event_weights(self, strategy: Strategy) -> dict[str, float]:
        return {
            name: 0.0 if event_type.is_negative else strategy.event_weights.get(name, event_type.weight)
            for name, event_type in self._event_types().items()
        }

    async def known(self, audience: Audience) -> Known:
        """The audience's history and seen items.

        Raises:
            DatabaseUnavailableError: the consistency token needs the database and it is away.
        """
        if audience.subject is None:
            return Known(audience.recent_events, frozenset(), None, 0, False, [])
        try:
            async with asyncio.timeout(self._state_limit_s):
                state = await self._states.get(audience.subject, audience.min_position)
        except (DatabaseUnavailableError, TimeoutError) as error:
            if audience.min_position:
                raise DatabaseUnavailableError("the history cannot be read now") from error
            return Known(audience.recent_events, frozenset(), None, 0, False, [HISTORY_UNAVAILABLE])
        history = (*state.history, *audience.recent_events)
        return Known(history, state.seen_item_ids, state, state.version, not audience.recent_events, [])

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
        return generation, await self._interests(generation, known, known.history), known.history

    async def by_taste(self, audience: Audience, known: Known, item_ids: Sequence[str]) -> tuple[int, list[str]]:
        """The generation that answers (0: none is loaded), and those of the items that it can score, best first.

        No items for an audience without a readable history: nothing is known of its taste.
        """
        try:
            generation = self._generations.serving(audience.subject)
        except NotReadyError:
            return 0, []
        interests = await self._interests(generation, known, known.history)
        if not len(interests):
            return generation.number, []

        def ordered() -> list[Found]:
            items = generation.items
            bonuses = generation.gains(items, known.history)
            return items.retrieve(interests, len(item_ids), lambda _: True, item_ids, bonuses=bonuses)

        return generation.number, [found.item_id for found in await self._run_in_compute(ordered)]

    async def similar(self, item_id: str, k: int, item_filter: ItemFilter) -> tuple[ServingGeneration, list[Found]]:
        """The k items most like an item that the catalogue holds.

        Raises:
            NotReadyError: no generation is loaded.
        """
        generation = self._generations.by_label(STABLE)
        now_us = self._now_us()
        items = self._view.items
        found = await self._run_in_compute(
            generation.items.similar, item_id, k + _SPARE, lambda other: item_filter.passes(items.get(other), now_us)
        )
        now_us = self._now_us()
        return generation, [other for other in found if item_filter.passes(items.get(other.item_id), now_us)][:k]

    async def _raisers(
        self, query: RecommendQuery, asked: Asked, slate: Sequence[Candidate]
    ) -> dict[str, list[Raiser]]:
        """The events that raised each item, where that is asked for."""
        item_ids = [each.item_id for each in slate if not _BY_HISTORY.isdisjoint(each.sources)]
        if not query.explain or not item_ids:
            return {}
        found: dict[str, list[Raiser]] = await self._run_in_compute(
            raisers, asked.generation, asked.space, asked.history, item_ids, asked.weights, len(asked.context_item_ids)
        )
        return found

    def _assigned(self, query: RecommendQuery, known: Known) -> Assigned | None:
        """What of an experiment answers; requests that say themselves what answers take no part.

        Nor do further pages: they go on by what made the first.
        """
        if query.strategy or query.label or query.generation or query.page is not None:
            return None
        subject = query.audience.subject
        key = f"{subject.kind}:{subject.id}" if subject is not None else query.session_id
        return self._experiments.assign(key, len(known.history), query.surface, query.context, query.page_size)

    def _strategy(self, query: RecommendQuery, of_arm: str) -> NamedStrategy:
        if query.strategy:
            return self._strategies.of(query.strategy)
        wanted = of_arm or (query.page.strategy if query.page is not None else "")
        try:
            return self._strategies.of(wanted)
        except InvalidFieldError:
            return self._strategies.of("")  # it was deleted meanwhile: the user is answered all the same

    async def _interests(self, generation: ServingGeneration, known: Known, history: Sequence[HistoryEvent]) -> Vectors:
        """The interests (K, d) of a history that begins with what is known; the stored one's are kept."""
        if known.state is not None and known.is_stored_only and len(history) == len(known.history):
            return await self._embedder.of_state(generation, known.state)
        if history:
            return await self._embedder.of_history(generation, history)
        return generation.items.no_interests()

    def _generation(self, query: RecommendQuery, arm_label: str = "") -> ServingGeneration:
        if query.generation:
            return self._generations.by_number(query.generation)
        if query.label:
            return self._generations.by_label(query.label)
        if query.page is not None:
            try:
                return self._generations.by_number(query.page.generation)
            except NotReadyError:
                pass  # the pinned generation is gone: the current one continues
        if arm_label:
            try:
                return self._generations.by_label(arm_label)
            except NotReadyError:
                log.warning("arm_without_generation", label=arm_label)  # the user is answered all the same
        return self._generations.serving(query.audience.subject)

    def _notices(self, query: RecommendQuery) -> list[str]:
        return [*unknown_categories(query.item_filter, self._view), *unspoken(query.locale)] + [
            f"context_item_ids[{index}]: no item {item_id!r}"
            for index, item_id in enumerate(query.context_item_ids)
            if item_id not in self._view.items
        ]


def _reads_categories(strategy: Strategy) -> bool:
    reading = strategy.use_of(CATEGORY) or strategy.use_of(TEXT)
    return reading is not None or strategy.ranking == LEARNED
