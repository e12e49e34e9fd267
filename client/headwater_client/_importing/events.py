"""Rows of events."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid5

from headwater.v1.event_pb2 import Event
from headwater_client._importing import values

REQUIRED_COLUMNS = ("timestamp", "event_type")
_KNOWN = frozenset(
    {
        "event_id", "event_type", "user_id", "visitor_id", "session_id", "item_id", "query", "value", "timestamp",
        "attribution_token", "position",
    }
)  # fmt: skip
_NAMESPACE = UUID("5e0f7a52-3b0c-5f0e-9a7c-6c1d5a1b9f41")


class EventRows:
    """Makes events of rows. A row without an event_id gets one that is the same in every run over the same rows."""

    def __init__(self) -> None:
        # equal rows are told apart by how many came before; 8 bytes of their hash keep the count small
        self._occurrences: Counter[bytes] = Counter()

    def event(self, fields: Mapping[str, Any]) -> Event:
        """The event of a row.

        Args:
            fields: `user_id`, `item_id`, `timestamp` (Unix seconds or ISO 8601), `event_type`, and as wanted
                `visitor_id`, `session_id`, `query`, `value`, `position`, `attribution_token`, `event_id`; anything
                else becomes an attribute.

        Raises:
            ValueError: a cell cannot be used.
        """
        position = values.number(fields, "position")
        if position is not None and not position.is_integer():
            raise ValueError(f"position: {position} is not a whole number")
        event_time = values.moment(fields, "timestamp")
        if event_time is None:
            raise ValueError("timestamp: must not be empty")
        event = Event(
            event_id=values.text(fields, "event_id"),
            event_type=values.text(fields, "event_type"),
            user_id=values.text(fields, "user_id"),
            visitor_id=values.text(fields, "visitor_id"),
            session_id=values.text(fields, "session_id"),
            item_id=values.text(fields, "item_id"),
            query=values.text(fields, "query"),
            value=values.number(fields, "value"),
            event_time=event_time,
            attribution_token=values.text(fields, "attribution_token"),
            position=None if position is None else int(position),
            attributes=values.attributes(fields, _KNOWN),
        )
        if not event.event_id:
            event.event_id = self._event_id(event)
        return event

    def _event_id(self, event: Event) -> str:
        content = json.dumps(
            [
                event.event_type, event.user_id, event.visitor_id, event.session_id, event.item_id, event.query,
                event.value if event.HasField("value") else None, event.event_time.ToMicroseconds(),
                event.attribution_token, event.position, sorted(event.attributes.items()),
            ]
        )  # fmt: skip
        key = hashlib.blake2b(content.encode(), digest_size=8).digest()
        self._occurrences[key] += 1
        return str(uuid5(_NAMESPACE, f"{content}#{self._occurrences[key]}"))
