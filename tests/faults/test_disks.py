"""A database that cannot be written: its disk is full, or it has become read-only. Reads go on, and all comes back.

A server that starts meanwhile waits.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import sqlite3
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from local_postgresql import Cluster
from sqlalchemy import event as sqlalchemy_event

from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater_client import Client, HealthStatus, event
from headwater_core.feedback_log import FeedbackLog
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings
from tests.faults.conftest import Report, fill, has_disks
from tests.integration.server_process import ServerProcess, until

StartServer = Callable[..., Awaitable[HeadwaterServer]]
Connect = Callable[[HeadwaterServer], grpc.aio.Channel]
_numbers = itertools.count()


class Fault:
    """Something that makes writing impossible, until it is mended."""

    reason = ""
    """What callers are told."""

    def begin(self, server: HeadwaterServer) -> None:
        """Let it happen to a server's database."""
        raise NotImplementedError

    def mend(self) -> None:
        """Make it good again."""
        raise NotImplementedError


class FullDisk(Fault):
    """A file fills the file system that holds the database."""

    reason = "disk is full"

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"

    def begin(self, server: HeadwaterServer) -> None:
        fill(self._filler)

    def mend(self) -> None:
        self._filler.unlink()


class ReadOnlyDisk(Fault):
    """The file system is mounted anew, read-only; whoever has a file of it open must let go first."""

    reason = "the database"  # cannot be opened, or is read-only: as the journal was left

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, server: HeadwaterServer) -> None:
        is_tried = threading.Event()

        def wait(*_: object) -> None:
            is_tried.wait(120)

        # The server looks for news every few milliseconds; it would open the file again before the mount is done.
        sqlalchemy_event.listen(server.rooms.database._engine, "do_connect", wait)
        server.rooms.database.close()
        deadline_s = time.monotonic() + 60
        remount = ["mount", "-o", "remount,ro", str(self._folder)]
        try:
            while (tried := subprocess.run(remount, capture_output=True)).returncode:
                assert time.monotonic() < deadline_s, tried.stderr
                gc.collect()  # a connection that was in use when its pool was closed goes with that pool
        finally:
            is_tried.set()

    def mend(self) -> None:
        subprocess.run(["mount", "-o", "remount,rw", self._folder], check=True)


class Pragma(Fault):
    """SQLite refuses by itself what a disk would refuse it: the same errors wherever tests run."""

    def __init__(self, reason: str, pragma: str, undone: str) -> None:
        self.reason = reason
        self._pragma, self._undone = pragma, undone
        self._is_over = False

    def begin(self, server: HeadwaterServer) -> None:
        def configure(connection: Any, *_: object) -> None:
            connection.execute(f"PRAGMA {self._undone if self._is_over else self._pragma}")

        sqlalchemy_event.listen(server.rooms.database._engine, "checkout", configure)

    def mend(self) -> None:
        self._is_over = True


class ReadOnlyPostgresql(Fault):
    """As after a failover: it answers, and takes nothing in."""

    reason = "read-only"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def begin(self, server: HeadwaterServer) -> None:
        self._set("on")

    def mend(self) -> None:
        self._set("off")

    def _set(self, value: str) -> None:
        options = "-c default_transaction_read_only=off"
        with psycopg.connect(self._cluster.uri, autocommit=True, options=options) as connection:
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}".encode())
            connection.execute("SELECT pg_reload_conf()")


_FAULTS = ["full by pages", "read-only by pragma", "read-only postgresql"]


@pytest.fixture(params=[*_FAULTS, *(["full disk", "read-only disk"] if has_disks() else [])])
def fault(request: pytest.FixtureRequest) -> Fault:
    match request.param:
        case "full disk":
            return FullDisk(request.getfixturevalue("small_disk"))
        case "full by pages":  # no page may come to those that are there
            return Pragma("disk is full", "max_page_count = 1", "max_page_count = 1000000000")
        case "read-only disk":
            return ReadOnlyDisk(request.getfixturevalue("small_disk"))
        case "read-only by pragma":
            return Pragma("read-only", "query_only = ON", "query_only = OFF")
        case _:
            return ReadOnlyPostgresql(request.getfixturevalue("cluster"))


@pytest.fixture
def broken_settings(request: pytest.FixtureRequest, fault: Fault) -> ServerSettings:
    """An installation with a generation, its database where the fault will be."""
    settings: ServerSettings = request.getfixturevalue("settings")
    if isinstance(fault, FullDisk | ReadOnlyDisk):
        file = Path(settings.database_url.removeprefix("sqlite:///"))
        moved: Path = request.getfixturevalue("small_disk") / file.name
        moved.write_bytes(file.read_bytes())
        return settings.model_copy(update={"database_url": f"sqlite:///{moved}"})
    if isinstance(fault, ReadOnlyPostgresql):
        return request.getfixturevalue("postgresql_settings")  # type: ignore[no-any-return]
    return settings


