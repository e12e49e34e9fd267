"""The feedback log: every event once, in commit order, and found by whose history it belongs to.

Every write takes the log's counter first and holds it to the commit. So there is one writer at a time per tenant,
positions become visible in their own order, and a reader who goes on after the last position it saw misses nothing.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, delete, func, or_, select

from headwater_core import event_types, log_writing, recalling, visitor_links
from headwater_core.database import Database, advance, chunks, current, insert
from headwater_core.errors import ConflictError
from headwater_core.event_rows import NEWEST_FIRST, from_row, of
from headwater_core.events import Event, HistoryEvent, LoggedEvent, Subject, SubjectKind
from headwater_core.log_writing import POSITION, AppendResult
from headwater_core.recalling import Recollection
from headwater_core.registry import Lease, hold
from headwater_core.repeating import repeated
from headwater_core.schema import REPORTED, erasures, event_ids, events, impressions, outcomes, rejections
from headwater_core.tallies import forget_users

ERASURE = "erasure_number"
"""The counter of erasures; who holds it to the commit sees all of them, and none comes in between."""


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events to list: all conditions that are given must hold."""

    subject: Subject | None = None
    """A user's events include those of the visitors linked to it."""
    item_id: str = ""
    event_types: Collection[str] = ()
    event_time_from_us: int | None = None
    """At or after this time."""
    event_time_to_us: int | None = None
    """Before this time."""


class Erasure(NamedTuple):
    """How much was erased with a subject."""

    events: int
    impressions: int
    visitors: list[str]
    """The visitors that were linked to the user."""


class ErasureRecord(NamedTuple):
    """That something was erased, for those who keep copies of histories; it does not say whose in clear."""

    number: int
    subject_hash: bytes
    """subject_hash() of the subject whose history changed (32 bytes)."""
    is_whole: bool
    """True when the whole subject was erased, False when single events were."""
    position: int
    """The log's head then: all that was erased lies at or before it."""
    erase_time_us: int
    """As the eraser gave it; 0 when it gave none."""


class Rejection(NamedTuple):
    """What cleaning refused to learn from."""

    position: int
    rule: str
    reason: str


def subject_hash(subject: Subject) -> bytes:
    """sha256 of kind and id (32 bytes): names a subject in a record that outlives it."""
    return hashlib.sha256(f"{subject.kind.value}\x00{subject.id}".encode()).digest()


