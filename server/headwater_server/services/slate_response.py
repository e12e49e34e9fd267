"""A slate as the wire carries it."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration

from headwater.v1 import recommendation_service_pb2 as pb
from headwater_core.experiments import INTERLEAVED
from headwater_server import convert
from headwater_server.explanations.reasons import reasons
from headwater_server.explanations.wording import wording_of
from headwater_server.queries import RecommendQuery
from headwater_server.recommender import Slate
from headwater_server.rooms import Rooms
from headwater_server.strategy import Candidate
from headwater_server.tokens import PageToken


def slate_response(rooms: Rooms, query: RecommendQuery, slate: Slate) -> pb.RecommendResponse:
    """The answer; whoever logs the impression adds its attribution token."""
    manifest = slate.generation.manifest
    served = query.page.served_item_ids if query.page is not None else ()
    staleness_us = rooms.backlog.staleness_us(manifest.watermark, rooms.now_us())
    missing = missing_parts(rooms, slate.degraded_parts)
    response = pb.RecommendResponse(
        generation=manifest.number,
        watermark=manifest.watermark,
        staleness=Duration(seconds=staleness_us // 1_000_000, nanos=staleness_us % 1_000_000 * 1000),
        degraded=bool(missing),
        degraded_reasons=[f"{part} unavailable" for part in missing],
        notices=slate.notices,
        strategy=str(slate.strategy),
        experiment_arm=f"{slate.assignment.experiment}/{slate.assignment.arm or INTERLEAVED}"
        if slate.assignment
        else "",
    )
    kept = slate.kept
    if kept is not None and (query.return_items or len(slate.candidates) < len(kept.candidates)):
        kept = None  # more has to be told than was, or less
    if kept is not None and kept.written:
        response.MergeFrom(kept.written[0])
        return response
    for rank, candidate in enumerate(slate.candidates, start=len(served) + 1):
        result = response.results.add(
            item_id=candidate.item_id, score=candidate.score, rank=rank, sources=candidate.sources
        )
        if query.explain:
            _explain(result, rooms, query, slate, candidate)
        if query.return_items and (item := rooms.view.items.get(candidate.item_id)) is not None:
            result.item.CopyFrom(convert.from_item(item))
    shown = (*served, *(candidate.item_id for candidate in slate.candidates))
    if slate.has_more and slate.candidates:
        response.next_page_token = PageToken(rooms.tenant, manifest.number, slate.strategy.name, shown).seal()
    if kept is not None:
        kept.written.append(pb.RecommendResponse(results=response.results, next_page_token=response.next_page_token))
    return response


def _explain(
    result: pb.RecommendedItem, rooms: Rooms, query: RecommendQuery, slate: Slate, candidate: Candidate
) -> None:
    for reason in reasons(
        candidate,
        slate.raisers.get(candidate.item_id, ()),
        rooms.view.items,
        lambda category: len(rooms.view.in_category(category)),
        wording_of(query.locale),
    ):
        result.reasons.append(reason.text)
        if reason.raiser is None:
            result.explanations.add(kind=pb.EXPLANATION_KIND_SOURCE, source=reason.source)
            continue
        event = reason.raiser.event
        result.explanations.add(
            kind=pb.EXPLANATION_KIND_CONTEXT if reason.raiser.is_context else pb.EXPLANATION_KIND_EVENT,
            item_id=event.item_id,
            event_type=event.event_type,
            query=event.query,
            event_time=convert.from_time_us(event.event_time_us),
            score_fall=reason.raiser.fall,
            share=reason.raiser.share,
            shared_categories=reason.shared_categories,
            shared_attributes=reason.shared_attributes,
        )


def missing_parts(rooms: Rooms, parts: Sequence[str]) -> list[str]:
    """What an answer had to be made without. Args: parts: those that its makers missed."""
    return [*parts, *(["database"] if rooms.database_is_away else [])]
