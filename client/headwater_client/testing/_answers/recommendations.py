"""The fake's answers of RecommendationService."""

from __future__ import annotations

import math
import re

import grpc

from headwater.v1 import recommendation_service_pb2 as recommendations
from headwater_client.testing._answers.core import Answers, Refusal, check_token, invalid, offset_of, page_size
from headwater_client.testing._state import FakeState

_TAG = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*")
_POPULAR = recommendations.Explanation(kind=recommendations.EXPLANATION_KIND_SOURCE, source="popular")


def recommend(state: FakeState, request: recommendations.RecommendRequest) -> recommendations.RecommendResponse:
    check_token(state, request.min_consistency_token)
    if request.locale and not _TAG.fullmatch(request.locale):
        raise invalid(f"locale: {request.locale!r} is no BCP 47 language tag")
    generation = state.stable().number
    if request.WhichOneof("target") == "generation" and request.generation not in state.generations:
        raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, f"generation: {request.generation} is not loaded")
    if request.WhichOneof("target") == "label" and request.label not in state.label_history:
        raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, f"label: {request.label} is not loaded")
    strategy = request.strategy or "default"
    versions = state.strategy_versions.get(strategy, [])
    if strategy != "default" and not (versions and versions[-1].HasField("strategy")):
        raise invalid(f"strategy: no strategy {strategy!r}")
    left_out = set(request.exclude_item_ids)
    if not request.HasField("exclude_seen") or request.exclude_seen:
        seen = [stored.event for stored in state.history(request.user_id, request.visitor_id)]
        left_out |= {event.item_id for event in (*seen, *request.recent_events)}
    scores = state.popularity(item_id for item_id in state.matching(request.filter) if item_id not in left_out)
    ordered = sorted(scores, key=lambda item_id: (-scores[item_id], item_id))
    start = offset_of(request.page_token)
    end = start + page_size(request.page_size, 10, 500)
    return recommendations.RecommendResponse(
        results=[
            recommendations.RecommendedItem(
                item_id=item_id,
                score=scores[item_id],
                rank=rank,
                sources=["popular"],
                reasons=["popular now"] if request.explain else [],
                explanations=[_POPULAR] if request.explain else [],
                item=state.items[item_id] if request.return_items else None,
            )
            for rank, item_id in enumerate(ordered[start:end], start=start + 1)
        ],
        attribution_token=f"fake-slate-{request.user_id or request.visitor_id}",
        generation=generation,
        watermark=state.stable().watermark,
        next_page_token=str(end) if end < len(ordered) else "",
        strategy=f"{strategy}/{len(versions)}",
    )


def batch_recommend(
    state: FakeState, request: recommendations.BatchRecommendRequest
) -> recommendations.BatchRecommendResponse:
    results = []
    for one in request.requests:
        try:
            results.append(recommendations.BatchRecommendResult(response=recommend(state, one)))
        except Refusal as refusal:
            field, _, reason = refusal.message.partition(": ")
            error = recommendations.RequestError(code=refusal.status.value[0], field=field, reason=reason)
            results.append(recommendations.BatchRecommendResult(error=error))
    return recommendations.BatchRecommendResponse(results=results)


def similar_items(
    state: FakeState, request: recommendations.SimilarItemsRequest
) -> recommendations.SimilarItemsResponse:
    if request.item_id not in state.items:
        raise Refusal(grpc.StatusCode.NOT_FOUND, f"item_id: {request.item_id!r} is not known")
    left_out = {request.item_id, *request.exclude_item_ids}
    scores = {
        item_id: state.similarity(request.item_id, item_id)
        for item_id in state.matching(request.filter)
        if item_id not in left_out
    }
    ordered = sorted(scores, key=lambda item_id: (-scores[item_id], item_id))
    return recommendations.SimilarItemsResponse(
        results=[
            recommendations.RecommendedItem(
                item_id=item_id,
                score=scores[item_id],
                rank=rank,
                item=state.items[item_id] if request.return_items else None,
            )
            for rank, item_id in enumerate(ordered[: page_size(request.page_size, 10, 500)], start=1)
        ],
        generation=state.stable().number,
    )


def score_items(state: FakeState, request: recommendations.ScoreItemsRequest) -> recommendations.ScoreItemsResponse:
    check_token(state, request.min_consistency_token)
    known = [item_id for item_id in request.item_ids if item_id in state.items]
    scores = state.popularity(known)
    total = sum(scores.values()) or 1.0
    return recommendations.ScoreItemsResponse(
        scores=[
            recommendations.ItemScore(
                item_id=item_id, score=scores[item_id], probabilities={"click": scores[item_id] / total}
            )
            for item_id in known
        ],
        missing_item_ids=[item_id for item_id in request.item_ids if item_id not in state.items],
        generation=state.stable().number,
        probability_reference=recommendations.PROBABILITY_REFERENCE_SAMPLED_EXPOSURE,
    )


def embed_user(state: FakeState, request: recommendations.EmbedUserRequest) -> recommendations.EmbedUserResponse:
    check_token(state, request.min_consistency_token)
    history = [stored.event for stored in state.history(request.user_id, request.visitor_id)]
    history += request.recent_events
    shares = state.category_shares(history)
    every = sorted({category for item in state.items.values() for category in item.categories})
    norm = math.hypot(*shares.values()) if shares else 1.0
    interest = recommendations.InterestVector(values=[shares.get(category, 0.0) / norm for category in every])
    return recommendations.EmbedUserResponse(
        interests=[interest] if shares else [], generation=state.stable().number, history_length=len(history)
    )


def search_items(state: FakeState, request: recommendations.SearchItemsRequest) -> recommendations.SearchItemsResponse:
    if not request.query.strip():
        raise invalid("query: must not be empty")
    check_token(state, request.min_consistency_token)
    left_out = set(request.exclude_item_ids)
    scores = {
        item_id: score
        for item_id in state.matching(request.filter)
        if item_id not in left_out and (score := state.words_in_common(request.query, item_id))
    }
    ordered = sorted(scores, key=lambda item_id: (-scores[item_id], item_id))
    return recommendations.SearchItemsResponse(
        results=[
            recommendations.RecommendedItem(
                item_id=item_id,
                score=scores[item_id],
                rank=rank,
                sources=["text"],
                item=state.items[item_id] if request.return_items else None,
            )
            for rank, item_id in enumerate(ordered[: page_size(request.page_size, 10, 500)], start=1)
        ],
        generation=state.stable().number,
    )


ANSWERS: Answers = {
    "/headwater.v1.RecommendationService/Recommend": recommend,
    "/headwater.v1.RecommendationService/BatchRecommend": batch_recommend,
    "/headwater.v1.RecommendationService/SimilarItems": similar_items,
    "/headwater.v1.RecommendationService/ScoreItems": score_items,
    "/headwater.v1.RecommendationService/EmbedUser": embed_user,
    "/headwater.v1.RecommendationService/SearchItems": search_items,
}
