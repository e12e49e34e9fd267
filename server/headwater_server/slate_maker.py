"""From a request to the slate that a strategy makes: ask sources, rank, lower, boost, vary, give places, pin, cap."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from headwater_core.catalogue import Item
from headwater_core.dislikes import DISLIKES, disliked
from headwater_core.events import EventType, HistoryEvent
from headwater_core.ranker import Features
from headwater_core.strategies import BLEND, CO_VISIT, LEARNED, RANKS, REPEAT, TOWER, Strategy
from headwater_server.candidate_features import CandidateFeatures
from headwater_server.catalogue_view import CatalogueView
from headwater_server.fusion import Ranking, fuse
from headwater_server.item_space import ItemSpace
from headwater_server.likeness import likeness
from headwater_server.queries import RecommendQuery
from headwater_server.sources.candidate_source import Asked
from headwater_server.sources.gathering import Gathered, Gathering
from headwater_server.stages import RETRIEVAL, STRATEGY, timed
from headwater_server.strategy import Candidate, boost, cap, diversify, fill, give_places, lower, pin
from headwater_server.text_keeper import TextKeeper
from headwater_server.text_space import TextSpace

_POOL = 5
"""Candidates per place where the order is changed after ranking: for variety, by dislikes, by boosts, by caps."""
_COMPARED_INLINE = 100
"""So many candidates are compared in pairs on the event loop: handing them over would take as long."""
_FUSED_DEPTH = 50
"""So many of each source's items are fused, at least: fewer seldom meet."""
_BLENDED_ONLY = frozenset({TOWER, CO_VISIT, REPEAT})
"""What proposes nothing that the blend leaves out."""
_LOGARITHMIC = frozenset({BLEND, LEARNED})
"""Rankings whose scores are logarithms of what boosts multiply."""


@dataclass(frozen=True, slots=True)
class Made:
    """A slate, before the last look at the filters."""

    candidates: list[Candidate]
    has_more: bool
    asked: Collection[str]
    """The sources that were asked."""
    left_out: list[str]
    """Those of them that failed or were too slow."""
    features: Mapping[str, Features] = field(default_factory=dict)
    """What the learned ranker read of each item, (F,), where there is one to be learned."""


def diversity_of(query: RecommendQuery, strategy: Strategy) -> float:
    """How much variety a slate is to have: as the request says, else as the strategy does."""
    return strategy.diversity if query.diversity is None else query.diversity


