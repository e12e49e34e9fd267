"""Servers on PostgreSQL tell each other of their writes; when that fails, each looks for itself as before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import grpc
import psycopg
import pytest
import sqlalchemy
from sqlalchemy import Engine

from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import model_service_pb2 as models_pb
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater.v1.model_service_pb2_grpc import ModelServiceStub
from headwater_core.catalogue import Catalogue, Item
from headwater_core.database import Database
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings

NEVER_MS = 3_600_000
NEVER = {"tail_interval_ms": NEVER_MS, "label_interval_ms": NEVER_MS, "attribution_interval_ms": NEVER_MS}
Until = Callable[[Callable[[], bool]], Awaitable[None]]
StartServer = Callable[..., Awaitable[HeadwaterServer]]
Connect = Callable[[HeadwaterServer], grpc.aio.Channel]


@pytest.fixture
def shared(empty_settings: ServerSettings, postgresql_url: str, publish: Callable[..., int]) -> ServerSettings:
    """An installation on PostgreSQL with a few items and generation 1 under `stable`."""
    settings = empty_settings.model_copy(update={"database_url": postgresql_url})
    database = Database(postgresql_url)
    database.migrate()
    Catalogue(database).upsert([Item(f"space-{number}", "space ship") for number in range(5)], None, 1)
    database.close()
    publish(settings)
    return settings


async def write(channel: grpc.aio.Channel, event_id: str) -> None:
    event = event_pb2.Event(event_id=event_id, event_type="like", user_id="ada", item_id="space-0")
    await EventServiceStub(channel).WriteEvents(events_pb.WriteEventsRequest(events=[event]))


def is_listening(server: HeadwaterServer) -> bool:
    return server.rooms.metrics.registry.get_sample_value("headwater_listening") == 1.0


async def test_a_write_reaches_servers_that_hardly_ever_look(
    shared: ServerSettings, start_server: StartServer, connect: Connect, until: Until
) -> None:
    """Events and labels: the other one is told of both."""
    first, second = await start_server(shared, **NEVER), await start_server(shared, **NEVER)
    await until(lambda: is_listening(first) and is_listening(second))
    await write(connect(first), "one")
    await until(lambda: second.rooms.log_tail.position == 1)
    request = models_pb.SetLabelRequest(label="canary", generation=1)
    await ModelServiceStub(connect(first)).SetLabel(request)
    shown = second.rooms.metrics.registry.get_sample_value
    await until(lambda: shown("headwater_generation", {"label": "canary"}) == 1)
    assert (shown("headwater_notifications_heard_total") or 0) >= 2


async def test_without_notifications_servers_look_for_themselves(
    shared: ServerSettings, start_server: StartServer, connect: Connect, until: Until, postgresql: str
) -> None:
    """The listening connection is ended again and again: every write arrives, and listening comes back."""
    first, second = await start_server(shared, **NEVER), await start_server(shared)
    channel = connect(first)
    with psycopg.connect(postgresql, autocommit=True) as other:
        for number in range(1, 6):
            other.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE query LIKE '%pg_notify%' "
                "AND pid <> pg_backend_pid()"
            )
            await write(channel, f"event-{number}")
            await until(lambda number=number: second.rooms.log_tail.position == number)  # type: ignore[misc]
    await until(lambda: is_listening(first) and is_listening(second))


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Every statement that the pools run."""
    seen: list[str] = []

    def remember(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    sqlalchemy.event.listen(Engine, "before_cursor_execute", remember)
    yield seen
    sqlalchemy.event.remove(Engine, "before_cursor_execute", remember)


async def test_an_idle_server_that_listens_asks_seldom(
    shared: ServerSettings, start_server: StartServer, until: Until, statements: list[str]
) -> None:
    """Once a second, whatever the settings say; as often as they say when it no longer hears."""
    idle = await start_server(shared, tail_interval_ms=1, label_interval_ms=10)
    await until(lambda: is_listening(idle))
    assert (idle._tail_interval_s(), idle._label_interval_s()) == (1.0, 1.0)
    idle.rooms.notifications.close()
    assert (idle._tail_interval_s(), idle._label_interval_s()) == (0.001, 0.01)
    statements.clear()
    await until(lambda: len(statements) > 50)  # it looks for itself again
