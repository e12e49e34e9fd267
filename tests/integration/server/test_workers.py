"""Several real processes on one port: what one is told the others know, and one that dies is replaced."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from proc import has_ended

from headwater_client import Client, HealthStatus, event, item
from headwater_core.database import Database
from headwater_server.settings import ServerSettings
from tests.integration.server_process import PATIENCE_S, ServerProcess, until

WORKERS = 2
CONNECTIONS = 16
"""The kernel deals them out by chance: that all fall to one worker happens once in 32,768 runs."""
NEVER_MS = "3600000"

pytestmark = [pytest.mark.timeout(400)]


def start(settings: ServerSettings, folder: Path, **environment: str) -> ServerProcess:
    """A server of several; by the clock none looks at the database."""
    return ServerProcess(settings, folder / "server.log", WORKERS, HEADWATER_TAIL_INTERVAL_MS=NEVER_MS, **environment)


@pytest.fixture
def server(settings: ServerSettings, tmp_path: Path) -> Iterator[ServerProcess]:
    server = start(settings, tmp_path)
    yield server
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE_S) == 0
    assert not server.said("loop_failed")


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.address, connections=CONNECTIONS, timeout_s=60.0) as client:
        until(lambda: all(client.health() is HealthStatus.SERVING for _ in range(CONNECTIONS)))
        client.write(event("like", user_id="ada", item_id="space-05")).raise_for_refused()
        until(lambda: all("space-03" in shown for shown in everywhere(client, "ada")))
        yield client


def everywhere(client: Client, user_id: str) -> list[set[str]]:
    """What a user is shown over each connection."""
    return [set(client.recommend(user_id=user_id, page_size=60).item_ids) for _ in range(CONNECTIONS)]


def test_an_event_written_through_one_is_known_to_all(client: Client, server: ServerProcess) -> None:
    """Without any look at the database by the clock: they tell each other."""
    assert min(server.calls()) > 0
    client.write(event("like", user_id="ada", item_id="space-03")).raise_for_refused()
    until(lambda: all("space-03" not in shown for shown in everywhere(client, "ada")))


def test_a_new_item_is_known_to_all(client: Client) -> None:
    """The catalogue that they shared when they began goes on in each."""
    client.upsert_items([item("space-new", title="space ship star", categories=["space"])])
    until(lambda: all(client.get_items(["space-new"]).items for _ in range(CONNECTIONS)))
    until(lambda: all("space-new" in shown for shown in everywhere(client, "ada")))
    client.delete_items(["space-00"])
    until(lambda: all("space-00" not in shown for shown in everywhere(client, "ada")))


def test_a_worker_that_dies_is_replaced_and_no_call_fails(client: Client, server: ServerProcess) -> None:
    """Killed in the middle of calls: a retry finds another, and soon there are as many as before."""
    everywhere(client, "ada")
    killed = server.pids()[0]
    os.kill(killed, signal.SIGKILL)
    for _ in range(3):
        assert all(everywhere(client, "ada"))
    until(lambda: len(server.said("server_started")) == WORKERS + 1)
    assert killed not in server.pids()
    assert len(server.pids()) == WORKERS
    assert [died["status"] for died in server.said("worker_died")] == [-signal.SIGKILL]
    assert all(everywhere(client, "ada"))


def test_a_worker_that_dies_after_a_newer_release_migrated_is_replaced(
    client: Client, server: ServerProcess, settings: ServerSettings
) -> None:
    """While servers are replaced one by one: it goes on as the others of its server do."""
    become_newer(settings)
    os.kill(server.pids()[0], signal.SIGKILL)
    until(lambda: len(server.said("server_started")) == WORKERS + 1)
    assert all(everywhere(client, "ada"))
    assert [died["status"] for died in server.said("worker_died")] == [-signal.SIGKILL]


@pytest.mark.parametrize("workers", [1, WORKERS])
def test_a_server_of_an_older_release_says_why_it_does_not_start(
    settings: ServerSettings, tmp_path: Path, workers: int
) -> None:
    """One line with the reason, be it one process or several, and no traceback."""
    become_newer(settings)
    server = ServerProcess(settings, tmp_path / "server.log", workers)
    assert server.process.wait(PATIENCE_S) == 1
    assert ["of a newer release" in line["reason"] for line in server.said("server_failed")] == [True]
    assert "Traceback" not in server.log


def become_newer(settings: ServerSettings) -> None:
    """Let the schema be of a revision that is not known here."""
    with closing(Database(settings.database_url)) as database, database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")


def test_workers_end_with_their_parent(settings: ServerSettings, tmp_path: Path) -> None:
    """A parent that is killed leaves nobody behind to hold the port."""
    server = start(settings, tmp_path)
    assert server.address
    pids = server.pids()
    assert len(pids) == WORKERS
    server.process.kill()
    server.process.wait(PATIENCE_S)
    until(lambda: all(has_ended(pid) for pid in pids))
    assert len(server.said("server_stopped")) == WORKERS


def test_a_port_that_is_taken_is_said_once(settings: ServerSettings, tmp_path: Path) -> None:
    """Not by each worker, and not again and again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = start(settings, tmp_path, HEADWATER_PORT=str(taken.getsockname()[1]))
        assert server.process.wait(PATIENCE_S) == 1
    assert [line["reason"].startswith("cannot listen on 127.0.0.1") for line in server.said("server_failed")] == [True]


def test_a_worker_that_cannot_work_ends_them_all(settings: ServerSettings, tmp_path: Path) -> None:
    """A metrics port that is taken would be taken for the next one too."""
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server = start(settings, tmp_path, HEADWATER_METRICS_PORT=str(taken.getsockname()[1]))
        assert server.process.wait(PATIENCE_S) == 1
    assert server.said("server_failed")
    assert not server.said("worker_died")
