"""Events as rows of the table `events`, there and back."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Row, and_

from headwater_core.events import Event, LoggedEvent, Subject, SubjectKind
from headwater_core.schema import events


def to_row(tenant: str, position: int, event: Event, received_time_us: int) -> dict[str, Any]:
    """The row of an event; one without a time happened when it was received."""
    subject = event.subject
    return {
        "tenant": tenant,
        "position": position,
        "event_id": event.event_id,
        "event_type": event.event_type,
        "subject_kind": subject.kind.value,
        "subject_id": subject.id,
        "visitor_id": event.visitor_id,
        "session_id": event.session_id,
        "item_id": event.item_id,
        "query": event.query,
        "value": event.value,
        "event_time_us": received_time_us if event.event_time_us is None else event.event_time_us,
        "received_time_us": received_time_us,
        "attribution_token": event.attribution_token,
        "slate_position": event.slate_position,
        "attributes": dict(event.attributes) or None,
        "backfill": event.backfill,
    }


def from_row(row: Row[*tuple[Any, ...]]) -> LoggedEvent:
    """The event of a row; its event_time_us is set."""
    event = Event(
        event_id=row.event_id,
        event_type=row.event_type,
        user_id=row.subject_id if row.subject_kind == SubjectKind.USER else "",
        visitor_id=row.visitor_id,
        session_id=row.session_id,
        item_id=row.item_id,
        query=row.query,
        value=row.value,
        event_time_us=row.event_time_us,
        attribution_token=row.attribution_token,
        slate_position=row.slate_position,
        attributes=row.attributes or {},
        backfill=row.backfill,
    )
    return LoggedEvent(row.position, row.received_time_us, event)


def of(tenant: str, subject: Subject) -> ColumnElement[bool]:
    """The condition that an event is kept under a subject."""
    return and_(
        events.c.tenant == tenant, events.c.subject_kind == subject.kind.value, events.c.subject_id == subject.id
    )