class FeedbackLog:
    """The events of one tenant."""

    def __init__(self, database: Database, tenant: str = "default") -> None:
        self._database = database
        self._tenant = tenant

    @repeated
    def append(self, batch: Sequence[Event], received_time_us: int) -> list[AppendResult]:
        """Write events in one commit, each id once, and the visitor links they tell of; all are on disk on return.

        Args:
            batch: events that check_event let pass.
            received_time_us: microseconds since 1970 UTC; stands in for a missing event time.

        Returns:
            One result per event, in order.

        Raises:
            DatabaseUnavailableError: nothing is known to be written; appending the same events again is harmless.
        """
        if not batch:
            return []
        hashed = [(event, event.content_hash()) for event in batch]
        with self._database.write() as connection:
            return log_writing.append(connection, self._tenant, hashed, received_time_us)

    def head(self) -> int:
        """The highest committed position; 0 before the first event. Erasing events does not lower it."""
        with self._database.read() as connection:
            return current(connection, self._tenant, POSITION)

    def read_after(self, position: int, limit: int) -> list[LoggedEvent]:
        """At most `limit` events after `position`, in the order of their positions."""
        return self.list_events(EventQuery(), position, limit)

    def read_at(self, positions: Sequence[int]) -> list[LoggedEvent]:
        """The events at these positions, in the order in which they are named; erased ones are left out."""
        found: dict[int, LoggedEvent] = {}
        with self._database.read() as connection:
            for chunk in chunks(dict.fromkeys(positions)):
                statement = select(events).where(events.c.tenant == self._tenant, events.c.position.in_(chunk))
                found.update((row.position, from_row(row)) for row in connection.execute(statement))
        return [found[position] for position in positions if position in found]

    def list_events(self, query: EventQuery, after_position: int, limit: int) -> list[LoggedEvent]:
        """At most `limit` events that match, after `after_position`, in the order of their positions."""
        place = events.c.position if query.subject is None else _by_subject_first(events.c.position)
        conditions = [place > after_position]
        if query.item_id:
            conditions.append(events.c.item_id == query.item_id)
        if query.event_types:
            conditions.append(events.c.event_type.in_(sorted(query.event_types)))
        if query.event_time_from_us is not None:
            conditions.append(events.c.event_time_us >= query.event_time_from_us)
        if query.event_time_to_us is not None:
            conditions.append(events.c.event_time_us < query.event_time_to_us)
        statement = select(events).where(*conditions).order_by(place).limit(limit)
        with self._database.read() as connection:
            if query.subject is None:
                rows = connection.execute(statement.where(events.c.tenant == self._tenant))
                return [from_row(row) for row in rows]
            parts = self._of_each(connection, statement, query.subject)
        return [from_row(row) for row in islice(heapq.merge(*parts, key=lambda row: row.position), limit)]

    def history(self, subject: Subject, limit: int) -> list[LoggedEvent]:
        """The newest `limit` events that are part of histories, oldest first by (event_time_us, position).

        A user's history has the events of the visitors linked to it; a visitor's has its own only: resolve() first.
        """
        with self._database.read() as connection:
            statement = (
                select(events)
                .where(events.c.event_type.not_in(self._types_left_out(connection)))
                .order_by(*NEWEST_FIRST)
                .limit(limit)
            )
            parts = self._of_each(connection, statement, subject)
        newest_first = heapq.merge(*parts, key=lambda row: (row.event_time_us, row.position), reverse=True)
        return [from_row(row) for row in islice(newest_first, limit)][::-1]

    def histories(self, limits: Mapping[Subject, int]) -> dict[Subject, list[HistoryEvent]]:
        """The histories of many subjects as the model reads them, all read at once; see history.

        Args:
            limits: the subjects, and how many events of each.
        """
        if not limits:
            return {}
        with self._database.read() as connection:
            left_out = self._types_left_out(connection)
            groups = visitor_links.groups(connection, self._tenant, limits)
            return {
                subject: recalling.history(connection, self._tenant, groups[subject], limit, left_out)
                for subject, limit in limits.items()
            }

    def recall(self, subject: Subject, limit: int, left_out: Collection[str]) -> Recollection:
        """What a server needs to know of a subject to answer it, read at once; a linked visitor's is its user's.

        Args:
            subject: a user or a visitor.
            limit: how many events of the history.
            left_out: the event types that are no part of histories.
        """
        with self._database.read() as connection:
            return recalling.recall(connection, self._tenant, subject, limit, left_out)

    def version(self, subject: Subject) -> int:
        """The highest position of the subject's events, of any type, linked visitors' included; 0 without any."""
        statement = select(func.max(_by_subject_first(events.c.position)))
        with self._database.read() as connection:
            return max(part[0][0] or 0 for part in self._of_each(connection, statement, subject))

    def resolve(self, subject: Subject) -> Subject:
        """Whose history the subject's events belong to: the linked user for a visitor, else the subject itself."""
        return self.owners([subject])[subject]

    def owners(self, subjects: Collection[Subject]) -> dict[Subject, Subject]:
        """For each subject, whose history its events belong to; see resolve."""
        if all(subject.kind is SubjectKind.USER for subject in subjects):
            return {subject: subject for subject in subjects}
        with self._database.read() as connection:
            return visitor_links.owners(connection, self._tenant, subjects)

    def links(self) -> dict[str, str]:
        """Every linked visitor's user."""
        with self._database.read() as connection:
            return visitor_links.all_links(connection, self._tenant)

    def linked_visitors(self, user_id: str) -> list[str]:
        """The visitors linked to a user, sorted."""
        with self._database.read() as connection:
            group = visitor_links.group(connection, self._tenant, Subject(SubjectKind.USER, user_id))
            return [visitor.id for visitor in group[1:]]

    @repeated
    def delete_events(self, ids: Sequence[str], now_us: int = 0) -> list[Subject]:
        """Erase events and their outcomes; their ids stay used. Unknown ids are passed over.

        With a caller's report of what it showed go the outcomes that were joined to it. What arms of experiments have
        earned stays counted.

        Args:
            ids: of the events.
            now_us: microseconds since 1970 UTC, for the record.

        Returns:
            Whose histories the erased events belonged to (see resolve), one per erased event.
        """
        with self._database.write() as connection:
            position = self._lock(connection)
            kept_under: list[Subject] = []
            erased: dict[str, int] = {}
            for chunk in chunks(dict.fromkeys(ids)):
                rows = connection.execute(
                    delete(events)
                    .where(events.c.tenant == self._tenant, events.c.event_id.in_(chunk))
                    .returning(events.c.event_id, events.c.position, events.c.subject_kind, events.c.subject_id)
                )
                for event_id, at, kind, subject_id in rows:
                    erased[event_id] = at
                    kept_under.append(Subject(SubjectKind(kind), subject_id))
            owners = visitor_links.owners(connection, self._tenant, kept_under)
            self._record_erasures(connection, {*kept_under, *owners.values()}, position, now_us, is_whole=False)
            # Under the counter's lock: an outcome is either there by now, or its writer finds the event gone.
            for chunk in chunks(erased):
                of_reports = and_(outcomes.c.strategy == REPORTED, outcomes.c.slate_id.in_(chunk))
                gone = or_(outcomes.c.position.in_([erased[event_id] for event_id in chunk]), of_reports)
                connection.execute(delete(outcomes).where(outcomes.c.tenant == self._tenant, gone))
            return [owners[subject] for subject in kept_under]

    @repeated
    def delete_subject(self, subject: Subject, now_us: int = 0) -> Erasure:
        """Erase a subject: its events, impressions, outcomes and links, and all of the visitors linked to it.

        Args:
            subject: a user, or a visitor who is linked to none.
            now_us: microseconds since 1970 UTC; what is shown to the subject up to `ERASED_FOR_US` later is not kept.

        Raises:
            ConflictError: the subject is a visitor linked to a user; nothing is erased.
        """
        with self._database.write() as connection:
            position = self._lock(connection)
            owner = visitor_links.owners(connection, self._tenant, [subject])[subject]
            if owner != subject:
                raise ConflictError("the visitor is linked to a user: erase the user")
            group = visitor_links.group(connection, self._tenant, subject)
            # Before anything goes: an impression is written under the counter's lock, so either it is deleted here or
            # it finds the record and is not written.
            self._record_erasures(connection, set(group), position, now_us, is_whole=True)
            events_deleted = impressions_deleted = 0
            for each in group:
                own_events = of(self._tenant, each)
                own_impressions = (
                    impressions.c.tenant == self._tenant,
                    impressions.c.subject_kind == each.kind.value,
                    impressions.c.subject_id == each.id,
                )
                own_outcomes = or_(
                    outcomes.c.slate_id.in_(select(impressions.c.slate_id).where(*own_impressions)),
                    outcomes.c.position.in_(select(events.c.position).where(own_events)),
                )
                connection.execute(delete(outcomes).where(outcomes.c.tenant == self._tenant, own_outcomes))
                events_deleted += connection.execute(delete(events).where(own_events)).rowcount
                impressions_deleted += connection.execute(delete(impressions).where(*own_impressions)).rowcount
            forget_users(connection, self._tenant, map(subject_hash, group))
            if subject.kind is SubjectKind.USER:
                visitor_links.remove(connection, self._tenant, subject.id)
            return Erasure(events_deleted, impressions_deleted, [each.id for each in group[1:]])

    def erasures_after(self, number: int, limit: int = 1_000) -> list[ErasureRecord]:
        """At most `limit` erasures after the one numbered `number`, in order; going on from the last misses none."""
        columns = [column for column in erasures.c if column.name != "tenant"]
        statement = (
            select(*columns)
            .where(erasures.c.tenant == self._tenant, erasures.c.number > number)
            .order_by(erasures.c.number)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [ErasureRecord(*row) for row in connection.execute(statement)]

    @repeated
    def prune_event_ids(self, before_us: int, limit: int) -> int:
        """Forget at most `limit` ids of events received before `before_us`: they may be used again. How many went."""
        ours = event_ids.c.tenant == self._tenant
        oldest = select(event_ids.c.event_id).where(ours, event_ids.c.received_time_us < before_us).limit(limit)
        with self._database.write() as connection:
            self._lock(connection)
            return connection.execute(delete(event_ids).where(ours, event_ids.c.event_id.in_(oldest))).rowcount

    @repeated
    def reject(self, refused: Sequence[Rejection], lease: Lease | None = None) -> None:
        """Record what was refused; of one position the first record stays, so that a replay changes nothing.

        Args:
            refused: which events, and why.
            lease: the lease under which the caller acts; None: what it says is true whoever leads.

        Raises:
            LeaseLostError: somebody acquired the lease since; nothing is recorded.
        """
        if not refused:
            return
        with self._database.write() as connection:
            if lease is not None:
                hold(connection, self._tenant, lease)
            rows = [{"tenant": self._tenant, **rejection._asdict()} for rejection in refused]
            connection.execute(insert(connection, rejections).on_conflict_do_nothing(), rows)

    def rejections(self, positions: Sequence[int]) -> list[Rejection]:
        """What is on record against the events at these positions, by position."""
        found: list[Rejection] = []
        columns = rejections.c.position, rejections.c.rule, rejections.c.reason
        with self._database.read() as connection:
            for chunk in chunks(positions):
                statement = select(*columns).where(
                    rejections.c.tenant == self._tenant, rejections.c.position.in_(chunk)
                )
                found += [Rejection(*row) for row in connection.execute(statement)]
        return sorted(found, key=lambda each: each.position)

    def list_rejections(self, rule: str, after_position: int, limit: int) -> list[Rejection]:
        """At most `limit` rejections after a position, in order. Args: rule: only this one's; empty: all."""
        statement = select(rejections.c.position, rejections.c.rule, rejections.c.reason).where(
            rejections.c.tenant == self._tenant, rejections.c.position > after_position
        )
        if rule:
            statement = statement.where(rejections.c.rule == rule)
        with self._database.read() as connection:
            rows = connection.execute(statement.order_by(rejections.c.position).limit(limit))
            return [Rejection(*row) for row in rows]

    def rejection_counts(self) -> dict[str, int]:
        """How many events each rule of cleaning refused."""
        counts = select(rejections.c.rule, func.count()).group_by(rejections.c.rule)
        with self._database.read() as connection:
            rows = connection.execute(counts.where(rejections.c.tenant == self._tenant))
            return {row[0]: row[1] for row in rows}

    def _lock(self, connection: Connection) -> int:
        return advance(connection, self._tenant, POSITION, 0)

    def _of_each(
        self, connection: Connection, statement: Select[*tuple[Any, ...]], subject: Subject
    ) -> list[Sequence[Row[*tuple[Any, ...]]]]:
        # One question per subject, each answered from one range of the index: see recalling.
        group = visitor_links.group(connection, self._tenant, subject)
        return [connection.execute(statement.where(of(self._tenant, each))).all() for each in group]

    def _types_left_out(self, connection: Connection) -> list[str]:
        types = event_types.registered(connection, self._tenant)
        return sorted(name for name, event_type in types.items() if not event_type.in_history)

    def _record_erasures(
        self, connection: Connection, subjects: Collection[Subject], position: int, now_us: int, *, is_whole: bool
    ) -> None:
        if not subjects:
            return
        first = advance(connection, self._tenant, ERASURE, len(subjects)) - len(subjects) + 1
        connection.execute(
            insert(connection, erasures),
            [
                {
                    "tenant": self._tenant,
                    "number": number,
                    "subject_hash": subject_hash(subject),
                    "is_whole": is_whole,
                    "position": position,
                    "erase_time_us": now_us,
                }
                for number, subject in enumerate(sorted(subjects), start=first)
            ],
        )


def _by_subject_first(position: ColumnElement[int]) -> ColumnElement[int]:
    # The plain column tempts both databases to walk the whole log by position until the subject turns up.
    return position + 0
