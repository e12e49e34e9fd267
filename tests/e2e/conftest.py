"""Real processes on a small planted world: users of two tastes, and films of two kinds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from headwater_client import Client, HealthStatus, event, item

TASTES = {"space": "A space ship among the stars", "love": "A love story in the summer"}
ITEMS_PER_TASTE = 30
USERS = 60
EVENTS_PER_USER = 12
ENVIRONMENT = {
    "HEADWATER_PORT": "0",
    "HEADWATER_METRICS_PORT": "",
    "HEADWATER_UPDATER_METRICS_PORT": "",
    "HEADWATER_UPDATER_LEASE_TTL_S": "1",
    "HEADWATER_PUBLISH_INTERVAL_S": "0.2",
    "HEADWATER_POLL_INTERVAL_S": "0.05",
    "HEADWATER_BOOTSTRAP_EPOCHS": "4",
    "HEADWATER_GARBAGE_GRACE_S": "1",
}
DEADLINE_S = 60.0
"""Of every call: a machine that trains and tests besides may take longer over one than the SDK's 2 s."""


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    """Ask again until it holds; fails, saying what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not in {timeout_s:.0f} s: {what}")
        time.sleep(0.02)


def wait_until_serving(client: Client) -> None:
    """Wait for a generation to answer."""
    wait_for(lambda: client.health() is HealthStatus.SERVING, "a generation in service")


def positions(client: Client) -> list[int]:
    """The log positions of all events, in order."""
    found: list[int] = []
    token = ""
    while True:
        page = client.list_events(page_size=1000, page_token=token)
        found += [stored.log_position for stored in page.events]
        token = page.next_page_token
        if not token:
            return found


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
        wait_until_serving(self.client)

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
        """Ask again until it holds; fails, saying what was waited for."""
        wait_for(condition, what, timeout_s)

    def kill_updater(self) -> None:
        """kill -9."""
        self.installation.kill("updater")


@contextmanager
def planted_world(folder: Path, installation_class: Any, **environment: str) -> Iterator[World]:
    """A server whose first generation is trained; the updater is not started. Args: environment: beside ENVIRONMENT."""
    with installation_class(folder, {**ENVIRONMENT, **environment}) as installation:
        installation.start_server()
        with Client(installation.address, timeout_s=DEADLINE_S) as client:
            planted = World(installation, client)
            planted.plant()
            installation.run("headwater-updater", "bootstrap")
            planted.wait_until_serving()
            yield planted


@pytest.fixture
def world(tmp_path: Path, installation_class: Any) -> Iterator[World]:
    """One on SQLite."""
    with planted_world(tmp_path / "installation", installation_class) as world:
        yield world
