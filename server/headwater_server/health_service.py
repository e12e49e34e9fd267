"""grpc.health.v1, by ourselves: in gRPC's own, a watcher who does not read holds up whoever sets a status.

Probes have no tokens, so what a stranger may cost is bounded here: names by their length, watchers by their number.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

MAX_WATCHERS = 1000
_LONGEST_NAME = 256


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    """What each service's status is, for who asks and for who watches."""

    def __init__(self) -> None:
        """Know no service yet."""
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()
        """Of the next change: set, and replaced, when it comes."""
        self._watchers = 0
        self._is_closed = False

    def set(self, name: str, status: int) -> None:
        """Say what a service's status is from now on; never waits."""
        if self._statuses.get(name) != status:
            self._statuses[name] = status
            self._wake()

    def close(self) -> None:
        """Tell watchers what holds now, and end their streams."""
        self._is_closed = True
        self._wake()

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """The status of a service; NOT_FOUND when there is no such service."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(  # noqa: N802
        self, request: health_pb2.HealthListRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthListResponse:
        """The status of every service."""
        statuses = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self._statuses.items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status of a service, at once and when it changes; SERVICE_UNKNOWN while there is no such service."""
        name = request.service
        if len(name) > _LONGEST_NAME:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"service: longer than {_LONGEST_NAME} characters")
        if self._watchers >= MAX_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHERS} calls are watching already")
        self._watchers += 1
        try:
            told: int | None = None
            while True:
                changed = self._changed
                status = self._statuses.get(name, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
                if status != told:
                    told = status
                    yield health_pb2.HealthCheckResponse(status=status)
                elif self._is_closed:
                    return
                else:
                    await changed.wait()
        finally:
            self._watchers -= 1

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
