"""A server that is told to end: load balancers hear of it first, then calls and streams end in good order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import model_service_pb2 as models_pb
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater.v1.model_service_pb2_grpc import ModelServiceStub
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater_core.database import Database
from headwater_core.feedback_log import EventQuery, FeedbackLog
from headwater_server.server import LIVENESS, HeadwaterServer, pause
from headwater_server.settings import ServerSettings
from tests.integration.server_process import ServerProcess

StartServer = Callable[..., Awaitable[HeadwaterServer]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]
Connect = Callable[[HeadwaterServer], grpc.aio.Channel]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
LONG_S = 3600.0


def batch(sequence: int) -> events_pb.StreamEventsRequest:
    """A like, its id the sequence."""
    like = event_pb2.Event(event_id=str(sequence), event_type="like", user_id="ada", item_id="space-00")
    return events_pb.StreamEventsRequest(sequence=sequence, events=[like])


def logged(settings: ServerSettings) -> list[str]:
    """The ids of all events in the log."""
    database = Database(settings.database_url)
    try:
        found = FeedbackLog(database, settings.tenant).list_events(EventQuery(), 0, 1_000_000)
        return [each.event.event_id for each in found]
    finally:
        database.close()


async def health(channel: grpc.aio.Channel, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


async def test_not_serving_is_told_before_calls_are_refused(
    settings: ServerSettings, connect: Connect, until: Until
) -> None:
    """Ready no more, alive still, and answering whoever has not heard of it yet."""
    server = HeadwaterServer(settings.model_copy(update={"drain_delay_s": LONG_S}))
    await asyncio.wait_for(server.start(), 60)
    channel = connect(server)
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    assert (await asyncio.wait_for(watch.read(), 60)).status == SERVING
    stopping = asyncio.create_task(server.stop())
    assert (await asyncio.wait_for(watch.read(), 60)).status == NOT_SERVING
    await server._reload()
    assert await health(channel, "") == NOT_SERVING
    assert await health(channel, "headwater.v1.EventService") == NOT_SERVING
    assert await health(channel, LIVENESS) == SERVING
    await RecommendationServiceStub(channel).Recommend(pb.RecommendRequest(user_id="ada"))
    assert not stopping.done()
    watch.cancel()
    server.hurry()
    await asyncio.wait_for(stopping, 60)


async def test_it_is_alive_before_it_is_ready(
    start_server: StartServer, empty_settings: ServerSettings, connect: Connect
) -> None:
    """Without a generation there is nothing to recommend, and nothing to restart for."""
    channel = connect(await start_server(empty_settings))
    assert await health(channel, "") == NOT_SERVING
    assert await health(channel, LIVENESS) == SERVING


async def test_a_stream_ends_after_the_batch_that_it_is_at(
    settings: ServerSettings, connect: Connect, until: Until
) -> None:
    """It is committed and acknowledged; what came after it is neither, and may be sent again."""
    server = HeadwaterServer(settings.model_copy(update={"drain_s": LONG_S}))
    await asyncio.wait_for(server.start(), 60)
    channel = connect(server)
    gate = threading.Event()
    append = server.rooms.log.append

    def wait_and_append(*arguments: Any) -> Any:
        gate.wait(60)
        return append(*arguments)

    server.rooms.log.append = wait_and_append  # type: ignore[method-assign,assignment]
    metrics = server.rooms.metrics.registry
    busy: Any = EventServiceStub(channel).StreamEvents(timeout=120)
    idle: Any = EventServiceStub(channel).StreamEvents(timeout=120)
    watch: Any = ModelServiceStub(channel).WatchGenerations(models_pb.WatchGenerationsRequest(), timeout=120)
    await watch.read()
    await busy.write(batch(1))
    await busy.write(batch(2))
    await until(lambda: metrics.get_sample_value("headwater_calls_in_flight") == 1)
    await until(lambda: metrics.get_sample_value("headwater_streams_open") == 3)
    stopping = asyncio.create_task(server.stop())
    assert await idle.code() is grpc.StatusCode.UNAVAILABLE  # though the grace time is long
    assert await watch.code() is grpc.StatusCode.OK
    gate.set()
    assert (await busy.read()).sequence == 1
    assert await busy.code() is grpc.StatusCode.UNAVAILABLE
    assert "send again what was not acknowledged" in await busy.details()
    await asyncio.wait_for(stopping, 60)
    assert logged(settings) == ["1"]


@pytest.mark.parametrize("turns", range(4))
async def test_a_loop_that_was_woken_at_the_moment_of_its_end_ends(turns: int) -> None:
    """A cancellation that were lost between the event and the pause's return would leave a server that never stops."""
    sooner = asyncio.Event()
    pausing = asyncio.create_task(pause(LONG_S, sooner))
    for _ in range(4):
        await asyncio.sleep(0)
    sooner.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    was_over = pausing.done()
    pausing.cancel()
    await asyncio.wait({pausing}, timeout=60)
    assert pausing.cancelled() != was_over


@pytest.mark.parametrize("workers", [1, 2])
def test_what_streams_were_told_is_kept_and_what_is_sent_again_is_kept_once(
    settings: ServerSettings, tmp_path: Path, workers: int
) -> None:
    """Of a real server that ends amid streams: no batch is half written, none that was acknowledged is lost."""
    acknowledged: list[int] = []
    sent = 0
    enough = threading.Event()

    def batches(first: int) -> Iterator[events_pb.StreamEventsRequest]:
        nonlocal sent
        for sequence in range(first, 1_000_000):
            sent = sequence
            yield batch(sequence)

    def stream(address: str, first: int) -> grpc.StatusCode:
        with grpc.insecure_channel(address) as channel:
            try:
                for answer in EventServiceStub(channel).StreamEvents(batches(first), timeout=150):
                    assert answer.committed == 1
                    acknowledged.append(answer.sequence)
                    if answer.sequence >= first + 20:
                        enough.set()
            except grpc.RpcError as error:
                code: grpc.StatusCode = error.code()
                return code
            return grpc.StatusCode.OK

    with ThreadPoolExecutor(1) as thread:
        for life in range(2):
            with ServerProcess(settings, tmp_path / f"log-{life}", workers) as server:
                enough.clear()
                first = acknowledged[-1] + 1 if acknowledged else 1
                streaming = thread.submit(stream, server.address, first)
                assert enough.wait(60)
                assert server.end() == 0
                assert streaming.result(60) is grpc.StatusCode.UNAVAILABLE
            assert [line["code"] for line in server.said("call_ended")] == ["UNAVAILABLE"]
    ids = logged(settings)
    assert acknowledged == list(range(1, acknowledged[-1] + 1))
    assert sorted(map(int, ids)) == list(range(1, len(ids) + 1))
    assert acknowledged[-1] <= len(ids) <= sent
