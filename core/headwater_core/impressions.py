"""What was shown to whom, at which score and with which propensity: what acting on an answer is judged against."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, func, select

from headwater_core.database import Database, advance, chunks, insert
from headwater_core.events import Subject, SubjectKind
from headwater_core.experiments import Assignment
from headwater_core.feedback_log import ERASURE, subject_hash
from headwater_core.paging import read_pages
from headwater_core.repeating import repeated
from headwater_core.schema import erasures, impressions
from headwater_core.tallies import ShownSlate, count_slates

ERASED_FOR_US = 5_000_000
"""So long after an erasure nothing that was shown to the erased is written either.

An erasure's time is taken before it waits for its turn, a slate's when the answer is done: until every server has
heard, or by a clock that is ahead, a slate made of what was erased looks like a later one.
"""


class ShownItem(NamedTuple):
    """One item of an answer, in its place."""

    item_id: str
    score: float
    propensity: float | None
    """The probability that the strategy shows the item in that place; None when it is not known."""
    sources: tuple[str, ...]
    arm: str = ""
    """Of an interleaved slate: the experiment's arm whose place it is."""


@dataclass(frozen=True, slots=True)
class Impression:
    """One answer as it was shown."""

    slate_id: str
    subject: Subject | None
    """None when the request named nobody."""
    session_id: str = ""
    surface: str = ""
    context: Mapping[str, str] = field(default_factory=dict)
    strategy: str = ""
    generation: int = 0
    """The generation that answered; 0 when none did."""
    time_us: int = 0
    items: tuple[ShownItem, ...] = ()
    assignment: Assignment | None = None
    """The experiment that answered, and with which arm; None: none took part."""
    features: bytes | None = None
    """What a ranker reads of the items (`ranker.pack`), where the strategy has one."""


