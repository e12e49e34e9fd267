"""Connections that age, idle and die: clients find their way anew, and no call fails for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc
import pytest

from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater_client import AsyncClient, AsyncEventWriter, Client, event
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings

StartServer = Callable[..., Awaitable[HeadwaterServer]]
Connect = Callable[[HeadwaterServer], grpc.aio.Channel]
AGE_S = 1.0
ROUNDS = 4
"""Times that every connection ages; gRPC varies each by a tenth."""


@pytest.fixture
async def ageing(start_server: StartServer, settings: ServerSettings) -> HeadwaterServer:
    """A server that asks its clients every second to connect anew."""
    return await start_server(settings, max_connection_age_s=AGE_S)


async def test_no_call_fails_while_connections_are_aged_out(ageing: HeadwaterServer) -> None:
    """By the SDK's defaults: both clients, reads and writes, and the event writer."""
    address = f"127.0.0.1:{ageing.port}"
    ends_s = time.monotonic() + ROUNDS * AGE_S
    recommend = ageing.rooms.metrics.calls.labels("Recommend", "OK")

    def in_a_thread() -> int:
        calls = 0
        with Client(address, timeout_s=60.0) as client:
            while time.monotonic() < ends_s:
                client.recommend(user_id="ada")
                client.write(event("like", user_id="ada", item_id="space-00")).raise_for_refused()
                calls += 1
        return calls

    async def in_the_loop(client: AsyncClient) -> int:
        calls = 0
        while time.monotonic() < ends_s:
            await client.recommend(user_id="bob")
            calls += 1
        return calls

    async with AsyncClient(address, timeout_s=60.0) as client, AsyncEventWriter(client) as writer:
        asked = [asyncio.create_task(in_the_loop(client)) for _ in range(4)]
        blocking = asyncio.create_task(asyncio.to_thread(in_a_thread))
        written = 0
        while time.monotonic() < ends_s:
            await writer.write(event("view", user_id="bob", item_id="space-01"))
            written += 1
            await asyncio.sleep(0.002)
        calls = sum(await asyncio.gather(*asked, blocking))
        await writer.flush()
    assert recommend._value.get() == calls
    events = ageing.rooms.metrics.events.labels("accepted")._value.get()
    assert events == written + blocking.result()


async def test_a_stream_goes_on_over_a_connection_that_has_aged(ageing: HeadwaterServer, connect: Connect) -> None:
    """To its end, unless a grace time is set: what is under way is not cut off."""
    call = EventServiceStub(connect(ageing)).StreamEvents(timeout=60)
    for sequence in range(1, 5):
        like = event_pb2.Event(event_id=str(sequence), event_type="like", user_id="ada", item_id="space-00")
        await call.write(events_pb.StreamEventsRequest(sequence=sequence, events=[like]))
        answer = await call.read()
        assert isinstance(answer, events_pb.StreamEventsResponse) and answer.committed == 1
        await asyncio.sleep(AGE_S)
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK


async def test_with_a_grace_time_a_stream_is_cut_off_after_it(
    start_server: StartServer, settings: ServerSettings, connect: Connect
) -> None:
    """So that nobody stays for ever; what was acknowledged stays."""
    server = await start_server(settings, max_connection_age_s=AGE_S, max_connection_age_grace_s=0.5)
    call = EventServiceStub(connect(server)).StreamEvents(timeout=60)
    like = event_pb2.Event(event_id="1", event_type="like", user_id="ada", item_id="space-00")
    await call.write(events_pb.StreamEventsRequest(sequence=1, events=[like]))
    await call.read()
    assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_connections_move_to_a_server_that_is_added(start_server: StartServer, settings: ServerSettings) -> None:
    """A client of two addresses, one of which answers later, calls both; it need not be restarted."""
    first = await start_server(settings, max_connection_age_s=AGE_S)
    second = HeadwaterServer(settings)
    await second.start()
    port = second.port
    await second.stop(0)
    async with AsyncClient(f"127.0.0.1:{first.port},127.0.0.1:{port}", timeout_s=60.0) as client:
        await client.recommend(user_id="ada")
        second = await start_server(settings, port=port, max_connection_age_s=AGE_S)
        answered = second.rooms.metrics.calls.labels("Recommend", "OK")
        async with asyncio.timeout(60):
            while not answered._value.get():
                await client.recommend(user_id="ada")


async def test_an_idle_connection_is_closed_and_opened_again(
    start_server: StartServer, settings: ServerSettings
) -> None:
    """The next call does not notice."""
    server = await start_server(settings, max_connection_idle_s=0.2)
    async with AsyncClient(f"127.0.0.1:{server.port}", timeout_s=60.0) as client:
        for _ in range(3):
            await client.recommend(user_id="ada")
            await asyncio.sleep(0.5)
