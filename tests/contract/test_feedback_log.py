"""The feedback log: each event once, in commit order, found by whose history it is."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Connection, Engine, Table, select

from headwater_core import visitor_links
from headwater_core.database import Database, advance, insert
from headwater_core.errors import ConflictError, LeaseLostError, TransactionConflictError
from headwater_core.event_types import EventTypes
from headwater_core.events import Event, EventType, LoggedEvent, Subject, SubjectKind, history_event
from headwater_core.feedback_log import (
    Erasure,
    EventQuery,
    FeedbackLog,
    Rejection,
    subject_hash,
)
from headwater_core.impressions import Impression, ImpressionLog
from headwater_core.log_writing import AppendOutcome, AppendResult
from headwater_core.registry import GenerationRegistry
from headwater_core.schema import leases

NOW_US = 1_700_000_000_000_000
ANN = Subject(SubjectKind.USER, "ann")
BEN = Subject(SubjectKind.USER, "ben")
COOKIE = Subject(SubjectKind.VISITOR, "cookie")
ACCEPTED, DUPLICATE, CONFLICT = AppendOutcome.ACCEPTED, AppendOutcome.DUPLICATE, AppendOutcome.CONFLICT


@pytest.fixture
def log(database: Database) -> FeedbackLog:
    return FeedbackLog(database)


def click(event_id: str, user_id: str = "ann", **changes: Any) -> Event:
    fields: dict[str, Any] = {"event_type": "click", "item_id": "item", "event_time_us": NOW_US} | changes
    return Event(event_id, user_id=user_id, **fields)


def ids(logged: Sequence[LoggedEvent]) -> list[str]:
    return [each.event.event_id for each in logged]


def follow(log: FeedbackLog, until: Callable[[], bool], limit: int = 7) -> Iterator[LoggedEvent]:
    """What a reader sees who always goes on after the last position it saw."""
    position = 0
    while True:
        finished = until()  # asked first: what was committed before is then still read
        page = log.read_after(position, limit)
        yield from page
        if page:
            position = page[-1].position
        elif finished:
            return


class TestAppend:
    def test_an_event_comes_back_whole(self, log: FeedbackLog) -> None:
        """Every field is kept."""
        event = Event(
            "id", "rating", "ann", "cookie", "visit", "item", "words", 3.5, NOW_US, "token", 4, {"ключ": "värde"}, True
        )
        assert log.append([event], NOW_US + 5) == [AppendResult(ACCEPTED, 1)]
        assert log.read_after(0, 10) == [LoggedEvent(1, NOW_US + 5, event)]

    def test_the_longest_ids_fit_the_indexes(self, log: FeedbackLog) -> None:
        """Of characters that take most bytes and that nothing compresses, in every place at once."""
        chooser = random.Random(1)
        event_id, user_id, visitor_id, item_id = (
            "".join(chr(chooser.randrange(0x20000, 0x2A6D0)) for _ in range(256)) for _ in range(4)
        )
        event = Event(event_id, "t" * 64, user_id, visitor_id, item_id=item_id, event_time_us=NOW_US)
        assert log.append([event], NOW_US) == [AppendResult(ACCEPTED, 1)]
        assert log.recall(Subject(SubjectKind.VISITOR, visitor_id), 1, []).seen_item_ids == {item_id}

    def test_an_event_without_a_time_happened_when_it_was_received(self, log: FeedbackLog) -> None:
        """event_time_us is always set on what is read; a retry received later is still the same event."""
        event = click("id", event_time_us=None)
        log.append([event], NOW_US)
        assert log.append([event], NOW_US + 1) == [AppendResult(DUPLICATE, 1)]
        assert log.read_after(0, 10) == [LoggedEvent(1, NOW_US, event._replace(event_time_us=NOW_US))]

    def test_the_same_event_again_is_a_duplicate(self, log: FeedbackLog) -> None:
        """A retry is answered with the original's position and writes nothing."""
        log.append([click("a"), click("b")], NOW_US)
        assert log.append([click("b"), click("c")], NOW_US) == [AppendResult(DUPLICATE, 2), AppendResult(ACCEPTED, 3)]
        assert ids(log.read_after(0, 10)) == ["a", "b", "c"]

    def test_an_id_with_other_content_is_a_conflict(self, log: FeedbackLog) -> None:
        """The event is not written; the rest of the batch is."""
        log.append([click("a")], NOW_US)
        results = log.append([click("a", item_id="other"), click("b")], NOW_US)
        assert results == [AppendResult(CONFLICT, 0), AppendResult(ACCEPTED, 2)]
        assert [each.event.item_id for each in log.read_after(0, 10)] == ["item", "item"]

    def test_ids_repeated_inside_one_batch(self, log: FeedbackLog) -> None:
        """The first of an id is written; equal ones are its duplicates, others conflict."""
        results = log.append([click("a"), click("a"), click("a", item_id="other"), click("b")], NOW_US)
        assert results == [
            AppendResult(ACCEPTED, 1),
            AppendResult(DUPLICATE, 1),
            AppendResult(CONFLICT, 0),
            AppendResult(ACCEPTED, 2),
        ]
        assert log.head() == 2

    def test_an_empty_batch_is_no_commit(self, log: FeedbackLog) -> None:
        """Nothing gives nothing."""
        assert log.append([], NOW_US) == []
        assert log.head() == 0

    def test_ten_thousand_events_at_once(self, log: FeedbackLog) -> None:
        """The largest batch, all new and then all duplicates, is within every limit of the database."""
        batch = [click(f"id-{n}", user_id=f"u{n % 50}") for n in range(10_000)]
        assert [result.position for result in log.append(batch, NOW_US)] == list(range(1, 10_001))
        assert {result.outcome for result in log.append(batch, NOW_US)} == {DUPLICATE}
        assert log.head() == 10_000

    def test_two_writers_of_the_same_events(self, database_url: str, database: Database) -> None:
        """Two servers that get the same retries at once commit each event once and agree on its position."""
        batches = [[click(f"{batch}-{n}") for n in range(5)] for batch in range(12)]
        databases = [Database(database_url) for _ in range(2)]
        start = threading.Barrier(2)

        def write(own: Database, order: list[int]) -> dict[int, list[AppendResult]]:
            start.wait()
            return {batch: FeedbackLog(own).append(batches[batch], NOW_US) for batch in order}

        with ThreadPoolExecutor(2) as pool:
            forward = pool.submit(write, databases[0], list(range(12)))
            backward = pool.submit(write, databases[1], list(reversed(range(12))))
        for batch in range(12):
            pair = list(zip(forward.result()[batch], backward.result()[batch], strict=True))
            assert all(one.position == other.position for one, other in pair)
            assert all({one.outcome, other.outcome} == {ACCEPTED, DUPLICATE} for one, other in pair)
        assert sorted(ids(FeedbackLog(database).read_after(0, 1_000))) == sorted(e.event_id for b in batches for e in b)
        for own in databases:
            own.close()

    def test_tenants_are_kept_apart(self, database: Database, log: FeedbackLog) -> None:
        """Each tenant has its own ids, positions, histories and links."""
        other = FeedbackLog(database, "other")
        log.append([click("a", visitor_id="cookie")], NOW_US)
        assert other.append([click("a", item_id="else")], NOW_US) == [AppendResult(ACCEPTED, 1)]
        assert [each.event.item_id for each in other.history(ANN, 10)] == ["else"]
        assert other.links() == {}
        assert other.delete_subject(ANN) == Erasure(1, 0, [])
        assert log.head() == 1
        assert ids(log.history(ANN, 10)) == ["a"]


