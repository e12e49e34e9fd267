"""Outcomes: what became of what was shown. Events are joined to the slates that showed their items, each once.

Any server may do it, and several at once: how far the log was read moves in the transaction that writes what was found
(`OutcomeLog.attribute`), so nothing is counted twice or left out, whoever is killed when.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, delete, func, select

from headwater_core.attribution import attributed_slate
from headwater_core.database import Database, advance, chunks, current, insert
from headwater_core.errors import InvalidFieldError
from headwater_core.events import IMPRESSION, LoggedEvent
from headwater_core.experiments import Assignment, Experiment
from headwater_core.feedback_log import ERASURE, FeedbackLog, subject_hash
from headwater_core.impressions import Impression, ImpressionLog
from headwater_core.log_writing import POSITION
from headwater_core.paging import read_pages
from headwater_core.repeating import repeated
from headwater_core.schema import REPORTED, REPORTS, events, impressions, outcomes
from headwater_core.tallies import count_rewards

OFFSET = "outcome_offset"
"""The counter that says up to where the log was read."""
_SKEW_US = 5_000_000
"""Servers' clocks may differ by so much."""
_CALLERS_SKEW_US = 86_400_000_000
"""And callers' clocks by so much: their times only narrow down where to look."""


class Outcome(NamedTuple):
    """An event on an item that was shown."""

    slate_id: str
    """For what the caller reported: the impression event's id."""
    item_id: str
    event_type: str
    position: int
    """The event's, in the log."""
    place: int
    """Where in the slate the item stood, from 1; 0: not known."""
    sources: tuple[str, ...]
    strategy: str
    experiment: str
    arm: str
    surface: str
    reward: float
    """What it earned in its experiment."""
    shown_time_us: int
    received_time_us: int


class Attributed(NamedTuple):
    """What became of a stretch of the log."""

    n_events: int
    outcomes: list[Outcome]
    """Those that were not there already."""
    unmatched: Mapping[str, int]
    """Events with a token that joins nothing, by the reason: malformed, unknown_slate, other_item, late."""


