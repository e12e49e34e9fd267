"""Two servers over one database: what one was told, the other knows."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc
import pytest

from headwater.v1 import catalog_service_pb2 as catalog_pb
from headwater.v1 import event_pb2, item_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1 import user_service_pb2 as users_pb
from headwater.v1.catalog_service_pb2_grpc import CatalogServiceStub
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater.v1.user_service_pb2_grpc import UserServiceStub
from headwater_core.database import advance
from headwater_core.errors import DatabaseUnavailableError
from headwater_core.events import Subject, SubjectKind
from headwater_core.feedback_log import ErasureRecord, FeedbackLog
from headwater_core.impressions import ImpressionLog
from headwater_core.log_pruning import LogPruning
from headwater_core.outcomes import OFFSET
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings
from headwater_server.tokens import ConsistencyToken

Until = Callable[[Callable[[], bool]], Awaitable[None]]
NEVER_MS = 3_600_000
_numbers = itertools.count()


class Pair(NamedTuple):
    """Two servers; the second one looks at the log only when a test says so."""

    first: HeadwaterServer
    second: HeadwaterServer
    to_first: grpc.aio.Channel
    to_second: grpc.aio.Channel

    async def write(self, *events: event_pb2.Event) -> str:
        """Write to the first; the token."""
        response = await EventServiceStub(self.to_first).WriteEvents(events_pb.WriteEventsRequest(events=events))
        assert {result.outcome for result in response.results} == {event_pb2.EVENT_OUTCOME_ACCEPTED}
        return response.consistency_token

    async def history_length(self, min_consistency_token: str = "", **subject: Any) -> int:
        """How many events the second knows of."""
        request = pb.EmbedUserRequest(min_consistency_token=min_consistency_token, **subject)
        return (await RecommendationServiceStub(self.to_second).EmbedUser(request)).history_length


@pytest.fixture
async def pair(
    settings: ServerSettings,
    start_server: Callable[..., Awaitable[HeadwaterServer]],
    connect: Callable[[HeadwaterServer], grpc.aio.Channel],
) -> Pair:
    first = await start_server(settings)
    second = await start_server(settings, tail_interval_ms=NEVER_MS)
    return Pair(first, second, connect(first), connect(second))


def event(item_id: str, **changes: Any) -> event_pb2.Event:
    number = next(_numbers)
    return event_pb2.Event(
        **{"event_id": f"e{number}", "event_type": "like", "user_id": "ada", "item_id": item_id, **changes}
    )


async def test_a_token_makes_another_server_read_what_it_has_not_followed_yet(pair: Pair) -> None:
    """Without the token an old answer, with it the event counts: at once, and from then on."""
    await pair.write(event("space-00"))
    assert await pair.history_length(user_id="ada") == 1
    token = await pair.write(event("love-00"))
    assert await pair.history_length(user_id="ada") == 1
    assert await pair.history_length(token, user_id="ada") == 2
    assert await pair.history_length(user_id="ada") == 2
    request = pb.RecommendRequest(user_id="ada", min_consistency_token=token, page_size=5)
    slate = await RecommendationServiceStub(pair.to_second).Recommend(request)
    assert {result.item_id.split("-")[0] for result in slate.results} == {"love"}
    await asyncio.wait_for(pair.second.rooms.follow(), 60)
    assert await pair.history_length(user_id="ada") == 2


async def test_a_token_brings_the_link_of_a_visitor_too(pair: Pair) -> None:
    """The visitor's answer on the other server has the history of the user it turned out to be."""
    await pair.write(event("space-00"), event("love-00", user_id="", visitor_id="cookie"))
    assert await pair.history_length(visitor_id="cookie") == 1
    token = await pair.write(event("crime-00", visitor_id="cookie"))
    assert await pair.history_length(token, visitor_id="cookie") == 3
    assert await pair.history_length(token, user_id="ada") == 3
    await asyncio.wait_for(pair.second.rooms.follow(), 60)
    assert await pair.history_length(visitor_id="cookie") == 3


async def test_a_duplicate_covers_its_original_wherever_that_was_written(pair: Pair) -> None:
    """A retry that reaches the other server is acknowledged there, so the event is in its next answer."""
    assert await pair.history_length(user_id="ada") == 0
    liked = event("space-00")
    await pair.write(liked)
    retry = await EventServiceStub(pair.to_second).WriteEvents(events_pb.WriteEventsRequest(events=[liked]))
    assert retry.results[0].outcome == event_pb2.EVENT_OUTCOME_DUPLICATE
    assert await pair.history_length(user_id="ada") == 1


