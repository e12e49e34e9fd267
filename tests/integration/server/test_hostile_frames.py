"""What somebody without a token may send, byte by byte: nobody else notices, and nothing of it is repeated."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headwater_client import AsyncClient, RetryConfig
from headwater_server.first_requests import MOST
from headwater_server.ports import MAX_MESSAGE_BYTES
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings
from tests.integration.raw_http2 import RawConnection

StartServer = Callable[..., Awaitable[HeadwaterServer]]
Connect = Callable[[HeadwaterServer], grpc.aio.Channel]
Until = Callable[[Callable[[], bool]], Awaitable[None]]
Strangers = Callable[[int], RawConnection]
NO_TEXT = b"/\xff"
"""As a method's name: it would end grpc.aio's serving loop."""
HALF = b"\0\0\x10\0\0" + b"x" * 1000
"""A message of a mebibyte, as it says, and its beginning."""


@pytest.fixture
def stranger() -> Iterator[Strangers]:
    """Connects to a port; the connections end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda port: stack.enter_context(contextlib.closing(RawConnection(port)))


async def test_a_method_whose_name_is_no_text_is_unknown_like_others(
    start_server: StartServer, settings: ServerSettings, connect: Connect, stranger: Strangers
) -> None:
    """However often it is called, on whichever port: both go on, and whoever is connected notices nothing."""
    server = await start_server(settings, admin_port=0)
    assert server.admin_port is not None
    # One try a call: that a port was closed would be noticed.
    once = RetryConfig(max_attempts=1, patience_s=0.0)
    async with (
        AsyncClient(f"127.0.0.1:{server.port}", timeout_s=60.0, retry=once) as client,
        AsyncClient(f"127.0.0.1:{server.admin_port}", timeout_s=60.0, retry=once) as admin,
    ):
        for port in 3 * (server.port, server.admin_port):
            for name in (NO_TEXT, b"/headwater.v1.CatalogService/No", b"", b"/\xf0\x28\x8c\x28/x"):
                connection = stranger(port)
                connection.begin(name)
                await asyncio.to_thread(connection.wait_for, b"Method not found!" if name else b"\0\0")
            assert (await client.recommend(user_id="ada")).generation == 1
            assert await admin.list_generations()


async def test_an_unknown_method_is_unimplemented(server: HeadwaterServer, connect: Connect) -> None:
    """With and without a request, whether or not there are tokens; also what stands in for all of them."""
    for path in ("/headwater.v1.CatalogService/No", "/grpc.reflection.v1.ServerReflection/No", "/no"):
        call: Any = connect(server).unary_unary(path)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_half_sent_requests_of_strangers_keep_nobody_from_asking(
    server: HeadwaterServer, connect: Connect, stranger: Strangers
) -> None:
    """Probes need no token, so whoever sends no more than half of one is given up for those who send all."""
    health = health_pb2_grpc.HealthStub(connect(server))
    first = stranger(server.port)
    first.begin(b"/grpc.health.v1.Health/Check", HALF)
    others = stranger(server.port)
    for _ in range(MOST):
        others.begin(b"/grpc.health.v1.Health/Watch", HALF)
    await asyncio.to_thread(first.wait_for, b"the request did not come")
    for _ in range(3):
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_compressed_request_is_no_larger_than_others(server: HeadwaterServer, connect: Connect) -> None:
    """Once unpacked: a few kilobytes cannot take a gigabyte."""
    get_items: Any = connect(server).unary_unary("/headwater.v1.CatalogService/GetItems")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get_items(bytes(2 * MAX_MESSAGE_BYTES), compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in (caught.value.details() or "")
