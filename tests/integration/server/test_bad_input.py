"""Every kind of bad input, over the wire: refused by name or passed over by rule, never UNKNOWN, never INTERNAL."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

from headwater.v1 import (
    catalog_service_pb2,
    event_pb2,
    event_service_pb2,
    item_pb2,
    model_service_pb2,
    recommendation_service_pb2,
    user_service_pb2,
)
from headwater.v1.catalog_service_pb2_grpc import CatalogServiceStub
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater.v1.model_service_pb2_grpc import ModelServiceStub
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater.v1.user_service_pb2_grpc import UserServiceStub
from headwater_server.server import HeadwaterServer
from headwater_server.tokens import ConsistencyToken, ListToken, PageToken

if TYPE_CHECKING:
    from headwater.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from headwater.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from headwater.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceAsyncStub
    from headwater.v1.user_service_pb2_grpc import UserServiceAsyncStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

FILES = (
    event_service_pb2,
    catalog_service_pb2,
    user_service_pb2,
    model_service_pb2,
    recommendation_service_pb2,
    health_pb2,
    reflection_pb2,
)
METHODS: list[MethodDescriptor] = [
    method for file in FILES for service in file.DESCRIPTOR.services_by_name.values() for method in service.methods
]
Until = Callable[[Callable[[], bool]], Awaitable[None]]
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
TOO_LONG = "é" * 129  # 258 bytes in 129 characters


class Stubs(NamedTuple):
    """All services of one server."""

    events: EventServiceAsyncStub
    catalog: CatalogServiceAsyncStub
    users: UserServiceAsyncStub
    models: ModelServiceAsyncStub
    recommendations: RecommendationServiceAsyncStub

    @classmethod
    def on(cls, channel: grpc.aio.Channel) -> Stubs:
        return cls(
            EventServiceStub(channel),
            CatalogServiceStub(channel),
            UserServiceStub(channel),
            ModelServiceStub(channel),
            RecommendationServiceStub(channel),
        )

    def method(self, request: Any) -> Callable[[Any], Awaitable[Any]]:
        """The method that takes this request."""
        name = type(request).__name__.removesuffix("Request")
        method: Callable[[Any], Awaitable[Any]] = next(getattr(stub, name) for stub in self if hasattr(stub, name))
        return method


class Refusal(NamedTuple):
    """How a call ended that was refused."""

    code: grpc.StatusCode
    message: str
    violations: dict[str, str]
    """google.rpc.BadRequest: field → description."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    make_installation: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[HeadwaterServer]:
    """One server for all of this file: bad input must not harm it."""
    server = HeadwaterServer(make_installation(tmp_path_factory.mktemp("bad-input")))
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def channel(
    server: HeadwaterServer, open_channel: Callable[[HeadwaterServer], grpc.aio.Channel]
) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(server) as channel:
        yield channel


@pytest.fixture(scope="module")
def stubs(channel: grpc.aio.Channel) -> Stubs:
    return Stubs.on(channel)


