"""What is written behind requests: events in shared commits, impressions without holding anybody back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from headwater_core.database import Database
from headwater_core.errors import DatabaseUnavailableError
from headwater_core.events import Event, Subject, SubjectKind
from headwater_core.feedback_log import FeedbackLog, subject_hash
from headwater_core.impressions import Impression, ImpressionLog
from headwater_core.log_writing import AppendOutcome
from headwater_server.group_committer import MAX_EVENTS_PER_COMMIT, MAX_EVENTS_WAITING, Committed, GroupCommitter
from headwater_server.impression_writer import ImpressionWriter
from headwater_server.metrics import ServerMetrics

DEADLINE_S = 20
Until = Callable[[Callable[[], bool]], Awaitable[None]]
NEVER_S = 3600.0


class DatabaseThreads:
    """Runs calls on the database one by one; they can be held, and the database can be away."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        self.calls += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return call(*arguments)


@pytest.fixture
async def threads() -> DatabaseThreads:
    return DatabaseThreads()


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    database.migrate()
    return database


# --- events


class Writer:
    """A committer over a real log, and what it told of its commits."""

    def __init__(self, database: Database, threads: DatabaseThreads) -> None:
        self.log = FeedbackLog(database)
        self.commits: list[Committed] = []
        self.committer = GroupCommitter(self.log, threads.run, self._note, lambda: 1_000)

    async def _note(self, commit: Committed) -> None:
        self.commits.append(commit)


@pytest.fixture
async def writer(database: Database, threads: DatabaseThreads) -> AsyncIterator[Writer]:
    writer = Writer(database, threads)
    writer.committer.start()
    yield writer
    await asyncio.wait_for(writer.committer.stop(), DEADLINE_S)


def events(*names: str) -> list[Event]:
    return [Event(name, "click", user_id="ada", item_id="i") for name in names]


