"""What runs on the event loop is short, and callers can see where the time of their call went.

A turn of the loop is measured by what it takes of the CPU, not by the clock: other programs on the machine are no fault
of ours. The limit is that of the design (5 ms), three times over: a test must hold on a slow machine too.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

import grpc
import pytest

from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater_server import garbage
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings

if TYPE_CHECKING:
    from headwater.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceAsyncStub

LONGEST_S = 3 * 0.005
Publish = Callable[..., int]
Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """What each turn of the loop took of the CPU, seconds, and what it was."""
    taken: list[tuple[float, str]] = []
    run = asyncio.events.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        began_s = time.thread_time()
        run(handle)
        taken.append((time.thread_time() - began_s, repr(handle)))

    monkeypatch.setattr(asyncio.events.Handle, "_run", measured)
    return taken


@pytest.fixture
def collected_as_served() -> Iterator[None]:
    """Python collects cycles as it does in a server's process: not all of them whenever many objects are made."""
    thresholds = gc.get_threshold()
    garbage.take_over()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def batch(number: int, count: int) -> events_pb.WriteEventsRequest:
    return events_pb.WriteEventsRequest(
        events=[
            event_pb2.Event(
                event_id=f"{number}-{index}",
                event_type="view",
                user_id=f"user-{index % 50}",
                item_id=f"space-{index % 20:02}",
            )
            for index in range(count)
        ]
    )


async def test_no_turn_of_the_loop_is_long_under_load_and_during_swaps(
    server: HeadwaterServer,
    channel: grpc.aio.Channel,
    settings: ServerSettings,
    publish: Publish,
    until: Until,
    collected_as_served: None,
    turns: list[tuple[float, str]],
) -> None:
    """Requests of every size, writes of a thousand events, and two new generations meanwhile."""
    events: EventServiceAsyncStub = EventServiceStub(channel)
    recommendations: RecommendationServiceAsyncStub = RecommendationServiceStub(channel)
    await recommendations.Recommend(pb.RecommendRequest(user_id="user-1"))  # what is loaded once is loaded
    await events.WriteEvents(batch(-1, 10))
    server.rooms.now_us()
    turns.clear()

    async def load(number: int) -> None:
        for each in range(10):
            await events.WriteEvents(batch(100 * number + each, 1000 if number == 0 else 10))
            await recommendations.Recommend(pb.RecommendRequest(user_id=f"user-{number}", page_size=10))
            long_page = pb.RecommendRequest(user_id=f"user-{number}", page_size=500, diversity=0.5)
            await recommendations.Recommend(long_page)

    async def swaps() -> None:
        for seed in (2, 3):
            number = await asyncio.to_thread(publish, settings, seed=seed)
            await until(lambda number=number: number in {each.number for each in server.rooms.generations.loaded})  # type: ignore[misc]

    await asyncio.gather(swaps(), *(load(number) for number in range(4)))
    longest_s, what = max(turns)
    assert longest_s < LONGEST_S, what


async def test_a_caller_is_told_how_long_each_stage_took(
    recommendations: RecommendationServiceAsyncStub, server: HeadwaterServer
) -> None:
    """As Server-Timing in the trailers, where it is asked for; as metrics always."""
    plain = recommendations.Recommend(pb.RecommendRequest(user_id="ada"))
    await plain
    assert "server-timing" not in dict(await plain.trailing_metadata())
    timed = recommendations.Recommend(pb.RecommendRequest(user_id="bob"), metadata=(("headwater-timing", "1"),))
    await timed
    told = dict(
        entry.split(";dur=") for entry in str(dict(await timed.trailing_metadata())["server-timing"]).split(", ")
    )
    stages = {"admission", "history", "embedding", "retrieval", "filters", "strategy", "serialisation"}
    assert told.keys() == stages
    assert all(float(took_ms) >= 0.0 for took_ms in told.values())
    for stage in stages:
        labels = {"method": "Recommend", "stage": stage}
        assert server.rooms.metrics.registry.get_sample_value("headwater_stage_seconds_count", labels) == 2