class ImpressionLog:
    """The impressions of one tenant; FeedbackLog.delete_subject erases a subject's."""

    def __init__(self, database: Database, tenant: str = "default") -> None:
        self._database = database
        self._tenant = tenant

    @repeated
    def append(self, shown: Sequence[Impression]) -> None:
        """Write impressions in one commit; a slate that is already written stays as it is.

        What was shown to a subject before it was erased, or within `ERASED_FOR_US` after that, is not written: it may
        come from an answer that was on its way, or from a replica that had not heard yet. Of a user who returns at once
        the first seconds are not known by it.
        """
        if not shown:
            return
        with self._database.write() as connection:
            advance(connection, self._tenant, ERASURE, 0)  # no erasure comes in between
            erased_us = self._erasure_times(connection, [each.subject for each in shown if each.subject is not None])
            rows = [
                self._row(each)
                for each in shown
                if each.subject not in erased_us or erased_us[each.subject] + ERASED_FOR_US < each.time_us
            ]
            if not rows:
                return
            statement = insert(connection, impressions).on_conflict_do_nothing().returning(impressions.c.slate_id)
            written = set(connection.execute(statement, rows).scalars())
            assigned = (
                ShownSlate(
                    each.assignment,
                    None if each.subject is None else subject_hash(each.subject),
                    tuple(item.arm for item in each.items if item.arm),
                )
                for each in shown
                if each.assignment is not None and each.slate_id in written
            )
            count_slates(connection, self._tenant, assigned)

    @repeated
    def prune(self, before_us: int, limit: int) -> int:
        """Forget at most `limit` of the impressions shown before `before_us`; how many went."""
        ours = impressions.c.tenant == self._tenant
        oldest = select(impressions.c.slate_id).where(ours, impressions.c.time_us < before_us).limit(limit)
        with self._database.write() as connection:
            return connection.execute(delete(impressions).where(ours, impressions.c.slate_id.in_(oldest))).rowcount

    def get(self, slate_id: str) -> Impression | None:
        """What was shown as that slate; None when it is not known."""
        statement = select(impressions).where(impressions.c.tenant == self._tenant, impressions.c.slate_id == slate_id)
        with self._database.read() as connection:
            row = connection.execute(statement).one_or_none()
        return None if row is None else _impression(row)

    def get_many(self, slate_ids: Collection[str]) -> dict[str, Impression]:
        """What was shown as these slates, by slate id; those that are not known are left out."""
        found: dict[str, Impression] = {}
        with self._database.read() as connection:
            for ids in chunks(slate_ids):
                statement = select(impressions).where(
                    impressions.c.tenant == self._tenant, impressions.c.slate_id.in_(ids)
                )
                found.update((row.slate_id, _impression(row)) for row in connection.execute(statement))
        return found

    def between(self, from_us: int, before_us: int) -> Iterator[Impression]:
        """The impressions shown from `from_us` on and before `before_us`, by (time_us, slate_id).

        They are read in pages: what is written or erased meanwhile may be there or not.
        """
        of_time = select(impressions).where(impressions.c.tenant == self._tenant, impressions.c.time_us < before_us)
        keys = (impressions.c.time_us, impressions.c.slate_id)
        yield from map(_impression, read_pages(self._database, of_time, keys, from_us))

    def with_features(self, before_us: int, limit: int) -> list[Impression]:
        """The latest `limit` impressions shown before `before_us` that have features for a ranker, the latest first."""
        statement = (
            select(impressions)
            .where(impressions.c.tenant == self._tenant, impressions.c.features.is_not(None))
            .where(impressions.c.time_us < before_us)
            .order_by(impressions.c.time_us.desc())
            .limit(limit)
        )
        with self._database.read() as connection:
            return [_impression(row) for row in connection.execute(statement)]

    def count(self) -> int:
        """How many impressions are kept."""
        statement = select(func.count()).select_from(impressions).where(impressions.c.tenant == self._tenant)
        with self._database.read() as connection:
            return connection.execute(statement).scalar_one()

    def _erasure_times(self, connection: Connection, subjects: Collection[Subject]) -> dict[Subject, int]:
        """When each subject was last erased; those that never were are left out."""
        of_hash = {subject_hash(subject): subject for subject in subjects}
        found: dict[Subject, int] = {}
        for chunk in chunks(of_hash):
            statement = (
                select(erasures.c.subject_hash, func.max(erasures.c.erase_time_us))
                .where(erasures.c.tenant == self._tenant, erasures.c.subject_hash.in_(chunk), erasures.c.is_whole)
                .group_by(erasures.c.subject_hash)
            )
            found.update((of_hash[key], erase_time_us) for key, erase_time_us in connection.execute(statement))
        return found

    def _row(self, impression: Impression) -> dict[str, Any]:
        subject, assigned = impression.subject, impression.assignment
        return {
            "tenant": self._tenant,
            "slate_id": impression.slate_id,
            "subject_kind": None if subject is None else subject.kind.value,
            "subject_id": None if subject is None else subject.id,
            "session_id": impression.session_id,
            "surface": impression.surface,
            "context": dict(impression.context),
            "strategy": impression.strategy,
            "generation": impression.generation,
            "time_us": impression.time_us,
            "items": [[*each[:3], list(each.sources), *([each.arm] if each.arm else [])] for each in impression.items],
            "experiment": assigned.experiment if assigned else "",
            "arm": assigned.arm if assigned else "",
            "segment": assigned.segment if assigned else "",
            "propensity": assigned.propensity if assigned else None,
            "features": impression.features,
        }


def _impression(row: Row[*tuple[Any, ...]]) -> Impression:
    return Impression(
        slate_id=row.slate_id,
        subject=None if row.subject_kind is None else Subject(SubjectKind(row.subject_kind), row.subject_id),
        session_id=row.session_id,
        surface=row.surface,
        context=row.context,
        strategy=row.strategy,
        generation=row.generation,
        time_us=row.time_us,
        items=tuple(
            ShownItem(item_id, score, propensity, tuple(sources), *arm)
            for item_id, score, propensity, sources, *arm in row.items
        ),
        # What it learns with is the experiment's, not the slate's.
        assignment=Assignment(row.experiment, row.arm, row.segment, row.propensity, 0.0) if row.experiment else None,
        features=row.features,
    )
