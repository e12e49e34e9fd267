"""What an operator asks of an updater: where it stands, who leads, what it refused, how well it foresees."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select

from headwater_core import schema
from headwater_core.catalogue import Catalogue
from headwater_core.database import Database
from headwater_core.feedback_log import FeedbackLog
from headwater_core.registry import CANARY, STABLE, GenerationRegistry
from headwater_updater.lease import LEASE_NAME


@dataclass(frozen=True, slots=True)
class Status:
    """The updater's state as the database tells it; it is the same wherever it is asked."""

    offset: int
    """Highest position learned and published: from here learning goes on after a restart."""
    head: int
    """Highest position of the log."""
    lag: int
    """Positions between the two."""
    generation: int | None
    """What `stable` names; None: nothing was published yet."""
    canary: int | None
    """What `canary` names: a generation that answers a share of users; None: there is none."""
    publish_time_us: int | None
    item_count: int | None
    items_waiting: int
    """Items that are new or changed in the catalogue and not in that generation yet: how far an import still has to go.
    Servers know new items by themselves, unless the import deferred their features."""
    metrics: dict[str, float]
    """Of that generation; the rolling ones begin with `prequential_`."""
    rejections: dict[str, int]
    """Events that cleaning refused, by rule."""
    leader: str | None
    """Who holds the lease; None: no updater is running."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


def read_status(database: Database, tenant: str, now_us: int) -> Status:
    """The status at `now_us`.

    Raises:
        DatabaseUnavailableError: when the database cannot be reached.
    """
    log, registry = FeedbackLog(database, tenant), GenerationRegistry(database, tenant)
    labels = registry.labels()
    number = labels.get(STABLE)
    record = None if number is None else registry.get(number)
    offset, head = 0 if record is None else record.watermark, log.head()
    return Status(
        offset=offset,
        head=head,
        lag=max(0, head - offset),
        generation=None if record is None else record.number,
        canary=labels.get(CANARY),
        publish_time_us=None if record is None else record.publish_time_us,
        item_count=None if record is None else record.item_count,
        items_waiting=Catalogue(database, tenant).changed_after(0 if record is None else record.catalogue_revision),
        metrics={} if record is None else dict(record.metrics),
        rejections=log.rejection_counts(),
        leader=_leader(database, tenant, now_us),
    )


def _leader(database: Database, tenant: str, now_us: int) -> str | None:
    leases = schema.leases
    statement = select(leases.c.holder).where(
        leases.c.tenant == tenant, leases.c.name == LEASE_NAME, leases.c.expire_time_us > now_us
    )
    with database.read() as connection:
        holder: str | None = connection.execute(statement).scalar()
    return holder