async def test_writers_who_wait_share_a_commit(writer: Writer, threads: DatabaseThreads, until: Until) -> None:
    """Each gets the results of its own events, in their order; every commit is told before its writers are."""
    threads.gate.clear()
    writes = [asyncio.create_task(writer.committer.append(events("a")))]
    await until(lambda: threads.calls == 1)
    writes += [asyncio.create_task(writer.committer.append(batch)) for batch in (events("b", "c"), events("a", "d"))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    threads.gate.set()
    results = await asyncio.wait_for(asyncio.gather(*writes), DEADLINE_S)
    assert [[result.position for result in each] for each in results] == [[1], [2, 3], [1, 4]]
    assert results[2][0].outcome is AppendOutcome.DUPLICATE
    assert [[event.event_id for event in commit.events] for commit in writer.commits] == [["a"], ["b", "c", "a", "d"]]
    assert {commit.received_time_us for commit in writer.commits} == {1_000}


async def test_a_large_batch_is_several_commits(writer: Writer) -> None:
    """So that nobody waits behind ten thousand events; the results come back as one list."""
    many = events(*(str(number) for number in range(2 * MAX_EVENTS_PER_COMMIT + 1)))
    results = await asyncio.wait_for(writer.committer.append(many), DEADLINE_S)
    assert [result.position for result in results] == list(range(1, len(many) + 1))
    assert [len(commit.events) for commit in writer.commits] == [MAX_EVENTS_PER_COMMIT, MAX_EVENTS_PER_COMMIT, 1]


async def test_a_failed_commit_is_told_to_all_its_writers(writer: Writer, threads: DatabaseThreads) -> None:
    """Nothing is applied, and the same events can be sent again."""
    threads.error = DatabaseUnavailableError("away")
    writes = [writer.committer.append(events(name)) for name in "ab"]
    results = await asyncio.wait_for(asyncio.gather(*writes, return_exceptions=True), DEADLINE_S)
    assert all(isinstance(result, DatabaseUnavailableError) for result in results)
    assert writer.commits == []
    threads.error = None
    [result] = await asyncio.wait_for(writer.committer.append(events("a")), DEADLINE_S)
    assert (result.outcome, result.position) == (AppendOutcome.ACCEPTED, 1)


async def test_what_a_writer_who_leaves_had_sent(writer: Writer, threads: DatabaseThreads, until: Until) -> None:
    """It is committed and applied if its commit has begun; if it waits still it is dropped, and nobody else's is."""
    threads.gate.clear()
    first = asyncio.create_task(writer.committer.append(events("begun")))
    await until(lambda: threads.calls == 1)
    leaver = asyncio.create_task(writer.committer.append(events("waiting")))
    stayer = asyncio.create_task(writer.committer.append(events("stayed")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for each in (first, leaver):
        each.cancel()
    await asyncio.wait({first, leaver})
    threads.gate.set()
    await asyncio.wait_for(stayer, DEADLINE_S)
    assert (first.cancelled(), leaver.cancelled()) == (True, True)
    assert [logged.event.event_id for logged in writer.log.read_after(0, 10)] == ["begun", "stayed"]
    assert [[event.event_id for event in commit.events] for commit in writer.commits] == [["begun"], ["stayed"]]


async def test_while_the_database_hangs_only_so_many_events_wait(
    writer: Writer, threads: DatabaseThreads, until: Until
) -> None:
    """Who comes then is refused at once; who left makes room, and what waits is written when the database answers."""
    threads.gate.clear()
    first = asyncio.create_task(writer.committer.append(events("first")))
    await until(lambda: threads.calls == 1)
    full = [events(*(f"{part}-{n}" for n in range(MAX_EVENTS_PER_COMMIT))) for part in range(10)]
    waiting = [asyncio.create_task(writer.committer.append(part)) for part in full]
    await asyncio.sleep(0)
    with pytest.raises(DatabaseUnavailableError, match=f"{MAX_EVENTS_WAITING} events wait"):
        await asyncio.wait_for(writer.committer.append(events("refused")), DEADLINE_S)
    for each in waiting[1:]:
        each.cancel()
    await asyncio.wait(waiting[1:])
    last = asyncio.create_task(writer.committer.append(events("last")))
    await asyncio.sleep(0)
    threads.gate.set()
    await asyncio.wait_for(asyncio.gather(first, waiting[0], last), DEADLINE_S)
    written = [event.event_id for commit in writer.commits for event in commit.events]
    assert written == ["first", *(event.event_id for event in full[0]), "last"]


# --- impressions


def impression(slate_id: str, user_id: str = "ada") -> Impression:
    return Impression(slate_id, Subject(SubjectKind.USER, user_id))


def impressions(database: Database, threads: DatabaseThreads, **options: Any) -> ImpressionWriter:
    return ImpressionWriter(
        ImpressionLog(database), threads.run, ServerMetrics(), **{"interval_s": NEVER_S, "capacity": 10, **options}
    )


def counted(writer: ImpressionWriter, outcome: str) -> float | None:
    registry = writer._metrics.registry
    return registry.get_sample_value("headwater_impressions_total", {"outcome": outcome})


async def test_impressions_are_written_with_a_flush(database: Database, threads: DatabaseThreads) -> None:
    """Adding never waits; a flush writes all, and there is nothing to write twice."""
    writer = impressions(database, threads)
    for number in range(3):
        writer.add(impression(str(number)))
    assert ImpressionLog(database).count() == 0
    await writer.flush()
    await writer.flush()
    assert (ImpressionLog(database).count(), threads.calls, counted(writer, "logged")) == (3, 1, 3.0)


async def test_over_the_bound_the_oldest_impressions_go(database: Database, threads: DatabaseThreads) -> None:
    """And are counted."""
    writer = impressions(database, threads, capacity=2)
    for number in range(5):
        writer.add(impression(str(number)))
    await writer.flush()
    log = ImpressionLog(database)
    assert [log.get(str(number)) is not None for number in range(5)] == [False, False, False, True, True]
    assert counted(writer, "dropped") == 3.0


async def test_without_the_database_impressions_wait(database: Database, threads: DatabaseThreads) -> None:
    """In their order, and are written when it is back."""
    writer = impressions(database, threads)
    threads.error = DatabaseUnavailableError("away")
    writer.add(impression("a"))
    await writer.flush()
    writer.add(impression("b"))
    threads.error = None
    await writer.flush()
    assert ImpressionLog(database).count() == 2


async def test_while_the_database_is_away_it_is_asked_less_and_less(
    database: Database, threads: DatabaseThreads, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to a limit; what happens is told once when it goes and once when it is back, and the pace is as before."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(pause_s: float) -> None:
        pauses.append(pause_s)
        await sleep(0)

    writer = impressions(database, threads, interval_s=0.5)
    threads.error = DatabaseUnavailableError("away")
    writer.add(impression("a"))
    monkeypatch.setattr(asyncio, "sleep", noted)
    with capture_logs() as logged:
        writer.start()
        while len(pauses) < 7:
            await sleep(0)
        threads.error = None
        while pauses[-1] != 0.5:
            await sleep(0)
        await writer.stop()
    assert pauses[:7] == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0]
    assert [line["event"] for line in logged] == ["impressions_wait", "impressions_written_again"]
    assert ImpressionLog(database).count() == 1


async def test_a_batch_that_cannot_be_written_stops_nothing(database: Database, threads: DatabaseThreads) -> None:
    """It is counted as failed; the next ones are written."""
    writer = impressions(database, threads)
    threads.error = ValueError("a bug")
    writer.add(impression("a"))
    await writer.flush()
    threads.error = None
    writer.add(impression("b"))
    await writer.flush()
    assert (counted(writer, "failed"), counted(writer, "logged")) == (1.0, 1.0)


async def test_a_flush_waits_for_the_batch_under_way(
    database: Database, threads: DatabaseThreads, until: Until
) -> None:
    """Who erases a user right after it finds everything written."""
    writer = impressions(database, threads)
    writer.add(impression("a"))
    threads.gate.clear()
    under_way = asyncio.create_task(writer.flush())
    await until(lambda: threads.calls == 1)
    second = asyncio.create_task(writer.flush())
    await asyncio.sleep(0)
    assert not second.done()
    threads.gate.set()
    await asyncio.wait_for(asyncio.gather(under_way, second), DEADLINE_S)
    assert ImpressionLog(database).count() == 1


async def test_an_end_in_the_middle_of_a_write_loses_nothing(
    database: Database, threads: DatabaseThreads, until: Until
) -> None:
    """What was being written is written again; a slate that is there already stays as it is."""
    writer = impressions(database, threads, interval_s=0.0)
    threads.gate.clear()
    writer.start()
    writer.add(impression("a"))
    await until(lambda: threads.calls == 1)
    stopping = asyncio.create_task(writer.stop())
    await until(lambda: threads.calls == 2)
    threads.gate.set()
    await asyncio.wait_for(stopping, DEADLINE_S)
    assert ImpressionLog(database).count() == 1


async def test_an_erased_subjects_impressions_are_forgotten(database: Database, threads: DatabaseThreads) -> None:
    """Those that wait; others', and those shown to nobody in particular, stay."""
    writer = impressions(database, threads)
    for shown in (impression("a"), impression("b", "bob"), Impression("c", None)):
        writer.add(shown)
    writer.forget(subject_hash(Subject(SubjectKind.USER, "ada")))
    await writer.flush()
    log = ImpressionLog(database)
    assert [log.get(slate_id) is not None for slate_id in "abc"] == [False, True, True]