async def refused(call: Awaitable[Any]) -> Refusal:
    """The refusal of a call, with its details."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)
    violations: dict[str, str] = {}
    for detail in status.details if status is not None else ():
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request):
            violations |= {violation.field: violation.description for violation in bad_request.field_violations}
    return Refusal(caught.value.code(), caught.value.details() or "", violations)


def in_flight(server: HeadwaterServer) -> float | None:
    """How many calls are being answered."""
    return server.rooms.metrics.registry.get_sample_value("headwater_calls_in_flight")


def event(event_id: str = "e", **changes: Any) -> event_pb2.Event:
    return event_pb2.Event(
        **{"event_id": event_id, "event_type": "click", "user_id": "ada", "item_id": "space-00", **changes}
    )


def in_seconds(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(time.time() + seconds))


async def write(stubs: Stubs, *events: event_pb2.Event, **options: Any) -> event_service_pb2.WriteEventsResponse:
    return await stubs.events.WriteEvents(event_service_pb2.WriteEventsRequest(events=events, **options))


# --- events

BAD_EVENTS = {
    "no id": (event(""), "event_id"),
    "long id": (event(TOO_LONG), "event_id"),
    "id with NUL": (event("a\x00b"), "event_id"),
    "no type": (event(event_type=""), "event_type"),
    "unregistered type": (event(event_type="nobody-registered-this"), "event_type"),
    "nobody": (event(user_id=""), "user_id"),
    "long user": (event(user_id=TOO_LONG), "user_id"),
    "long visitor": (event(visitor_id=TOO_LONG), "visitor_id"),
    "long session": (event(session_id=TOO_LONG), "session_id"),
    "no item": (event(item_id=""), "item_id"),
    "long item": (event(item_id=TOO_LONG), "item_id"),
    "search for nothing": (event(event_type="search", query=" "), "query"),
    "long query": (event(event_type="search", query="x" * 1025), "query"),
    "NaN": (event(value=float("nan")), "value"),
    "infinity": (event(value=float("inf")), "value"),
    "minus infinity": (event(value=float("-inf")), "value"),
    "below its type's minimum": (event(event_type="view", value=-1.0), "value"),
    # Made when the tests are collected, minutes before it is written; check_event's own tests know the exact limit.
    "an hour ahead": (event(event_time=in_seconds(3600)), "event_time"),
    "before 1970": (event(event_time=Timestamp(seconds=-1)), "event_time"),
    "before year 1": (event(event_time=Timestamp(seconds=-(1 << 62))), "event_time"),
    "negative nanoseconds": (event(event_time=Timestamp(seconds=1, nanos=-1)), "event_time"),
    "rank 0": (event(position=0), "position"),
    "long token": (event(attribution_token="x" * 8193), "attribution_token"),
    "65 attributes": (event(attributes={str(number): "" for number in range(65)}), "attributes"),
    "long attribute key": (event(attributes={"k" * 129: ""}), "attributes"),
    "long attribute value": (event(attributes={"k": "v" * 1025}), "attributes[k]"),
}


@pytest.mark.parametrize(("bad", "field"), BAD_EVENTS.values(), ids=BAD_EVENTS.keys())
async def test_a_bad_event_is_refused_by_field_and_its_neighbours_are_written(
    stubs: Stubs, bad: event_pb2.Event, field: str, request: pytest.FixtureRequest
) -> None:
    """The result of the bad event names place, id, field and reason; the good events around it are committed."""
    name = request.node.name
    response = await write(stubs, event(f"{name}-before"), bad, event(f"{name}-after"))
    outcomes = [event_pb2.EventOutcome.Name(result.outcome) for result in response.results]
    assert outcomes == ["EVENT_OUTCOME_ACCEPTED", "EVENT_OUTCOME_REFUSED", "EVENT_OUTCOME_ACCEPTED"]
    error = response.results[1].error
    assert (error.index, error.field, error.code) == (1, field, INVALID_ARGUMENT.value[0])
    assert error.reason
    assert bad.event_id.startswith(error.event_id)
    assert len(error.event_id.encode()) <= 256
    assert response.consistency_token


@pytest.mark.parametrize(
    "when", [Timestamp(seconds=820_000_000), Timestamp(), in_seconds(240)], ids=["1996", "1970", "four minutes ahead"]
)
async def test_old_and_slightly_early_events_are_accepted(stubs: Stubs, when: Timestamp) -> None:
    """MovieLens begins in 1996, and clocks differ by minutes."""
    response = await write(stubs, event(f"time-{when.seconds}", event_time=when))
    assert response.results[0].outcome == event_pb2.EVENT_OUTCOME_ACCEPTED


async def test_a_batch_of_bad_events_alone_has_no_token(stubs: Stubs) -> None:
    """Nothing was accepted, so there is nothing to wait for."""
    response = await write(stubs, event("", item_id=""))
    assert response.results[0].outcome == event_pb2.EVENT_OUTCOME_REFUSED
    assert response.consistency_token == ""


async def test_an_event_id_used_again_is_a_duplicate_or_a_conflict(stubs: Stubs) -> None:
    """The same content is a harmless retry with a token; other content is refused with ALREADY_EXISTS."""
    when = in_seconds(0)
    first = await write(stubs, event("twice", event_time=when))
    retry = await write(stubs, event("twice", event_time=when))
    assert retry.results[0].outcome == event_pb2.EVENT_OUTCOME_DUPLICATE
    assert retry.consistency_token == first.consistency_token
    other = await write(stubs, event("twice", event_time=when, item_id="space-01"))
    error = other.results[0].error
    assert (error.field, error.code, error.event_id) == ("event_id", grpc.StatusCode.ALREADY_EXISTS.value[0], "twice")


async def test_an_event_id_used_twice_in_one_batch_is_written_once(stubs: Stubs) -> None:
    """Within a batch the same rules hold as between batches."""
    when = in_seconds(0)
    copies = [event("in-one-batch", event_time=when), event("in-one-batch", event_time=when)]
    response = await write(stubs, *copies, event("in-one-batch", event_time=when, item_id="space-09"))
    assert [result.outcome for result in response.results] == [
        event_pb2.EVENT_OUTCOME_ACCEPTED,
        event_pb2.EVENT_OUTCOME_DUPLICATE,
        event_pb2.EVENT_OUTCOME_REFUSED,
    ]


async def test_an_event_on_an_unknown_item_is_kept(stubs: Stubs) -> None:
    """It may become known; until then the answer is as good as without the event."""
    await write(stubs, event("unknown-item", user_id="kept", item_id="not-yet-known"))
    listed = await stubs.events.ListEvents(event_service_pb2.ListEventsRequest(user_id="kept"))
    assert [stored.event.item_id for stored in listed.events] == ["not-yet-known"]
    answer = await stubs.recommendations.Recommend(recommendation_service_pb2.RecommendRequest(user_id="kept"))
    assert not answer.degraded


async def test_ten_thousand_events_are_a_batch_and_one_more_is_not(stubs: Stubs) -> None:
    """The limit itself is accepted, over it nothing is written."""
    many = [event(f"many-{number}", user_id="many") for number in range(10_001)]
    refusal = await refused(write(stubs, *many))
    assert refusal.code is INVALID_ARGUMENT
    assert refusal.violations == {"events": "has 10001; the limit is 10000"}
    listed = await stubs.events.ListEvents(event_service_pb2.ListEventsRequest(user_id="many"))
    assert not listed.events
    response = await write(stubs, *many[:10_000])
    assert {result.outcome for result in response.results} == {event_pb2.EVENT_OUTCOME_ACCEPTED}
    assert len(response.results) == 10_000


async def test_a_backfill_refuses_impossible_type_names_one_by_one(stubs: Stubs) -> None:
    """An import registers the types it meets; what cannot be a type's name is that event's fault alone."""
    response = await write(
        stubs,
        event("backfill-good", event_type="imported"),
        event("backfill-bad", event_type="No Such Name!"),
        event("backfill-none", event_type=""),
        backfill=True,
    )
    assert response.results[0].outcome == event_pb2.EVENT_OUTCOME_ACCEPTED
    assert [result.error.field for result in response.results[1:]] == ["event_type", "event_type"]


# --- requests that are refused as a whole


def recommend(**fields: Any) -> recommendation_service_pb2.RecommendRequest:
    return recommendation_service_pb2.RecommendRequest(**fields)


def filtered(**fields: Any) -> recommendation_service_pb2.RecommendRequest:
    return recommend(filter=recommendation_service_pb2.ItemFilter(**fields))


def names(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def event_type(**fields: Any) -> event_service_pb2.UpsertEventTypesRequest:
    return event_service_pb2.UpsertEventTypesRequest(event_types=[event_pb2.EventType(**fields)])


BAD_REQUESTS: list[tuple[Any, str]] = [
    (event_service_pb2.WriteEventsRequest(), "events"),
    (event_service_pb2.DeleteEventsRequest(), "event_ids"),
    (event_service_pb2.DeleteEventsRequest(event_ids=names(1001)), "event_ids"),
    (event_service_pb2.DeleteEventsRequest(event_ids=["a", ""]), "event_ids[1]"),
    (event_service_pb2.ListEventsRequest(user_id="a", visitor_id="b"), "visitor_id"),
    (event_service_pb2.ListEventsRequest(user_id=TOO_LONG), "user_id"),
    (event_service_pb2.ListEventsRequest(item_id=TOO_LONG), "item_id"),
    (event_service_pb2.ListEventsRequest(event_types=["a\x00"]), "event_types[0]"),
    (event_service_pb2.ListEventsRequest(event_types=names(101)), "event_types"),
    (event_service_pb2.ListEventsRequest(event_time_from=Timestamp(nanos=-1)), "event_time_from"),
    (event_service_pb2.UpsertEventTypesRequest(), "event_types"),
    (event_service_pb2.UpsertEventTypesRequest(event_types=[event_pb2.EventType(name="x")] * 101), "event_types"),
    (event_type(), "event_types[0].name"),
    (event_type(name="UPPER"), "event_types[0].name"),
    (event_type(name="x", weight=-1.0), "event_types[0].weight"),
    (event_type(name="x", weight=float("nan")), "event_types[0].weight"),
    (event_type(name="x", value_max=float("inf")), "event_types[0].value_max"),
    (event_type(name="x", value_min=2.0, value_max=1.0), "event_types[0].value_min"),
    (catalog_service_pb2.UpsertItemsRequest(), "items"),
    (catalog_service_pb2.UpsertItemsRequest(items=[item_pb2.Item(item_id=name) for name in names(1001)]), "items"),
    (
        catalog_service_pb2.UpsertItemsRequest(
            items=[item_pb2.Item(item_id="x")], update_mask=FieldMask(paths=["title", "colour"])
        ),
        "update_mask",
    ),
    (catalog_service_pb2.GetItemsRequest(), "item_ids"),
    (catalog_service_pb2.GetItemsRequest(item_ids=names(1001)), "item_ids"),
    (catalog_service_pb2.GetItemsRequest(item_ids=[TOO_LONG]), "item_ids[0]"),
    (catalog_service_pb2.ListItemsRequest(category=TOO_LONG), "category"),
    (catalog_service_pb2.DeleteItemsRequest(), "item_ids"),
    (catalog_service_pb2.DeleteItemsRequest(item_ids=[""]), "item_ids[0]"),
    (catalog_service_pb2.DeleteItemsRequest(item_ids=names(1001)), "item_ids"),
    (catalog_service_pb2.SetAvailabilityRequest(), "item_ids"),
    (catalog_service_pb2.SetAvailabilityRequest(item_ids=names(1001)), "item_ids"),
    (user_service_pb2.DeleteUserRequest(), "user_id"),
    (user_service_pb2.GetProfileRequest(), "user_id"),
    (user_service_pb2.DeleteUserRequest(user_id="a", visitor_id="b"), "user_id"),
    (user_service_pb2.DeleteUserRequest(user_id=TOO_LONG), "user_id"),
    (model_service_pb2.GetGenerationRequest(number=-1), "number"),
    (model_service_pb2.SetLabelRequest(generation=1), "label"),
    (model_service_pb2.SetLabelRequest(label="Not A Label", generation=1), "label"),
    (model_service_pb2.RollbackRequest(label="Not A Label"), "label"),
    (recommend(user_id=TOO_LONG), "user_id"),
    (recommend(visitor_id=TOO_LONG), "visitor_id"),
    (recommend(session_id=TOO_LONG), "session_id"),
    (recommend(locale="de_CH"), "locale"),
    (recommend(locale="en-" + "x" * 300), "locale"),
    (recommend(recent_events=[event()] * 201), "recent_events"),
    (recommend(recent_events=[event(), event(item_id="")]), "recent_events[1].item_id"),
    (recommend(recent_events=[event(value=float("nan"))]), "recent_events[0].value"),
    (recommend(context_item_ids=names(51)), "context_item_ids"),
    (recommend(context_item_ids=[""]), "context_item_ids[0]"),
    (recommend(exclude_item_ids=names(10_001)), "exclude_item_ids"),
    (recommend(exclude_item_ids=["a", TOO_LONG]), "exclude_item_ids[1]"),
    (recommend(diversity=1.5), "diversity"),
    (recommend(diversity=float("nan")), "diversity"),
    (recommend(exploration=-0.5), "exploration"),
    (recommend(context={"": "x"}), "context"),
    (recommend(context=dict.fromkeys(names(65), "")), "context"),
    (recommend(context={"k": "v" * 1025}), "context[k]"),
    (recommend(surface="x" * 129), "surface"),
    (recommend(surface="a\x00b"), "surface"),
    (recommend(label=""), "label"),
    (recommend(generation=0), "generation"),
    (filtered(categories=names(101)), "filter.categories"),
    (filtered(categories=["a", TOO_LONG]), "filter.categories[1]"),
    (filtered(attributes={"k": "v" * 1025}), "filter.attributes[k]"),
    (filtered(attributes=dict.fromkeys(names(21), "")), "filter.attributes"),
    (filtered(published_after=Timestamp(nanos=2_000_000_000)), "filter.published_after"),
    (filtered(published_before=Timestamp(seconds=1 << 62)), "filter.published_before"),
    (recommendation_service_pb2.BatchRecommendRequest(), "requests"),
    (recommendation_service_pb2.BatchRecommendRequest(requests=[recommend()] * 101), "requests"),
    (recommendation_service_pb2.SimilarItemsRequest(), "item_id"),
    (recommendation_service_pb2.SimilarItemsRequest(item_id=TOO_LONG), "item_id"),
    (recommendation_service_pb2.ScoreItemsRequest(user_id="a"), "item_ids"),
    (recommendation_service_pb2.ScoreItemsRequest(user_id="a", item_ids=names(1001)), "item_ids"),
    (recommendation_service_pb2.ScoreItemsRequest(user_id="a", item_ids=[""]), "item_ids[0]"),
    (recommendation_service_pb2.EmbedUserRequest(), "user_id"),
    (recommendation_service_pb2.SearchItemsRequest(), "query"),
    (recommendation_service_pb2.SearchItemsRequest(query=" \n"), "query"),
    (recommendation_service_pb2.SearchItemsRequest(query="é" * 1025), "query"),
    (recommendation_service_pb2.SearchItemsRequest(query="a\x00b"), "query"),
    (recommendation_service_pb2.SearchItemsRequest(query="x", user_id=TOO_LONG), "user_id"),
    (recommendation_service_pb2.SearchItemsRequest(query="x", visitor_id=TOO_LONG), "visitor_id"),
    (recommendation_service_pb2.SearchItemsRequest(query="x", exclude_item_ids=names(10_001)), "exclude_item_ids"),
    (
        recommendation_service_pb2.SearchItemsRequest(
            query="x", filter=recommendation_service_pb2.ItemFilter(categories=names(101))
        ),
        "filter.categories",
    ),
]


def _named(values: Iterable[tuple[Any, str]]) -> list[str]:
    return [f"{type(request).__name__.removesuffix('Request')}-{field}" for request, field in values]


def assert_names(refusal: Refusal, field: str) -> None:
    """The refusal is INVALID_ARGUMENT and names the field, in its message and in its details."""
    assert refusal.code is INVALID_ARGUMENT
    assert list(refusal.violations) == [field]
    assert refusal.violations[field]
    assert refusal.message == f"{field}: {refusal.violations[field]}"


@pytest.mark.parametrize(("request_", "field"), BAD_REQUESTS, ids=_named(BAD_REQUESTS))
async def test_a_bad_request_is_refused_by_field(stubs: Stubs, request_: Any, field: str) -> None:
    """INVALID_ARGUMENT, with the field's path in the message and in google.rpc.BadRequest."""
    assert_names(await refused(stubs.method(request_)(request_)), field)