async def test_a_write_brings_what_others_wrote_before_it(pair: Pair) -> None:
    """Events are applied in log order, none left out."""
    await pair.write(event("space-00"), event("space-01"))
    await EventServiceStub(pair.to_second).WriteEvents(events_pb.WriteEventsRequest(events=[event("space-02")]))
    assert await pair.history_length(user_id="ada") == 3
    assert pair.second.rooms.log_tail.position == 3


async def test_a_token_from_the_future_is_never_answered_degraded(pair: Pair) -> None:
    """A position that the database does not have (yet): UNAVAILABLE, with a hint when to try again."""
    token = ConsistencyToken("default", 1000).seal()
    request = pb.RecommendRequest(user_id="ada", min_consistency_token=token)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await RecommendationServiceStub(pair.to_second).Recommend(request)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]


async def test_servers_go_on_with_a_pruned_log(
    pair: Pair,
    settings: ServerSettings,
    start_server: Callable[..., Awaitable[HeadwaterServer]],
    connect: Callable[[HeadwaterServer], grpc.aio.Channel],
    until: Until,
) -> None:
    """One that runs, one that is behind and one that starts later: positions go on, histories hold what is kept."""
    await pair.write(*(event(f"space-{number:02}") for number in range(4)))
    database = pair.first.rooms.database
    # A generation that has learned three of them, and attribution that has read them, alone on record.
    rooms = pair.first.rooms
    with database.write() as connection:
        advance(connection, "default", OFFSET, 3)
        connection.exec_driver_sql("UPDATE generations SET watermark = 3")
    assert LogPruning(database).prune(rooms.now_us(), 10, rooms.now_us()) == 3
    third = Pair(pair.first, await start_server(settings), pair.to_first, None)  # type: ignore[arg-type]
    third = third._replace(to_second=connect(third.second))
    token = await pair.write(event("love-00"))
    assert await third.history_length(token, user_id="ada") == 2
    assert await pair.history_length(token, user_id="ada") == 2
    assert pair.second.rooms.log_tail.position in (0, 5)
    await asyncio.wait_for(pair.second.rooms.follow(), 60)
    await until(lambda: pair.second.rooms.log_tail.position == third.second.rooms.log_tail.position == 5)
    request = pb.RecommendRequest(user_id="ada", min_consistency_token=token, page_size=5)
    for channel in (pair.to_first, pair.to_second, third.to_second):
        assert len((await RecommendationServiceStub(channel).Recommend(request)).results) == 5


async def test_the_log_is_followed_in_the_background(
    settings: ServerSettings,
    start_server: Callable[..., Awaitable[HeadwaterServer]],
    connect: Callable[[HeadwaterServer], grpc.aio.Channel],
    until: Until,
) -> None:
    """With its ordinary settings a server hears of events and items without being asked."""
    first, second = await start_server(settings), await start_server(settings)
    channel = connect(first)
    await EventServiceStub(channel).WriteEvents(events_pb.WriteEventsRequest(events=[event("space-00")]))
    item = item_pb2.Item(item_id="new", title="space ship")
    await CatalogServiceStub(channel).UpsertItems(catalog_pb.UpsertItemsRequest(items=[item]))

    stable = second.rooms.generations.stable
    assert stable is not None
    await until(lambda: second.rooms.log_tail.position == 1 and stable.items.row("new") is not None)


async def test_a_new_item_and_a_hidden_one_reach_the_other_server(pair: Pair) -> None:
    """Its next look at the catalogue brings the change, the features were stored by the first."""
    catalog = CatalogServiceStub(pair.to_first)
    new = item_pb2.Item(item_id="new", title="love kiss", description="love " * 6)
    await catalog.UpsertItems(catalog_pb.UpsertItemsRequest(items=[new]))
    await catalog.SetAvailability(catalog_pb.SetAvailabilityRequest(item_ids=["love-01"]))
    await asyncio.wait_for(pair.second.rooms.follow(), 60)
    similar = await RecommendationServiceStub(pair.to_second).SimilarItems(
        pb.SimilarItemsRequest(item_id="love-00", page_size=20)
    )
    shown = [result.item_id for result in similar.results]
    assert "new" in shown
    assert "love-01" not in shown


