"""RecommendationService: answers what to show next."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np

from headwater.v1 import event_pb2
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1 import recommendation_service_pb2_grpc as pb_grpc
from headwater_core.attribution import attribution_token
from headwater_core.errors import HeadwaterError, InvalidFieldError, NotFoundError
from headwater_core.events import check_id
from headwater_core.impressions import Impression, ShownItem
from headwater_core.ranker import FEATURES, pack
from headwater_server import convert, queries
from headwater_server.item_space import Found
from headwater_server.queries import Audience, RecommendQuery
from headwater_server.recommender import Slate
from headwater_server.rooms import Rooms
from headwater_server.services.slate_response import missing_parts, slate_response
from headwater_server.stages import ADMISSION, SERIALISATION, timed
from headwater_server.statuses import code_of

MAX_BATCH = 100
MAX_BATCH_ITEMS = 5000
"""Whole items in the answer of a batch: more would mostly be over the limit of a message, once all is made."""


class RecommendationService(pb_grpc.RecommendationServiceServicer):
    """See protos/headwater/v1/recommendation_service.proto."""

    def __init__(self, rooms: Rooms) -> None:
        """Answer from these rooms."""
        self._rooms = rooms

    async def Recommend(  # noqa: N802
        self, request: pb.RecommendRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RecommendResponse:
        """Recommend to one."""
        return await self._recommend(request)

    async def BatchRecommend(  # noqa: N802
        self, request: pb.BatchRecommendRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.BatchRecommendResponse:
        """Recommend to many; the histories are embedded together."""
        queries.check_count("requests", request.requests, MAX_BATCH, smallest=1)
        sizes = [max(0, each.page_size) or queries.DEFAULT_PAGE_SIZE for each in request.requests if each.return_items]
        if (items := sum(sizes)) > MAX_BATCH_ITEMS:
            raise InvalidFieldError("requests", f"return {items} items and their texts; the limit is {MAX_BATCH_ITEMS}")
        results = await asyncio.gather(*(self._result(each) for each in request.requests))
        return pb.BatchRecommendResponse(results=results)

    async def SimilarItems(  # noqa: N802
        self, request: pb.SimilarItemsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.SimilarItemsResponse:
        """Find the items nearest to an item."""
        check_id("item_id", request.item_id, required=True)
        size = queries.page_size(request.page_size)
        item_filter = queries.item_filter(request.filter, request.exclude_item_ids)
        if request.item_id not in self._rooms.view.items:
            raise NotFoundError(f"item_id: no item {request.item_id!r}")
        generation, found = await self._rooms.recommender.similar(request.item_id, size, item_filter)
        return pb.SimilarItemsResponse(
            results=[self._similar(rank, other, request.return_items) for rank, other in enumerate(found, start=1)],
            generation=generation.number,
        )

    async def ScoreItems(  # noqa: N802
        self, request: pb.ScoreItemsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ScoreItemsResponse:
        """Score given items for a user."""
        queries.check_ids("item_ids", request.item_ids, queries.MAX_SCORED_ITEMS, smallest=1)
        audience = self._audience(request)
        rooms = self._rooms
        generation, interests, history = await rooms.recommender.interests(audience)
        available = queries.item_filter(pb.ItemFilter())
        now_us = rooms.now_us()
        items = generation.items  # one state of it for rows, vectors and answer
        scorable = {
            item_id: row
            for item_id in dict.fromkeys(request.item_ids)
            if available.passes(rooms.view.items.get(item_id), now_us) and (row := items.row(item_id)) is not None
        }
        response = pb.ScoreItemsResponse(
            missing_item_ids=[item_id for item_id in request.item_ids if item_id not in scorable],
            generation=generation.number,
            probability_reference=pb.PROBABILITY_REFERENCE_SAMPLED_EXPOSURE,
        )
        if scorable:
            scores = await rooms.in_compute(generation.score, items, interests, list(scorable.values()), history)
            for index, item_id in enumerate(scorable):
                probabilities = zip(generation.learned_types, scores.probabilities[index], strict=True)
                response.scores.add(
                    item_id=item_id,
                    score=float(scores.ranking[index]),
                    probabilities={name: float(probability) for name, probability in probabilities},
                    expected_value=None if scores.expected_values is None else float(scores.expected_values[index]),
                )
        return response

    async def EmbedUser(  # noqa: N802
        self, request: pb.EmbedUserRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.EmbedUserResponse:
        """Give a user's interest vectors."""
        audience = self._audience(request)
        if audience.subject is None and not audience.recent_events:
            raise InvalidFieldError("user_id", "one of user_id, visitor_id and recent_events is required")
        generation, interests, history = await self._rooms.recommender.interests(audience)
        return pb.EmbedUserResponse(
            interests=[pb.InterestVector(values=interest.tolist()) for interest in interests],
            generation=generation.number,
            history_length=min(len(history), generation.config.history_length),
        )

    async def SearchItems(  # noqa: N802
        self, request: pb.SearchItemsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.SearchItemsResponse:
        """Find items by text."""
        rooms = self._rooms
        query = queries.search_query(request, rooms.tenant)
        findings = await rooms.searcher.search(query)
        degraded = self._degraded(findings.degraded_parts)
        response = pb.SearchItemsResponse(
            generation=findings.generation,
            degraded=bool(degraded),
            degraded_reasons=[f"{part} unavailable" for part in degraded],
            notices=findings.notices,
        )
        for rank, found in enumerate(findings.items, start=1):
            result = response.results.add(item_id=found.item_id, score=found.score, rank=rank, sources=found.sources)
            if query.return_items and (item := rooms.view.items.get(found.item_id)) is not None:
                result.item.CopyFrom(convert.from_item(item))
        return response

    async def _result(self, request: pb.RecommendRequest) -> pb.BatchRecommendResult:
        try:
            return pb.BatchRecommendResult(response=await self._recommend(request))
        except HeadwaterError as error:
            field = error.field if isinstance(error, InvalidFieldError) else ""
            reason = error.reason if isinstance(error, InvalidFieldError) else str(error)
            return pb.BatchRecommendResult(
                error=pb.RequestError(code=code_of(error).value[0], field=field, reason=reason)
            )

    async def _recommend(self, request: pb.RecommendRequest) -> pb.RecommendResponse:
        rooms = self._rooms
        with timed(ADMISSION):
            query = queries.recommend_query(
                request, rooms.event_types, rooms.tenant, rooms.now_us(), rooms.max_ahead_us
            )
        slate = await rooms.recommender.recommend(query)
        slate_id = uuid.uuid4().hex
        with timed(SERIALISATION):
            response = slate_response(rooms, query, slate)
        self._degraded(slate.degraded_parts)
        response.attribution_token = attribution_token(rooms.tenant, slate_id)
        self._log_impression(query, slate, slate_id)
        return response

    def _degraded(self, parts: Sequence[str]) -> list[str]:
        """The parts that an answer lacks, counted."""
        missing = missing_parts(self._rooms, parts)
        for part in missing:
            self._rooms.metrics.degraded.labels(part).inc()
        return missing

    def _log_impression(self, query: RecommendQuery, slate: Slate, slate_id: str) -> None:
        assigned = slate.assignment
        self._count(query, slate)
        self._rooms.impression_writer.add(
            Impression(
                slate_id=slate_id,
                subject=query.audience.subject,
                session_id=query.session_id,
                surface=query.surface,
                context=query.context,
                strategy=str(slate.strategy),
                generation=slate.generation.number,
                time_us=self._rooms.now_us(),
                # A strategy draws nothing by chance: what it shows is as likely as that it is the one to show it, be it
                # the slate or, interleaved, the place. A place that went to an arm which was not drawn for it has none.
                items=tuple(
                    ShownItem(
                        candidate.item_id,
                        candidate.score,
                        1.0 if assigned is None else slate.shares.get(candidate.arm, assigned.propensity),
                        candidate.sources,
                        candidate.arm,
                    )
                    for candidate in slate.candidates
                ),
                assignment=assigned,
                features=_features(slate),
            )
        )

    def _count(self, query: RecommendQuery, slate: Slate) -> None:
        metrics = self._rooms.metrics
        if slate.is_kept:
            metrics.slates_kept.inc()
        if slate.assignment is not None:
            one = slate.assignment.arm
            for arm in {one} if one else {candidate.arm for candidate in slate.candidates if candidate.arm}:
                metrics.slates.labels(slate.assignment.experiment, arm).inc()
        first = 1 + (len(query.page.served_item_ids) if query.page is not None else 0)
        for place, candidate in enumerate(slate.candidates, start=first):
            metrics.count_shown(slate.strategy.name, place, candidate.sources)

    def _similar(self, rank: int, found: Found, return_item: bool) -> pb.RecommendedItem:
        result = pb.RecommendedItem(item_id=found.item_id, score=found.score, rank=rank, sources=[found.source])
        if return_item and (item := self._rooms.view.items.get(found.item_id)) is not None:
            result.item.CopyFrom(convert.from_item(item))
        return result

    def _audience(self, request: pb.ScoreItemsRequest | pb.EmbedUserRequest) -> Audience:
        recent: Sequence[event_pb2.Event] = request.recent_events
        rooms = self._rooms
        return queries.audience(
            request.user_id,
            request.visitor_id,
            recent,
            request.min_consistency_token,
            rooms.event_types,
            rooms.tenant,
            rooms.now_us(),
            rooms.max_ahead_us,
        )


def _features(slate: Slate) -> bytes | None:
    """What the learned ranker read of the slate's items; of pinned ones, which nobody proposed, it read nothing."""
    if not slate.features:
        return None
    unread = np.full(len(FEATURES), np.nan, np.float32)
    rows = [slate.features.get(candidate.item_id, unread) for candidate in slate.candidates]
    return pack(np.array(rows, np.float32).reshape(len(rows), len(FEATURES)))