LISTINGS: list[tuple[Any, int]] = [
    (recommendation_service_pb2.RecommendRequest, 500),
    (event_service_pb2.ListEventsRequest, 1000),
    (event_service_pb2.ListEventTypesRequest, 1000),
    (catalog_service_pb2.ListItemsRequest, 1000),
    (model_service_pb2.ListGenerationsRequest, 1000),
]


@pytest.mark.parametrize(("kind", "largest"), LISTINGS)
async def test_page_sizes_are_bounded(stubs: Stubs, kind: Any, largest: int) -> None:
    """0 is the default, the largest is accepted; negative and larger ones are refused."""
    for size in (-1, -(1 << 31), largest + 1, (1 << 31) - 1):
        assert_names(await refused(stubs.method(kind())(kind(page_size=size))), "page_size")
    for size in (0, largest):
        await stubs.method(kind())(kind(page_size=size))


@pytest.mark.parametrize(
    "request_",
    [
        recommendation_service_pb2.SimilarItemsRequest(item_id="space-00"),
        recommendation_service_pb2.SearchItemsRequest(query="space"),
    ],
    ids=["SimilarItems", "SearchItems"],
)
async def test_page_sizes_without_pages_are_bounded(stubs: Stubs, request_: Any) -> None:
    """As Recommend's: 0 means 10."""
    for size in (-1, 501):
        bad = type(request_)(page_size=size)
        bad.MergeFrom(request_)
        assert_names(await refused(stubs.method(bad)(bad)), "page_size")
    assert len((await stubs.method(request_)(request_)).results) == 10