async def test_many_erasures_are_followed_at_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pages they fill; the links are read once."""
    names = ("ada", "bob", "eve")
    await pair.write(*(event("space-00", user_id=name) for name in names))
    await asyncio.wait_for(pair.second.rooms.follow(), 60)
    for name in names:
        assert await pair.history_length(user_id=name) == 1
        await UserServiceStub(pair.to_first).DeleteUser(users_pb.DeleteUserRequest(user_id=name))
    log = pair.second.rooms.log
    reads: list[str] = []
    erasures_after, links = log.erasures_after, log.links

    def one_erasure_after(number: int) -> list[ErasureRecord]:
        reads.append("erasures")
        return erasures_after(number, 1)

    def read_links() -> dict[str, str]:
        reads.append("links")
        return links()

    monkeypatch.setattr(log, "erasures_after", one_erasure_after)
    monkeypatch.setattr(log, "links", read_links)
    await asyncio.wait_for(pair.second.rooms.follow(), 60)
    assert reads == ["erasures"] * 4 + ["links"]
    for name in names:
        assert await pair.history_length(user_id=name) == 0


async def test_a_deleted_user_is_gone_everywhere(pair: Pair) -> None:
    """Events, linked visitors' too, impressions, states and links: on both servers, and in the database."""
    await pair.write(
        event("space-00"),
        event("love-00", user_id="", visitor_id="cookie"),
        event("love-01", visitor_id="cookie"),
        event("crime-00", user_id="bob"),
    )
    await asyncio.wait_for(pair.second.rooms.follow(), 60)
    recommend = (
        pb.RecommendRequest(user_id="ada"),
        pb.RecommendRequest(visitor_id="cookie"),
        pb.RecommendRequest(user_id="bob"),
    )
    for channel in (pair.to_first, pair.to_second):
        for request in recommend:
            await RecommendationServiceStub(channel).Recommend(request)
    await asyncio.wait_for(pair.second.rooms.impression_writer.flush(), 60)
    users = UserServiceStub(pair.to_first)
    profile = await users.GetProfile(users_pb.GetProfileRequest(visitor_id="cookie"))
    assert dict(profile.event_counts) == {"like": 3}
    assert profile.recent_events[0].item_id == "love-01"
    assert {interest.category for interest in profile.interests} == {"space", "love"}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await users.DeleteUser(users_pb.DeleteUserRequest(visitor_id="cookie"))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION

    erased = await users.DeleteUser(users_pb.DeleteUserRequest(user_id="ada"))
    assert (erased.events_deleted, list(erased.linked_visitor_ids)) == (3, ["cookie"])
    assert erased.impressions_deleted == 4  # two servers showed a slate to the user and one to the visitor
    assert erased.first_clean_generation == 2
    await asyncio.wait_for(pair.second.rooms.follow(), 60)
    for channel in (pair.to_first, pair.to_second):
        listed = await EventServiceStub(channel).ListEvents(events_pb.ListEventsRequest())
        assert [stored.event.user_id for stored in listed.events] == ["bob"]
        for embed in (pb.EmbedUserRequest(user_id="ada"), pb.EmbedUserRequest(visitor_id="cookie")):
            embedded = await RecommendationServiceStub(channel).EmbedUser(embed)
            assert embedded.history_length == 0
    assert users_pb.GetProfileResponse() == await users.GetProfile(users_pb.GetProfileRequest(user_id="ada"))
    assert ImpressionLog(pair.first.rooms.database).count() == 2
    # The visitor is nobody's now: what it does is its own again, on both servers.
    await pair.write(event("space-05", user_id="", visitor_id="cookie"))
    await asyncio.wait_for(pair.second.rooms.follow(), 60)
    assert await pair.history_length(visitor_id="cookie") == 1
    assert await pair.history_length(user_id="ada") == 0


def shared_device() -> list[event_pb2.Event]:
    """Ada's first and Bob's now, and somebody used it since."""
    return [
        event("space-00"),
        event("space-01", visitor_id="device"),
        event("love-00", event_id="links-bob", user_id="bob", visitor_id="device"),
        event("love-01", user_id="", visitor_id="device"),
    ]


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_server_that_starts_after_an_erasure_knows_whose_a_visitor_is(
    pair: Pair,
    settings: ServerSettings,
    start_server: Callable[..., Awaitable[HeadwaterServer]],
    connect: Callable[[HeadwaterServer], grpc.aio.Channel],
    is_whole: bool,
) -> None:
    """Whether the user is gone or the one event that named both: an older link, still in the log, does not count."""
    await pair.write(*shared_device())
    if is_whole:
        await UserServiceStub(pair.to_first).DeleteUser(users_pb.DeleteUserRequest(user_id="bob"))
    else:
        stub = EventServiceStub(pair.to_first)
        await stub.DeleteEvents(events_pb.DeleteEventsRequest(event_ids=["links-bob"]))
    third = await start_server(settings, tail_interval_ms=NEVER_MS)
    restarted = pair._replace(second=third, to_second=connect(third))
    assert await restarted.history_length(user_id="ada") == 2
    assert await restarted.history_length(visitor_id="device") == (0 if is_whole else 1)
    await pair.write(event("crime-00", user_id="", visitor_id="device"))
    await asyncio.wait_for(third.rooms.follow(), 60)
    assert await restarted.history_length(user_id="ada") == 2
    assert await restarted.history_length(visitor_id="device") == (1 if is_whole else 2)


