"""However transactions interleave, who goes on after the last position skips nothing and reads nothing twice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import Connection

from headwater_core import log_writing, visitor_links
from headwater_core.database import Database
from headwater_core.events import Event
from headwater_core.feedback_log import FeedbackLog
from headwater_core.log_writing import AppendOutcome

NOW_US = 1_700_000_000_000_000
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def click(event_id: str) -> Event:
    return Event(event_id, "click", user_id="ann", item_id="item", event_time_us=NOW_US)


def append(connection: Connection, event_id: str) -> int:
    event = click(event_id)
    [result] = log_writing.append(connection, "default", [(event, event.content_hash())], NOW_US)
    return result.position


def transaction_id(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT pg_current_xact_id()::text::bigint").scalar_one())


@on_postgresql
def test_a_lower_transaction_may_take_the_higher_position(database: Database) -> None:
    """Positions follow the commits and not the transactions' own numbers, which readers must not go by."""
    log, other = FeedbackLog(database), Database(str(database.url))
    with database.write() as early:
        its_id = transaction_id(early)
        with other.write() as late:
            assert transaction_id(late) > its_id
            assert append(late, "late") == 1
            assert log.read_after(0, 10) == []
        # The other is open still, and its number lower: what is committed is read all the same.
        assert [each.event.event_id for each in log.read_after(0, 10)] == ["late"]
        assert append(early, "early") == 2
        assert log.read_after(1, 10) == []
    assert [(each.position, each.event.event_id) for each in log.read_after(1, 10)] == [(2, "early")]
    other.close()


@on_postgresql
@pytest.mark.parametrize("where", ["this database", "another database"])
def test_an_open_transaction_elsewhere_delays_nobody(database: Database, postgresql: str, where: str) -> None:
    """One that has a number and a snapshot of its own, in this database or another of the cluster."""
    log = FeedbackLog(database)
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url if where == "this database" else postgresql) as elsewhere:
        elsewhere.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        elsewhere.execute("CREATE TABLE held (held int)")
        elsewhere.execute("SELECT count(*) FROM pg_class")
        for number in range(1, 4):
            assert log.append([click(f"event-{number}")], NOW_US)[0].position == number
            assert [each.position for each in log.read_after(number - 1, 10)] == [number]
        elsewhere.rollback()


class _Stumble(Exception):  # noqa: N818
    """Ends a transaction after it has drawn its positions."""


@pytest.mark.parametrize("seed", range(3))
def test_readers_see_every_event_once_in_a_tangle_of_writers(
    database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Writers dawdle between drawing positions and committing, some roll back and try again; readers never rest."""
    write_links = visitor_links.write
    choosers = threading.local()

    def dawdle(connection: Connection, tenant: str, logged: Iterator[tuple[int, Event]]) -> None:
        write_links(connection, tenant, logged)
        time.sleep(choosers.own.choice([0.0, 0.0005, 0.003]))
        if choosers.own.random() < 0.2:
            raise _Stumble

    monkeypatch.setattr(visitor_links, "write", dawdle)

    def write(number: int) -> dict[str, int]:
        own, chooser = Database(database_url), random.Random(f"{seed} {number}")
        choosers.own = chooser
        given: dict[str, int] = {}
        for batch in range(20):
            events = [click(f"{number}-{batch}-{n}") for n in range(chooser.randint(1, 4))]
            while True:
                time.sleep(chooser.choice([0.0, 0.001]))
                try:
                    results = FeedbackLog(own).append(events, NOW_US)
                except _Stumble:
                    continue
                assert {each.outcome for each in results} == {AppendOutcome.ACCEPTED}
                given.update((event.event_id, each.position) for event, each in zip(events, results, strict=True))
                break
        own.close()
        return given

    def read(finished: Callable[[], bool], limit: int) -> list[tuple[str, int]]:
        own, seen, position = Database(database_url), [], 0
        while True:
            is_last = finished()  # asked first: what was committed before is then still read
            page = FeedbackLog(own).read_after(position, limit)
            seen += [(each.event.event_id, each.position) for each in page]
            if page:
                position = page[-1].position
            elif is_last:
                own.close()
                return seen

    with ThreadPoolExecutor(6) as pool:
        writers = [pool.submit(write, number) for number in range(4)]
        readers = [pool.submit(read, lambda: all(each.done() for each in writers), limit) for limit in (1, 100)]
        given = {event_id: position for each in writers for event_id, position in each.result().items()}
    in_order = sorted(given.items(), key=lambda each: each[1])
    assert [position for _, position in in_order] == list(range(1, len(given) + 1))
    for reader in readers:
        assert reader.result() == in_order
    assert FeedbackLog(database).head() == len(given)