@pytest.mark.parametrize(
    "token",
    ["x", "not a token", "é", "AAAA", "A" * 100_000, ConsistencyToken("default", 1).seal(), "=" * 8, "A" * 8 + "\n"],
    ids=["short", "spaces", "not ASCII", "too short", "long", "of another kind", "padding", "newline"],
)
@pytest.mark.parametrize("kind", [kind for kind, _ in LISTINGS])
async def test_a_malformed_page_token_is_refused(stubs: Stubs, kind: Any, token: str) -> None:
    """Whatever is not a page token of ours names `page_token`."""
    assert_names(await refused(stubs.method(kind())(kind(page_token=token))), "page_token")


@pytest.mark.parametrize(
    "token", [PageToken("other", 1, "home", ()).seal(), ListToken("a").seal()], ids=["other tenant", "listing"]
)
async def test_a_foreign_page_token_is_refused(stubs: Stubs, token: str) -> None:
    """A token of another tenant or of another listing says nothing here."""
    assert_names(await refused(stubs.recommendations.Recommend(recommend(page_token=token))), "page_token")


@pytest.mark.parametrize(
    "token", ["x", "é", PageToken("default", 1, "home", ()).seal(), ConsistencyToken("other", 1).seal()]
)
async def test_a_malformed_consistency_token_is_refused(stubs: Stubs, token: str) -> None:
    """On every method that takes one."""
    for request in (
        recommend(user_id="a", min_consistency_token=token),
        recommendation_service_pb2.ScoreItemsRequest(user_id="a", item_ids=["i"], min_consistency_token=token),
        recommendation_service_pb2.EmbedUserRequest(user_id="a", min_consistency_token=token),
        recommendation_service_pb2.SearchItemsRequest(query="x", user_id="a", min_consistency_token=token),
    ):
        assert_names(await refused(stubs.method(request)(request)), "min_consistency_token")


