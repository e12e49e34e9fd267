"""Several real processes on one port: what one is told the others know, and one that dies is replaced."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headwater_client import Client, HealthStatus, event, item
from headwater_server.settings import ServerSettings

WORKERS = 2
CONNECTIONS = 16
"""The kernel deals them out by chance: that all fall to one worker happens once in 32,768 runs."""
PATIENCE_S = 60
NEVER_MS = "3600000"

pytestmark = [pytest.mark.timeout(180)]


def until(condition: Callable[[], bool]) -> None:
    """Wait for it.

    Raises:
        AssertionError: it did not come.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come"
        time.sleep(0.01)


class Server:
    """`headwater-server --workers 2`, and what its log says."""

    def __init__(self, settings: ServerSettings, log: Path, **environment: str) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headwater_server.main", "--workers", str(WORKERS)],
                env={
                    **os.environ,
                    "HEADWATER_DATABASE_URL": settings.database_url,
                    "HEADWATER_STORE_URL": settings.store_url,
                    "HEADWATER_TEXT_ENCODER_PATH": str(settings.text_encoder_path),
                    "HEADWATER_PORT": "0",
                    "HEADWATER_METRICS_PORT": "0",
                    "HEADWATER_TAIL_INTERVAL_MS": NEVER_MS,
                    **environment,
                },
                stdout=output,
                stderr=output,
            )

    def said(self, what: str) -> list[dict[str, Any]]:
        """The log's lines of an event."""
        lines = [line for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, lines) if line["event"] == what]

    @property
    def address(self) -> str:
        """Host and port, once all have started."""
        until(lambda: len(self.said("server_started")) >= WORKERS)
        return f"127.0.0.1:{self.said('workers_started')[0]['port']}"

    def calls(self) -> list[int]:
        """How many calls each worker has answered."""
        return [_calls(int(started["metrics_port"])) for started in self.said("server_started")]

    def pids(self) -> list[int]:
        """The workers' processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]


def _calls(metrics_port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=20) as page:
        lines = page.read().decode().splitlines()
    return round(sum(float(line.split()[-1]) for line in lines if line.startswith("headwater_calls_total{")))


@pytest.fixture
def server(settings: ServerSettings, tmp_path: Path) -> Iterator[Server]:
    server = Server(settings, tmp_path / "server.log")
    yield server
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE_S) == 0
    assert not server.said("loop_failed")


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address, connections=CONNECTIONS) as client:
        until(lambda: all(client.health() is HealthStatus.SERVING for _ in range(CONNECTIONS)))
        client.write(event("like", user_id="ada", item_id="space-05")).raise_for_refused()
        until(lambda: all("space-03" in shown for shown in everywhere(client, "ada")))
        yield client


def everywhere(client: Client, user_id: str) -> list[set[str]]:
    """What a user is shown over each connection."""
    return [set(client.recommend(user_id=user_id, page_size=60).item_ids) for _ in range(CONNECTIONS)]


def test_an_event_written_through_one_is_known_to_all(client: Client, server: Server) -> None:
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


def test_a_worker_that_dies_is_replaced_and_no_call_fails(client: Client, server: Server) -> None:
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


def test_workers_end_with_their_parent(settings: ServerSettings, tmp_path: Path) -> None:
    """A parent that is killed leaves nobody behind to hold the port."""
    server = Server(settings, tmp_path / "server.log")
    assert server.address
    pids = server.pids()
    assert len(pids) == WORKERS
    server.process.kill()
    server.process.wait(PATIENCE_S)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert len(server.said("server_stopped")) == WORKERS


def test_a_port_that_is_taken_is_said_once(settings: ServerSettings, tmp_path: Path) -> None:
    """Not by each worker, and not again and again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Server(settings, tmp_path / "server.log", HEADWATER_PORT=str(taken.getsockname()[1]))
        assert server.process.wait(PATIENCE_S) == 1
    assert [line["reason"].startswith("cannot listen on 127.0.0.1") for line in server.said("server_failed")] == [True]


def test_a_worker_that_cannot_work_ends_them_all(settings: ServerSettings, tmp_path: Path) -> None:
    """A metrics port that is taken would be taken for the next one too."""
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server = Server(settings, tmp_path / "server.log", HEADWATER_METRICS_PORT=str(taken.getsockname()[1]))
        assert server.process.wait(PATIENCE_S) == 1
    assert server.said("server_failed")
    assert not server.said("worker_died")
