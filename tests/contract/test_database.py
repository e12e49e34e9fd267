"""Transactions are all or nothing, and an unreachable database says so in one way."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, exc
from structlog.testing import capture_logs

from headwater_core import database as database_module
from headwater_core.database import Database, advance, chunks, current, insert_rows
from headwater_core.errors import ConfigurationError, DatabaseUnavailableError
from headwater_core.feedback_log import FeedbackLog
from headwater_core.schema import counters


def test_a_block_that_raises_writes_nothing(database: Database) -> None:
    """An exception inside write() rolls everything back and is passed on."""
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        advance(connection, "default", "anything", 3)
        raise ZeroDivisionError
    with database.read() as connection:
        assert current(connection, "default", "anything") == 0


def test_counters_of_concurrent_writers_give_each_number_once(database: Database) -> None:
    """Threads that count up at once, the first use included, get different numbers without gaps."""
    given: list[int] = []

    def count() -> None:
        for _ in range(10):
            with database.write() as connection:
                given.append(advance(connection, "default", "fresh", 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(given) == list(range(1, 41))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://nobody@127.0.0.1:1/none?connect_timeout=2", "the database cannot be reached"),
        ("sqlite:////nowhere/at/all/headwater.db", "the database's file cannot be opened"),
    ],
)
def test_a_database_that_is_down_is_unavailable(url: str, reason: str) -> None:
    """Reading and writing raise DatabaseUnavailableError when there is nothing to connect to."""
    log = FeedbackLog(Database(url))
    with pytest.raises(DatabaseUnavailableError) as told:
        log.head()
    assert str(told.value) == reason, "hosts, users and files are for the log alone"
    with pytest.raises(DatabaseUnavailableError):
        log.prune_event_ids(0, 1)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    "write",
    [
        lambda connection: advance(connection, "default", "anything", 1),
        lambda connection: insert_rows(connection, counters, [("default", "anything", 1)]),
    ],
    ids=["a statement", "rows"],
)
def test_a_connection_cut_in_a_transaction_is_unavailable_and_the_next_works(
    database: Database, postgresql: str, write: Callable[[Connection], object]
) -> None:
    """When PostgreSQL ends the session in the middle, the caller may simply try again."""
    with pytest.raises(DatabaseUnavailableError), database.write() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        with psycopg.connect(postgresql, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        write(connection)
    with database.write() as connection:
        assert advance(connection, "default", "anything", 1) == 1


def test_rows_are_inserted_in_the_order_of_the_columns(database: Database) -> None:
    """All of them or, when one cannot be, none."""
    rows = [("default", f"counter-{number}", number) for number in range(2_000)]
    with database.write() as connection:
        insert_rows(connection, counters, rows)
    assert database.counters("default") == {name: value for _, name, value in rows}
    with pytest.raises((exc.IntegrityError, psycopg.IntegrityError)), database.write() as connection:
        insert_rows(connection, counters, [("default", "new", 1), rows[0]])
    assert "new" not in database.counters("default")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_server_that_became_read_only_is_unavailable(database: Database) -> None:
    """After a failover the old server refuses writes: that is an outage, and its connections are given up."""
    with pytest.raises(DatabaseUnavailableError), database.write() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        advance(connection, "default", "anything", 1)
    with database.write() as connection:
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar() != pid
        assert advance(connection, "default", "anything", 1) == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_no_connection_waits_for_ever(database: Database) -> None:
    """A host that is gone without a word, and a statement without end, are given up; what the URL says counts more."""
    with database.read() as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "30s"
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "10s"
        assert connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar() == "15s"
        assert connection.exec_driver_sql("SHOW application_name").scalar() == "headwater"
        given = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
    assert (given["keepalives_idle"], given["tcp_user_timeout"], given["connect_timeout"]) == ("10", "10000", "5")
    own = Database(str(database.url.update_query_dict({"tcp_user_timeout": "2000"})))
    with own.read() as connection:
        given = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
    own.close()
    assert (given["tcp_user_timeout"], given["keepalives_count"]) == ("2000", "3")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_migration_may_take_its_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making an index on a large table must not be cut off."""
    limits: list[object] = []

    def upgrade(config: Config, _revision: str) -> None:
        limits.append(config.attributes["connection"].exec_driver_sql("SHOW statement_timeout").scalar())

    monkeypatch.setattr(command, "upgrade", upgrade)
    database.migrate()
    assert limits == ["0"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_process_that_stops_in_a_transaction_holds_its_locks_no_longer(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL ends its session; the others go on, and so does it once it runs again."""
    database, other = Database(database_url), Database(database_url)
    other.migrate()
    other.counters("default")  # it has its connection, whose limit is the usual one
    with monkeypatch.context() as patched:
        patched.setattr(database_module, "IDLE_IN_TRANSACTION_TIMEOUT_S", 1)
        with pytest.raises(DatabaseUnavailableError), database.write() as connection:
            advance(connection, "default", "anything", 7)
            with other.write() as waiting:  # it holds nothing while it waits for the row
                assert advance(waiting, "default", "anything", 1) == 1
            advance(connection, "default", "anything", 7)
    with database.write() as connection:
        assert advance(connection, "default", "anything", 1) == 2
    database.close()
    other.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_process_has_no_more_connections_than_it_was_given(
    database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes when all are taken waits, and is told if none becomes free."""
    monkeypatch.setattr(database_module, "POOL_TIMEOUT_S", 0.05)
    small = Database(database_url, pool_size=2, application="small")
    with small.read() as connection, small.read(), pytest.raises(DatabaseUnavailableError), small.read():
        raise AssertionError("a third connection")
    with small.read() as connection:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'small'"
        assert connection.exec_driver_sql(asked).scalar() == 2
    small.close()


def test_errors_do_not_tell_what_was_written(database: Database) -> None:
    """An error's text ends in logs: the values that callers wrote are not part of it."""
    with pytest.raises(sqlalchemy.exc.DBAPIError) as failed, database.read() as connection:
        connection.execute(sqlalchemy.text("SELECT 1 FROM nowhere WHERE a = :a"), {"a": "a user's secret"})
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_database_that_stays_locked_is_unavailable(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """An SQLite file that another process keeps writing to raises DatabaseUnavailableError after the busy timeout."""
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.05)
    other = Database(str(database.url))
    with database.write(), pytest.raises(DatabaseUnavailableError), other.write():
        raise AssertionError("two writers at once")
    other.close()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "the database's disk is full"),
        (errno.EDQUOT, "the database's disk is full"),
        (errno.EROFS, "the database is read-only"),
        (errno.EIO, "the database's disk is full or fails"),
        (errno.EACCES, "the database's file cannot be opened"),
    ],
)
def test_a_lock_file_that_cannot_be_opened_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str
) -> None:
    """Whoever migrates is told what to mend, in the words of any other statement, and may try again."""

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    database = Database(f"sqlite:///{tmp_path}/headwater.db")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(DatabaseUnavailableError, match=f"^{reason}$"):
            database.migrate()
    database.migrate()
    database.close()