async def test_a_batch_of_requests_reports_the_bad_one_in_its_place(stubs: Stubs) -> None:
    """Each request of a batch stands alone."""
    batch = recommendation_service_pb2.BatchRecommendRequest(
        requests=[recommend(), recommend(page_size=-1), recommend(label="nobody"), recommend(user_id="ada")]
    )
    results = (await stubs.recommendations.BatchRecommend(batch)).results
    assert [result.WhichOneof("result") for result in results] == ["response", "error", "error", "response"]
    assert (results[1].error.code, results[1].error.field) == (INVALID_ARGUMENT.value[0], "page_size")
    assert results[2].error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert "nobody" in results[2].error.reason


async def test_a_batch_returns_no_more_whole_items_than_a_message_holds(stubs: Stubs) -> None:
    """It is refused before anything is made; ids alone may be as many as the requests allow."""
    requests = [recommend(page_size=500, return_items=True) for _ in range(10)]
    batch = recommendation_service_pb2.BatchRecommendRequest(requests=[*requests, recommend(page_size=500)])
    assert len((await stubs.recommendations.BatchRecommend(batch)).results) == 11
    for more in (recommend(return_items=True), recommend(page_size=1, return_items=True)):
        offset = recommend(page_size=-100, return_items=True)
        batch = recommendation_service_pb2.BatchRecommendRequest(requests=[*requests, more, offset])
        assert_names(await refused(stubs.recommendations.BatchRecommend(batch)), "requests")