class OutcomeLog:
    """The outcomes of one tenant."""

    def __init__(self, database: Database, tenant: str = "default") -> None:
        self._database = database
        self._tenant = tenant
        self._log = FeedbackLog(database, tenant)
        self._impressions = ImpressionLog(database, tenant)

    def lag(self) -> int:
        """How many positions of the log nobody has looked at yet."""
        with self._database.read() as connection:
            offset = current(connection, self._tenant, OFFSET)  # first: it never passes the head
            return current(connection, self._tenant, POSITION) - offset

    @repeated
    def attribute(
        self,
        experiments: Mapping[str, Experiment],
        now_us: int,
        *,
        window_us: int,
        grace_us: int,
        limit: int = 1000,
    ) -> Attributed | None:
        """Join the next events of the log to what was shown; None: there is nothing to do, or another server did it.

        An event belongs to the slate that its attribution token names, if that showed its item and not longer ago than
        the window; without a token, to the latest impression event of the same user on the same item. Times are those
        at which servers saw things: callers' clocks may be wrong.

        Args:
            experiments: what slates may earn, by name.
            now_us: microseconds since 1970 UTC.
            window_us: how long after a slate was shown its events count.
            grace_us: how long events wait, so that their slates, which are written behind the answer, are there. What a
                clock that was ahead says was received later than now does not wait: all behind it would, too.
            limit: so many events at once, at most.
        """
        with self._database.read() as connection:
            offset = current(connection, self._tenant, OFFSET)
        read = self._log.read_after(offset, limit)
        waits = (now_us - grace_us < each.received_time_us <= now_us + _SKEW_US for each in read)
        read = read[: next((place for place, each_waits in enumerate(waits) if each_waits), len(read))]
        if not read:
            return None
        live = [each for each in read if not each.event.backfill and each.event.item_id]
        unmatched: Counter[str] = Counter()
        found = [*self._by_token(live, window_us, unmatched), *self._by_report(live, window_us)]
        with self._database.write() as connection:
            if advance(connection, self._tenant, OFFSET, 0) != offset:
                return None
            new = self._write(connection, self._not_erased(connection, found), experiments)
            advance(connection, self._tenant, OFFSET, read[-1].position - offset)
        return Attributed(len(read), new, unmatched)

    def between(self, from_us: int, before_us: int) -> Iterator[Outcome]:
        """The outcomes of events received from `from_us` on and before `before_us`, by that time.

        They are read in pages: what is written or erased meanwhile may be there or not.
        """
        columns = [outcomes.c[name] for name in Outcome._fields]
        of_time = select(*columns).where(outcomes.c.tenant == self._tenant, outcomes.c.received_time_us < before_us)
        keys = (outcomes.c.received_time_us, outcomes.c.slate_id, outcomes.c.item_id, outcomes.c.event_type)
        for row in read_pages(self._database, of_time, keys, from_us):
            yield Outcome(*row)._replace(sources=_split(row.sources))

    @repeated
    def prune(self, before_us: int, limit: int) -> int:
        """Forget at most `limit` of the outcomes of events received before `before_us`; how many went."""
        ours = outcomes.c.tenant == self._tenant
        old = select(outcomes.c.slate_id).where(ours, outcomes.c.received_time_us < before_us).limit(limit)
        with self._database.write() as connection:
            statement = delete(outcomes).where(
                ours, outcomes.c.received_time_us < before_us, outcomes.c.slate_id.in_(old)
            )
            return connection.execute(statement).rowcount

    def _by_token(
        self, live: Sequence[LoggedEvent], window_us: int, unmatched: Counter[str]
    ) -> list[tuple[Outcome, Impression | None]]:
        named: list[tuple[LoggedEvent, str]] = []
        for each in live:
            if each.event.attribution_token:
                try:
                    named.append((each, attributed_slate(each.event.attribution_token, self._tenant)))
                except InvalidFieldError:
                    unmatched["malformed"] += 1
        slates = self._impressions.get_many({slate_id for _, slate_id in named})
        found: list[tuple[Outcome, Impression | None]] = []
        for each, slate_id in named:
            slate = slates.get(slate_id)
            if slate is None:
                unmatched["unknown_slate"] += 1
                continue
            shown = next(
                ((place, item) for place, item in enumerate(slate.items, 1) if item.item_id == each.event.item_id), None
            )
            if shown is None:
                unmatched["other_item"] += 1
            elif not -_SKEW_US <= each.received_time_us - slate.time_us <= window_us:
                unmatched["late"] += 1
            else:
                place, item = shown
                assigned = slate.assignment
                found.append(
                    (
                        Outcome(
                            slate_id=slate_id,
                            item_id=item.item_id,
                            event_type=each.event.event_type,
                            position=each.position,
                            place=place,
                            sources=item.sources,
                            strategy=slate.strategy,
                            experiment=assigned.experiment if assigned else "",
                            arm=item.arm or (assigned.arm if assigned else ""),
                            surface=slate.surface,
                            reward=0.0,
                            shown_time_us=slate.time_us,
                            received_time_us=each.received_time_us,
                        ),
                        slate,
                    )
                )
        return found

    def _by_report(self, live: Sequence[LoggedEvent], window_us: int) -> list[tuple[Outcome, Impression | None]]:
        """Events without a token, joined to what their callers said they had shown; the reports themselves first."""
        without = [each for each in live if not each.event.attribution_token]
        waiting = [each for each in without if each.event.event_type != IMPRESSION]
        found: list[tuple[Outcome, Impression | None]] = [
            (_of_report(each, each.event.event_id, each.event.slate_position, each.received_time_us), None)
            for each in without
            if each.event.event_type == IMPRESSION
        ]
        if not waiting:
            return found
        times = [each.event.event_time_us or each.received_time_us for each in waiting]
        since_us = min(times) - window_us - _CALLERS_SKEW_US
        reports: defaultdict[tuple[str, str, str], list[Any]] = defaultdict(list)
        with self._database.read() as connection:
            for ids in chunks(dict.fromkeys(each.event.subject.id for each in waiting)):
                statement = (
                    select(events)
                    .where(
                        events.c.tenant == self._tenant,
                        events.c.subject_kind.in_(sorted({each.event.subject.kind.value for each in waiting})),
                        events.c.subject_id.in_(ids),
                        events.c.event_time_us >= since_us,
                        *REPORTS,
                    )
                    .order_by(events.c.position)
                )
                for row in connection.execute(statement):
                    reports[row.subject_kind, row.subject_id, row.item_id].append(row)
        for each in waiting:
            subject = each.event.subject
            theirs = reports.get((subject.kind.value, subject.id, each.event.item_id), ())
            latest = next((row for row in reversed(theirs) if row.position < each.position), None)
            if latest is not None and each.received_time_us - latest.received_time_us <= window_us:
                report = latest.event_id, latest.slate_position, latest.received_time_us
                found.append((_of_report(each, *report), None))
        return found

    def _not_erased(
        self, connection: Connection, found: Sequence[tuple[Outcome, Impression | None]]
    ) -> list[tuple[Outcome, Impression | None]]:
        """What was found less that whose event, slate or report was erased since; no more is before the commit."""
        if not found:
            return []
        advance(connection, self._tenant, ERASURE, 0)
        positions = self._left(connection, events.c.position, {outcome.position for outcome, _ in found})
        shown = self._left(connection, impressions.c.slate_id, {slate.slate_id for _, slate in found if slate})
        reports = self._left(connection, events.c.event_id, {each.slate_id for each, slate in found if not slate})
        return [
            (outcome, slate)
            for outcome, slate in found
            if outcome.position in positions and outcome.slate_id in (shown if slate else reports)
        ]

    def _left(self, connection: Connection, column: Column[Any], values: Collection[Any]) -> set[Any]:
        """Those of a column's values that its table still has."""
        left: set[Any] = set()
        for chunk in chunks(values):
            statement = select(column).where(column.table.c.tenant == self._tenant, column.in_(chunk))
            left.update(connection.execute(statement).scalars())
        return left

    def _write(
        self,
        connection: Connection,
        found: Sequence[tuple[Outcome, Impression | None]],
        experiments: Mapping[str, Experiment],
    ) -> list[Outcome]:
        """Write what is not there yet, with what it earned."""
        earned = self._earned(connection, {each.slate_id for each, slate in found if slate and slate.assignment})
        new: list[Outcome] = []
        rewards: list[tuple[Assignment, bytes | None, float]] = []
        for outcome, slate in found:
            assigned = slate.assignment if slate else None
            experiment = experiments.get(assigned.experiment) if assigned else None
            if assigned is not None and experiment is not None and outcome.arm:
                # What may earn 1 at most: the slate; interleaved, the item.
                earner = outcome.slate_id, "" if assigned.arm else outcome.item_id
                before = earned[earner]
                in_time = outcome.received_time_us - outcome.shown_time_us <= experiment.window_s * 1_000_000
                worth = experiment.rewards.get(outcome.event_type, 0.0) if in_time else 0.0
                outcome = outcome._replace(reward=min(1.0, before + worth) - before)
            row = {"tenant": self._tenant, **outcome._asdict(), "sources": ",".join(outcome.sources)}
            statement = insert(connection, outcomes).values(row).on_conflict_do_nothing()
            if connection.execute(statement.returning(outcomes.c.position)).scalar() is None:
                continue
            new.append(outcome)
            if slate is not None and assigned is not None and experiment is not None and outcome.reward:
                earned[earner] += outcome.reward
                by_user = slate.subject if assigned.arm else None
                subject = None if by_user is None else subject_hash(by_user)
                current_one = assigned._replace(arm=outcome.arm, half_life=experiment.learning_half_life)
                rewards.append((current_one, subject, outcome.reward))
        count_rewards(connection, self._tenant, rewards)
        return new

    def _earned(self, connection: Connection, slate_ids: Iterable[str]) -> defaultdict[tuple[str, str], float]:
        """By slate and item, what they have earned; by slate and "", what the whole slate has."""
        found: defaultdict[tuple[str, str], float] = defaultdict(float)
        for ids in chunks(slate_ids):
            statement = (
                select(outcomes.c.slate_id, outcomes.c.item_id, func.sum(outcomes.c.reward))
                .where(outcomes.c.tenant == self._tenant, outcomes.c.slate_id.in_(ids))
                .group_by(outcomes.c.slate_id, outcomes.c.item_id)
            )
            for slate_id, item_id, reward in connection.execute(statement):
                found[slate_id, item_id] += float(reward)
                found[slate_id, ""] += float(reward)
        return found


def _of_report(each: LoggedEvent, slate_id: str, place: int | None, shown_time_us: int) -> Outcome:
    return Outcome(
        slate_id=slate_id,
        item_id=each.event.item_id,
        event_type=each.event.event_type,
        position=each.position,
        place=place or 0,
        sources=(),
        strategy=REPORTED,
        experiment="",
        arm="",
        surface="",
        reward=0.0,
        shown_time_us=shown_time_us,
        received_time_us=each.received_time_us,
    )


def _split(sources: str) -> tuple[str, ...]:
    return tuple(sources.split(",")) if sources else ()