class SlateMaker:
    """Makes slates of what sources propose."""

    def __init__(
        self,
        gathering: Gathering,
        view: CatalogueView,
        texts: TextKeeper,
        features: CandidateFeatures,
        *,
        event_types: Callable[[], Mapping[str, EventType]],
        run_in_compute: Callable[..., Awaitable[Any]],
        now_us: Callable[[], int],
    ) -> None:
        """Join the parts.

        Args:
            gathering: asks the sources.
            view: the catalogue.
            texts: knows what items' texts are like.
            features: works out what the learned ranker reads.
            event_types: gives the registered types.
            run_in_compute: runs a blocking computation off the event loop.
            now_us: the clock, microseconds since 1970 UTC.
        """
        self._gathering = gathering
        self._view = view
        self._texts = texts
        self._features = features
        self._event_types = event_types
        self._run_in_compute = run_in_compute
        self._now_us = now_us

    async def make(self, query: RecommendQuery, strategy: Strategy, asked: Asked) -> Made:
        """The page that a strategy makes for a request. Args: asked: the request, as sources see it."""
        wanted = query.page_size + 1  # one more tells whether there is a next page
        averse_to = self._disliked(asked.history) if strategy.dislikes else []
        is_reordered = diversity_of(query, strategy) > 0.0 or strategy.boosts or strategy.caps or averse_to
        pool = wanted * (_POOL if is_reordered else 1)
        while True:
            gathered, ranked, features = await self._ranked(strategy, asked, pool)
            is_log = strategy.ranking in _LOGARITHMIC
            with timed(STRATEGY):
                if averse_to:
                    ranked = lower(ranked, averse_to, strategy.dislikes, self._view.items, is_log=is_log)
                if strategy.boosts:
                    ranked = boost(ranked, strategy.boosts, self._view.items, is_log=is_log)
            varied = await self._varied(query, strategy, asked.space, ranked)
            with timed(STRATEGY):
                slate = self._composed(query, strategy, asked, gathered, varied)
            if not strategy.caps or len(slate) == query.page_size or len(ranked) < pool:
                break
            pool *= _POOL  # what caps refuse makes room for what is further down
        has_more = len(ranked) > query.page_size
        return Made(slate, has_more, gathered.proposals.keys(), gathered.left_out, features)

    async def _ranked(
        self, strategy: Strategy, asked: Asked, pool: int
    ) -> tuple[Gathered, list[Candidate], Mapping[str, Features]]:
        """What the sources propose, the best `pool` of it in the order of the strategy's ranking, and its features."""
        until_s = strategy.budget_ms / 1000
        with_places = [source.name for source in strategy.sources if source.every]
        if strategy.ranking != BLEND:
            names = [source.name for source in strategy.sources]
            with timed(RETRIEVAL):
                gathered = await self._gathering.ask(names, asked, max(pool, _FUSED_DEPTH), until_s)
            rankings: dict[str, Ranking] = {
                source.name: Ranking([each.item_id for each in gathered.proposals[source.name]], source.weight)
                for source in strategy.sources
                if source.weight
            }
            fused = [Candidate(*each) for each in fuse(rankings)]
            if strategy.ranking == RANKS:
                return gathered, fused[:pool], {}
            with timed(STRATEGY):
                fused, features = await self._by_ranker(asked, gathered, fused)
            return gathered, fused[:pool], features
        with timed(RETRIEVAL):
            gathered = await self._gathering.ask([BLEND, *with_places], asked, pool, until_s)
        blended = [Candidate(each.item_id, each.score, (each.source,)) for each in gathered.proposals[BLEND]]
        fillers = [source.name for source in strategy.sources if source.name not in _BLENDED_ONLY and source.weight]
        if len(blended) < pool and fillers:
            with timed(RETRIEVAL):
                others = [name for name in fillers if name not in with_places]
                more = await self._gathering.ask(others, asked, pool, until_s)
            gathered.proposals.update(more.proposals)
            gathered.left_out += more.left_out
            blended = fill(blended, itertools.chain(*(gathered.proposals[name] for name in fillers)), pool)
        return gathered, blended, {}

    async def _by_ranker(
        self, asked: Asked, gathered: Gathered, fused: list[Candidate]
    ) -> tuple[list[Candidate], Mapping[str, Features]]:
        """What ranks put in order, in the learned ranker's order if there is one, and what it reads of all proposed."""
        proposed = (found.item_id for each in gathered.proposals.values() for found in each)
        item_ids = list(dict.fromkeys(proposed))
        features = self._features.begun(asked, item_ids, gathered.proposals, self._now_us())
        features = await self._run_in_compute(self._features.completed, features, asked, item_ids)
        of_item = dict(zip(item_ids, features, strict=True))
        ranker = asked.generation.ranker
        scores = dict(zip(item_ids, ranker.scores(features).tolist(), strict=True)) if ranker else {}
        scored = [replace(each, score=scores[each.item_id] if ranker else math.log(each.score)) for each in fused]
        return sorted(scored, key=lambda each: -each.score), of_item

    def _composed(
        self, query: RecommendQuery, strategy: Strategy, asked: Asked, gathered: Gathered, slate: list[Candidate]
    ) -> list[Candidate]:
        """The page that a strategy makes of what is ranked: at most as long as was asked for."""
        size = query.page_size
        if not strategy.caps:
            slate = slate[:size]
        before = len(query.page.served_item_ids) if query.page is not None else 0
        slate = give_places(slate, strategy.sources, gathered.proposals, before)
        if strategy.pins and query.page is None:
            slate = pin(slate, [each for each in strategy.pins if asked.passes(each.item_id)])
        return cap(slate, strategy.caps, self._view.items, size)

    def _disliked(self, history: Sequence[HistoryEvent]) -> list[Item]:
        """The items that the history dislikes, the latest dislike first."""
        event_types = self._event_types()
        negative = {name for name, event_type in event_types.items() if event_type.is_negative}
        if not any(event.event_type in negative for event in history):
            return []
        latest_first = [event for event in reversed(history) if event.item_id and event.event_type in event_types]
        found = disliked(
            (event.item_id for event in latest_first), (event.event_type in negative for event in latest_first)
        )
        items = (self._view.items.get(item_id) for item_id in itertools.islice(found, DISLIKES))
        return [item for item in items if item is not None]

    async def _varied(
        self, query: RecommendQuery, strategy: Strategy, space: ItemSpace, slate: list[Candidate]
    ) -> list[Candidate]:
        """What is ranked, in the order in which variety comes."""
        diversity = diversity_of(query, strategy)
        if diversity <= 0.0:
            return slate
        size = len(slate) if strategy.caps else query.page_size
        # Read here, on the event loop, where nothing changes the view meanwhile.
        items = [self._view.items.get(candidate.item_id) for candidate in slate]
        varied = functools.partial(_varied, slate, items, space, self._texts.space, diversity, size)
        with timed(STRATEGY):
            # Everything is compared with everything: what is quick for a page takes a tenth of a second for a long one.
            return varied() if len(slate) <= _COMPARED_INLINE else await self._run_in_compute(varied)


def _varied(
    slate: Sequence[Candidate],
    items: Sequence[Item | None],
    space: ItemSpace,
    texts: TextSpace | None,
    diversity: float,
    size: int,
) -> list[Candidate]:
    """See `SlateMaker._varied`. Args: items: of the candidates."""
    placed = [
        (candidate, item, row)
        for candidate, item in zip(slate, items, strict=True)
        if (row := space.row(candidate.item_id)) is not None
    ]
    features = texts.features(candidate.item_id for candidate, _, _ in placed) if texts is not None else {}
    alike = likeness([item for _, item, _ in placed], features, space.vectors([row for _, _, row in placed]))
    chosen = diversify([candidate for candidate, _, _ in placed], alike, diversity, size)
    # What has no vector cannot be compared; it comes last rather than not at all.
    unplaced = [candidate for candidate in slate if space.row(candidate.item_id) is None]
    return (chosen + unplaced)[:size]