async def test_an_erasure_while_a_server_starts_is_followed(
    pair: Pair,
    settings: ServerSettings,
    start_server: Callable[..., Awaitable[HeadwaterServer]],
    connect: Callable[[HeadwaterServer], grpc.aio.Channel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though it has read the links already."""
    await pair.write(*shared_device())
    links = FeedbackLog.links

    def read_links(log: FeedbackLog) -> dict[str, str]:
        found = links(log)
        monkeypatch.undo()  # once: other servers read them for this very erasure
        log.delete_subject(Subject(SubjectKind.USER, "bob"))
        return found

    monkeypatch.setattr(FeedbackLog, "links", read_links)
    third = await start_server(settings, tail_interval_ms=NEVER_MS)
    await pair.write(event("crime-00", user_id="", visitor_id="device"))
    await asyncio.wait_for(third.rooms.follow(), 60)
    assert await pair._replace(to_second=connect(third)).history_length(visitor_id="device") == 1


async def test_links_that_an_erasure_undid_are_not_read_from_the_log_after_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events and an erasure that come while a server looks, after the events and before the erasures are read."""
    tail = pair.second.rooms.catalogue_tail
    catch_up = tail.catch_up

    async def write_and_erase() -> None:
        await pair.write(*shared_device())
        await UserServiceStub(pair.to_first).DeleteUser(users_pb.DeleteUserRequest(user_id="bob"))
        await catch_up()

    with monkeypatch.context() as patched:
        patched.setattr(tail, "catch_up", write_and_erase)
        await asyncio.wait_for(pair.second.rooms.follow(), 60)
    await asyncio.wait_for(pair.second.rooms.follow(), 60)
    assert await pair.history_length(visitor_id="device") == 0


async def test_an_erasure_is_followed_to_its_end_when_the_database_is_back(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went away before the links were read."""
    await pair.write(*shared_device())
    await asyncio.wait_for(pair.second.rooms.follow(), 60)
    await UserServiceStub(pair.to_first).DeleteUser(users_pb.DeleteUserRequest(user_id="bob"))

    def away() -> dict[str, str]:
        raise DatabaseUnavailableError("away")

    with monkeypatch.context() as patched:
        patched.setattr(pair.second.rooms.log, "links", away)
        with pytest.raises(DatabaseUnavailableError):
            await asyncio.wait_for(pair.second.rooms.follow(), 60)
    await pair.write(event("crime-00", user_id="", visitor_id="device"))
    await asyncio.wait_for(pair.second.rooms.follow(), 60)
    assert await pair.history_length(visitor_id="device") == 1


async def register(pair: Pair, name: str, *, in_history: bool) -> None:
    kind = event_pb2.EventType(name=name, weight=1.0, in_history=in_history, is_target=True)
    request = events_pb.UpsertEventTypesRequest(event_types=[kind])
    await EventServiceStub(pair.to_first).UpsertEventTypes(request)


async def test_an_event_of_a_type_that_the_other_server_has_not_heard_of_counts(pair: Pair) -> None:
    """A write makes the other one read the log before it reads the types."""
    await pair.write(event("space-00"))
    await asyncio.wait_for(pair.second.rooms.follow(), 60)
    assert await pair.history_length(user_id="ada") == 1
    await register(pair, "play", in_history=True)
    token = await pair.write(event("love-00", event_type="play"))
    stub = EventServiceStub(pair.to_second)
    await stub.WriteEvents(events_pb.WriteEventsRequest(events=[event("crime-00", user_id="bob")]))
    assert "play" not in pair.second.rooms.event_types
    assert await pair.history_length(token, user_id="ada") == 2
    await asyncio.wait_for(pair.second.rooms.follow(), 60)
    assert await pair.history_length(user_id="ada") == 2


async def test_servers_agree_which_types_are_part_of_histories(pair: Pair) -> None:
    """A type that is taken out, or put back, is so in the histories that are in memory, too."""
    await pair.write(event("space-00"), event("love-00", event_type="view"))
    await asyncio.wait_for(pair.second.rooms.follow(), 60)
    assert await pair.history_length(user_id="ada") == 2
    to_both = (pair, pair._replace(to_second=pair.to_first))
    for in_history in (False, True):
        await register(pair, "view", in_history=in_history)
        await asyncio.wait_for(pair.second.rooms.follow(), 60)
        assert [await each.history_length(user_id="ada") for each in to_both] == [1 + in_history] * 2
