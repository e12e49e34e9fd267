"""One gRPC server: ports, services, health, the loops that follow the world, and a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection

import grpc
import structlog
from grpc_health.v1 import health_pb2

from headwater_core.errors import ArtifactError, ConfigurationError, DatabaseUnavailableError
from headwater_core.metrics_server import MetricsServer
from headwater_core.notifications import Topic
from headwater_core.settings import LogLevel
from headwater_server.access import access
from headwater_server.admission import Admission
from headwater_server.arrivals import Reception
from headwater_server.call_log import CallLog
from headwater_server.certificates import certificate_files
from headwater_server.exposure import check_exposure
from headwater_server.fellows import Fellows
from headwater_server.health_service import HealthService
from headwater_server.interceptor import CallInterceptor
from headwater_server.kept_files import KeptFiles, Value
from headwater_server.loose_threads import LooseThreads
from headwater_server.ports import ALWAYS_SERVING, RECOMMENDATION, listen, make_port
from headwater_server.rooms import Rooms
from headwater_server.settings import ServerSettings

LIVENESS = "liveness"
"""The health service that says whether this process works at all, be there a generation and a database or not."""
_FILES_INTERVAL_S = 1.0
_DATABASE_PAUSE_S = 0.5
_LISTENING_INTERVAL_S = 1.0
"""How often the database is asked all the same while notifications come through."""
FIRST_LOAD_S = 30.0
"""So long a start waits for the first generation; then events are taken in without one."""
log = structlog.get_logger(__name__)


class HeadwaterServer:
    """A server in this process: `start` it, `stop` it."""

    def __init__(
        self, settings: ServerSettings, now_us: Callable[[], int] | None = None, fellows: Fellows | None = None
    ) -> None:
        """Join the parts; nothing is opened yet. Args as `Rooms`.

        Raises:
            ConfigurationError: the address is open to all, or certificates or tokens cannot be used.
        """
        check_exposure(settings)
        self._settings = settings
        self._fellows = fellows
        self._files_thread = LooseThreads("files")
        self._certificates = certificate_files(settings)
        self._access = access(settings)
        self._rung, self._relabelled = asyncio.Event(), asyncio.Event()
        """Another process wrote something; a label was moved."""
        self._leaving = asyncio.Event()
        """Streams are to end."""
        self._is_draining = False
        self._hurried = asyncio.Event()
        self.rooms = Rooms(settings, now_us, fellows)
        self._health = HealthService()
        has_admin_port = settings.admin_port is not None
        self._admissions: list[Admission] = []
        self._server = self._make_port(has_admin=not has_admin_port)
        self._admin_server = self._make_port(has_admin=True) if has_admin_port else None
        metrics = self.rooms.metrics
        metrics.in_flight.set_function(lambda: sum(each.in_flight for each in self._admissions))
        metrics.streams.set_function(lambda: sum(each.streams for each in self._admissions))
        self._tasks: list[asyncio.Task[None]] = []
        self._metrics_server: MetricsServer | None = None
        self._held: set[int] = set()
        self.port = 0
        """The gRPC port, once started."""
        self.admin_port: int | None = None
        """The port of admin methods, once started; None when they have none of their own."""

    def _make_port(self, *, has_admin: bool) -> grpc.aio.Server:
        """A port has an admission of its own: who administers gets in where callers are many."""
        settings = self._settings
        self._admissions.append(Admission(settings.max_in_flight, settings.retry_after_ms))
        interceptor = CallInterceptor(
            self.rooms.metrics,
            self._admissions[-1],
            Reception(settings.tenant, self._access, has_admin=has_admin),
            CallLog(tells_all=settings.log_level is LogLevel.DEBUG),
            self._leaving,
        )
        return make_port(settings, self.rooms, self._health, interceptor, is_shared=self._fellows is not None)

    @property
    def metrics_port(self) -> int | None:
        """The port of /metrics, once started; None when it is off."""
        return None if self._metrics_server is None else self._metrics_server.port

    async def start(self) -> None:
        """Open the database and the ports and begin to answer; RecommendationService follows with a generation.

        A database that is away is waited for.

        Raises:
            ConfigurationError: the address is taken or cannot be listened on; the database is none, or a newer
                release's.
        """
        for name in ("", RECOMMENDATION, *ALWAYS_SERVING):
            self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        try:
            await self._open_rooms()
            self._listen()
        except ConfigurationError:
            await self.rooms.close()
            raise
        await self._load_first()
        await self._server.start()
        if self._admin_server is not None:
            await self._admin_server.start()
        for name in ALWAYS_SERVING:
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        settings = self._settings
        self._tasks += [
            asyncio.create_task(self.rooms.load_text_encoder(), name="load-text-encoder"),
            self._every(self._tail_interval_s, self.rooms.follow, "follow", self._rung),
            self._every(self._label_interval_s, self._reload, "reload", self._relabelled),
            self._every(lambda: settings.lease_ttl_s / 3, self.rooms.heartbeat, "heartbeat"),
            self._every(lambda: _FILES_INTERVAL_S, self._look_at_files, "look-at-files"),
        ]
        if self._fellows is None or self._fellows.number == 0:
            interval_s = settings.attribution_interval_ms / 1000
            self._tasks.append(self._every(lambda: interval_s, self.rooms.attributor.step, "attribute"))
        if self._fellows is not None:
            self._fellows.bell.listen(self._hear)
        loop = asyncio.get_running_loop()
        self.rooms.notifications.start(lambda topics: loop.call_soon_threadsafe(self._notice, topics))
        log.info("server_started", port=self.port, metrics_port=self.metrics_port, admin_port=self.admin_port)

    def _listen(self) -> None:
        settings = self._settings
        for server, port in ((self._server, settings.port), (self._admin_server, settings.admin_port)):
            if server is None:
                continue
            credentials = self._certificates.credentials() if self._certificates is not None else None
            found = listen(server, settings.host, port or 0, credentials)
            if server is self._server:
                self.port = found
            else:
                self.admin_port = found
        if settings.metrics_port is not None:
            host = settings.metrics_host
            try:
                self._metrics_server = MetricsServer(self.rooms.metrics.registry, settings.metrics_port, host)
            except OSError as error:
                address = f"{host}:{settings.metrics_port}"
                raise ConfigurationError(f"cannot listen on {address}, the metrics port: {error}") from error

    async def _look_at_files(self) -> None:
        """Certificates are looked at by each handshake too; here, so that metrics tell before anybody connects."""
        if self._access is not None:
            tokens = await self._looked_at(self._access.kept)
            self._access.take(tokens)
        if self._certificates is not None:
            certificates = await self._looked_at(self._certificates.kept)
            self.rooms.metrics.certificate_expiry.set(certificates.expiry_s)

    async def _looked_at(self, kept: KeptFiles[Value]) -> Value:
        """What files say now; read elsewhere, for a file system that hangs must not stop the loop."""
        value = await asyncio.get_running_loop().run_in_executor(self._files_thread, kept.current)
        self.rooms.metrics.files_refused.labels(kept.what).set(kept.is_refused)
        return value

    async def _load_first(self) -> None:
        """Load what the labels name, so that the port answers warm; a store that hangs must not hold writes back.

        Nor does a database that goes away meanwhile end the start: what could not be done now, the loop repeats.
        """
        loading = asyncio.create_task(self._reload(), name="load-first")
        self._tasks.append(loading)
        await asyncio.wait({loading}, timeout=FIRST_LOAD_S)
        if loading.done():
            try:
                await loading
            except (DatabaseUnavailableError, ArtifactError) as error:
                log.warning("first_load_unfinished", reason=str(error))
        else:
            log.warning("started_without_generation", waited_s=FIRST_LOAD_S)

    def _hear(self) -> None:
        self.rooms.hurry()
        self._rung.set()

    def _notice(self, topics: Collection[Topic]) -> None:
        self.rooms.metrics.notifications.inc()
        if Topic.WRITES in topics:
            self._hear()
        if Topic.LABELS in topics:
            self._relabelled.set()

    def _tail_interval_s(self) -> float:
        interval_s = self._settings.tail_interval_ms / 1000
        return interval_s if self.rooms.awaits_features else self._relaxed(interval_s)

    def _label_interval_s(self) -> float:
        return self._relaxed(self._settings.label_interval_ms / 1000)

    def _relaxed(self, interval_s: float) -> float:
        """Whoever is told need not ask so often."""
        return max(interval_s, _LISTENING_INTERVAL_S) if self.rooms.notifications.is_listening else interval_s

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

    def hurry(self) -> None:
        """While it stops: take no more calls from now on."""
        self._hurried.set()

    async def stop(self, drain_s: float | None = None) -> None:
        """Say NOT_SERVING, answer on for a moment, then take no more calls, let those under way end, and close.

        Args:
            drain_s: how long calls under way may take; the setting by default.
        """
        settings = self._settings
        log.info("server_draining", delay_s=settings.drain_delay_s)
        self._is_draining = True
        for name in ("", RECOMMENDATION, *ALWAYS_SERVING):  # liveness stays: nobody has to end what ends
            self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._tasks:  # else it never started
            await pause(settings.drain_delay_s, self._hurried)
        self._leaving.set()
        self._health.close()
        if self._fellows is not None:
            self._fellows.bell.close()
        await self.rooms.generations.close()
        grace_s = settings.drain_s if drain_s is None else drain_s
        await asyncio.gather(*(each.stop(grace_s) for each in (self._server, self._admin_server) if each is not None))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._files_thread.shutdown(wait=False, cancel_futures=True)
        await self.rooms.close()
        if self._metrics_server is not None:
            self._metrics_server.close()
        log.info("server_stopped")

    async def _reload(self) -> None:
        await self.rooms.generations.refresh()
        self._tell_health()
        held = {generation.number for generation in self.rooms.generations.loaded}
        if held != self._held:  # at start, and after a swap, whoever caused it
            await self.rooms.heartbeat()
            self._held = held

    def _tell_health(self) -> None:
        if self._is_draining:
            return
        ready = self.rooms.generations.stable is not None
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", RECOMMENDATION):
            self._health.set(name, status)

    def _every(
        self,
        interval_s: Callable[[], float],
        step: Callable[[], Awaitable[None]],
        name: str,
        sooner: asyncio.Event | None = None,
    ) -> asyncio.Task[None]:
        """Run a step again and again; while the database is away, at a slower pace. Args: sooner: when not to wait."""

        async def loop() -> None:
            is_away = False
            while True:
                await pause(interval_s(), sooner)
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


async def pause(interval_s: float, sooner: asyncio.Event | None) -> None:
    """Wait so long, or until the event, which is cleared then; None: there is nothing to wait for but the time."""
    if sooner is None:
        await asyncio.sleep(interval_s)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(interval_s):  # wait_for forgets that it was cancelled when the event comes first
            await sooner.wait()
    sooner.clear()
