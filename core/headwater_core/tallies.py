"""What the arms of experiments showed and earned, counted in the transactions that write what is counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import Connection, Table, delete, func, select, update

from headwater_core.allocation import Record
from headwater_core.database import Database, advance, insert
from headwater_core.experiment_statistics import UserSums
from headwater_core.experiments import Assignment
from headwater_core.repeating import repeated
from headwater_core.schema import experiment_arms, experiment_users

REVISION = "experiment_arms_revision"
"""The counter that every change advances."""


class ArmTally(NamedTuple):
    """What one arm showed and earned in one segment."""

    segment: str
    arm: str
    slates: int
    """Of an interleaved experiment: places."""
    reward: float
    recent: Record
    """The same, older slates counting less."""


class ShownSlate(NamedTuple):
    """A slate of an experiment."""

    assignment: Assignment
    subject: bytes | None
    """The hash of whom it was shown to; None: nobody known."""
    arms: tuple[str, ...] = ()
    """Of an interleaved slate: whose each of its places is. They count each, and nothing counts by user."""


class Tallies:
    """The tallies of one tenant's experiments."""

    def __init__(self, database: Database, tenant: str = "default") -> None:
        self._database = database
        self._tenant = tenant

    def of(self, experiment: str) -> list[ArmTally]:
        """What its arms showed and earned, by segment and arm."""
        statement = (
            select(experiment_arms)
            .where(experiment_arms.c.tenant == self._tenant, experiment_arms.c.experiment == experiment)
            .order_by(experiment_arms.c.segment, experiment_arms.c.arm)
        )
        with self._database.read() as connection:
            return [
                ArmTally(row.segment, row.arm, row.slates, row.reward, Record(row.recent_slates, row.recent_reward))
                for row in connection.execute(statement)
            ]

    def users(self, experiment: str) -> dict[str, UserSums]:
        """By arm, what its users add up to."""
        slates, reward = experiment_users.c.slates, experiment_users.c.reward
        sums = (func.count(), func.sum(slates), func.sum(reward), func.sum(slates * slates),
                func.sum(reward * reward), func.sum(slates * reward))  # fmt: skip
        statement = (
            select(experiment_users.c.arm, *sums)
            .where(experiment_users.c.tenant == self._tenant, experiment_users.c.experiment == experiment)
            .group_by(experiment_users.c.arm)
        )
        with self._database.read() as connection:
            rows = connection.execute(statement).all()
        return {arm: UserSums(int(users), *(float(value) for value in rest)) for arm, users, *rest in rows}

    @repeated
    def forget(self, experiment: str) -> None:
        """Count anew: an experiment of this name has nothing to do with what was there before."""
        with self._database.write() as connection:
            advance(connection, self._tenant, REVISION, 1)
            for table in (experiment_arms, experiment_users):
                ours = table.c.tenant == self._tenant, table.c.experiment == experiment
                connection.execute(delete(table).where(*ours))


def count_slates(connection: Connection, tenant: str, shown: Iterable[ShownSlate]) -> None:
    """Count slates that were shown, or their places."""
    counts: Counter[tuple[str, str, str]] = Counter()
    slates: Counter[tuple[str, str]] = Counter()
    half_lives: dict[tuple[str, str], float] = {}
    users: Counter[tuple[str, str, bytes]] = Counter()
    for assignment, subject, arms in shown:
        slates[assignment.experiment, assignment.segment] += 1
        half_lives[assignment.experiment, assignment.segment] = assignment.half_life
        for arm in arms if not assignment.arm else (assignment.arm,):
            counts[assignment.experiment, assignment.segment, arm] += 1
        if subject is not None and assignment.arm:
            users[assignment.experiment, assignment.arm, subject] += 1
    if not counts:
        return
    advance(connection, tenant, REVISION, 1)  # who holds it to the commit counts alone
    for (experiment, segment), half_life in half_lives.items():
        if half_life:
            _fade(connection, tenant, experiment, segment, 0.5 ** (slates[experiment, segment] / half_life))
    for (experiment, segment, arm), count in counts.items():
        recent = float(count) if half_lives[experiment, segment] else 0.0
        _add_to_arm(connection, tenant, (experiment, segment, arm), Record(count, 0.0), Record(recent, 0.0))
    for (experiment, arm, subject), count in users.items():
        _add_to_user(connection, tenant, (experiment, arm, subject), Record(count, 0.0))


def count_rewards(
    connection: Connection, tenant: str, earned: Iterable[tuple[Assignment, bytes | None, float]]
) -> None:
    """Count what slates earned: by whose arm, the subject's hash (None: nothing counts by user), and how much."""
    arms: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    recent: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    users: defaultdict[tuple[str, str, bytes], float] = defaultdict(float)
    for assignment, subject, reward in earned:
        key = assignment.experiment, assignment.segment, assignment.arm
        arms[key] += reward
        recent[key] += reward if assignment.half_life else 0.0
        if subject is not None:
            users[assignment.experiment, assignment.arm, subject] += reward
    if not arms:
        return
    advance(connection, tenant, REVISION, 1)
    for key, reward in arms.items():
        _add_to_arm(connection, tenant, key, Record(0, reward), Record(0.0, recent[key]))
    for user, reward in users.items():
        _add_to_user(connection, tenant, user, Record(0, reward))


def forget_users(connection: Connection, tenant: str, subjects: Iterable[bytes]) -> None:
    """Erase what single users showed and earned; the arms' totals, which name nobody, stay."""
    connection.execute(
        delete(experiment_users).where(
            experiment_users.c.tenant == tenant, experiment_users.c.subject_hash.in_(list(subjects))
        )
    )


def _fade(connection: Connection, tenant: str, experiment: str, segment: str, factor: float) -> None:
    arms = experiment_arms.c
    connection.execute(
        update(experiment_arms)
        .where(arms.tenant == tenant, arms.experiment == experiment, arms.segment == segment)
        .values(recent_slates=arms.recent_slates * factor, recent_reward=arms.recent_reward * factor)
    )


def _add_to_arm(connection: Connection, tenant: str, key: tuple[str, str, str], total: Record, recent: Record) -> None:
    names = dict(zip(("experiment", "segment", "arm"), key, strict=True))
    recents = {"recent_slates": recent.slates, "recent_reward": recent.reward}
    _add(connection, experiment_arms, {"tenant": tenant, **names}, {**total._asdict(), **recents})


def _add_to_user(connection: Connection, tenant: str, key: tuple[str, str, bytes], total: Record) -> None:
    names = dict(zip(("experiment", "arm", "subject_hash"), key, strict=True))
    _add(connection, experiment_users, {"tenant": tenant, **names}, total._asdict())


def _add(connection: Connection, table: Table, key: Mapping[str, object], added: Mapping[str, float]) -> None:
    """Add to a row's counts; one that is not there yet begins at 0."""
    statement = insert(connection, table).values(**key, **added)
    more = {name: table.c[name] + statement.excluded[name] for name in added}
    connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=more))
