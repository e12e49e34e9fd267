"""The log's tail applies every event once, in order, whoever wrote it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from headwater_core.database import Database
from headwater_core.errors import DatabaseUnavailableError
from headwater_core.events import Event, LoggedEvent
from headwater_core.feedback_log import FeedbackLog
from headwater_server.group_committer import Committed
from headwater_server.log_tail import Backlog, LogTail


class Follower:
    """A tail over a real log on SQLite, with a database that can be away."""

    def __init__(self, log: FeedbackLog) -> None:
        self.log = log
        self.applied: list[LoggedEvent] = []
        self.reads = 0
        self.is_away = False
        self.tail = LogTail(log, self._run, self.applied.append)

    async def _run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        self.reads += 1
        if self.is_away:
            raise DatabaseUnavailableError("away")
        await asyncio.sleep(0)
        return call(*arguments)

    def write(self, *names: str) -> Committed:
        events = [Event(name, "click", user_id="ada", item_id="i") for name in names]
        return Committed(events, self.log.append(events, 1_000), 1_000)

    @property
    def names(self) -> list[str]:
        return [logged.event.event_id for logged in self.applied]


@pytest.fixture
def follower(tmp_path: Path) -> Follower:
    database = Database(f"sqlite:///{tmp_path / 'log.db'}")
    database.migrate()
    return Follower(FeedbackLog(database))


async def test_ones_own_commit_is_applied_without_a_reading(follower: Follower) -> None:
    """It is the next one in the log; an event without a time gets that of its receipt, as in the log."""
    await follower.tail.committed(follower.write("a", "b"))
    assert (follower.names, follower.tail.position, follower.reads) == (["a", "b"], 2, 0)
    assert follower.applied == follower.log.read_after(0, 10)


async def test_others_go_on_while_a_large_commit_is_applied(follower: Follower) -> None:
    """A thousand events are applied in parts, in order; nobody else's come in between."""
    first, second = follower.write(*(f"a{number}" for number in range(1_000))), follower.write("b")
    turns: list[int] = []

    async def others() -> None:
        while len(follower.applied) < 1_001:
            turns.append(len(follower.applied))
            await asyncio.sleep(0)

    await asyncio.gather(others(), follower.tail.committed(first), follower.tail.committed(second))
    assert follower.names == [*(f"a{number}" for number in range(1_000)), "b"]
    assert max(after - before for before, after in pairwise(turns)) <= 250
    assert follower.reads == 0


async def test_a_gap_is_read_first(follower: Follower) -> None:
    """Another server wrote in between: its events come before ours."""
    follower.write("theirs")
    await follower.tail.committed(follower.write("ours"))
    assert follower.names == ["theirs", "ours"]


async def test_commits_that_are_told_out_of_order_are_applied_in_order(follower: Follower) -> None:
    """Two commits of this server, the later one first: nothing is lost and nothing comes twice."""
    first, second = follower.write("a"), follower.write("b")
    await follower.tail.committed(second)
    await follower.tail.committed(first)
    assert follower.names == ["a", "b"]


async def test_a_duplicate_brings_its_original(follower: Follower) -> None:
    """The original may be another server's, not followed yet; one that was applied needs no reading."""
    follower.write("a")
    await follower.tail.committed(follower.write("a"))
    assert follower.names == ["a"]
    reads = follower.reads
    await follower.tail.committed(follower.write("a"))
    assert (follower.names, follower.reads) == (["a"], reads)


async def test_a_commit_of_old_and_new_events_is_applied_whole(follower: Follower) -> None:
    """Duplicates and conflicts beside the accepted ones change nothing."""
    await follower.tail.committed(follower.write("a"))
    await follower.tail.committed(follower.write("a", "b"))
    assert follower.names == ["a", "b"]


async def test_without_the_database_a_commit_is_applied_later(follower: Follower) -> None:
    """It is acknowledged all the same; the next look brings it."""
    follower.write("theirs")
    ours = follower.write("ours")
    follower.is_away = True
    await follower.tail.committed(ours)
    assert follower.names == []
    with pytest.raises(DatabaseUnavailableError):
        await follower.tail.catch_up()
    follower.is_away = False
    assert await follower.tail.catch_up() == 2
    assert follower.names == ["theirs", "ours"]


async def test_looks_at_once_apply_everything_once(follower: Follower) -> None:
    """Polls and commits may come together."""
    follower.write("a")
    commit = follower.write("b")
    await asyncio.wait_for(
        asyncio.gather(follower.tail.catch_up(), follower.tail.committed(commit), follower.tail.catch_up()), 20
    )
    assert follower.names == ["a", "b"]


async def test_erased_events_leave_gaps_that_are_passed(follower: Follower) -> None:
    """Positions are not reused; what was erased before it was read is never applied."""
    follower.write("a", "b", "c")
    follower.log.delete_events(["b", "c"])
    await follower.tail.committed(follower.write("d"))
    assert follower.names == ["a", "d"]
    assert follower.tail.position == 4


def test_staleness_is_the_wait_of_the_first_event_not_learned() -> None:
    """0 when all are learned; coarse arrivals never make it too short."""
    backlog = Backlog(resolution_us=10)
    assert backlog.staleness_us(0, 1_000) == 0
    for position, time_us in enumerate((100, 105, 200, 300), start=1):
        backlog.add(position, time_us)
    assert backlog.staleness_us(0, 1_000) == 900
    assert backlog.staleness_us(1, 1_000) == 900
    assert backlog.staleness_us(2, 1_000) == 800
    assert backlog.staleness_us(3, 1_000) == 700
    assert backlog.staleness_us(4, 1_000) == 0
    assert backlog.staleness_us(0, 50) == 0


def test_a_clock_that_was_ahead_hides_no_wait() -> None:
    """What it says came later came no later than what is behind it; arrivals after it are noted."""
    backlog = Backlog(resolution_us=10)
    for position, time_us in enumerate((100, 9_000, 9_500, 200, 205, 300), start=1):
        backlog.add(position, time_us)
    assert [backlog.staleness_us(watermark, 1_000) for watermark in range(7)] == [900, 800, 800, 800, 800, 700, 0]


def test_a_backlog_is_bounded() -> None:
    """The oldest arrivals are forgotten; the staleness is then a lower bound."""
    backlog = Backlog(resolution_us=1, capacity=10)
    for position in range(1, 1001):
        backlog.add(position, position * 10)
    assert 0 < backlog.staleness_us(0, 10_000) <= 200
