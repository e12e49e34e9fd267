"""Health, as strangers may ask for it: nobody who watches holds anybody up, and they are not many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headwater_server import health_service
from headwater_server.health_service import HealthService

if TYPE_CHECKING:
    from typing import Any

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture
def service() -> HealthService:
    service = HealthService()
    service.set("", NOT_SERVING)
    return service


@pytest.fixture
async def stub(service: HealthService) -> AsyncIterator[Any]:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)
    await server.stop(None)


def asking(name: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=name)


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_all_services_are_listed(stub: Any) -> None:
    """The base class would raise, and its traceback be logged, as often as a stranger asks."""
    listed = await stub.List(health_pb2.HealthListRequest())
    assert {name: each.status for name, each in listed.statuses.items()} == {"": NOT_SERVING}


async def test_each_change_is_told_and_the_end_ends_it(service: HealthService, stub: Any) -> None:
    """What holds at once, what changes, what never was, and no stream outlives the service."""
    watching, unknown = stub.Watch(asking("")), stub.Watch(asking("nothing"))
    assert (await watching.read()).status == NOT_SERVING
    assert (await unknown.read()).status == UNKNOWN
    service.set("", SERVING)
    assert (await watching.read()).status == SERVING
    assert (await stub.Check(asking(""))).status == SERVING
    service.set("", NOT_SERVING)
    service.close()
    assert (await watching.read()).status == NOT_SERVING
    assert await watching.read() is grpc.aio.EOF
    assert await unknown.read() is grpc.aio.EOF


async def test_a_name_that_nobody_has_is_not_kept(stub: Any) -> None:
    """NOT_FOUND when asked for; too long a one is not watched."""
    assert await code_of(stub.Check(asking("nothing"))) is grpc.StatusCode.NOT_FOUND
    assert await code_of(stub.Watch(asking("x" * 10_000)).read()) is grpc.StatusCode.INVALID_ARGUMENT


async def test_watchers_are_so_many_and_no_more(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused, until one goes."""
    monkeypatch.setattr(health_service, "MAX_WATCHERS", 1)
    first = stub.Watch(asking(""))
    await first.read()
    assert await code_of(stub.Watch(asking("")).read()) is grpc.StatusCode.RESOURCE_EXHAUSTED
    first.cancel()
    while True:
        second = stub.Watch(asking(""))
        try:
            await second.read()
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.01)
        else:
            return