# --- items

BAD_ITEMS = {
    "no id": (item_pb2.Item(), "item_id"),
    "long id": (item_pb2.Item(item_id=TOO_LONG), "item_id"),
    "long title": (item_pb2.Item(item_id="x", title="t" * 1025), "title"),
    "long description": (item_pb2.Item(item_id="x", description="d" * 16_385), "description"),
    "empty category": (item_pb2.Item(item_id="x", categories=["a", ""]), "categories[1]"),
    "65 categories": (item_pb2.Item(item_id="x", categories=names(65)), "categories"),
    "long attribute": (item_pb2.Item(item_id="x", attributes={"k": "v" * 1025}), "attributes[k]"),
    "NaN in its embedding": (item_pb2.Item(item_id="x", embedding=[float("nan")]), "embedding"),
    "long embedding": (item_pb2.Item(item_id="x", embedding=[0.0] * 4097), "embedding"),
    "impossible time": (item_pb2.Item(item_id="x", expire_time=Timestamp(nanos=-1)), "expire_time"),
    "twice": (item_pb2.Item(item_id="good"), "item_id"),
}


@pytest.mark.parametrize(("bad", "field"), BAD_ITEMS.values(), ids=BAD_ITEMS.keys())
async def test_a_bad_item_is_refused_by_field_and_its_neighbour_is_written(
    stubs: Stubs, bad: item_pb2.Item, field: str
) -> None:
    """The error names place, id, field and reason."""
    response = await stubs.catalog.UpsertItems(
        catalog_service_pb2.UpsertItemsRequest(items=[item_pb2.Item(item_id="good"), bad])
    )
    assert response.upserted_count == 1
    [error] = response.errors
    assert (error.index, error.field, error.code) == (1, field, INVALID_ARGUMENT.value[0])
    assert error.reason
    assert bad.item_id.startswith(error.item_id)


async def test_a_masked_update_of_an_unknown_item_is_not_found(stubs: Stubs) -> None:
    """There is nothing to change; known items beside it are changed."""
    response = await stubs.catalog.UpsertItems(
        catalog_service_pb2.UpsertItemsRequest(
            items=[item_pb2.Item(item_id="nobody-knows"), item_pb2.Item(item_id="crime-00", title="crime clue")],
            update_mask=FieldMask(paths=["title"]),
        )
    )
    assert response.upserted_count == 1
    [error] = response.errors
    assert (error.index, error.item_id, error.code) == (0, "nobody-knows", grpc.StatusCode.NOT_FOUND.value[0])


# --- what is asked for does not exist


