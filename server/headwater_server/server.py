"""One gRPC server: ports, services, health, the loops that follow the world, and a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from http.server import HTTPServer
from threading import Thread

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from headwater.v1 import (
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
    experiment_service_pb2,
    experiment_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    recommendation_service_pb2,
    recommendation_service_pb2_grpc,
    strategy_service_pb2,
    strategy_service_pb2_grpc,
    user_service_pb2,
    user_service_pb2_grpc,
)
from headwater_core.errors import ConfigurationError, DatabaseUnavailableError
from headwater_server.fellows import Fellows
from headwater_server.interceptor import CallInterceptor
from headwater_server.rooms import Rooms
from headwater_server.services.catalog_service import CatalogService
from headwater_server.services.event_service import EventService
from headwater_server.services.experiment_service import ExperimentService
from headwater_server.services.model_service import ModelService
from headwater_server.services.recommendation_service import RecommendationService
from headwater_server.services.strategy_service import StrategyService
from headwater_server.services.user_service import UserService
from headwater_server.settings import ServerSettings

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A client may ask every 10 s whether the connection lives without being sent away.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
]
_ALWAYS_SERVING = (
    event_service_pb2.DESCRIPTOR.services_by_name["EventService"].full_name,
    catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"].full_name,
    user_service_pb2.DESCRIPTOR.services_by_name["UserService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    strategy_service_pb2.DESCRIPTOR.services_by_name["StrategyService"].full_name,
    experiment_service_pb2.DESCRIPTOR.services_by_name["ExperimentService"].full_name,
)
_RECOMMENDATION = recommendation_service_pb2.DESCRIPTOR.services_by_name["RecommendationService"].full_name
_PENDING_S = 1
"""A call that nobody has taken in after so long is cancelled."""
_DATABASE_PAUSE_S = 0.5
log = structlog.get_logger(__name__)


def _limits(max_in_flight: int) -> list[tuple[str, int]]:
    """What gRPC itself does with calls that come faster than Python can take them in: cancel some, then all.

    To refuse a call in Python takes a third of what it takes to answer one, so past a certain load only this helps.
    """
    return [
        ("grpc.server.max_pending_requests", max_in_flight),
        ("grpc.server.max_pending_requests_hard_limit", max_in_flight + max_in_flight // 2 + 1),
        ("grpc.server_max_unrequested_time_in_server", _PENDING_S),
    ]


class HeadwaterServer:
    """A server in this process: `start` it, `stop` it."""

    def __init__(
        self, settings: ServerSettings, now_us: Callable[[], int] | None = None, fellows: Fellows | None = None
    ) -> None:
        """Join the parts; nothing is opened yet. Args as `Rooms`."""
        self._settings = settings
        self._fellows = fellows
        self._rung = asyncio.Event()
        """One of the fellows wrote something."""
        self.rooms = Rooms(settings, now_us, fellows)
        self._health = health.aio.HealthServicer()
        interceptor = CallInterceptor(
            self.rooms.metrics, settings.tenant, settings.max_in_flight, settings.retry_after_ms
        )
        options = [*_OPTIONS, *_limits(settings.max_in_flight), ("grpc.so_reuseport", int(fellows is not None))]
        self._server = grpc.aio.server(interceptors=[interceptor], options=options)
        event_service_pb2_grpc.add_EventServiceServicer_to_server(EventService(self.rooms), self._server)
        catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(CatalogService(self.rooms), self._server)
        user_service_pb2_grpc.add_UserServiceServicer_to_server(UserService(self.rooms), self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(self.rooms), self._server)
        experiment_service_pb2_grpc.add_ExperimentServiceServicer_to_server(ExperimentService(self.rooms), self._server)
        strategy_service_pb2_grpc.add_StrategyServiceServicer_to_server(StrategyService(self.rooms), self._server)
        recommendation_service_pb2_grpc.add_RecommendationServiceServicer_to_server(
            RecommendationService(self.rooms), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*_ALWAYS_SERVING, _RECOMMENDATION, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self._tasks: list[asyncio.Task[None]] = []
        self._metrics_server: tuple[HTTPServer, Thread] | None = None
        self._held: set[int] = set()
        self.port = 0
        """The gRPC port, once started."""

    @property
    def metrics_port(self) -> int | None:
        """The port of /metrics, once started; None when it is off."""
        return None if self._metrics_server is None else int(self._metrics_server[0].server_address[1])

    async def start(self) -> None:
        """Open the database and the ports and begin to answer; RecommendationService follows with a generation.

        A database that is away is waited for.

        Raises:
            ConfigurationError: the address is taken or cannot be listened on.
        """
        for name in ("", _RECOMMENDATION, *_ALWAYS_SERVING):
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._open_rooms()
        address = f"{self._settings.host}:{self._settings.port}"
        try:
            self.port = self._server.add_insecure_port(address)
            if self._settings.metrics_port is not None:
                self._metrics_server = start_http_server(
                    self._settings.metrics_port, self._settings.host, self.rooms.metrics.registry
                )
        except (RuntimeError, OSError) as error:
            await self.rooms.close()
            raise ConfigurationError(f"cannot listen on {address} and its metrics port: {error}") from error
        await self.rooms.generations.refresh()
        await self._tell_health()
        await self._server.start()
        for name in _ALWAYS_SERVING:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        settings = self._settings
        self._tasks = [
            asyncio.create_task(self.rooms.load_text_encoder(), name="load-text-encoder"),
            self._every(settings.tail_interval_ms / 1000, self.rooms.follow, "follow", self._rung),
            self._every(settings.label_interval_ms / 1000, self._reload, "reload"),
            self._every(settings.lease_ttl_s / 3, self.rooms.heartbeat, "heartbeat"),
        ]
        if self._fellows is None or self._fellows.number == 0:
            interval_s = settings.attribution_interval_ms / 1000
            self._tasks.append(self._every(interval_s, self.rooms.attributor.step, "attribute"))
        if self._fellows is not None:
            self._fellows.bell.listen(self._hear)
        log.info("server_started", port=self.port, metrics_port=self.metrics_port)

    def _hear(self) -> None:
        self.rooms.hurry()
        self._rung.set()

    async def _open_rooms(self) -> None:
        is_away = False
        while True:
            try:
                await self.rooms.open()
            except DatabaseUnavailableError as error:
                if not is_away:
                    log.warning("database_awaited", reason=str(error))
                is_away = True
                await asyncio.sleep(_DATABASE_PAUSE_S)
            else:
                return

    async def stop(self, drain_s: float | None = None) -> None:
        """Stop taking calls, let those under way end, write what waits, close.

        Args:
            drain_s: how long calls under way may take; the setting by default.
        """
        log.info("server_draining")
        await self._health.enter_graceful_shutdown()
        if self._fellows is not None:
            self._fellows.bell.close()
        await self.rooms.generations.close()
        await self._server.stop(self._settings.drain_s if drain_s is None else drain_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.rooms.close()
        if self._metrics_server is not None:
            server, thread = self._metrics_server
            server.shutdown()
            server.server_close()
            thread.join()
        log.info("server_stopped")

    async def _reload(self) -> None:
        await self.rooms.generations.refresh()
        await self._tell_health()
        held = {generation.number for generation in self.rooms.generations.loaded}
        if held != self._held:  # at start, and after a swap, whoever caused it
            await self.rooms.heartbeat()
            self._held = held

    async def _tell_health(self) -> None:
        ready = self.rooms.generations.stable is not None
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", _RECOMMENDATION):
            await self._health.set(name, status)

    def _every(
        self, interval_s: float, step: Callable[[], Awaitable[None]], name: str, sooner: asyncio.Event | None = None
    ) -> asyncio.Task[None]:
        """Run a step again and again; while the database is away, at a slower pace. Args: sooner: when not to wait."""

        async def loop() -> None:
            is_away = False
            while True:
                await _pause(interval_s, sooner)
                try:
                    await step()
                    if is_away:
                        log.info("database_back", loop=name)
                    is_away = False
                except DatabaseUnavailableError as error:
                    if not is_away:
                        log.warning("database_away", loop=name, reason=str(error))
                    is_away = True
                    await asyncio.sleep(_DATABASE_PAUSE_S)
                except Exception:  # a loop that ended would leave the server blind; it is logged and goes on
                    log.exception("loop_failed", loop=name)
                    await asyncio.sleep(_DATABASE_PAUSE_S)

        return asyncio.create_task(loop(), name=name)


async def _pause(interval_s: float, sooner: asyncio.Event | None) -> None:
    if sooner is None:
        await asyncio.sleep(interval_s)
        return
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(sooner.wait(), interval_s)
    sooner.clear()
