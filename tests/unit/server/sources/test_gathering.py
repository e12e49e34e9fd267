"""Sources within their budget: what fails or is slow is left out, and said."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from headwater_server.item_space import Found
from headwater_server.metrics import ServerMetrics
from headwater_server.sources.candidate_source import Asked, CandidateSource
from headwater_server.sources.gathering import Gathering

ASKED = cast(Asked, None)  # these sources do not look at it
AMPLE_S = 60.0


class Given:
    """Proposes what a function gives."""

    def __init__(self, name: str, give: Callable[[], list[Found]], *, on_loop: bool = False) -> None:
        self.name, self.on_loop = name, on_loop
        self._give = give
        self.threads: list[int] = []

    name: str
    on_loop: bool

    def propose(self, asked: Asked, k: int) -> list[Found]:
        """See `CandidateSource`."""
        self.threads.append(threading.get_ident())
        return self._give()[:k]


def items(*ids: str) -> list[Found]:
    return [Found(item_id, 1.0, "given") for item_id in ids]


def fail() -> list[Found]:
    raise RuntimeError("broken")


@pytest.fixture
async def compute() -> AsyncIterator[Callable[..., Any]]:
    with ThreadPoolExecutor(2) as threads:

        async def run(call: Callable[..., Any], *arguments: Any) -> Any:
            return await asyncio.get_running_loop().run_in_executor(threads, functools.partial(call, *arguments))

        yield run


def gathering(compute: Callable[..., Any], *sources: Given) -> tuple[Gathering, ServerMetrics]:
    metrics = ServerMetrics()
    return Gathering(cast("list[CandidateSource]", list(sources)), compute, metrics), metrics


async def test_a_source_that_fails_is_left_out(compute: Callable[..., Any]) -> None:
    """On the event loop or beside it; the others answer, and it is counted."""
    good, bad, worse = Given("good", lambda: items("a", "b")), Given("bad", fail), Given("worse", fail, on_loop=True)
    asks, metrics = gathering(compute, good, bad, worse)
    found = await asks.ask(["bad", "worse", "good"], ASKED, 1, AMPLE_S)
    assert found.proposals == {"bad": [], "worse": [], "good": items("a")}
    assert sorted(found.left_out) == ["bad", "worse"]
    for name in ("bad", "worse"):
        assert metrics.registry.get_sample_value("headwater_sources_left_out_total", {"source": name, "why": "failed"})


async def test_a_slow_source_is_left_out_and_not_asked_again_before_it_has_ended(compute: Callable[..., Any]) -> None:
    """A source that hangs must not take a thread with every request."""
    release = threading.Event()

    def hang() -> list[Found]:
        release.wait()
        return items("late")

    slow, good = Given("slow", hang), Given("good", lambda: items("a"))
    asks, metrics = gathering(compute, slow, good)
    try:
        found = await asks.ask(["slow", "good"], ASKED, 5, 0.05)
        assert "slow" in found.left_out
        assert found.proposals["slow"] == []
        again = await asks.ask(["slow"], ASKED, 5, AMPLE_S)
        assert again.left_out == ["slow"]
        assert len(slow.threads) == 1
    finally:
        release.set()
    assert metrics.registry.get_sample_value("headwater_sources_left_out_total", {"source": "slow", "why": "overdue"})
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})  # the overdue call
    found = await asks.ask(["slow"], ASKED, 5, AMPLE_S)
    assert found.proposals["slow"] == items("late")


async def test_what_may_only_be_read_on_the_loop_is(compute: Callable[..., Any]) -> None:
    """Others begin on the compute threads, until they are known to be quick."""
    here, there = Given("here", lambda: items("a"), on_loop=True), Given("there", lambda: items("b"))
    asks, _ = gathering(compute, here, there)
    await asks.ask(["here", "there"], ASKED, 5, AMPLE_S)
    assert here.threads == [threading.get_ident()]
    assert there.threads != [threading.get_ident()]
