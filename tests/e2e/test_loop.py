"""The whole loop with real processes: events in, recommendations out, learning, publishing, hot reload."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from headwater_client import Client, event, item
from tests.e2e.conftest import DEADLINE_S

if TYPE_CHECKING:
    from tests.e2e.conftest import World

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart.py"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_an_acknowledged_event_changes_the_next_answer(world: World) -> None:
    """A newcomer's likes of one taste fill the very next slate with that taste, and liked films are not shown again."""
    likes = [event("like", user_id="newcomer", item_id=f"love-{number}") for number in range(4)]
    world.client.recommend(user_id="newcomer")
    world.client.write(*likes).raise_for_refused()
    after = world.client.recommend(user_id="newcomer", page_size=10).item_ids
    assert sum(film.startswith("love-") for film in after) >= 7
    assert not {like.item_id for like in likes} & set(after)


def test_the_quickstart_runs_as_written(world: World) -> None:
    """examples/quickstart.py, against a real server: a newcomer's like changes the answer."""
    environment = {**os.environ, "HEADWATER_ADDRESS": world.installation.address}
    done = subprocess.run([sys.executable, QUICKSTART], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = done.stdout.split("\nafter liking ")
    assert len(before.strip().splitlines()) == len(after.splitlines()[1:]) == 5
    assert before.strip().splitlines() != after.splitlines()[1:]


def test_a_new_item_is_recommended_before_any_interaction(world: World) -> None:
    """A film that was just added is in the slate of a user with that taste, by its text alone."""
    world.client.upsert_items([item("love-new", title="A love story in the summer, the last part")])
    slate = world.client.recommend(user_id="user-1", page_size=10)
    assert "love-new" in slate.item_ids


def test_the_server_swaps_under_load_without_a_failed_call(world: World) -> None:
    """While the updater publishes again and again, every call is answered, by ever newer generations."""
    world.installation.start_updater()
    ended = threading.Event()
    failures: list[Exception] = []
    generations: set[int] = set()

    def call_on() -> None:
        with Client(world.installation.address, timeout_s=DEADLINE_S) as client:
            while not ended.is_set():
                try:
                    generations.add(client.recommend(user_id="user-2").generation)
                except Exception as error:  # noqa: BLE001 - whatever fails is what the test is about
                    failures.append(error)

    callers = [threading.Thread(target=call_on) for _ in range(4)]
    for caller in callers:
        caller.start()

    def enough() -> bool:
        world.like(20)
        return len(generations) >= 5

    try:
        world.wait_for(enough, "five generations in service")
    finally:
        ended.set()
        for caller in callers:
            caller.join()
    assert failures == []


def test_events_are_learned_and_the_watermark_reaches_the_head(world: World) -> None:
    """What was written is learned and served: the serving generation's watermark arrives at the last event."""
    world.installation.start_updater()
    world.like(50)
    head = max(stored.log_position for stored in world.client.list_events(page_size=1000).events)
    world.wait_for(lambda: world.client.recommend(user_id="user-1").watermark >= head, f"watermark {head}")
    assert world.client.recommend(user_id="user-1").staleness_s == 0.0
