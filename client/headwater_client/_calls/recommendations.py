"""The calls of RecommendationService."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1.event_pb2 import Event
from headwater_client._calls.core import Call, as_is, call, method
from headwater_client._messages import timestamp
from headwater_client._results import Recommendation, Recommendations, ScoredItem, ScoredItems
from headwater_client.errors import RpcError, rpc_error

_SERVICE = "RecommendationService"
RECOMMEND = method(_SERVICE, "Recommend", pb.RecommendRequest, pb.RecommendResponse, timeout_s=2)
BATCH_RECOMMEND = method(_SERVICE, "BatchRecommend", pb.BatchRecommendRequest, pb.BatchRecommendResponse, timeout_s=10)
SIMILAR_ITEMS = method(_SERVICE, "SimilarItems", pb.SimilarItemsRequest, pb.SimilarItemsResponse, timeout_s=2)
SCORE_ITEMS = method(_SERVICE, "ScoreItems", pb.ScoreItemsRequest, pb.ScoreItemsResponse, timeout_s=5)
EMBED_USER = method(_SERVICE, "EmbedUser", pb.EmbedUserRequest, pb.EmbedUserResponse, timeout_s=2)
SEARCH_ITEMS = method(_SERVICE, "SearchItems", pb.SearchItemsRequest, pb.SearchItemsResponse, timeout_s=2)


def recommend(
    *,
    user_id: str = "",
    visitor_id: str = "",
    session_id: str = "",
    page_size: int = 0,
    page_token: str = "",
    categories: Iterable[str] = (),
    attributes: Mapping[str, str] | None = None,
    available_only: bool | None = None,
    published_after: datetime | None = None,
    published_before: datetime | None = None,
    exclude_item_ids: Iterable[str] = (),
    exclude_seen: bool | None = None,
    context_item_ids: Iterable[str] = (),
    recent_events: Iterable[Event] = (),
    diversity: float | None = None,
    exploration: float | None = None,
    context: Mapping[str, str] | None = None,
    surface: str = "",
    explain: bool = False,
    locale: str = "",
    label: str | None = None,
    generation: int | None = None,
    min_consistency_token: str = "",
    return_items: bool = False,
    strategy: str = "",
    timeout_s: float | None = None,
) -> Call[Recommendations]:
    """Recommends items to one user, visitor or session; to nobody in particular: what is popular now.

    Args:
        user_id: for whom.
        visitor_id: for whom, when not signed in.
        session_id: the visit; kept with the impression.
        page_size: how many; 0 means 10, at most 500.
        page_token: the next_page_token of the page before.
        categories: only items of at least one of these.
        attributes: only items that have all of these values.
        available_only: False lets hidden and expired items in. Default True.
        published_after: only items published at or after this time.
        published_before: only items published before this time.
        exclude_item_ids: items to leave out.
        exclude_seen: whether to leave out what is in the history. Default True.
        context_item_ids: what the user looks at just now.
        recent_events: events to take into account without storing them, in time order.
        diversity: how much variety to trade for score, 0 to 1. Default: the strategy's.
        exploration: how much to explore, 0 to 1.
        context: what is known of the request; kept with the impression.
        surface: where the answer is shown; kept with the impression.
        explain: whether to say why each item is there.
        locale: the language of the reasons, as a BCP 47 tag, for example `de-CH`. Default `en`.
        label: which published set answers, by label. Default `stable`.
        generation: which published set answers, by number; not together with label.
        min_consistency_token: of a write that the answer must have seen.
        return_items: whether to return the items' texts beside their ids.
        strategy: which strategy makes the slate. Default `default`.
        timeout_s: the deadline. Default 2 s.

    Raises:
        ValueError: label and generation are both given, or a time has no time zone.
        FailedPreconditionError: no generation is loaded, or not the one asked for.
        RpcError: any other failure of the call.
    """
    if label is not None and generation is not None:
        raise ValueError("give label or generation, not both")
    request = pb.RecommendRequest(
        user_id=user_id,
        visitor_id=visitor_id,
        session_id=session_id,
        page_size=page_size,
        page_token=page_token,
        filter=_filter(categories, attributes, available_only, published_after, published_before),
        exclude_item_ids=exclude_item_ids,
        exclude_seen=exclude_seen,
        context_item_ids=context_item_ids,
        recent_events=recent_events,
        diversity=diversity,
        exploration=exploration,
        context=context or {},
        surface=surface,
        explain=explain,
        locale=locale,
        min_consistency_token=min_consistency_token,
        return_items=return_items,
        strategy=strategy,
    )
    if label is not None:
        request.label = label
    if generation is not None:
        request.generation = generation
    return call(RECOMMEND, request, _read_recommendations, timeout_s)


def batch_recommend(
    requests: Sequence[pb.RecommendRequest], *, timeout_s: float | None = None
) -> Call[list[Recommendations | RpcError]]:
    """Recommends to many at once: one answer, or the error that stands for it, per request, in order.

    Args:
        requests: 1 to 100; the fields are `recommend`'s, as `RecommendRequest(user_id=…, page_size=…)`.
        timeout_s: the deadline. Default 10 s.

    Raises:
        RpcError: the call failed as a whole.
    """
    return call(BATCH_RECOMMEND, pb.BatchRecommendRequest(requests=requests), _read_batch, timeout_s)


def similar_items(
    item_id: str,
    *,
    page_size: int = 0,
    categories: Iterable[str] = (),
    attributes: Mapping[str, str] | None = None,
    available_only: bool | None = None,
    published_after: datetime | None = None,
    published_before: datetime | None = None,
    exclude_item_ids: Iterable[str] = (),
    return_items: bool = False,
    timeout_s: float | None = None,
) -> Call[Recommendations]:
    """Finds the items nearest to an item, most similar first; the score is the cosine of the item vectors.

    Args:
        item_id: to which item.
        page_size: how many; 0 means 10, at most 500.
        categories: only items of at least one of these.
        attributes: only items that have all of these values.
        available_only: False lets hidden and expired items in. Default True.
        published_after: only items published at or after this time.
        published_before: only items published before this time.
        exclude_item_ids: items to leave out.
        return_items: whether to return the items' texts beside their ids.
        timeout_s: the deadline. Default 2 s.

    Raises:
        NotFoundError: the item is not known.
        RpcError: any other failure of the call.
    """
    request = pb.SimilarItemsRequest(
        item_id=item_id,
        page_size=page_size,
        filter=_filter(categories, attributes, available_only, published_after, published_before),
        exclude_item_ids=exclude_item_ids,
        return_items=return_items,
    )
    return call(SIMILAR_ITEMS, request, _read_similar, timeout_s)


def score_items(
    item_ids: Iterable[str],
    *,
    user_id: str = "",
    visitor_id: str = "",
    recent_events: Iterable[Event] = (),
    min_consistency_token: str = "",
    timeout_s: float | None = None,
) -> Call[ScoredItems]:
    """Scores given items for a user: a probability per event type and an expected value.

    Args:
        item_ids: 1 to 1,000 items.
        user_id: for whom.
        visitor_id: for whom, when not signed in.
        recent_events: events to take into account without storing them, in time order.
        min_consistency_token: of a write that the answer must have seen.
        timeout_s: the deadline. Default 5 s.

    Raises:
        RpcError: the call failed.
    """
    request = pb.ScoreItemsRequest(
        item_ids=item_ids,
        user_id=user_id,
        visitor_id=visitor_id,
        recent_events=recent_events,
        min_consistency_token=min_consistency_token,
    )
    return call(SCORE_ITEMS, request, _read_scores, timeout_s)


def embed_user(
    *,
    user_id: str = "",
    visitor_id: str = "",
    recent_events: Iterable[Event] = (),
    min_consistency_token: str = "",
    timeout_s: float | None = None,
) -> Call[pb.EmbedUserResponse]:
    """Gives the user's interest vectors; none for a user without any history.

    Args:
        user_id: whose; one of user_id, visitor_id and recent_events is required.
        visitor_id: whose, when not signed in.
        recent_events: events to take into account without storing them, in time order.
        min_consistency_token: of a write that the answer must have seen.
        timeout_s: the deadline. Default 2 s.

    Raises:
        RpcError: the call failed.
    """
    request = pb.EmbedUserRequest(
        user_id=user_id,
        visitor_id=visitor_id,
        recent_events=recent_events,
        min_consistency_token=min_consistency_token,
    )
    return call(EMBED_USER, request, as_is, timeout_s)


def search_items(
    query: str,
    *,
    user_id: str = "",
    visitor_id: str = "",
    page_size: int = 0,
    categories: Iterable[str] = (),
    attributes: Mapping[str, str] | None = None,
    available_only: bool | None = None,
    published_after: datetime | None = None,
    published_before: datetime | None = None,
    exclude_item_ids: Iterable[str] = (),
    min_consistency_token: str = "",
    return_items: bool = False,
    timeout_s: float | None = None,
) -> Call[Recommendations]:
    """Finds items by their words and by what they mean; titles of exactly the query's words come first.

    Searching writes nothing: tell what was searched for with `event("search", query=…)`.

    Args:
        query: what to look for, 1 to 1,024 characters; the last word may be unfinished.
        user_id: for whom the order is made.
        visitor_id: for whom, when not signed in.
        page_size: how many; 0 means 10, at most 500.
        categories: only items of at least one of these.
        attributes: only items that have all of these values.
        available_only: False lets hidden and expired items in. Default True.
        published_after: only items published at or after this time.
        published_before: only items published before this time.
        exclude_item_ids: items to leave out; what the user has seen is not left out.
        min_consistency_token: of a write that the answer must have seen.
        return_items: whether to return the items' texts beside their ids.
        timeout_s: the deadline. Default 2 s.

    Raises:
        RpcError: the call failed.
    """
    request = pb.SearchItemsRequest(
        query=query,
        user_id=user_id,
        visitor_id=visitor_id,
        page_size=page_size,
        filter=_filter(categories, attributes, available_only, published_after, published_before),
        exclude_item_ids=exclude_item_ids,
        min_consistency_token=min_consistency_token,
        return_items=return_items,
    )
    return call(SEARCH_ITEMS, request, _read_found, timeout_s)


def _filter(
    categories: Iterable[str],
    attributes: Mapping[str, str] | None,
    available_only: bool | None,
    published_after: datetime | None,
    published_before: datetime | None,
) -> pb.ItemFilter:
    if isinstance(categories, str):  # else "Comedy" would filter by six letters
        raise TypeError("categories is a list of names, not one name")
    return pb.ItemFilter(
        categories=categories,
        attributes=attributes or {},
        available_only=available_only,
        published_after=timestamp(published_after),
        published_before=timestamp(published_before),
    )


def _read_items(results: Iterable[pb.RecommendedItem]) -> tuple[Recommendation, ...]:
    return tuple(
        Recommendation(
            item_id=result.item_id,
            score=result.score,
            rank=result.rank or place,
            sources=tuple(result.sources),
            reasons=tuple(result.reasons),
            explanations=tuple(result.explanations),
            item=result.item if result.HasField("item") else None,
        )
        for place, result in enumerate(results, start=1)
    )


def _read_recommendations(response: pb.RecommendResponse) -> Recommendations:
    return Recommendations(
        items=_read_items(response.results),
        generation=response.generation,
        attribution_token=response.attribution_token,
        next_page_token=response.next_page_token,
        watermark=response.watermark,
        staleness_s=response.staleness.ToTimedelta().total_seconds(),
        degraded=response.degraded,
        degraded_reasons=tuple(response.degraded_reasons),
        notices=tuple(response.notices),
        experiment_arm=response.experiment_arm,
        strategy=response.strategy,
    )


def _read_batch(response: pb.BatchRecommendResponse) -> list[Recommendations | RpcError]:
    return [
        rpc_error(result.error.code, ": ".join(filter(None, (result.error.field, result.error.reason))))
        if result.WhichOneof("result") == "error"
        else _read_recommendations(result.response)
        for result in response.results
    ]


def _read_similar(response: pb.SimilarItemsResponse) -> Recommendations:
    return Recommendations(items=_read_items(response.results), generation=response.generation)


def _read_found(response: pb.SearchItemsResponse) -> Recommendations:
    return Recommendations(
        items=_read_items(response.results),
        generation=response.generation,
        degraded=response.degraded,
        degraded_reasons=tuple(response.degraded_reasons),
        notices=tuple(response.notices),
    )


def _read_scores(response: pb.ScoreItemsResponse) -> ScoredItems:
    return ScoredItems(
        items=tuple(
            ScoredItem(
                item_id=score.item_id,
                score=score.score,
                probabilities=dict(score.probabilities),
                expected_value=score.expected_value if score.HasField("expected_value") else None,
            )
            for score in response.scores
        ),
        missing_item_ids=tuple(response.missing_item_ids),
        generation=response.generation,
        from_impressions=response.probability_reference == pb.PROBABILITY_REFERENCE_IMPRESSIONS,
    )
