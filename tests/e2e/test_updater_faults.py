"""Killing the updater and damaging what it wrote: nothing is learned twice, nothing bad is ever served."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sqlalchemy import make_url

from headwater_client import HealthStatus
from headwater_core.artifact_store import ArtifactStore
from headwater_core.database import Database
from headwater_core.generation import LoadedGeneration
from headwater_core.manifest import CHECKPOINT, CHECKPOINT_DELTA
from headwater_core.registry import GenerationRegistry
from headwater_updater.learner import Learner
from tests.e2e.conftest import positions

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(400)]
KILLS = 8


def test_a_killed_updater_resumes_and_learns_every_event_once(world: World) -> None:
    """kill -9 at random moments of learning and publishing: the store stays whole, and every target counts once."""
    chance = random.Random(7)
    for _ in range(KILLS):
        world.installation.start_updater()
        # Anywhere in learning and publishing, which go on all the time; the next one waits for the dead one's lease.
        moment = time.monotonic() + chance.uniform(0.2, 4.0)
        while time.monotonic() < moment:
            world.like(5)
            time.sleep(0.05)
        world.kill_updater()
    world.installation.start_updater()
    world.like(5)
    events = positions(world.client)
    world.wait_for(
        lambda: world.client.recommend(user_id="user-1").watermark >= events[-1], "the watermark at the log's head"
    )
    world.installation.stop_updater()
    assert_all_is_learned_once(world, events)


def test_a_leader_that_was_suspended_cannot_publish(world: World) -> None:
    """Stopped in the middle of its work it loses the lease; woken up, it publishes nothing over its successor's."""
    installation = world.installation
    installation.start_updater()
    world.like(20)
    world.wait_for(lambda: learned_up_to(world) >= positions(world.client)[-1], "the first leader's generation")
    world.like(20)
    suspended = installation.processes["updater"]
    suspend(suspended.pid, world.database_url)
    try:
        installation.start_updater("successor")
        world.like(20)
        world.wait_for(lambda: learned_up_to(world) >= positions(world.client)[-1], "the successor's generation")
    finally:
        os.kill(suspended.pid, signal.SIGCONT)
    world.wait_for(lambda: "lease_lost" in installation.log_of("updater").read_text(), "the first to notice")
    world.like(20)
    events = positions(world.client)
    world.wait_for(lambda: learned_up_to(world) >= events[-1], "the watermark at the log's head")
    installation.stop_updater()
    installation.stop_updater("successor")
    assert_all_is_learned_once(world, events)


def suspend(pid: int, database_url: str) -> None:
    """Stop a process, but not while it holds SQLite's lock, which nobody could take from it."""
    file = str(make_url(database_url).database)
    for _ in range(100):
        os.kill(pid, signal.SIGSTOP)
        with closing(sqlite3.connect(file, timeout=5, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.05)
            else:
                return
    pytest.fail("it holds the lock all the time")


def learned_up_to(world: World) -> int:
    """The watermark that is served."""
    return int(world.client.recommend(user_id="user-1").watermark)


def assert_all_is_learned_once(world: World, events: Sequence[int]) -> None:
    """The store is whole, and the stable generation has counted every event once. Args: events: all positions."""
    store = ArtifactStore(str(world.store.parent))
    database = Database(world.database_url)
    registry = GenerationRegistry(database)
    for record in registry.list(None, 100):
        assert LoadedGeneration.load(store, record.number).number == record.number
    stable = LoadedGeneration.load(store, registry.labels()["stable"])
    names = [name for name in (CHECKPOINT, CHECKPOINT_DELTA) if name in stable.manifest.files]
    contents = [store.open_blob(stable.manifest.files[name]).read_bytes() for name in names]
    learner = Learner.load_state(contents[0], delta=contents[1] if len(contents) > 1 else None)
    assert stable.manifest.watermark == events[-1]
    assert float(np.sum(learner.counts)) == len(events)
    database.close()


def test_a_damaged_shard_leaves_the_old_generation_serving(world: World) -> None:
    """A generation with a flipped byte is not loaded: the one before goes on answering and the reason is shown."""
    serving = world.client.recommend(user_id="user-1").generation
    store = ArtifactStore(str(world.store.parent))
    manifest = store.read_manifest(serving)
    # The same files under a new number, one of them damaged after its hash was taken.
    damaged = serving + 1000
    blob = store.put_blob(b"not the shard that the manifest speaks of")
    files = {**manifest.files, f"{manifest.shards[0]}.faiss": blob}
    store.write_manifest(damaged, manifest.model_copy(update={"number": damaged, "parent": serving, "files": files}))
    path = store.open_blob(blob)
    path.chmod(0o644)
    path.write_bytes(b"not the shard that the manifest says!!!!!")
    database = Database(world.database_url)
    registry = GenerationRegistry(database)
    record = registry.get(serving)
    assert record is not None
    registry.record(dataclasses.replace(record, number=damaged))
    registry.set_label("stable", damaged)
    database.close()

    world.client.reload()
    shown = next(each for each in world.client.list_generations().generations if each.number == damaged)
    assert blob.sha256 in shown.failure
    assert world.client.recommend(user_id="user-1").generation == serving
    assert world.client.health() is HealthStatus.SERVING
