"""What PostgreSQL gives up for another transaction's sake is tried again and succeeds, or is told as unavailable."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection

from headwater_core import repeating
from headwater_core.database import Database, advance, insert_rows
from headwater_core.errors import DatabaseUnavailableError, TransactionConflictError
from headwater_core.repeating import TRIES, repeated
from headwater_core.schema import counters

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def count(connection: Connection, name: str) -> None:
    advance(connection, "default", name, 1)


def test_a_deadlock_is_tried_again(database: Database) -> None:
    """Two transactions lock two rows in opposite orders: one is given up, and in the end both have written."""
    both_hold_one = threading.Barrier(2, timeout=60)
    tries: list[str] = []

    @repeated
    def write(first: str, second: str) -> None:
        tries.append(first)
        with database.write() as connection:
            count(connection, first)
            if len(tries) <= 2:
                both_hold_one.wait()
            count(connection, second)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write, "a", "b"), pool.submit(write, "b", "a")]:
            done.result()
    assert len(tries) == 3
    assert database.counters("default") == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    "again",
    [lambda c: count(c, "a"), lambda c: insert_rows(c, counters, [("default", "b", 1)])],
    ids=["statement", "rows"],
)
def test_a_serialisation_failure_is_tried_again(database: Database, again: Callable[[Connection], None]) -> None:
    """A transaction that saw the past must not write over what came after it."""
    other, tries = Database(str(database.url)), 0

    @repeated
    def write() -> None:
        nonlocal tries
        tries += 1
        with database.write() as connection:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            seen = connection.exec_driver_sql("SELECT count(*) FROM counters").scalar()
            if tries == 1:
                with other.write() as theirs:
                    theirs.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
                    theirs.exec_driver_sql("SELECT count(*) FROM counters")
                    count(theirs, "a")
                assert seen == 0
            again(connection)

    write()
    other.close()
    assert tries == 2
    assert sum(database.counters("default").values()) == 2


def test_a_lock_that_is_held_too_long_is_tried_again(database: Database) -> None:
    """Whoever holds it may let go in the meantime."""
    other, tries = Database(str(database.url)), 0

    @repeated
    def write(holding: Connection) -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            holding.get_transaction().commit()  # type: ignore[union-attr]
        with database.write() as connection:
            connection.exec_driver_sql("SET LOCAL lock_timeout = '20ms'")
            count(connection, "a")

    with other.write() as holding:
        count(holding, "a")
        write(holding)
    other.close()
    assert tries == 2
    assert database.counters("default") == {"a": 2}


@pytest.mark.parametrize(("patience_s", "most"), [(1_000.0, TRIES), (0.0, 1)], ids=["tries", "time"])
def test_in_the_end_it_is_unavailable(
    database: Database, monkeypatch: pytest.MonkeyPatch, patience_s: float, most: int
) -> None:
    """After the last try, or the first that ends too late, the caller is told; nothing was written."""
    monkeypatch.setattr(repeating, "_FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(repeating, "PATIENCE_S", patience_s)
    other, tries = Database(str(database.url)), 0

    @repeated
    def write() -> None:
        nonlocal tries
        tries += 1
        with database.write() as connection:
            count(connection, "b")
            connection.exec_driver_sql("SET LOCAL lock_timeout = '20ms'")
            count(connection, "a")

    with other.write() as holding:
        count(holding, "a")
        with pytest.raises(DatabaseUnavailableError) as told:
            write()
    other.close()
    assert isinstance(told.value, TransactionConflictError)
    assert tries == most
    assert database.counters("default") == {"a": 1}