def test_a_file_that_stays_locked_before_a_migration_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program has the SQLite file to itself; when it is done the migration goes on."""
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.05)
    database = Database(f"sqlite:///{tmp_path}/headwater.db")
    with closing(sqlite3.connect(tmp_path / "headwater.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseUnavailableError):
            database.migrate()
    database.migrate()
    database.close()


def test_a_file_that_is_no_database_is_a_mistake(tmp_path: Path) -> None:
    """To wait would not help, and the file stays as it is."""
    file = tmp_path / "headwater.db"
    file.write_text("a list of things to buy, and no database at all" * 20)
    database = Database(f"sqlite:///{file}")
    with pytest.raises(ConfigurationError, match=r"headwater\.db is no SQLite database"):
        database.migrate()
    assert file.read_text().startswith("a list")
    database.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_log_does_not_repeat_what_was_being_written(database: Database) -> None:
    """PostgreSQL's context quotes the row at which it stopped, and its details do the same."""
    shut_down = """DO $$ BEGIN
        RAISE EXCEPTION 'terminating connection' USING ERRCODE = '57P01', DETAIL = 'user alice';
    END $$"""
    with capture_logs() as logged, pytest.raises(DatabaseUnavailableError), database.write() as connection:
        connection.exec_driver_sql(shut_down)
    assert [line["reason"] for line in logged if line["event"] == "database_unavailable"] == ["terminating connection"]


def test_a_wrong_statement_is_a_mistake_not_an_outage(database: Database) -> None:
    """What trying again cannot help is not called unavailable."""
    with pytest.raises(sqlalchemy.exc.DBAPIError), database.read() as connection:
        connection.exec_driver_sql("SELECT 1 FROM there_is_no_such_table")


@pytest.mark.parametrize("url", ["mysql://host/name", "sqlite://", "sqlite:///:memory:", "not a url"])
def test_what_cannot_be_a_database_is_refused(url: str) -> None:
    """Other kinds of database, SQLite without a file and malformed URLs are configuration errors."""
    with pytest.raises(ConfigurationError):
        Database(url)


def test_sqlite_writes_ahead_and_to_disk(tmp_path: Path) -> None:
    """The journal is write-ahead, and a commit is on disk before it returns (synchronous FULL is 2)."""
    database = Database(f"sqlite:///{tmp_path}/deep/down/headwater.db")
    database.migrate()
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    database.close()


def test_chunks_cut_in_order() -> None:
    """Nothing is lost or reordered; nothing gives nothing."""
    assert [list(chunk) for chunk in chunks(range(5), 2)] == [[0, 1], [2, 3], [4]]
    assert list(chunks([])) == []
