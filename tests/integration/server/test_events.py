"""The event service: streams, listings, types and erasures of single events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as pb
from headwater.v1 import recommendation_service_pb2 as recommend_pb
from headwater_core import event_types
from headwater_core.events import BUILT_IN_EVENT_TYPES, Event
from headwater_server import convert

if TYPE_CHECKING:
    from headwater.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceAsyncStub


def event(event_id: str, **changes: Any) -> event_pb2.Event:
    return event_pb2.Event(
        **{"event_id": event_id, "event_type": "click", "user_id": "ada", "item_id": "space-00", **changes}
    )


def refusals(response: pb.WriteEventsResponse) -> list[str]:
    """The field at fault of each result; "" for those that are committed."""
    return [result.error.field for result in response.results]


async def test_a_stream_is_answered_batch_by_batch_after_each_commit(events: EventServiceAsyncStub) -> None:
    """Each answer carries its sequence, what is committed, what is refused and a token."""
    stream = events.StreamEvents()
    await stream.write(pb.StreamEventsRequest(sequence=7, events=[event("1"), event("2", item_id=""), event("3")]))
    first = await stream.read()
    assert isinstance(first, pb.StreamEventsResponse)
    assert (first.sequence, first.committed) == (7, 2)
    assert [(error.index, error.event_id, error.field) for error in first.errors] == [(1, "2", "item_id")]
    assert first.consistency_token
    listed = await events.ListEvents(pb.ListEventsRequest())
    assert [stored.event.event_id for stored in listed.events] == ["1", "3"]
    await stream.write(pb.StreamEventsRequest(sequence=70, events=[event("4")]))
    second = await stream.read()
    assert isinstance(second, pb.StreamEventsResponse)
    assert (second.sequence, second.committed) == (70, 1)
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def test_a_stored_event_is_listed_as_it_was_sent(events: EventServiceAsyncStub) -> None:
    """Every field comes back; a missing time is the time of receipt."""
    sent = event(
        "full",
        visitor_id="cookie",
        session_id="visit",
        query="rocket",
        value=2.5,
        event_time=Timestamp(seconds=1_000_000_000, nanos=5_000),
        attribution_token="token",
        position=3,
        attributes={"a": "b"},
    )
    await events.WriteEvents(pb.WriteEventsRequest(events=[sent, event("bare")]))
    full, bare = (await events.ListEvents(pb.ListEventsRequest())).events
    assert full.event == sent
    assert (full.log_position, bare.log_position) == (1, 2)
    assert bare.event.event_time == bare.received_time
    assert not bare.event.HasField("value")
    assert not bare.event.HasField("position")


async def test_events_are_listed_page_by_page(events: EventServiceAsyncStub) -> None:
    """In the order of their positions, none twice, and the last page has no token."""
    await events.WriteEvents(pb.WriteEventsRequest(events=[event(str(number)) for number in range(25)]))
    seen: list[str] = []
    sizes: list[int] = []
    token = ""
    for _ in range(3):
        page = await events.ListEvents(pb.ListEventsRequest(page_size=10, page_token=token))
        seen += [stored.event.event_id for stored in page.events]
        sizes.append(len(page.events))
        token = page.next_page_token
    assert (sizes, token) == ([10, 10, 5], "")
    assert seen == [str(number) for number in range(25)]


async def test_listings_are_narrowed_by_every_condition(events: EventServiceAsyncStub) -> None:
    """User (linked visitors included), visitor, item, types and time, alone and together."""
    await events.WriteEvents(
        pb.WriteEventsRequest(
            events=[
                event("a", event_time=Timestamp(seconds=100)),
                event("b", event_time=Timestamp(seconds=200), item_id="love-00", event_type="like"),
                event("c", event_time=Timestamp(seconds=300), user_id="bob"),
                event("d", event_time=Timestamp(seconds=400), user_id="", visitor_id="cookie"),
                event("e", event_time=Timestamp(seconds=500), user_id="bob", visitor_id="cookie"),
            ]
        )
    )
    for request, expected in (
        (pb.ListEventsRequest(user_id="ada"), "ab"),
        (pb.ListEventsRequest(user_id="bob"), "cde"),
        (pb.ListEventsRequest(visitor_id="cookie"), "d"),
        (pb.ListEventsRequest(item_id="love-00"), "b"),
        (pb.ListEventsRequest(event_types=["like", "nothing"]), "b"),
        (pb.ListEventsRequest(event_time_from=Timestamp(seconds=200), event_time_to=Timestamp(seconds=400)), "bc"),
        (pb.ListEventsRequest(user_id="ada", item_id="space-00"), "a"),
        (pb.ListEventsRequest(user_id="nobody"), ""),
    ):
        listed = await events.ListEvents(request)
        assert "".join(stored.event.event_id for stored in listed.events) == expected


async def test_a_type_of_ones_own_is_accepted_once_registered(events: EventServiceAsyncStub) -> None:
    """Refused before, bounded as registered after, and listed with the others."""
    listened = event("1", event_type="listen", value=5.0)
    assert refusals(await events.WriteEvents(pb.WriteEventsRequest(events=[listened]))) == ["event_type"]
    registered = await events.UpsertEventTypes(
        pb.UpsertEventTypesRequest(event_types=[event_pb2.EventType(name="listen", value_max=10.0)])
    )
    [listen] = registered.event_types
    assert (listen.weight, listen.in_history, listen.is_target, listen.value_max) == (1.0, True, True, 10.0)
    too_much = event("2", event_type="listen", value=11.0)
    assert refusals(await events.WriteEvents(pb.WriteEventsRequest(events=[listened, too_much]))) == ["", "value"]
    names: list[str] = []
    token = ""
    for _ in range(2):
        page = await events.ListEventTypes(pb.ListEventTypesRequest(page_size=10, page_token=token))
        names += [event_type.name for event_type in page.event_types]
        token = page.next_page_token
    assert (len(names), names, token) == (16, sorted(names), "")
    assert "listen" in names


async def test_a_built_in_type_can_be_changed(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """A type taken out of histories does not count as seen any more."""
    await events.UpsertEventTypes(
        pb.UpsertEventTypesRequest(event_types=[event_pb2.EventType(name="view", in_history=False)])
    )
    await events.WriteEvents(pb.WriteEventsRequest(events=[event("1", event_type="view")]))
    embedded = await recommendations.EmbedUser(recommend_pb.EmbedUserRequest(user_id="ada"))
    assert embedded.history_length == 0


async def test_a_backfill_registers_the_types_it_meets(events: EventServiceAsyncStub) -> None:
    """From then on they are known to every writer."""
    imported = event("1", event_type="listen", event_time=Timestamp(seconds=820_000_000))
    response = await events.WriteEvents(pb.WriteEventsRequest(events=[imported], backfill=True))
    assert refusals(response) == [""]
    assert refusals(await events.WriteEvents(pb.WriteEventsRequest(events=[event("2", event_type="listen")]))) == [""]


async def test_a_backfill_of_too_many_types_loses_only_their_events(
    events: EventServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Types are registered while there is room; events of the others are refused one by one, the rest is written."""
    monkeypatch.setattr(event_types, "MAX_TYPES", len(BUILT_IN_EVENT_TYPES) + 2)
    imported = [event(str(number), event_type=f"type-{number}") for number in range(4)]
    response = await events.WriteEvents(pb.WriteEventsRequest(events=[*imported, event("like")], backfill=True))
    assert refusals(response) == ["", "", "event_type", "event_type", ""]
    again = await events.WriteEvents(pb.WriteEventsRequest(events=imported[1:], backfill=True))
    assert refusals(again) == ["", "event_type", "event_type"]


