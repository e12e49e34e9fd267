"""A log of any size, made inside the database: users and items are met unevenly, and each of them all the time."""

from __future__ import annotations

from sqlalchemy import Connection, text

from headwater_core.database import Database
from headwater_core.log_writing import POSITION
from headwater_core.schema import counters, event_ids, events

TENANT = "default"
START_US = 1_700_000_000_000_000
EVERY_US = 1_000
"""Between one event and the next."""
_AT_ONCE = 1_000_000
# Multiples of large odd numbers, modulo 2^32, fall evenly and look like chance, on both databases alike.
_DRAWN = """
SELECT n, n * 2654435761 % 4294967296 / 4294967296.0 AS u, n * 2246822519 % 4294967296 / 4294967296.0 AS i,
    n * 3266489917 % 4294967296 / 4294967296.0 AS k
FROM ({numbered}) AS numbered
"""
_EVENTS = """
INSERT INTO events SELECT :tenant, n, 'event-' || n,
    CASE WHEN k < 0.1 THEN 'impression' WHEN k < 0.8 THEN 'view' WHEN k < 0.98 THEN 'click' ELSE 'dislike' END,
    'user', 'user-' || {user}, '', '', 'item-' || {item}, '', NULL, {time}, {time},
    CASE WHEN k < 0.05 THEN '' ELSE 'token' END, NULL, NULL, {false}
FROM ({drawn}) AS drawn
"""
_IDS = "INSERT INTO event_ids SELECT :tenant, 'event-' || n, {hash}, n, {time} FROM ({drawn}) AS drawn"
_POSTGRESQL = {
    "numbered": "SELECT generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n",
    "user": "CAST(floor(:users * u * u) AS bigint)",
    "item": "CAST(floor(:items * i * i) AS bigint)",
    "hash": "sha256(CAST('event-' || n AS bytea))",
    "false": "false",
}
_SQLITE = {
    "numbered": "WITH RECURSIVE numbers(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n < :last) "
    "SELECT n FROM numbers",
    "user": "CAST(:users * u * u AS integer)",
    "item": "CAST(:items * i * i AS integer)",
    "hash": "randomblob(32)",
    "false": "0",
}


def fill(database: Database, count: int, users: int, items: int) -> None:
    """Write the first `count` events of an empty log.

    The share of the users with numbers below n is the root of n / `users`; items likewise. Every tenth event is an
    impression, every second of these a caller's report.
    """
    words = dict(_SQLITE if database.is_sqlite else _POSTGRESQL, time=f"{START_US} + n * {EVERY_US}")
    words["drawn"] = _DRAWN.format_map(words)
    statements = [text(each.format_map(words)) for each in (_EVENTS, _IDS)]
    # Made at once they take a fraction of the time; but SQLite would forget what it was told of them.
    indexes = [] if database.is_sqlite else [*events.indexes, *event_ids.indexes]
    with database.write() as connection:
        for index in indexes:
            index.drop(connection)
    for first in range(1, count + 1, _AT_ONCE):
        stretch = {"first": first, "last": min(count, first + _AT_ONCE - 1)}
        with database.write() as connection:
            without_limits(database, connection)
            for statement in statements:
                connection.execute(statement, {"tenant": TENANT, "users": users, "items": items, **stretch})
    with database.write() as connection:
        without_limits(database, connection)
        for index in indexes:
            index.create(connection)
        connection.execute(counters.insert(), {"tenant": TENANT, "name": POSITION, "value": count})


def without_limits(database: Database, connection: Connection) -> None:
    """Let the connection's transaction take its time and its memory."""
    if not database.is_sqlite:
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0; SET LOCAL maintenance_work_mem = '512MB'")
