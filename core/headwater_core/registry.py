"""Generation numbers, labels and leases: what an artifact store cannot do atomically.

A label moves in one transaction that holds the label's row and, for an updater, the row of its lease: whoever lost the
lease finds another epoch there and publishes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, func, or_, select, tuple_, update

from headwater_core.database import Database, advance, chunks, current, insert
from headwater_core.errors import ConflictError, InvalidFieldError, LeaseLostError, NotFoundError
from headwater_core.repeating import repeated
from headwater_core.schema import generations, label_history, labels, leases, server_leases

STABLE, CANARY = "stable", "canary"
"""What answers everybody, and what a share of users is answered by first."""
_NUMBER = "generation_number"


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """What is known of a published generation without opening its files."""

    number: int
    parent: int
    """The generation it was made from; 0 for the first."""
    full: bool
    """Whether all item vectors were computed anew."""
    publish_time_us: int
    watermark: int
    """The highest log position it has learned from."""
    catalogue_revision: int
    item_count: int
    dimension: int
    total_bytes: int
    metrics: Mapping[str, float] = field(default_factory=dict)


class Lease(NamedTuple):
    """The right to act alone under a name, until it is lost."""

    name: str
    holder: str
    epoch: int
    """Raised by every acquisition: it tells a lease from those held before it."""


class GenerationRegistry:
    """The generations, labels and leases of one tenant."""

    def __init__(self, database: Database, tenant: str = "default") -> None:
        self._database = database
        self._tenant = tenant
        self._recorded = select(generations.c.number).where(generations.c.tenant == tenant)

    @repeated
    def allocate(self) -> int:
        """The next generation's number, from 1; never given twice, so an unused one leaves a gap."""
        with self._database.write() as connection:
            return advance(connection, self._tenant, _NUMBER, 1)

    def last_allocated(self) -> int:
        """The number that was given last, 0 before the first: every generation begun later has a higher one."""
        with self._database.read() as connection:
            return current(connection, self._tenant, _NUMBER)

    @repeated
    def record(self, generation: GenerationRecord) -> None:
        """Make a generation known whose manifest is written; recording it again changes nothing.

        Raises:
            ConflictError: another record has that number.
            InvalidFieldError: a metric is not a finite number.
        """
        for name, value in generation.metrics.items():
            if not math.isfinite(value):
                raise InvalidFieldError(f"metrics[{name}]", f"is {value}; must be a finite number")
        row = {
            "tenant": self._tenant,
            "number": generation.number,
            "parent": generation.parent,
            "is_full": generation.full,
            "publish_time_us": generation.publish_time_us,
            "watermark": generation.watermark,
            "catalogue_revision": generation.catalogue_revision,
            "item_count": generation.item_count,
            "dimension": generation.dimension,
            "total_bytes": generation.total_bytes,
            "metrics": dict(generation.metrics),
        }
        with self._database.write() as connection:
            connection.execute(insert(connection, generations).on_conflict_do_nothing(), row)
            if self._record(connection, generation.number) != generation:
                raise ConflictError(f"generation {generation.number} is recorded already, with other content")

    def get(self, number: int) -> GenerationRecord | None:
        """The record of a generation; None when there is none of that number."""
        with self._database.read() as connection:
            return self._record(connection, number)

    def list(self, before: int | None, limit: int) -> Sequence[GenerationRecord]:
        """At most `limit` records, newest first; with `before`, only those of lower numbers."""
        statement = select(generations).where(generations.c.tenant == self._tenant)
        if before is not None:
            statement = statement.where(generations.c.number < before)
        with self._database.read() as connection:
            rows = connection.execute(statement.order_by(generations.c.number.desc()).limit(limit))
            return [_generation(row) for row in rows]

    @repeated
    def delete(self, numbers: Collection[int], lease: Lease | None = None) -> int:
        """Forget generations; gives how many were known.

        Args:
            numbers: which.
            lease: the lease under which the caller acts.

        Raises:
            ConflictError: a label names one of them; none is forgotten.
            LeaseLostError: somebody acquired the lease since; none is forgotten.
        """
        with self._database.write() as connection:
            if lease is not None:
                hold(connection, self._tenant, lease)
            ours = generations.c.tenant == self._tenant
            for chunk in chunks(sorted(numbers)):
                # Locked before the labels are read: no label can be pointed at one of them in between.
                doomed = select(generations.c.number).where(ours, generations.c.number.in_(chunk))
                connection.execute(doomed.with_for_update())
            named = sorted(set(numbers) & set(self._labels(connection).values()))
            if named:
                raise ConflictError(f"generations named by a label cannot be deleted: {named}")
            return sum(
                connection.execute(delete(generations).where(ours, generations.c.number.in_(chunk))).rowcount
                for chunk in chunks(sorted(numbers))
            )

    def labels(self) -> dict[str, int]:
        """The generation that each label names."""
        with self._database.read() as connection:
            return self._labels(connection)

    @repeated
    def set_label(self, label: str, number: int, *, expected: int | None = None, lease: Lease | None = None) -> int:
        """Point a label at a generation, all or nothing.

        Args:
            label: its name.
            number: a recorded generation's.
            expected: what the label must name now, 0 for "it does not exist"; None: whatever it names.
            lease: the lease under which the caller acts.

        Returns:
            The generation that it named before; 0 when it is new.

        Raises:
            ConflictError: the label names another generation than `expected`.
            LeaseLostError: somebody acquired the lease since.
            NotFoundError: no generation of that number is recorded.
        """
        with self._database.write() as connection:
            previous = self._lock_label(connection, label, expected, lease)
            self._point(connection, label, number)
            return previous

    @repeated
    def take_back(self, label: str, number: int, *, expected: int, lease: Lease | None = None) -> None:
        """Point a label back at a generation as if it had never named the ones after it: none of them is gone back to.

        Raises:
            ConflictError, LeaseLostError, NotFoundError: as `set_label` does; nothing has moved.
        """
        with self._database.write() as connection:
            self._lock_label(connection, label, expected, lease)
            history = (label_history.c.tenant == self._tenant) & (label_history.c.label == label)
            connection.execute(delete(label_history).where(history, label_history.c.generation > number))
            self._point(connection, label, number)

    def earlier(self, label: str, limit: int) -> Sequence[int]:
        """Where a label can go back to: recorded generations below its present one that it has named, newest first."""
        with self._database.read() as connection:
            return self._earlier(connection, label, self._labels(connection).get(label, 0), limit)

    def named(self) -> set[int]:
        """The recorded generations that a label names or has named, less those that were taken back."""
        statement = (
            select(label_history.c.generation)
            .distinct()
            .where(label_history.c.tenant == self._tenant, label_history.c.generation.in_(self._recorded))
        )
        with self._database.read() as connection:
            return set(connection.execute(statement).scalars())

    @repeated
    def prune_history(self, limit: int) -> int:
        """Forget at most `limit` of the times when a label named what is recorded no more; how many went.

        A label's last stays in any case: the next is counted on from it.
        """
        last = label_history.alias()
        last_step = (
            select(func.max(last.c.step))
            .where(last.c.tenant == label_history.c.tenant, last.c.label == label_history.c.label)
            .scalar_subquery()
        )
        ours = label_history.c.tenant == self._tenant
        key = label_history.c.label, label_history.c.step
        idle = (
            select(*key)
            .where(ours, label_history.c.generation.not_in(self._recorded), label_history.c.step < last_step)
            .limit(limit)
        )
        with self._database.write() as connection:
            return connection.execute(delete(label_history).where(ours, tuple_(*key).in_(idle))).rowcount

    @repeated
    def drop_label(self, label: str, *, expected: int, lease: Lease | None = None) -> None:
        """Let a label name nothing any more; nothing happens when there is none.

        Raises:
            ConflictError: it names another generation than `expected`.
            LeaseLostError: somebody acquired the lease since.
        """
        with self._database.write() as connection:
            if lease is not None:
                hold(connection, self._tenant, lease)
            named = (labels.c.tenant == self._tenant) & (labels.c.label == label)
            found = connection.execute(select(labels.c.generation).where(named).with_for_update()).scalar()
            if found is not None and found != expected:
                raise ConflictError(f"label {label} names generation {found}, not {expected}")
            connection.execute(delete(labels).where(named))

    @repeated
    def rollback(self, label: str) -> tuple[int, int]:
        """Point a label at the newest generation below its present one that it has named and that is still recorded.

        Returns:
            The generation that it names now, and the one before.

        Raises:
            NotFoundError: there is no such generation, or no such label.
        """
        with self._database.write() as connection:
            previous = self._lock_label(connection, label)
            earlier = self._earlier(connection, label, previous, 1)
            if not earlier:
                raise NotFoundError(f"label {label} has no earlier generation to go back to")
            self._point(connection, label, earlier[0])
            return earlier[0], previous

    @repeated
    def acquire_lease(self, name: str, holder: str, ttl_s: float, now_us: int) -> Lease | None:
        """Take a lease that nobody else holds at `now_us`, for `ttl_s` seconds; None while another holder has it.

        Who has it already gets it anew at once, and its lease of before is lost: what could not be released, the
        database being away, need not be waited for. So a holder's name is one process's alone.
        """
        expire_time_us = now_us + _microseconds(ttl_s)
        with self._database.write() as connection:
            statement = insert(connection, leases).values(
                tenant=self._tenant, name=name, holder=holder, epoch=1, expire_time_us=expire_time_us
            )
            statement = statement.on_conflict_do_update(
                index_elements=["tenant", "name"],
                set_={"holder": holder, "epoch": leases.c.epoch + 1, "expire_time_us": expire_time_us},
                where=or_(leases.c.expire_time_us <= now_us, leases.c.holder == holder),
            )
            epoch = connection.execute(statement.returning(leases.c.epoch)).scalar_one_or_none()
        return None if epoch is None else Lease(name, holder, epoch)

    @repeated
    def renew(self, lease: Lease, ttl_s: float, now_us: int) -> None:
        """Hold the lease until `ttl_s` seconds after `now_us`; one that ran out can be renewed while nobody took it.

        Raises:
            LeaseLostError: somebody acquired it since.
        """
        with self._database.write() as connection:
            expire_time_us = now_us + _microseconds(ttl_s)
            renewed = update(leases).where(*_is(self._tenant, lease)).values(expire_time_us=expire_time_us)
            if connection.execute(renewed).rowcount == 0:
                raise _lost(lease)

    @repeated
    def release(self, lease: Lease) -> None:
        """Let others acquire the lease at once; nothing happens when it is lost already."""
        with self._database.write() as connection:
            connection.execute(update(leases).where(*_is(self._tenant, lease)).values(expire_time_us=0))

    @repeated
    def heartbeat(self, server_id: str, held: Sequence[int], ttl_s: float, now_us: int) -> None:
        """Say which generations a server holds until `ttl_s` seconds after `now_us`; replaces what it said before."""
        row = {
            "tenant": self._tenant,
            "server_id": server_id,
            "generations": sorted(held),
            "expire_time_us": now_us + _microseconds(ttl_s),
        }
        with self._database.write() as connection:
            statement = insert(connection, server_leases).values(row)
            said = {name: statement.excluded[name] for name in ("generations", "expire_time_us")}
            connection.execute(statement.on_conflict_do_update(index_elements=["tenant", "server_id"], set_=said))
            # Servers that come and go under new ids leave nothing behind.
            gone = (server_leases.c.tenant == self._tenant) & (server_leases.c.expire_time_us <= now_us)
            connection.execute(delete(server_leases).where(gone, server_leases.c.server_id != server_id))

    def held_generations(self, now_us: int) -> set[int]:
        """The generations that live servers hold at `now_us`."""
        statement = select(server_leases.c.generations).where(
            server_leases.c.tenant == self._tenant, server_leases.c.expire_time_us > now_us
        )
        with self._database.read() as connection:
            return {number for held in connection.execute(statement).scalars() for number in held}

    def _record(self, connection: Connection, number: int) -> GenerationRecord | None:
        statement = select(generations).where(generations.c.tenant == self._tenant, generations.c.number == number)
        row = connection.execute(statement).one_or_none()
        return None if row is None else _generation(row)

    def _labels(self, connection: Connection) -> dict[str, int]:
        rows = connection.execute(select(labels.c.label, labels.c.generation).where(labels.c.tenant == self._tenant))
        return {row.label: row.generation for row in rows}

    def _earlier(self, connection: Connection, label: str, before: int, limit: int) -> Sequence[int]:
        statement = (
            select(label_history.c.generation)
            .distinct()
            .where(
                label_history.c.tenant == self._tenant,
                label_history.c.label == label,
                label_history.c.generation < before,
                label_history.c.generation.in_(self._recorded),
            )
            .order_by(label_history.c.generation.desc())
            .limit(limit)
        )
        return list(connection.execute(statement).scalars())

    def _lock_label(
        self, connection: Connection, label: str, expected: int | None = None, lease: Lease | None = None
    ) -> int:
        """Hold the lease's and the label's row to the commit, a new label naming 0; gives what it names.

        Raises:
            ConflictError, LeaseLostError: as `set_label` does.
        """
        if lease is not None:
            hold(connection, self._tenant, lease)
        statement = insert(connection, labels).values(tenant=self._tenant, label=label, generation=0)
        connection.execute(statement.on_conflict_do_nothing())
        row = select(labels.c.generation).where(labels.c.tenant == self._tenant, labels.c.label == label)
        named = int(connection.execute(row.with_for_update()).scalar_one())
        if expected is not None and named != expected:
            raise ConflictError(f"label {label} names generation {named}, not {expected}")
        return named

    def _point(self, connection: Connection, label: str, number: int) -> None:
        # Held to the commit: delete() cannot forget the generation in between.
        recorded = select(generations.c.number).where(
            generations.c.tenant == self._tenant, generations.c.number == number
        )
        if connection.execute(recorded.with_for_update(read=True)).scalar() is None:
            raise NotFoundError(f"generation {number} is not recorded")
        named = (labels.c.tenant == self._tenant) & (labels.c.label == label)
        connection.execute(update(labels).where(named).values(generation=number))
        last_step = select(func.max(label_history.c.step)).where(
            label_history.c.tenant == self._tenant, label_history.c.label == label
        )
        step = (connection.execute(last_step).scalar() or 0) + 1
        connection.execute(
            insert(connection, label_history),
            {"tenant": self._tenant, "label": label, "step": step, "generation": number},
        )


def hold(connection: Connection, tenant: str, lease: Lease) -> None:
    """Hold a lease's row to the commit: nobody else leads before what the transaction writes can be read.

    Raises:
        LeaseLostError: somebody acquired the lease since.
    """
    row = select(leases.c.epoch).where(*_is(tenant, lease)).with_for_update()
    if connection.execute(row).scalar() is None:
        raise _lost(lease)


def _is(tenant: str, lease: Lease) -> tuple[Any, ...]:
    return (
        leases.c.tenant == tenant,
        leases.c.name == lease.name,
        leases.c.holder == lease.holder,
        leases.c.epoch == lease.epoch,
    )


def _lost(lease: Lease) -> LeaseLostError:
    return LeaseLostError(f"lease {lease.name}, epoch {lease.epoch}, is lost")


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _generation(row: Row[*tuple[Any, ...]]) -> GenerationRecord:
    return GenerationRecord(
        number=row.number,
        parent=row.parent,
        full=row.is_full,
        publish_time_us=row.publish_time_us,
        watermark=row.watermark,
        catalogue_revision=row.catalogue_revision,
        item_count=row.item_count,
        dimension=row.dimension,
        total_bytes=row.total_bytes,
        metrics=row.metrics,
    )