class TestPositions:
    def test_a_reader_misses_nothing_while_many_write(self, database_url: str, database: Database) -> None:
        """Positions become visible in their order, while another transaction stays open all the while."""
        databases = [Database(database_url) for _ in range(3)]
        # Its transaction id is older than all that follow: a reader that waited for it would see nothing.
        held = Database(database_url)

        def write(number: int) -> None:
            chooser = random.Random(number)
            for batch in range(15):
                size = chooser.randint(1, 5)
                FeedbackLog(databases[number]).append([click(f"{number}-{batch}-{n}") for n in range(size)], NOW_US)

        holding = held.read() if held.is_sqlite else held.write()
        with holding as connection:
            if held.is_sqlite:
                connection.exec_driver_sql("SELECT * FROM counters")
            else:
                advance(connection, "default", "something_else", 1)
            writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
            for writer in writers:
                writer.start()
            log = FeedbackLog(database)
            seen = list(follow(log, until=lambda: not any(writer.is_alive() for writer in writers)))
        assert [each.position for each in seen] == list(range(1, log.head() + 1))
        assert len({each.event.event_id for each in seen}) == len(seen)
        assert {event_id.split("-")[0] for event_id in ids(seen)} == {"0", "1", "2"}
        for own in [*databases, held]:
            own.close()

    def test_a_commit_that_takes_long_is_not_overtaken(
        self, database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While a writer that has drawn its positions has not committed, no later position can be seen."""
        drawn, go_on = threading.Event(), threading.Event()
        write_links = visitor_links.write

        def stop_the_first(connection: Connection, tenant: str, logged: Iterator[tuple[int, Event]]) -> None:
            events = list(logged)
            if events[0][1].event_id == "first":
                drawn.set()
                assert go_on.wait(60)
            write_links(connection, tenant, events)

        monkeypatch.setattr(visitor_links, "write", stop_the_first)
        log, other = FeedbackLog(database), Database(database_url)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(log.append, [click("first")], NOW_US)
            assert drawn.wait(60)
            second = pool.submit(FeedbackLog(other).append, [click("second")], NOW_US)
            if not database.is_sqlite:
                self._wait_until_someone_waits_for_a_lock(database)
            assert log.head() == 0
            assert log.read_after(0, 10) == []
            go_on.set()
        assert (first.result(), second.result()) == ([AppendResult(ACCEPTED, 1)], [AppendResult(ACCEPTED, 2)])
        assert ids(log.read_after(0, 10)) == ["first", "second"]
        other.close()

    @staticmethod
    def _wait_until_someone_waits_for_a_lock(database: Database) -> None:
        deadline = time.monotonic() + 60
        with database.read() as connection:
            while not connection.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted").scalar():
                assert time.monotonic() < deadline, "the second writer never came to wait"

    def test_a_failed_append_leaves_no_gap(self, log: FeedbackLog, monkeypatch: pytest.MonkeyPatch) -> None:
        """An append that fails half-way writes nothing and uses up no position."""

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(visitor_links, "write", fail)
            log.append([click("a")], NOW_US)
        assert log.read_after(0, 10) == []
        assert log.append([click("a")], NOW_US) == [AppendResult(ACCEPTED, 1)]

    def test_a_deleted_top_position_is_not_used_again(self, log: FeedbackLog) -> None:
        """Erasing the newest event leaves the head where it is."""
        log.append([click("a"), click("b")], NOW_US)
        log.delete_events(["b"])
        assert log.head() == 2
        assert log.append([click("c")], NOW_US) == [AppendResult(ACCEPTED, 3)]
        log.delete_subject(ANN)
        assert log.append([click("d")], NOW_US) == [AppendResult(ACCEPTED, 4)]


class TestHistory:
    def test_ordered_by_time_then_position(self, log: FeedbackLog) -> None:
        """Late arrivals take their place by event time; equal times are ordered by position."""
        times = {"a": 5, "b": 3, "c": 5, "d": 4}
        log.append([click(name, event_time_us=NOW_US + after) for name, after in times.items()], NOW_US)
        assert ids(log.history(ANN, 10)) == ["b", "d", "a", "c"]
        assert ids(log.history(ANN, 2)) == ["a", "c"]
        assert log.version(ANN) == 4

    def test_only_types_that_are_part_of_histories(self, database: Database, log: FeedbackLog) -> None:
        """Impressions, and types registered so, are left out and do not use up the limit."""
        EventTypes(database).upsert([EventType("hover", in_history=False)])
        log.append([click("a"), click("b", event_type="impression"), click("c", event_type="hover")], NOW_US)
        assert ids(log.history(ANN, 1)) == ["a"]
        assert log.version(ANN) == 3

    def test_a_linked_visitors_events_join_the_users(self, log: FeedbackLog) -> None:
        """An event with both ids links them, for earlier and for later events; its own subject is the user."""
        log.append([click("before", "", visitor_id="cookie", event_time_us=NOW_US)], NOW_US)
        assert log.resolve(COOKIE) == COOKIE
        log.append([click("login", visitor_id="cookie", event_time_us=NOW_US + 2)], NOW_US)
        log.append([click("after", "", visitor_id="cookie", event_time_us=NOW_US + 1)], NOW_US)
        assert ids(log.history(ANN, 10)) == ["before", "after", "login"]
        assert ids(log.history(ANN, 2)) == ["after", "login"]
        assert ids(log.history(COOKIE, 10)) == ["before", "after"]
        assert log.version(ANN) == 3
        assert log.resolve(COOKIE) == ANN == log.resolve(ANN)
        assert log.linked_visitors("ann") == ["cookie"]
        assert log.links() == {"cookie": "ann"}

    def test_many_are_read_at_once_each_with_a_limit_of_its_own(self, log: FeedbackLog) -> None:
        """As each alone: linked visitors' events are the user's, and of nobody there are none."""
        log.append([click("a", visitor_id="cookie"), click("b", "ben"), click("c", "", visitor_id="cookie")], NOW_US)
        log.append([click("d", "ben"), click("e"), click("f", event_type="impression")], NOW_US)
        limits = {ANN: 2, BEN: 10, COOKIE: 10, Subject(SubjectKind.USER, "nobody"): 10}
        found = log.histories(limits)
        assert [[each.position for each in history] for history in found.values()] == [[3, 5], [2, 4], [3], []]
        for subject, limit in limits.items():
            assert found[subject] == [history_event(logged) for logged in log.history(subject, limit)]
        assert log.histories({}) == {}

    def test_the_latest_link_wins(self, log: FeedbackLog) -> None:
        """A visitor belongs to one user at a time, by position, inside one batch too; duplicates do not link again."""
        first = click("1", visitor_id="cookie")
        log.append([first, click("2", "ben", visitor_id="cookie")], NOW_US)
        log.append([first], NOW_US)
        assert log.links() == {"cookie": "ben"}
        assert log.linked_visitors("ann") == []

    def test_nobody_has_no_history(self, log: FeedbackLog) -> None:
        """An unknown subject has an empty history of version 0."""
        assert log.history(ANN, 10) == []
        assert log.version(COOKIE) == 0

    @pytest.mark.parametrize("limit", [1, 10])
    def test_recalling_reads_all_that_an_answer_needs(self, log: FeedbackLog, limit: int) -> None:
        """The newest events, the head, and every item of the whole history, without searches and impressions."""
        log.append([click("a", item_id="one"), click("b", "", visitor_id="cookie", item_id="two")], NOW_US)
        log.append([click("c", visitor_id="cookie", item_id="one")], NOW_US)
        log.append([click("d", event_type="impression", item_id="shown")], NOW_US)
        log.append([click("e", event_type="search", item_id="", query="words")], NOW_US)
        for subject in (ANN, COOKIE):  # the visitor is linked: its user's history is its own
            recalled = log.recall(subject, limit, ["impression"])
            whole = [history_event(logged) for logged in log.history(ANN, 10)]
            assert recalled.history == whole[-limit:]
            assert recalled.seen_item_ids == {"one", "two"}
            assert recalled.head == log.head() == 5
        assert log.recall(Subject(SubjectKind.USER, "nobody"), limit, []) == (5, [], set(), set())

    def test_what_is_unwanted_is_recalled_however_long_ago_it_was_said(self, log: FeedbackLog) -> None:
        """Also where it lies further back than the history that is asked for."""
        log.append(
            [click("a", event_type="dislike", item_id="bad"), click("b", event_type="hide", item_id="worse")], NOW_US
        )
        log.append([click(f"c{number}", item_id="good") for number in range(5)], NOW_US)
        for limit in (2, 100):
            recalled = log.recall(ANN, limit, ["impression"])
            assert recalled.unwanted_item_ids == {"bad", "worse"}
            assert recalled.seen_item_ids == {"bad", "worse", "good"}

    # SQLite alone: PostgreSQL's plan depends on the table's size.
    @pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
    def test_an_index_serves_it(self, database: Database, log: FeedbackLog) -> None:
        """SQLite finds a subject's events by the index, and the history's newest without sorting."""
        log.append([click("a", visitor_id="cookie")], NOW_US)
        statements: list[tuple[str, Any]] = []

        def remember(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
            statements.append((statement, parameters))

        sqlalchemy.event.listen(Engine, "before_cursor_execute", remember)
        try:
            log.history(ANN, 10)
            log.version(ANN)
            log.list_events(EventQuery(subject=ANN), 0, 10)
            log.recall(ANN, 1, ["impression"])
            log.delete_subject(ANN)
        finally:
            sqlalchemy.event.remove(Engine, "before_cursor_execute", remember)
        asked = [(sql, parameters) for sql, parameters in statements if "FROM events" in sql]
        with database.read() as connection:
            plans = [
                " / ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters))
                for sql, parameters in asked
            ]
        by_index = "ix_events_history (tenant=? AND subject_kind=? AND subject_id=?"
        assert len(plans) == 13
        assert all(by_index in plan for plan in plans), plans
        assert not any("TEMP B-TREE" in plan for plan in plans[:4]), plans


class TestList:
    def test_conditions_narrow(self, log: FeedbackLog) -> None:
        """Item, types and times must all hold; `from` is included, `to` is not; pages go on by position."""
        log.append(
            [
                click("a", item_id="one", event_time_us=NOW_US),
                click("b", item_id="two", event_time_us=NOW_US + 1, event_type="like"),
                click("c", item_id="one", event_time_us=NOW_US + 2, event_type="like"),
                click("d", "ben", item_id="one", event_time_us=NOW_US + 3),
            ],
            NOW_US,
        )

        def listed(query: EventQuery, after: int = 0, limit: int = 10) -> list[str]:
            return ids(log.list_events(query, after, limit))

        assert listed(EventQuery()) == ["a", "b", "c", "d"]
        assert listed(EventQuery(), after=1, limit=2) == ["b", "c"]
        assert listed(EventQuery(item_id="one")) == ["a", "c", "d"]
        assert listed(EventQuery(item_id="one", event_types=["like"])) == ["c"]
        assert listed(EventQuery(event_time_from_us=NOW_US + 1, event_time_to_us=NOW_US + 3)) == ["b", "c"]
        assert listed(EventQuery(subject=BEN)) == ["d"]
        assert listed(EventQuery(subject=Subject(SubjectKind.VISITOR, "ann"))) == []

    def test_a_users_events_include_linked_visitors(self, log: FeedbackLog) -> None:
        """All types are listed, and the visitor's own list is its own."""
        log.append([click("a", "", visitor_id="cookie", event_type="impression")], NOW_US)
        log.append([click("b", visitor_id="cookie"), click("c", "ben")], NOW_US)
        assert ids(log.list_events(EventQuery(subject=ANN), 0, 10)) == ["a", "b"]
        assert ids(log.list_events(EventQuery(subject=COOKIE), 0, 10)) == ["a"]


class TestErasure:
    def test_a_user_goes_with_its_visitors_and_impressions(self, database: Database, log: FeedbackLog) -> None:
        """Events, links and impressions of the user and of linked visitors are gone; others' stay."""
        log.append([click("a", "", visitor_id="cookie"), click("b", visitor_id="cookie")], NOW_US)
        log.append([click("c"), click("d", "ben")], NOW_US)
        shown = ImpressionLog(database)
        shown.append([Impression(f"slate-{each.id}", each) for each in (ANN, COOKIE, BEN)] + [Impression("none", None)])
        assert log.delete_subject(ANN, NOW_US) == Erasure(events=3, impressions=2, visitors=["cookie"])
        assert ids(log.read_after(0, 10)) == ["d"]
        assert log.history(ANN, 10) == log.history(COOKIE, 10) == []
        assert log.links() == {}
        assert [shown.get(f"slate-{each.id}") is None for each in (ANN, COOKIE, BEN)] == [True, True, False]
        assert shown.count() == 2

    def test_erased_events_stay_used(self, log: FeedbackLog) -> None:
        """A late retry of an erased event does not bring it back."""
        log.append([click("a")], NOW_US)
        log.delete_subject(ANN)
        assert log.append([click("a")], NOW_US) == [AppendResult(DUPLICATE, 1)]
        assert log.read_after(0, 10) == []

    def test_a_linked_visitor_is_not_erased_alone(self, log: FeedbackLog) -> None:
        """The user must be erased; nothing is touched and nothing recorded."""
        log.append([click("a", visitor_id="cookie"), click("b", "", visitor_id="cookie")], NOW_US)
        with pytest.raises(ConflictError):
            log.delete_subject(COOKIE)
        assert log.head() == len(log.read_after(0, 10)) == 2
        assert log.erasures_after(0) == []

    def test_a_lone_visitor_is(self, log: FeedbackLog) -> None:
        """A visitor that never signed in can be erased."""
        log.append([click("a", "", visitor_id="cookie"), click("b")], NOW_US)
        assert log.delete_subject(COOKIE) == Erasure(1, 0, [])
        assert ids(log.read_after(0, 10)) == ["b"]

    def test_single_events(self, log: FeedbackLog) -> None:
        """Each erased event names whose history it was part of; unknown and repeated ids are passed over."""
        log.append([click("a", visitor_id="cookie"), click("b", "", visitor_id="cookie"), click("c", "ben")], NOW_US)
        assert log.delete_events(["b", "c", "b", "unknown"]) in ([ANN, BEN], [BEN, ANN])
        assert ids(log.read_after(0, 10)) == ["a"]
        assert log.delete_events(["b"]) == []

    def test_events_can_be_erased_after_their_ids_were_forgotten(self, log: FeedbackLog) -> None:
        """Erasure does not depend on the retention of ids."""
        log.append([click("a")], NOW_US)
        assert log.prune_event_ids(NOW_US + 1, 10) == 1
        assert log.delete_events(["a"]) == [ANN]

    def test_erasures_are_told_to_those_who_keep_copies(self, log: FeedbackLog) -> None:
        """Every subject whose history changed has a record, in order, by hash only."""
        log.append([click("a", visitor_id="cookie"), click("b", "", visitor_id="cookie"), click("c", "ben")], NOW_US)
        log.delete_events(["b"], NOW_US)
        log.delete_subject(BEN, NOW_US + 1)
        first, second, third = log.erasures_after(0)
        assert {first.subject_hash, second.subject_hash} == {subject_hash(ANN), subject_hash(COOKIE)}
        assert (first.is_whole, second.is_whole, third.is_whole) == (False, False, True)
        assert (third.subject_hash, third.position, third.erase_time_us) == (subject_hash(BEN), 3, NOW_US + 1)
        assert log.erasures_after(second.number) == [third]
        assert log.erasures_after(third.number) == []


def test_events_are_read_by_position(database: Database) -> None:
    """In the order in which they are named; erased ones and those of other tenants are left out."""
    log, other = FeedbackLog(database), FeedbackLog(database, "other")
    log.append([click("a"), click("b"), click("c", "ben")], NOW_US)
    other.append([click("x")], NOW_US)
    log.delete_events(["b"])
    assert ids(log.read_at([3, 2, 1, 9])) == ["c", "a"]
    assert ids(other.read_at([3, 1])) == ["x"]
    assert log.read_at([]) == []


class TestRetentionAndRejections:
    def test_pruned_ids_may_be_used_again(self, log: FeedbackLog) -> None:
        """Only ids received before the time are forgotten; the events stay."""
        log.append([click("old")], NOW_US)
        log.append([click("new")], NOW_US + 1)
        assert log.prune_event_ids(NOW_US + 1, 10) == 1
        results = log.append([click("old", item_id="other"), click("new")], NOW_US + 2)
        assert results == [AppendResult(ACCEPTED, 3), AppendResult(DUPLICATE, 2)]
        assert ids(log.read_after(0, 10)) == ["old", "new", "old"]

    def test_ids_are_pruned_in_chunks(self, log: FeedbackLog) -> None:
        """No more than asked for goes at once, so that events need not wait for long."""
        log.append([click(name) for name in "abcd"], NOW_US)
        assert [log.prune_event_ids(NOW_US + 1, 3) for _ in range(3)] == [3, 1, 0]

    def test_rejections_are_counted_once_for_each_position(self, log: FeedbackLog) -> None:
        """A replay of the log records nothing twice."""
        refused = [Rejection(1, "robot", "200 in a minute"), Rejection(2, "robot", "…"), Rejection(3, "value", "is -4")]
        log.reject(refused)
        log.reject([*refused, Rejection(1, "value", "seen otherwise")])
        log.reject([])
        assert log.rejection_counts() == {"robot": 2, "value": 1}

    def test_who_lost_the_lease_rejects_nothing(self, log: FeedbackLog, database: Database) -> None:
        """What is said under a lease is on record if nobody acquired it since, and nothing of it otherwise."""
        registry, refused = GenerationRegistry(database), [Rejection(1, "gate", "worse"), Rejection(2, "gate", "worse")]
        lease = registry.acquire_lease("updater", "one", 10.0, NOW_US)
        assert lease is not None
        log.reject(refused[:1], lease)
        assert registry.acquire_lease("updater", "two", 10.0, NOW_US + 10_000_000) is not None
        with pytest.raises(LeaseLostError):
            log.reject(refused, lease)
        assert log.rejections([1, 2]) == refused[:1]

    @pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
    def test_nobody_gets_the_lease_while_rejections_are_written(
        self, log: FeedbackLog, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is held to the commit: who leads next reads all of them. (On SQLite nobody else writes meanwhile.)"""
        lease = GenerationRegistry(database).acquire_lease("updater", "one", 10.0, NOW_US)
        assert lease is not None

        def insert_beside_another(connection: Connection, table: Table) -> Any:
            with pytest.raises(TransactionConflictError), database.write() as other:
                other.execute(select(leases).with_for_update(nowait=True))
            return insert(connection, table)

        monkeypatch.setattr("headwater_core.feedback_log.insert", insert_beside_another)
        log.reject([Rejection(1, "gate", "worse")], lease)
        assert log.rejection_counts() == {"gate": 1}
