"""What the questions that serving and learning ask the log take, in a log of any size.

`python benchmarks/log_queries.py --events 10000000 --postgresql` starts a real PostgreSQL (from the package that the
tests use, with its own settings and fsync), has it make the events (`many_events`), vacuums, and asks as servers and
the updater ask: a user's history (`FeedbackLog.recall`), of users of 50 to 200 events, each asked once and in no order,
and of the user with the most; the next 1,000 events after a place anywhere; and appends 100 events. Beside them, in
the same run and in turns with the histories, the round trip of `SELECT 1`. Needs 6 GB of disk for 10 million events.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from local_postgresql import local_postgresql
from many_events import EVERY_US, START_US, TENANT, fill, without_limits
from sqlalchemy import func, select, text

from headwater_core.co_visits import REPEAT_EVENTS
from headwater_core.database import Database
from headwater_core.events import Event, Subject, SubjectKind
from headwater_core.feedback_log import FeedbackLog
from headwater_core.schema import events

_PER_USER_AND_ITEM = 100
"""So many events on average."""
_USERS_ASKED = 1_000
_LEFT_OUT = ["impression"]


def main() -> int:
    """Fill, measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description="what questions to a large log take")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--postgresql", action="store_true", help="on PostgreSQL instead of SQLite")
    parser.add_argument("--folder", type=Path, help="where a temporary folder is made for the database")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="headwater-", dir=arguments.folder) as folder,
        _database(Path(folder), is_sqlite=not arguments.postgresql) as database,
    ):
        began_s = time.perf_counter()
        n_users = n_items = arguments.events // _PER_USER_AND_ITEM + 1
        fill(database, arguments.events, n_users, n_items)
        _settle(database)
        filled_s = time.perf_counter() - began_s
        rows = _measure(database, arguments.events)
        size_gb = _size_gb(database)
    _show(rows, arguments, filled_s, size_gb)
    if arguments.out:
        said = {"events": arguments.events, "filled_s": filled_s, "size_gb": size_gb, "rows": rows}
        arguments.out.write_text(json.dumps(said, indent=1) + "\n")
    return 0


def _measure(database: Database, count: int) -> list[dict[str, Any]]:
    log, chance = FeedbackLog(database, TENANT), random.Random(1)
    sizes = func.count()
    by_user = select(events.c.subject_id, sizes).where(events.c.tenant == TENANT).group_by(events.c.subject_id)
    with database.write() as connection:
        without_limits(database, connection)
        found = connection.execute(by_user).all()
    typical = sorted(user for user, size in found if 50 <= size <= 200)
    heaviest, most = max(found, key=lambda row: row[1])
    asked = chance.sample(typical, min(_USERS_ASKED, len(typical)))

    def recall(user: str) -> Callable[[], object]:
        return lambda: log.recall(Subject(SubjectKind.USER, user), REPEAT_EVENTS, _LEFT_OUT)

    def append() -> object:
        now_us = START_US + (count + 1) * EVERY_US
        batch = [Event(str(uuid.uuid4()), "click", user, item_id="item-1") for user in chance.sample(asked, 100)]
        return log.append(batch, now_us)

    recall(asked[0])()
    histories, round_trips = [], []
    for user in asked:
        round_trips.append(_timed(lambda: _round_trip(database)))
        histories.append(_timed(recall(user)))
    return [
        _row("SELECT 1", round_trips),
        _row("history of a user of 50 to 200 events", histories),
        _row(f"history of the user of {most} events", [_timed(recall(heaviest)) for _ in range(50)]),
        _row(
            "1,000 events after a position",
            [_timed(lambda: log.read_after(chance.randrange(count), 1_000)) for _ in range(200)],
        ),
        _row("append of 100 events", [_timed(append) for _ in range(200)]),
    ]


def _round_trip(database: Database) -> None:
    with database.read() as connection:
        connection.execute(_ONE)


_ONE = text("SELECT 1")


def _timed(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return 1_000 * (time.perf_counter() - began_s)


def _row(question: str, times_ms: Sequence[float]) -> dict[str, Any]:
    p50, p99 = np.percentile(times_ms, [50, 99])
    return {"question": question, "asked": len(times_ms), "p50_ms": float(p50), "p99_ms": float(p99)}


def _settle(database: Database) -> None:
    """What autovacuum would have done in time."""
    if not database.is_sqlite:
        with database.connect_apart() as connection:
            connection.execute("VACUUM ANALYZE events")
            connection.execute("VACUUM ANALYZE event_ids")
            connection.execute("CHECKPOINT")


def _size_gb(database: Database) -> float:
    with database.read() as connection:
        if database.is_sqlite:
            return Path(str(database.url.database)).stat().st_size / 1e9
        return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one()) / 1e9


def _show(rows: Sequence[dict[str, Any]], arguments: argparse.Namespace, filled_s: float, size_gb: float) -> None:
    name = "PostgreSQL" if arguments.postgresql else "SQLite"
    print(f"{arguments.events:,} events on {name}: {size_gb:.1f} GB, made in {filled_s:.0f} s\n")
    print("| question | asked | p50 ms | p99 ms |\n| --- | ---: | ---: | ---: |")
    for row in rows:
        print(f"| {row['question']} | {row['asked']} | {row['p50_ms']:.2f} | {row['p99_ms']:.2f} |")


@contextmanager
def _database(folder: Path, *, is_sqlite: bool) -> Iterator[Database]:
    with ExitStack() as stack:
        url = f"sqlite:///{folder / 'headwater.db'}"
        if not is_sqlite:
            url = stack.enter_context(local_postgresql(folder)).create()
        database = stack.enter_context(closing(Database(url)))
        database.migrate()
        yield database


if __name__ == "__main__":
    sys.exit(main())
