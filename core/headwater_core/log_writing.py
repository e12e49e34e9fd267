"""How events enter the log: numbered, each id once, with the visitor links they tell of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select

from headwater_core import visitor_links
from headwater_core.database import advance, chunks, insert_rows
from headwater_core.event_rows import to_row
from headwater_core.events import Event
from headwater_core.schema import event_ids, events

POSITION = "log_position"
"""The counter of positions; who holds it to the commit is the tenant's only writer."""


class AppendOutcome(Enum):
    """What became of an event."""

    ACCEPTED = auto()
    DUPLICATE = auto()
    """The same event was committed before."""
    CONFLICT = auto()
    """Its id was used before for other content; it was not written."""


class AppendResult(NamedTuple):
    """What became of an event, and where it is."""

    outcome: AppendOutcome
    position: int
    """Of the original for a DUPLICATE; 0 for a CONFLICT."""


_KNOWN_IDS = select(event_ids.c.event_id, event_ids.c.content_hash, event_ids.c.position).where(
    event_ids.c.tenant == bindparam("of_tenant"), event_ids.c.event_id.in_(bindparam("ids", expanding=True))
)
_CONFLICT = AppendResult(AppendOutcome.CONFLICT, 0)


def append(
    connection: Connection, tenant: str, hashed: Sequence[tuple[Event, bytes]], received_time_us: int
) -> list[AppendResult]:
    """Write events in the connection's transaction; until it ends, nobody else can.

    Args:
        connection: in a transaction that writes.
        tenant: whose log it is.
        hashed: events that check_event let pass, each with its content_hash.
        received_time_us: microseconds since 1970 UTC; stands in for a missing event time.

    Returns:
        One result per event, in order.
    """
    # One statement takes the lock and a number for every event; what duplicates leave over is given back.
    position = advance(connection, tenant, POSITION, len(hashed)) - len(hashed)
    known = _known_ids(connection, tenant, (event.event_id for event, _ in hashed))
    accepted: list[tuple[int, Event]] = []
    id_rows: list[tuple[str, str, bytes, int, int]] = []
    results: list[AppendResult] = []
    for event, content_hash in hashed:
        original = known.get(event.event_id)
        if original is None:
            position += 1
            known[event.event_id] = (content_hash, position)
            accepted.append((position, event))
            id_rows.append((tenant, event.event_id, content_hash, position, received_time_us))
            results.append(AppendResult(AppendOutcome.ACCEPTED, position))
        elif original[0] == content_hash:
            results.append(AppendResult(AppendOutcome.DUPLICATE, original[1]))
        else:
            results.append(_CONFLICT)
    if n_left := len(hashed) - len(accepted):
        advance(connection, tenant, POSITION, -n_left)
    if accepted:
        event_rows = [to_row(tenant, position, event, received_time_us) for position, event in accepted]
        insert_rows(connection, events, event_rows)
        insert_rows(connection, event_ids, id_rows)
        visitor_links.write(connection, tenant, accepted)
    return results


def _known_ids(connection: Connection, tenant: str, ids: Iterable[str]) -> dict[str, tuple[bytes, int]]:
    known: dict[str, tuple[bytes, int]] = {}
    for chunk in chunks(dict.fromkeys(ids)):
        rows = connection.execute(_KNOWN_IDS, {"of_tenant": tenant, "ids": chunk})
        known.update((event_id, (content_hash, position)) for event_id, content_hash, position in rows)
    return known