async def test_an_unknown_category_matches_nothing_and_is_noticed(stubs: Stubs) -> None:
    """An empty slate, and a notice that says why."""
    answer = await stubs.recommendations.Recommend(filtered(categories=["cookery"]))
    assert not answer.results
    assert answer.notices == ["filter.categories: no item has the category 'cookery'"]


async def test_an_unknown_context_item_is_passed_over_and_noticed(stubs: Stubs) -> None:
    """The others count."""
    answer = await stubs.recommendations.Recommend(recommend(context_item_ids=["love-00", "nowhere"], page_size=3))
    assert {result.item_id.split("-")[0] for result in answer.results} == {"love"}
    assert answer.notices == ["context_item_ids[1]: no item 'nowhere'"]


@pytest.mark.parametrize(
    ("request_", "code", "word"),
    [
        (recommend(label="canary"), grpc.StatusCode.FAILED_PRECONDITION, "canary"),
        (recommend(generation=99), grpc.StatusCode.FAILED_PRECONDITION, "99"),
        (recommend(generation=(1 << 63) - 1), grpc.StatusCode.FAILED_PRECONDITION, "is not loaded"),
        (model_service_pb2.GetGenerationRequest(number=99), grpc.StatusCode.NOT_FOUND, "99"),
        (model_service_pb2.GetGenerationRequest(number=(1 << 63) - 1), grpc.StatusCode.NOT_FOUND, "no generation"),
        (model_service_pb2.SetLabelRequest(label="stable", generation=99), grpc.StatusCode.NOT_FOUND, "99"),
        (model_service_pb2.SetLabelRequest(label="stable", generation=0), grpc.StatusCode.NOT_FOUND, "0"),
        (
            model_service_pb2.SetLabelRequest(label="stable", generation=1, expected_generation=7),
            grpc.StatusCode.FAILED_PRECONDITION,
            "7",
        ),
        (model_service_pb2.RollbackRequest(), grpc.StatusCode.NOT_FOUND, "stable"),
        (model_service_pb2.RollbackRequest(label="canary"), grpc.StatusCode.NOT_FOUND, "canary"),
        (recommendation_service_pb2.SimilarItemsRequest(item_id="nowhere"), grpc.StatusCode.NOT_FOUND, "nowhere"),
    ],
)
async def test_what_does_not_exist_is_named(stubs: Stubs, request_: Any, code: grpc.StatusCode, word: str) -> None:
    """An unknown generation, label or item is answered with its status, and changes nothing."""
    refusal = await refused(stubs.method(request_)(request_))
    assert refusal.code is code
    assert word in refusal.message
    labels = (await stubs.models.GetGeneration(model_service_pb2.GetGenerationRequest())).generation.labels
    assert labels == ["stable"]


@pytest.mark.parametrize(
    "request_",
    [
        recommend(label="x" * 10_000),
        catalog_service_pb2.UpsertItemsRequest(
            items=[item_pb2.Item(item_id="i")], update_mask=FieldMask(paths=["x" * 10_000])
        ),
    ],
    ids=["label", "update_mask"],
)
async def test_a_refusal_repeats_little_of_what_was_sent(stubs: Stubs, request_: Any) -> None:
    """Enough to recognise it."""
    refusal = await refused(stubs.method(request_)(request_))
    assert "x" * 64 in refusal.message
    assert len(refusal.message) < 400


async def test_what_is_not_built_yet_says_so(stubs: Stubs) -> None:
    """UNIMPLEMENTED, in words of ours."""
    refusal = await refused(stubs.recommendations.Recommend(recommend(exploration=0.5)))
    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED
    assert "not built yet" in refusal.message


# --- streams


@pytest.mark.parametrize(
    ("second", "field"),
    [
        (event_service_pb2.StreamEventsRequest(sequence=5, events=[event("s")]), "sequence"),
        (event_service_pb2.StreamEventsRequest(sequence=4, events=[event("s")]), "sequence"),
        (event_service_pb2.StreamEventsRequest(sequence=6), "events"),
        (event_service_pb2.StreamEventsRequest(sequence=6, events=[event("s")] * 1001), "events"),
    ],
    ids=["same sequence", "lower sequence", "no events", "too many events"],
)
async def test_a_bad_batch_ends_its_stream_by_field(
    stubs: Stubs, second: event_service_pb2.StreamEventsRequest, field: str
) -> None:
    """The batch before it is committed and answered all the same."""
    first = event_service_pb2.StreamEventsRequest(sequence=5, events=[event("streamed-first")])
    call = stubs.events.StreamEvents(iter([first, second]))
    assert (await call.read()).sequence == 5  # type: ignore[attr-defined]
    refusal = await refused(call.read())
    assert refusal.code is INVALID_ARGUMENT
    assert refusal.message.startswith(f"{field}: ")


