"""What is asked again and again is answered from an index, in a log that is large, on both databases."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy
from sqlalchemy import Engine

from headwater_core.database import Database, advance
from headwater_core.events import Event, Subject, SubjectKind
from headwater_core.feedback_log import EventQuery, FeedbackLog
from headwater_core.log_pruning import LogPruning
from headwater_core.outcomes import OFFSET, OutcomeLog
from headwater_core.registry import GenerationRecord, GenerationRegistry

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # scripts, not a package
from many_events import EVERY_US, START_US, fill

N_EVENTS, N_USERS, N_ITEMS = 100_000, 1_000, 1_000
MIDDLE = N_EVENTS // 2
TYPICAL, HEAVIEST = Subject(SubjectKind.USER, "user-500"), Subject(SubjectKind.USER, "user-0")
LARGE = {"events", "event_ids"}
FEW = 5_000
"""So many rows, by the planner's estimate, may be sorted: those of one user, or of a page."""


class Asked(NamedTuple):
    """A statement on a large table, as it was asked."""

    statement: str
    parameters: Any


@pytest.fixture
def large(database: Database) -> Database:
    """A log of 100,000 events that a generation has learned, just imported: nothing is known of its tables."""
    fill(database, N_EVENTS, N_USERS, N_ITEMS)
    GenerationRegistry(database).record(GenerationRecord(1, 0, True, 1, N_EVENTS, 0, 0, 8, 0))
    with database.write() as connection:
        advance(connection, "default", OFFSET, MIDDLE)
    return database


def reading(database: Database) -> dict[str, Callable[[], object]]:
    """All that servers and the updater ask of the log while they work."""
    log = FeedbackLog(database)
    return {
        "recall": lambda: log.recall(TYPICAL, 200, ["impression"]),
        "recall of much": lambda: log.recall(HEAVIEST, 200, ["impression"]),
        "history": lambda: log.history(HEAVIEST, 100),
        "histories": lambda: log.histories({HEAVIEST: 100, TYPICAL: 200}),
        "version": lambda: log.version(HEAVIEST),
        "read after": lambda: log.read_after(MIDDLE, 1_000),
        "read at": lambda: log.read_at([5, MIDDLE, N_EVENTS]),
        "list by subject": lambda: log.list_events(EventQuery(subject=TYPICAL), MIDDLE, 100),
        "list by item": lambda: log.list_events(EventQuery(item_id="item-500"), 0, 100),
    }


def writing(database: Database) -> dict[str, Callable[[], object]]:
    """And what they write and take away."""
    log, outcomes = FeedbackLog(database), OutcomeLog(database)
    now_us = START_US + N_EVENTS * EVERY_US
    old_us = START_US + N_EVENTS // 50 * EVERY_US
    batch = [Event(f"event-{n}" if n % 2 else f"new-{n}", "click", "user-1", item_id="a") for n in range(1, 101)]
    return {
        "attribute": lambda: outcomes.attribute({}, now_us, window_us=86_400_000_000, grace_us=0),
        "append": lambda: log.append(batch, now_us),
        "erase": lambda: log.delete_events(["event-5"]),
        "erase a subject": lambda: log.delete_subject(TYPICAL),
        "prune ids": lambda: log.prune_event_ids(old_us, 100),
        "prune": lambda: LogPruning(database).prune(old_us, 100, now_us),
    }


@contextmanager
def listening() -> Iterator[list[Asked]]:
    asked: list[Asked] = []

    def remember(_c: object, _cursor: object, statement: str, parameters: Any, _context: object, many: bool) -> None:
        words = set(statement.replace("\n", " ").replace(".", " ").split())
        if words & LARGE and not many:
            asked.append(Asked(statement, parameters))

    sqlalchemy.event.listen(Engine, "before_cursor_execute", remember)
    yield asked
    sqlalchemy.event.remove(Engine, "before_cursor_execute", remember)


def slow_steps(database: Database, asked: Asked) -> list[str]:
    """What of a statement's plan walks through a whole table, or sorts more than a few rows."""
    explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN (FORMAT JSON)"
    with database.read() as connection:
        rows = connection.exec_driver_sql(f"{explain} {asked.statement}", asked.parameters).all()
    if not database.is_sqlite:
        return list(_slow(rows[0][0][0]["Plan"]))
    # An index of which only the tenant is used walks through everything, too.
    scans = tuple(f"SCAN {name}" for name in LARGE)
    return [step for *_, step in rows if step.startswith(scans) or "(tenant=?)" in step]


def _slow(node: dict[str, Any]) -> Iterator[str]:
    kind, rows = node["Node Type"], node["Plan Rows"]
    if "Seq Scan" in kind and node["Relation Name"] in LARGE:
        yield f"{kind} on {node['Relation Name']}"
    if "Sort" in kind and rows > FEW:
        yield f"{kind} of {rows} rows"
    for child in node.get("Plans", ()):
        yield from _slow(child)


def slow_questions(database: Database, questions: dict[str, Callable[[], object]]) -> dict[str, list[str]]:
    slow: dict[str, list[str]] = {}
    for name, ask in questions.items():
        with listening() as asked:
            ask()
        assert asked, name
        if steps := [step for each in asked for step in slow_steps(database, each)]:
            slow[name] = steps
    return slow


def assert_seen_is_read_from_the_index_alone(large: Database) -> None:
    """Who has done much has events on as many of the table's pages."""
    with listening() as asked:
        FeedbackLog(large).recall(HEAVIEST, 100, ["impression"])
    [seen] = [each for each in asked if "DISTINCT" in each.statement]
    with large.read() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN {seen.statement}", seen.parameters).scalars().all()
    assert any("Index Only Scan using ix_events_history" in step for step in plan), plan


def test_every_question_is_answered_by_an_index(large: Database) -> None:
    """No plan walks through all events, or sorts more than a subject's or a page's; and one that does is noticed."""
    assert slow_steps(large, Asked("SELECT count(*) FROM events WHERE session_id = 'a'", ()))
    assert slow_questions(large, reading(large)) == {}
    if not large.is_sqlite:
        by_time = "SELECT * FROM events WHERE tenant = 'default' ORDER BY received_time_us"
        with large.connect_apart() as apart:
            apart.execute("VACUUM ANALYZE events")
            apart.execute("ANALYZE")
        assert any("Sort" in step for step in slow_steps(large, Asked(by_time, ())))
        assert slow_questions(large, reading(large)) == {}
        assert_seen_is_read_from_the_index_alone(large)
    assert slow_questions(large, writing(large)) == {}