async def test_a_large_batch_lets_other_calls_go_on_while_it_is_checked(
    events: EventServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing on the event loop waits for ten thousand checks in a row."""
    turns = checked_in_a_row = longest = 0
    convert_event = convert.to_event

    def to_event(message: event_pb2.Event, *, backfill: bool = False) -> Event:
        nonlocal checked_in_a_row, longest, turns
        if turns:
            turns = checked_in_a_row = 0
        checked_in_a_row += 1
        longest = max(longest, checked_in_a_row)
        asyncio.get_running_loop().call_soon(others)
        return convert_event(message, backfill=backfill)

    def others() -> None:
        nonlocal turns
        turns += 1

    monkeypatch.setattr(convert, "to_event", to_event)
    many = [event(str(number)) for number in range(2_500)]
    response = await events.WriteEvents(pb.WriteEventsRequest(events=many))
    assert len(response.results) == len(many)
    assert longest <= 250


async def test_a_deleted_event_is_gone_from_log_and_history(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """The next answer is as if it had never been; its id stays used, unknown ids are ignored."""
    await events.WriteEvents(pb.WriteEventsRequest(events=[event("1"), event("2", item_id="love-00")]))
    request = recommend_pb.RecommendRequest(user_id="ada", page_size=500)
    before = await recommendations.Recommend(request)
    assert "love-00" not in [result.item_id for result in before.results]
    deleted = await events.DeleteEvents(pb.DeleteEventsRequest(event_ids=["2", "unknown"]))
    assert deleted.deleted_count == 1
    after = await recommendations.Recommend(request)
    assert "love-00" in [result.item_id for result in after.results]
    assert after.results[0].item_id.startswith("space")
    listed = await events.ListEvents(pb.ListEventsRequest())
    assert [stored.event.event_id for stored in listed.events] == ["1"]
    again = await events.WriteEvents(pb.WriteEventsRequest(events=[event("2", item_id="crime-00")]))
    assert refusals(again) == ["event_id"]