def likes(count: int) -> events_pb.WriteEventsRequest:
    """A batch of some size on disk."""
    batch = [
        event_pb2.Event(
            event_id=f"like-{next(_numbers)}",
            event_type="like",
            user_id=f"user-{number % 20}",
            item_id="space-00",
            attributes={"note": "x" * 500},
        )
        for number in range(count)
    ]
    return events_pb.WriteEventsRequest(events=batch)


@pytest.mark.timeout(300)
async def test_what_cannot_be_written_is_refused_clearly_and_the_rest_goes_on(
    fault: Fault, broken_settings: ServerSettings, start_server: StartServer, connect: Connect, report: Report
) -> None:
    """UNAVAILABLE with the reason and a hint; nothing acknowledged is lost; by itself all is as before."""
    server = await start_server(broken_settings)
    channel = connect(server)
    events, recommendations = EventServiceStub(channel), RecommendationServiceStub(channel)
    known = pb.RecommendRequest(user_id="user-1", page_size=5)
    sent: list[events_pb.WriteEventsRequest] = [likes(20)]
    await events.WriteEvents(sent[0])
    before = await recommendations.Recommend(known)
    while before.degraded:  # on a slow machine the history comes later than an answer waits for it
        before = await recommendations.Recommend(known)
    await asyncio.to_thread(fault.begin, server)
    refused = likes(100)
    failure: grpc.aio.AioRpcError | None = None
    while failure is None:  # a journal may have room left
        try:
            await events.WriteEvents(refused)
        except grpc.aio.AioRpcError as error:
            failure = error
        else:
            sent.append(refused)
            refused = likes(100)
    n_refused = 0
    for _ in range(10):
        assert failure.code() is grpc.StatusCode.UNAVAILABLE
        assert fault.reason in (failure.details() or "")
        assert dict(failure.trailing_metadata())["grpc-retry-pushback-ms"]
        during = await recommendations.Recommend(known)
        assert [each.item_id for each in during.results] == [each.item_id for each in before.results]
        stranger = await recommendations.Recommend(pb.RecommendRequest(user_id=f"stranger-{n_refused}"))
        assert stranger.results
        n_refused += 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await events.WriteEvents(refused)
        failure = caught.value
    await asyncio.to_thread(fault.mend)
    began_s = time.monotonic()
    while True:
        try:
            await events.WriteEvents(refused)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert time.monotonic() < began_s + 60
            await asyncio.sleep(0.05)
        else:
            break
    recovery_s = time.monotonic() - began_s
    sent.append(refused)
    ids = [each.event_id for batch in sent for each in batch.events]
    log = FeedbackLog(server.rooms.database)
    found = [each.event.event_id for each in await asyncio.to_thread(log.read_after, 0, 1_000_000)]
    assert sorted(found) == sorted(ids)
    report(refused=n_refused, acknowledged=len(ids), found=len(found), recovery_s=round(recovery_s, 2))


@contextmanager
def full(database: Path) -> Iterator[str]:
    """Nothing goes onto the disk of a database any more. Gives what the server says, as the others below."""
    filler = database.with_name("filler")
    fill(filler)
    yield "disk is full"
    filler.unlink()


@contextmanager
def read_only(database: Path) -> Iterator[str]:
    """Its disk is mounted so."""
    subprocess.run(["mount", "-o", "remount,ro", database.parent], check=True)
    yield "the database is read-only"
    subprocess.run(["mount", "-o", "remount,rw", database.parent], check=True)


@contextmanager
def barred(database: Path) -> Iterator[str]:
    """The file beside it that keeps migrations apart cannot be opened, whoever tries."""
    lock = database.with_name(database.name + ".lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()
    yield "the database's file cannot be opened"
    lock.rmdir()


@contextmanager
def locked(database: Path) -> Iterator[str]:
    """Another program has it to itself."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        yield "the database cannot be reached"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("broken", [barred, locked, *([full, read_only] if has_disks() else [])])
def test_a_server_that_starts_meanwhile_waits(
    broken: Callable[[Path], AbstractContextManager[str]],
    workers: int,
    settings: ServerSettings,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    """It says once what it waits for, and serves and takes events in when that is mended, one process or several."""
    file = Path(settings.database_url.removeprefix("sqlite:///"))
    if broken in (full, read_only):
        file = request.getfixturevalue("small_disk") / file.name
        file.write_bytes(Path(settings.database_url.removeprefix("sqlite:///")).read_bytes())
        settings = settings.model_copy(update={"database_url": f"sqlite:///{file}"})
    with broken(file) as reason:
        server = ServerProcess(settings, tmp_path / "server.log", workers)
        until(lambda: bool(server.said("database_awaited")) or server.process.poll() is not None)
        assert [reason in line["reason"] for line in server.said("database_awaited")] == [True], server.log
    with server, Client(server.address, timeout_s=60.0) as client:
        until(lambda: client.health() is HealthStatus.SERVING)
        client.write(event("like", user_id="ada", item_id="space-00")).raise_for_refused()
        assert client.recommend(user_id="ada").item_ids
    assert "Traceback" not in server.log