# --- bytes


@pytest.mark.parametrize("method", METHODS, ids=[method.full_name for method in METHODS])
async def test_undecodable_bytes_are_an_invalid_argument(
    server: HeadwaterServer, channel: Any, method: MethodDescriptor, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    """On every method, unary or streaming, health's too; grpc.aio would answer UNKNOWN and log a traceback."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    call: Awaitable[Any]
    if method.client_streaming:
        call = channel.stream_stream(path)(iter([b"\xff\xff\xff"])).read()
    elif method.server_streaming:
        call = channel.unary_stream(path)(b"\xff\xff\xff").read()
    else:
        call = channel.unary_unary(path)(b"\xff\xff\xff")
    assert_names(await refused(call), "request")
    await until(lambda: in_flight(server) == 0)
    assert not [record for record in caplog.records if record.exc_info]


async def test_text_that_is_not_utf_8_is_an_invalid_argument(channel: Any) -> None:
    """A well-formed message with a broken string is no message either."""
    refusal = await refused(channel.unary_unary("/headwater.v1.RecommendationService/Recommend")(b"\x0a\x02\xff\xfe"))
    assert_names(refusal, "request")


async def test_a_message_over_16_mib_is_refused(server: HeadwaterServer, stubs: Stubs, until: Until) -> None:
    """RESOURCE_EXHAUSTED, before it is decoded; one of 5 MiB, over gRPC's own default, is taken."""
    attributes = {f"{number:02}": "x" * 1000 for number in range(60)}
    too_many = [event(f"large-{number}", attributes=attributes) for number in range(300)]
    refusal = await refused(write(stubs, *too_many))
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    response = await write(stubs, *too_many[:90])
    assert {result.outcome for result in response.results} == {event_pb2.EVENT_OUTCOME_ACCEPTED}
    await until(lambda: in_flight(server) == 0)


# --- callers who leave


@pytest.fixture
def locked_database(server: HeadwaterServer) -> Iterable[sqlite3.Connection]:
    """Another process's write transaction: writes wait until it ends."""
    with closing(sqlite3.connect(str(server.rooms.database.url.database))) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


async def test_a_cancelled_call_gives_its_place_back(
    server: HeadwaterServer, stubs: Stubs, locked_database: sqlite3.Connection, until: Until
) -> None:
    """The caller leaves while its commit waits: the place is free at once, and the next write is served."""
    request = event_service_pb2.WriteEventsRequest(events=[event("cancelled", user_id="leaver")])
    call = stubs.events.WriteEvents(request)
    await until(lambda: in_flight(server) == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: in_flight(server) == 0)
    locked_database.rollback()
    response = await write(stubs, event("after-cancelled", user_id="leaver"))
    assert response.results[0].outcome == event_pb2.EVENT_OUTCOME_ACCEPTED
    retried = await write(stubs, *request.events)  # what was sent may be committed or not: sending it again is harmless
    assert retried.results[0].outcome in (event_pb2.EVENT_OUTCOME_ACCEPTED, event_pb2.EVENT_OUTCOME_DUPLICATE)


async def test_an_expired_deadline_gives_its_place_back(
    server: HeadwaterServer, stubs: Stubs, locked_database: sqlite3.Connection, until: Until
) -> None:
    """DEADLINE_EXCEEDED for the caller, and a healthy server."""
    request = event_service_pb2.WriteEventsRequest(events=[event("expired")])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.events.WriteEvents(request, timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: in_flight(server) == 0)
    locked_database.rollback()
    answer = await stubs.recommendations.Recommend(recommend(user_id="ada"))
    assert answer.results


async def test_a_cancelled_stream_gives_its_place_back(server: HeadwaterServer, stubs: Stubs, until: Until) -> None:
    """A watcher and a writer who leave in the middle of their streams."""

    def streams() -> float | None:
        return server.rooms.metrics.registry.get_sample_value("headwater_streams_open")

    watch = stubs.models.WatchGenerations(model_service_pb2.WatchGenerationsRequest())
    writing = stubs.events.StreamEvents()
    await writing.write(event_service_pb2.StreamEventsRequest(sequence=1, events=[event("half-streamed")]))
    assert (await writing.read()).committed == 1  # type: ignore[attr-defined]
    assert (await watch.read()).generation.number == 1  # type: ignore[attr-defined]
    await until(lambda: streams() == 2)
    assert in_flight(server) == 0  # both wait for something: neither takes a place from calls
    watch.cancel()
    writing.cancel()
    await until(lambda: streams() == 0)
