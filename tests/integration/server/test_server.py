"""The server as a whole: health, reflection, metrics, overload, a lost database, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import pytest
import structlog
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from headwater.v1 import catalog_service_pb2 as catalog_pb
from headwater.v1 import event_pb2, item_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import model_service_pb2 as models_pb
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1.catalog_service_pb2_grpc import CatalogServiceStub
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater.v1.model_service_pb2_grpc import ModelServiceStub
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater_core.artifact_store import ArtifactStore
from headwater_core.database import Database
from headwater_core.errors import ArtifactError, ConfigurationError, DatabaseUnavailableError
from headwater_core.events import BUILT_IN_EVENT_TYPES, Event
from headwater_core.feedback_log import FeedbackLog
from headwater_core.impressions import ImpressionLog
from headwater_core.registry import GenerationRegistry
from headwater_server import admission, main, ports, rooms
from headwater_server import server as server_module
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

    assert (await asyncio.wait_for(overall.read(), 60)).status == NOT_SERVING
    before = await check()
    assert before.pop(SERVICES[0]) == NOT_SERVING
    assert set(before.values()) == {SERVING}
    publish(empty_settings)
    assert (await asyncio.wait_for(overall.read(), 60)).status == SERVING
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
    await asyncio.wait_for(server.rooms.follow(), 60)

    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=60) as page:
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
    start_server: StartServer, connect: Connect, settings: ServerSettings, until: Until
) -> None:
    """RESOURCE_EXHAUSTED, pushback and RetryInfo; a place that is given back is given out again."""
    server = await start_server(settings, max_in_flight=1, retry_after_ms=1250)
    channel = connect(server)
    recommendations = RecommendationServiceStub(channel)
    writing = await _hold_a_place(server, channel, until)
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
    await writing.finish()
    await recommendations.Recommend(pb.RecommendRequest())


async def test_calls_whose_requests_do_not_end_are_bounded(
    start_server: StartServer, settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Admission sees a call when its request is there; until then the port counts it."""
    monkeypatch.setattr(ports, "_most_calls", lambda _: 4)
    server = await start_server(settings)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        method: Any = channel.stream_stream("/headwater.v1.RecommendationService/Recommend")
        unfinished = [method() for _ in range(5)]
        refused = [asyncio.ensure_future(call.code()) for call in unfinished]
        done, held = await asyncio.wait(refused, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert [each.result() for each in done] == [grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert len(held) == 4
        for call in unfinished:
            call.cancel()
        await asyncio.gather(*refused)


class _Writing(NamedTuple):
    """A write that waits for its commit until it is told to finish."""

    call: asyncio.Task[object]
    gate: threading.Event

    async def finish(self) -> None:
        self.gate.set()
        await asyncio.wait_for(self.call, 60)


async def _hold_a_place(
    server: HeadwaterServer, channel: grpc.aio.Channel, until: Until, *, in_stream: bool = False
) -> _Writing:
    """Begin a write that takes a place among the calls in flight, and holds it."""
    gate = threading.Event()
    append = server.rooms.log.append

    def wait_and_append(*arguments: Any) -> Any:
        gate.wait(60)
        return append(*arguments)

    server.rooms.log.append = wait_and_append  # type: ignore[method-assign,assignment]
    stub = EventServiceStub(channel)

    async def stream() -> object:
        call = stub.StreamEvents()
        await call.write(events_pb.StreamEventsRequest(sequence=1, events=like("held").events))
        answer = await call.read()
        await call.done_writing()
        return answer

    async def write() -> object:
        return await stub.WriteEvents(like("held"))

    writing = asyncio.create_task(stream() if in_stream else write())
    metrics = server.rooms.metrics.registry
    await until(lambda: metrics.get_sample_value("headwater_calls_in_flight") == 1)
    server.rooms.log.append = append  # type: ignore[method-assign]
    return _Writing(writing, gate)


async def test_open_streams_hold_no_places(
    start_server: StartServer, connect: Connect, settings: ServerSettings, until: Until
) -> None:
    """Watchers and writers who wait keep nobody out, however many; a batch being written counts like a call."""
    server = await start_server(settings, max_in_flight=1)
    channel = connect(server)
    recommendations = RecommendationServiceStub(channel)
    watch = ModelServiceStub(channel).WatchGenerations(models_pb.WatchGenerationsRequest())
    await asyncio.wait_for(watch.read(), 60)
    idle = EventServiceStub(channel).StreamEvents()
    await idle.write(events_pb.StreamEventsRequest(sequence=1, events=like("1").events))
    await asyncio.wait_for(idle.read(), 60)
    await recommendations.Recommend(pb.RecommendRequest())
    writing = await _hold_a_place(server, channel, until, in_stream=True)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await recommendations.Recommend(pb.RecommendRequest())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await writing.finish()
    await recommendations.Recommend(pb.RecommendRequest())
    for call in (watch, idle):
        call.cancel()
    metrics = server.rooms.metrics.registry
    await until(lambda: metrics.get_sample_value("headwater_streams_open") == 0)
    seconds = {"method": "WatchGenerations"}
    assert metrics.get_sample_value("headwater_call_seconds_count", seconds) is None


async def test_streams_have_a_limit_of_their_own(
    server: HeadwaterServer, channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One too many is refused as a call is."""
    monkeypatch.setattr(admission, "MAX_STREAMS", 1)
    models = ModelServiceStub(channel)
    first = models.WatchGenerations(models_pb.WatchGenerationsRequest())
    await asyncio.wait_for(first.read(), 60)
    second = models.WatchGenerations(models_pb.WatchGenerationsRequest())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(second.read(), 60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    first.cancel()


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
    """Known users' slates stay, strangers' are popular, all say degraded, writes are UNAVAILABLE; then all is back."""
    await events.WriteEvents(like("1"))
    await events.WriteEvents(like("2", "bob", "love-00"))
    known = pb.RecommendRequest(user_id="ada", page_size=5)
    before = await recommendations.Recommend(known)

    def away() -> float | None:
        return server.rooms.metrics.registry.get_sample_value("headwater_database_away")

    assert away() == 0
    with without_database(server):
        with pytest.raises(DatabaseUnavailableError):
            await asyncio.wait_for(server.rooms.follow(), 60)
        assert away() == 1
        during = await recommendations.Recommend(known)
        assert [result.item_id for result in during.results] == [result.item_id for result in before.results]
        assert list(during.degraded_reasons) == ["database unavailable"]
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
    await asyncio.wait_for(server.rooms.follow(), 60)
    assert (await events.WriteEvents(like("3"))).results[0].outcome == event_pb2.EVENT_OUTCOME_ACCEPTED
    back = await recommendations.Recommend(pb.RecommendRequest(user_id="bob", page_size=5))
    assert not back.degraded
    assert away() == 0
    assert back.results[0].item_id.startswith("love")
    await asyncio.wait_for(server.rooms.impression_writer.flush(), 60)
    assert ImpressionLog(server.rooms.database).count() == 4  # those of the outage were kept


@pytest.mark.faults
async def test_a_database_that_does_not_answer_counts_as_away(
    server: HeadwaterServer, recommendations: RecommendationServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers do not wait for it: without the history they say degraded; where it is needed they are UNAVAILABLE."""
    gate = threading.Event()
    rooms_ = server.rooms
    monkeypatch.setattr(rooms_.log, "recall", lambda *_: gate.wait(60))
    monkeypatch.setattr(rooms_.database, "counters", lambda *_: gate.wait(60))
    monkeypatch.setattr(rooms_.recommender, "_state_limit_s", 0.01)
    monkeypatch.setattr(rooms, "_LOOK_LIMIT_S", 0.01)
    try:
        with pytest.raises(DatabaseUnavailableError, match="did not answer"):
            await asyncio.wait_for(rooms_.follow(), 60)
        answer = await recommendations.Recommend(pb.RecommendRequest(user_id="ada"))
        assert list(answer.degraded_reasons) == ["history unavailable", "database unavailable"]
        token = ConsistencyToken("default", 3).seal()
        for call in (
            recommendations.EmbedUser(pb.EmbedUserRequest(user_id="ada")),
            recommendations.Recommend(pb.RecommendRequest(user_id="ada", min_consistency_token=token)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        gate.set()


async def test_reads_do_not_wait_behind_writes(server: HeadwaterServer) -> None:
    """However many writes wait for their turn."""
    gate = threading.Event()
    writes = [asyncio.create_task(server.rooms.in_writing(gate.wait, 120)) for _ in range(50)]
    try:
        assert await asyncio.wait_for(server.rooms.in_database(server.rooms.log.head), 60) == 0
        assert not any(write.done() for write in writes)
    finally:
        gate.set()
    await asyncio.gather(*writes)


# --- beginning and end


async def test_a_start_waits_for_the_database(
    settings: ServerSettings, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on where it stopped, and counts nothing twice."""
    monkeypatch.setattr(server_module, "_DATABASE_PAUSE_S", 0.0)
    server = HeadwaterServer(settings)
    log = FeedbackLog(server.rooms.database)
    log.append([Event("1", "like", user_id="ada", item_id="space-00")], 1)
    migrate, catch_up = server.rooms.database.migrate, server.rooms.log_tail.catch_up
    failures = [DatabaseUnavailableError("away while it reads"), DatabaseUnavailableError("away")]

    def fail_first() -> None:
        if len(failures) == 2:
            raise failures.pop()
        migrate()

    async def fail_after() -> int:
        applied = await catch_up()
        if failures:
            raise failures.pop()
        return applied

    monkeypatch.setattr(server.rooms.database, "migrate", fail_first)
    monkeypatch.setattr(server.rooms.log_tail, "catch_up", fail_after)
    await asyncio.wait_for(server.start(), 60)
    try:
        assert failures == []
        assert server.rooms.popularity.score("space-00") == BUILT_IN_EVENT_TYPES["like"].weight
        answer = await RecommendationServiceStub(connect(server)).Recommend(pb.RecommendRequest(user_id="ada"))
        assert answer.results
    finally:
        await asyncio.wait_for(server.stop(0.0), 60)


async def test_a_database_that_goes_away_during_the_first_load_does_not_end_the_start(
    settings: ServerSettings, start_server: StartServer, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generation serves, and the updater is told of it when the database is back."""
    heartbeat = GenerationRegistry.heartbeat
    told: list[list[int]] = []
    failures = [DatabaseUnavailableError("away after the load"), DatabaseUnavailableError("away before it")]

    def fail_first(registry: GenerationRegistry, server_id: str, held: list[int], *rest: Any) -> None:
        if failures:
            raise failures.pop()
        heartbeat(registry, server_id, held, *rest)
        told.append(held)

    monkeypatch.setattr(GenerationRegistry, "heartbeat", fail_first)
    server = await start_server(settings, lease_ttl_s=3600.0)
    assert server.rooms.generations.by_label("stable").number == 1
    await until(lambda: told == [[1]])


async def test_a_database_that_goes_away_before_any_label_is_known_does_not_end_the_start(
    settings: ServerSettings, start_server: StartServer, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a store that does not know the label either; the generation is loaded when the database is back."""
    labels, is_away = GenerationRegistry.labels, True

    def read(registry: GenerationRegistry) -> dict[str, int]:
        if is_away:
            raise DatabaseUnavailableError("away")
        return labels(registry)

    def no_label(_store: ArtifactStore, label: str) -> int:
        raise ArtifactError("read", label, "it cannot be read")

    monkeypatch.setattr(GenerationRegistry, "labels", read)
    monkeypatch.setattr(ArtifactStore, "read_label", no_label)
    server = await start_server(settings)
    assert server.rooms.generations.stable is None
    is_away = False
    await until(lambda: server.rooms.generations.stable is not None)


async def test_a_server_that_waits_for_its_database_can_be_ended() -> None:
    """By the signal that ends it at any other time."""
    settings = ServerSettings(
        port=0, metrics_port=None, database_url="postgresql://nobody@127.0.0.1:1/nothing", store_url="memory://nothing"
    )
    serving = asyncio.create_task(main._serve(settings))
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(os.kill, os.getpid(), signal.SIGTERM)
    try:
        await asyncio.wait_for(serving, 60)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def test_without_a_text_encoder_items_are_written_and_the_caller_is_told(
    start_server: StartServer, connect: Connect, settings: ServerSettings, tmp_path: Path
) -> None:
    """FAILED_PRECONDITION and what is missing; deferred, nothing is amiss."""
    catalog = CatalogServiceStub(connect(await start_server(settings, text_encoder_path=str(tmp_path / "nowhere"))))
    request = catalog_pb.UpsertItemsRequest(items=[item_pb2.Item(item_id="brand-new", title="Crime clue")])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await catalog.UpsertItems(request)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "nowhere" in str(caught.value.details())
    assert len((await catalog.GetItems(catalog_pb.GetItemsRequest(item_ids=["brand-new"]))).items) == 1
    request.defer_features = True
    assert (await catalog.UpsertItems(request)).upserted_count == 1


async def test_a_text_encoder_that_cannot_be_loaded_is_logged(
    settings: ServerSettings, start_server: StartServer, tmp_path: Path
) -> None:
    """At the start, before anybody needs it."""
    with structlog.testing.capture_logs() as logs:
        server = await start_server(settings, text_encoder_path=str(tmp_path / "nowhere"))
        await asyncio.wait_for(server.rooms.load_text_encoder(), 60)
    assert "text_encoder_not_loaded" in {entry["event"] for entry in logs}


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


async def test_hiding_an_item_changes_its_update_time(catalog: CatalogServiceAsyncStub) -> None:
    """It is a change like any other."""
    get = catalog_pb.GetItemsRequest(item_ids=["space-03"])
    before = (await catalog.GetItems(get)).items[0].update_time
    await catalog.SetAvailability(catalog_pb.SetAvailabilityRequest(item_ids=["space-03"], available=False))
    after = (await catalog.GetItems(get)).items[0].update_time
    assert after.seconds > before.seconds


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
