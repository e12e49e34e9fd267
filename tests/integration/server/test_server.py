"""The server as a whole: health, reflection, metrics, overload, a lost database, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from headwater.v1 import catalog_service_pb2 as catalog_pb
from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import model_service_pb2 as models_pb
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater.v1.model_service_pb2_grpc import ModelServiceStub
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater_core.database import Database
from headwater_core.errors import ConfigurationError, DatabaseUnavailableError
from headwater_core.impressions import ImpressionLog
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings
from headwater_server.tokens import ConsistencyToken

if TYPE_CHECKING:
    from headwater.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from headwater.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceAsyncStub

SERVICES = [f"headwater.v1.{name}Service" for name in ("Recommendation", "Event", "Catalog", "User", "Model")]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
StartServer = Callable[..., Awaitable[HeadwaterServer]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]
Connect = Callable[[HeadwaterServer], grpc.aio.Channel]


def like(event_id: str, user_id: str = "ada", item_id: str = "space-00") -> events_pb.WriteEventsRequest:
    event = event_pb2.Event(event_id=event_id, event_type="like", user_id=user_id, item_id=item_id)
    return events_pb.WriteEventsRequest(events=[event])


# --- health and reflection


async def test_health_follows_the_generation(
    start_server: StartServer, connect: Connect, empty_settings: ServerSettings, publish: Callable[..., int]
) -> None:
    """Events are taken from the start; recommendations, and the server overall, serve with the first generation."""
    channel = connect(await start_server(empty_settings))
    health = health_pb2_grpc.HealthStub(channel)
    overall = health.Watch(health_pb2.HealthCheckRequest())

    async def check() -> dict[str, int]:
        return {name: (await health.Check(health_pb2.HealthCheckRequest(service=name))).status for name in SERVICES}

    assert (await asyncio.wait_for(overall.read(), 20)).status == NOT_SERVING
    before = await check()
    assert before.pop(SERVICES[0]) == NOT_SERVING
    assert set(before.values()) == {SERVING}
    publish(empty_settings)
    assert (await asyncio.wait_for(overall.read(), 20)).status == SERVING
    assert set((await check()).values()) == {SERVING}
    overall.cancel()


async def test_a_server_with_a_generation_is_healthy_from_its_first_answer(channel: grpc.aio.Channel) -> None:
    """It is warm before the port answers; services that do not exist are NOT_FOUND."""
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", *SERVICES):
        assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="headwater.v1.NoService"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_tells_the_contract(channel: grpc.aio.Channel) -> None:
    """Every service is listed, and its file can be fetched."""
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
        iter(
            [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICES[0]),
            ]
        )
    )
    listed, file = [response async for response in call]
    assert {*SERVICES, "grpc.health.v1.Health"} <= {each.name for each in listed.list_services_response.service}
    files = [FileDescriptorProto.FromString(each).name for each in file.file_descriptor_response.file_descriptor_proto]
    assert "headwater/v1/recommendation_service.proto" in files


# --- metrics


async def test_metrics_count_calls_and_name_nobody(
    server: HeadwaterServer, events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """The page has what an operator watches, and no id of a user, an item or an event."""
    await events.WriteEvents(like("secret-event", "secret-user"))
    await recommendations.Recommend(pb.RecommendRequest(user_id="secret-user"))
    with pytest.raises(grpc.aio.AioRpcError):
        await recommendations.Recommend(pb.RecommendRequest(page_size=-1))
    await asyncio.wait_for(server.rooms.follow(), 20)

    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=20) as page:
            return str(page.read(), "utf-8")

    page = await asyncio.to_thread(read)
    for line in (
        'headwater_calls_total{code="OK",method="WriteEvents"} 1.0',
        'headwater_calls_total{code="OK",method="Recommend"} 1.0',
        'headwater_calls_total{code="INVALID_ARGUMENT",method="Recommend"} 1.0',
        'headwater_events_total{outcome="accepted"} 1.0',
        'headwater_generation{label="stable"} 1.0',
        "headwater_log_position 1.0",
        "headwater_calls_in_flight 0.0",
        "headwater_user_states 1.0",
        "headwater_swaps_total 1.0",
    ):
        assert line in page
    assert "secret" not in page
    assert "space-0" not in page


# --- too many calls


async def test_calls_over_the_limit_are_refused_with_a_hint(
    start_server: StartServer, connect: Connect, settings: ServerSettings
) -> None:
    """RESOURCE_EXHAUSTED, pushback and RetryInfo; a place that is given back is given out again."""
    server = await start_server(settings, max_in_flight=1, retry_after_ms=1250)
    channel = connect(server)
    watch = ModelServiceStub(channel).WatchGenerations(models_pb.WatchGenerationsRequest())
    await asyncio.wait_for(watch.read(), 20)
    recommendations = RecommendationServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await recommendations.Recommend(pb.RecommendRequest())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1250"
    status = rpc_status.from_call(caught.value)
    assert status is not None
    hint = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(hint)
    assert (hint.retry_delay.seconds, hint.retry_delay.nanos) == (1, 250_000_000)
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == SERVING  # health is asked for under any load
    watch.cancel()

    async def ask() -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await recommendations.Recommend(pb.RecommendRequest())
            return
        await ask()

    await asyncio.wait_for(ask(), 20)


# --- the database goes away


@contextlib.contextmanager
def without_database(server: HeadwaterServer) -> Iterator[None]:
    """Take the database's folder away and close the connections to it, so that new ones fail."""
    folder = Path(str(server.rooms.database.url.database)).parent
    away = folder.with_name("away")
    folder.rename(away)
    server.rooms.database.close()
    try:
        yield
    finally:
        away.rename(folder)


