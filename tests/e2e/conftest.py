"""Real processes on a small planted world: users of two tastes, and films of two kinds."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from headwater_client import Client, HealthStatus, event, item

TASTES = {"space": "A space ship among the stars", "love": "A love story in the summer"}
ITEMS_PER_TASTE = 30
USERS = 60
EVENTS_PER_USER = 12
_PROCESSES = Path(__file__).resolve().parents[2] / "examples" / "processes.py"
_ENVIRONMENT = {
    "HEADWATER_PORT": "0",
    "HEADWATER_METRICS_PORT": "",
    "HEADWATER_UPDATER_METRICS_PORT": "",
    "HEADWATER_UPDATER_LEASE_TTL_S": "1",
    "HEADWATER_PUBLISH_INTERVAL_S": "0.2",
    "HEADWATER_POLL_INTERVAL_S": "0.05",
    "HEADWATER_BOOTSTRAP_EPOCHS": "4",
    "HEADWATER_GARBAGE_GRACE_S": "1",
}


class World:
    """An installation of real processes, with the planted films and likes in it."""

    def __init__(self, installation: Any, client: Client) -> None:
        """Args: installation: examples/processes.py's Installation, its server started; client: of that server."""
        self.installation = installation
        self.client = client
        self._chance = random.Random(1)
        self._written = 0

    @property
    def store(self) -> Path:
        """The artifact store's folder."""
        return Path(self.installation.folder) / "artifacts" / "default"

    @property
    def database_url(self) -> str:
        """The database of the installation."""
        return f"sqlite:///{self.installation.folder / 'headwater.db'}"

    def plant(self) -> None:
        """Import the films, and likes of users that keep to their taste each."""
        self.client.upsert_items(
            [
                item(f"{taste}-{number}", title=f"{text}, part {number}", categories=[taste])
                for taste, text in TASTES.items()
                for number in range(ITEMS_PER_TASTE)
            ],
            defer_features=True,
        )
        began = datetime(2024, 1, 1, tzinfo=UTC)
        likes = [
            event(
                "like",
                user_id=f"user-{user}",
                item_id=self.film_for(user),
                event_time=began + timedelta(minutes=10 * step, seconds=user),
            )
            for step in range(EVENTS_PER_USER)
            for user in range(USERS)
        ]
        self.client.write(*likes, backfill=True).raise_for_refused()

    def film_for(self, user: int) -> str:
        """A film of the user's taste."""
        return f"{list(TASTES)[user % len(TASTES)]}-{self._chance.randrange(ITEMS_PER_TASTE)}"

    def like(self, count: int) -> None:
        """Write likes of users in turn, seconds apart by their own clocks: no robot."""
        likes = []
        for _ in range(count):
            self._written += 1
            user = self._written % USERS
            happened = datetime(2024, 6, 1, tzinfo=UTC) + timedelta(minutes=self._written)
            likes.append(event("like", user_id=f"user-{user}", item_id=self.film_for(user), event_time=happened))
        self.client.write(*likes).raise_for_refused()

    def wait_until_serving(self) -> None:
        """Wait for a generation to answer."""
        self.wait_for(lambda: self.client.health() is HealthStatus.SERVING, "a generation in service")

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
        """Ask again until it holds; fails, saying what was waited for."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not in {timeout_s:.0f} s: {what}")
            time.sleep(0.02)

    def kill_updater(self) -> None:
        """kill -9."""
        process = self.installation.processes["updater"]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def installation_class() -> Any:
    """examples/processes.py's Installation; examples/ is no package."""
    spec = importlib.util.spec_from_file_location("examples_processes", _PROCESSES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Installation


@pytest.fixture
def world(tmp_path: Path, installation_class: Any) -> Iterator[World]:
    """A server whose first generation is trained; the updater is not started."""
    with installation_class(tmp_path / "installation", _ENVIRONMENT) as installation:
        installation.start_server()
        with Client(installation.address) as client:
            planted = World(installation, client)
            planted.plant()
            installation.run("headwater-updater", "bootstrap")
            planted.wait_until_serving()
            yield planted
