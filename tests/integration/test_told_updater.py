"""An updater on PostgreSQL is told of events; when that fails, it looks for itself as before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from headwater_core.notifications import Notifications, Topic
from headwater_updater.daemon import Updater
from headwater_updater.metrics import UpdaterMetrics
from tests.integration.updater_world import N_ITEMS, World, make_world


@pytest.fixture
def world(tmp_path: Path, postgresql_url: str) -> Iterator[World]:
    world = make_world(tmp_path, database_url=postgresql_url, publish_interval_s=0.0)
    world.items(*range(N_ITEMS))
    world.events(200)
    world.bootstrap()
    yield world
    world.resources.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Running:
    """A daemon on a thread of its own."""

    def __init__(self, world: World, poll_interval_s: float) -> None:
        self.metrics = UpdaterMetrics()
        settings = world.settings.model_copy(update={"poll_interval_s": poll_interval_s})
        self.updater = Updater(world.resources, settings, self.metrics)
        self.thread = threading.Thread(target=self.updater.run)

    def shown(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"headwater_updater_{name}") or 0.0

    def __enter__(self) -> Running:
        self.thread.start()
        wait_for(lambda: self.shown("listening") == 1.0 and self.shown("leading") == 1.0)
        return self

    def __exit__(self, *_: object) -> None:
        self.updater.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()


def test_it_learns_what_it_is_told_of(world: World) -> None:
    """Though it would not look for an hour; and it tells servers of the generation."""
    heard: list[Topic] = []
    server = Notifications(world.resources.database)
    server.start(heard.extend)
    wait_for(lambda: len(heard) >= len(Topic) and server.is_listening)
    with Running(world, 3600.0):
        for watermark in (207, 214):
            heard.clear()
            world.events(7)
            server.announce(Topic.WRITES)
            wait_for(lambda watermark=watermark: world.manifest.watermark == watermark)  # type: ignore[misc]
            wait_for(lambda: Topic.LABELS in heard)
    server.close()


def test_it_learns_what_nobody_told_it_of(world: World, postgresql: str) -> None:
    """Its listening connection is gone and nobody speaks: it looks as often as ever, and listens again."""
    with Running(world, 0.2) as running, psycopg.connect(postgresql, autocommit=True) as other:
        for watermark in (207, 214):
            other.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE query LIKE '%pg_notify%' "
                "AND pid <> pg_backend_pid()"
            )
            world.events(7)
            wait_for(lambda watermark=watermark: world.manifest.watermark == watermark)  # type: ignore[misc]
        wait_for(lambda: running.shown("listening") == 1.0)