@pytest.mark.faults
async def test_without_its_database_a_server_answers_from_memory(
    server: HeadwaterServer, events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Known users' slates stay, strangers' are popular and say degraded, writes are UNAVAILABLE; then all is back."""
    await events.WriteEvents(like("1"))
    await events.WriteEvents(like("2", "bob", "love-00"))
    known = pb.RecommendRequest(user_id="ada", page_size=5)
    before = await recommendations.Recommend(known)
    with without_database(server):
        with pytest.raises(DatabaseUnavailableError):
            await asyncio.wait_for(server.rooms.follow(), 20)
        during = await recommendations.Recommend(known)
        assert [result.item_id for result in during.results] == [result.item_id for result in before.results]
        stranger = await recommendations.Recommend(pb.RecommendRequest(user_id="bob"))
        assert stranger.degraded
        assert "history unavailable" in stranger.degraded_reasons
        assert {source for result in stranger.results for source in result.sources} == {"popular"}
        token = ConsistencyToken("default", 3).seal()
        for call in (
            events.WriteEvents(like("3")),
            events.ListEvents(events_pb.ListEventsRequest()),
            recommendations.EmbedUser(pb.EmbedUserRequest(user_id="bob")),
            recommendations.Recommend(pb.RecommendRequest(user_id="bob", min_consistency_token=token)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]
    await asyncio.wait_for(server.rooms.follow(), 20)
    assert (await events.WriteEvents(like("3"))).results[0].outcome == event_pb2.EVENT_OUTCOME_ACCEPTED
    back = await recommendations.Recommend(pb.RecommendRequest(user_id="bob", page_size=5))
    assert not back.degraded
    assert back.results[0].item_id.startswith("love")
    await asyncio.wait_for(server.rooms.impression_writer.flush(), 20)
    assert ImpressionLog(server.rooms.database).count() == 4  # those of the outage were kept


# --- beginning and end


async def test_a_stop_lets_a_call_under_way_end(settings: ServerSettings, connect: Connect, until: Until) -> None:
    """A write that waits for its commit is acknowledged; what was shown is logged; nothing new is taken."""
    server = HeadwaterServer(settings.model_copy(update={"drain_s": 60.0}))
    await asyncio.wait_for(server.start(), 60)
    channel = connect(server)
    await RecommendationServiceStub(channel).Recommend(pb.RecommendRequest(user_id="ada"))
    lock = Database(settings.database_url)
    with lock.write():
        writing = asyncio.create_task(_write(channel))
        metrics = server.rooms.metrics.registry
        await until(lambda: metrics.get_sample_value("headwater_calls_in_flight") == 1)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
    response = await asyncio.wait_for(writing, 60)
    assert response.results[0].outcome == event_pb2.EVENT_OUTCOME_ACCEPTED
    await asyncio.wait_for(stopping, 60)
    assert ImpressionLog(lock).count() == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await RecommendationServiceStub(channel).Recommend(pb.RecommendRequest(), timeout=5)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    lock.close()


async def _write(channel: grpc.aio.Channel) -> events_pb.WriteEventsResponse:
    return await EventServiceStub(channel).WriteEvents(like("last"))


async def test_a_server_remembers_nothing_that_is_not_on_disk(
    settings: ServerSettings, start_server: StartServer, connect: Connect
) -> None:
    """Stopped and started again it answers as before: histories, links, popularity and new items are read back."""
    first = HeadwaterServer(settings)
    await asyncio.wait_for(first.start(), 60)
    channel = connect(first)
    stub = EventServiceStub(channel)
    linked = event_pb2.Event(event_id="2", event_type="like", user_id="ada", visitor_id="cookie", item_id="space-01")
    await stub.WriteEvents(events_pb.WriteEventsRequest(events=[*like("1").events, linked]))
    requests = [pb.RecommendRequest(user_id="ada"), pb.RecommendRequest(visitor_id="cookie"), pb.RecommendRequest()]
    before = [await RecommendationServiceStub(channel).Recommend(request) for request in requests]
    await asyncio.wait_for(first.stop(), 60)
    second = RecommendationServiceStub(connect(await start_server(settings)))
    for request, answer in zip(requests, before, strict=True):
        again = await second.Recommend(request)
        assert [(result.item_id, result.sources) for result in again.results] == [
            (result.item_id, result.sources) for result in answer.results
        ]


async def test_an_address_in_use_is_a_configuration_error(server: HeadwaterServer, settings: ServerSettings) -> None:
    """The error names the address, and nothing is left running."""
    with pytest.raises(ConfigurationError, match=f"127.0.0.1:{server.port}"):
        await asyncio.wait_for(HeadwaterServer(settings.model_copy(update={"port": server.port})).start(), 60)
    with pytest.raises(ConfigurationError, match="metrics port"):
        taken = settings.model_copy(update={"metrics_port": server.metrics_port})
        await asyncio.wait_for(HeadwaterServer(taken).start(), 60)


async def test_items_are_listed_and_fetched(catalog: CatalogServiceAsyncStub) -> None:
    """By id, page by page, of a category or all; what is missing is named."""
    listed: list[str] = []
    token = ""
    for _ in range(3):
        page = await catalog.ListItems(catalog_pb.ListItemsRequest(category="love", page_size=8, page_token=token))
        listed += [item.item_id for item in page.items]
        token = page.next_page_token
    assert (listed, token) == ([f"love-{number:02}" for number in range(20)], "")
    got = await catalog.GetItems(catalog_pb.GetItemsRequest(item_ids=["space-03", "nowhere", "love-01"]))
    assert [item.item_id for item in got.items] == ["space-03", "love-01"]
    assert got.missing_item_ids == ["nowhere"]
    deleted = await catalog.DeleteItems(catalog_pb.DeleteItemsRequest(item_ids=["space-03", "nowhere"]))
    assert deleted.deleted_count == 1
    assert (await catalog.GetItems(catalog_pb.GetItemsRequest(item_ids=["space-03"]))).missing_item_ids == ["space-03"]
