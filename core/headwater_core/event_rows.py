"""Events as rows of the table `events`, there and back."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import ColumnElement, Row, and_

from headwater_core.events import Event, LoggedEvent, Subject, SubjectKind
from headwater_core.schema import events

NEWEST_FIRST = (events.c.event_time_us.desc(), events.c.position.desc())
"""The order in which histories are read."""


def to_row(tenant: str, position: int, event: Event, received_time_us: int) -> tuple[object, ...]:
    """The row of an event, in the order of the table's columns; one without a time happened when it was received."""
    kind, subject_id = event.subject
    return (
        tenant,
        position,
        event.event_id,
        event.event_type,
        kind.value,
        subject_id,
        event.visitor_id,
        event.session_id,
        event.item_id,
        event.query,
        event.value,
        received_time_us if event.event_time_us is None else event.event_time_us,
        received_time_us,
        event.attribution_token,
        event.slate_position,
        json.dumps(dict(event.attributes)) if event.attributes else None,
        event.backfill,
    )


def from_row(row: Row[*tuple[Any, ...]]) -> LoggedEvent:
    """The event of a row with all columns of the table; its event_time_us is set."""
    (
        _,
        position,
        event_id,
        event_type,
        kind,
        subject_id,
        visitor_id,
        session_id,
        item_id,
        query,
        value,
        event_time_us,
        received_time_us,
        attribution_token,
        slate_position,
        attributes,
        backfill,
    ) = row
    event = Event(
        event_id,
        event_type,
        subject_id if kind == SubjectKind.USER else "",
        visitor_id,
        session_id,
        item_id,
        query,
        value,
        event_time_us,
        attribution_token,
        slate_position,
        attributes or {},
        backfill,
    )
    return LoggedEvent(position, received_time_us, event)


def of(tenant: str, subject: Subject) -> ColumnElement[bool]:
    """The condition that an event is kept under a subject."""
    return and_(
        events.c.tenant == tenant, events.c.subject_kind == subject.kind.value, events.c.subject_id == subject.id
    )
