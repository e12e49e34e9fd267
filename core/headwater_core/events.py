"""Events, event types and subjects: the values, and what makes them valid."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from headwater_core.errors import InvalidFieldError
from headwater_core.names import check_name

MAX_ID_BYTES = 256
MAX_QUERY_CHARS = 1024
MAX_TOKEN_CHARS = 8192
MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE_KEY_BYTES = 128
MAX_ATTRIBUTE_VALUE_BYTES = 1024
MAX_AHEAD_US = 5 * 60 * 1_000_000
SEARCH = "search"
IMPRESSION = "impression"
NEVER_AGAIN = frozenset({"dislike", "hide"})
"""Items with such an event of a subject are not shown to it again, even where seen items are."""


_AS_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class SubjectKind(StrEnum):
    """What kind of key a history belongs to."""

    USER = "user"
    VISITOR = "visitor"


class Subject(NamedTuple):
    """Whom a history belongs to."""

    kind: SubjectKind
    id: str


@dataclass(frozen=True, slots=True)
class EventType:
    """How events of one type are understood."""

    name: str
    weight: float = 1.0
    """How strongly one event speaks for its item, relative to a click's 1."""
    in_history: bool = True
    """Whether the events are part of a subject's history."""
    is_target: bool = True
    """Whether the model learns to predict them as the next item."""
    is_negative: bool = False
    """Whether the event speaks against its item."""
    value_min: float | None = None
    value_max: float | None = None

    @property
    def target_weight(self) -> float:
        """What one event counts as a target: its weight; 0 where it is none, or speaks against its item."""
        return self.weight if self.is_target and not self.is_negative else 0.0


def _negative(name: str) -> EventType:
    return EventType(name, is_target=False, is_negative=True)


BUILT_IN_EVENT_TYPES: Mapping[str, EventType] = MappingProxyType(
    {
        event_type.name: event_type
        for event_type in (
            EventType("view", weight=0.5, value_min=0.0),
            EventType("click"),
            EventType(SEARCH, weight=0.5, is_target=False),
            EventType("like", weight=2.0),
            EventType("rating", weight=2.0),
            EventType("cart", weight=3.0),
            EventType("purchase", weight=5.0),
            _negative("cancel"),
            _negative("dislike"),
            _negative("hide"),
            EventType(IMPRESSION, weight=0.0, in_history=False, is_target=False),
            EventType("bookmark", weight=2.0),
            EventType("comment", weight=2.0),
            EventType("follow", weight=2.0),
            EventType("share", weight=3.0),
        )
    }
)


class Event(NamedTuple):
    """What a user or a visitor did, as the caller tells it."""

    event_id: str
    event_type: str
    user_id: str = ""
    visitor_id: str = ""
    session_id: str = ""
    item_id: str = ""
    query: str = ""
    value: float | None = None
    event_time_us: int | None = None
    """Microseconds since 1970 UTC; None means: when it is received."""
    attribution_token: str = ""
    slate_position: int | None = None
    """The item's rank in the answer that showed it, from 1."""
    attributes: Mapping[str, str] = MappingProxyType({})
    backfill: bool = False

    @property
    def subject(self) -> Subject:
        """Under whom the event is kept: the user when there is one, else the visitor."""
        if self.user_id:
            return Subject(SubjectKind.USER, self.user_id)
        return Subject(SubjectKind.VISITOR, self.visitor_id)

    def content_hash(self) -> bytes:
        """sha256 of everything the caller said but the id (shape: 32 bytes): equal for a retry, else different."""
        content = [
            self.event_type, self.user_id, self.visitor_id, self.session_id, self.item_id, self.query, self.value,
            self.event_time_us, self.attribution_token, self.slate_position, sorted(self.attributes.items()),
        ]  # fmt: skip
        return hashlib.sha256(_AS_JSON.encode(content).encode()).digest()


class LoggedEvent(NamedTuple):
    """An event with its place in the log; its event_time_us is always set."""

    position: int
    received_time_us: int
    event: Event


class HistoryEvent(NamedTuple):
    """What the model reads of an event."""

    position: int
    """In the feedback log; 0 for an event that is not stored."""
    event_time_us: int
    event_type: str
    item_id: str = ""
    value: float | None = None
    query: str = ""


def history_event(logged: LoggedEvent) -> HistoryEvent:
    """What the model reads of a logged event."""
    event = logged.event
    time_us = event.event_time_us if event.event_time_us is not None else logged.received_time_us
    return HistoryEvent(logged.position, time_us, event.event_type, event.item_id, event.value, event.query)


def check_id(name: str, value: str, *, required: bool = False) -> None:
    """Refuse ids that are over 256 bytes, hold a NUL, or are empty though required.

    Raises:
        InvalidFieldError: with `name` as its field.
    """
    if required and not value:
        raise InvalidFieldError(name, "must not be empty")
    if len(value.encode()) > MAX_ID_BYTES:
        raise InvalidFieldError(name, f"is {len(value.encode())} bytes; the limit is {MAX_ID_BYTES}")
    if "\x00" in value:
        raise InvalidFieldError(name, "holds a NUL character")


def check_attributes(name: str, attributes: Mapping[str, str]) -> None:
    """Refuse too many, too long or NUL-holding attributes.

    Raises:
        InvalidFieldError: with `name` or one of its entries as its field.
    """
    if len(attributes) > MAX_ATTRIBUTES:
        raise InvalidFieldError(name, f"has {len(attributes)} entries; the limit is {MAX_ATTRIBUTES}")
    for key, value in attributes.items():
        if not key or len(key.encode()) > MAX_ATTRIBUTE_KEY_BYTES:
            raise InvalidFieldError(name, f"has a key that is not 1 to {MAX_ATTRIBUTE_KEY_BYTES} bytes long")
        if len(value.encode()) > MAX_ATTRIBUTE_VALUE_BYTES:
            raise InvalidFieldError(f"{name}[{key}]", f"is over {MAX_ATTRIBUTE_VALUE_BYTES} bytes")
        if "\x00" in key or "\x00" in value:
            raise InvalidFieldError(name, "holds a NUL character")


def check_query(query: str) -> None:
    """Refuse what is too long for a query or holds a NUL character.

    Raises:
        InvalidFieldError: always on `query`.
    """
    if len(query) > MAX_QUERY_CHARS:
        raise InvalidFieldError("query", f"is {len(query)} characters; the limit is {MAX_QUERY_CHARS}")
    if "\x00" in query:
        raise InvalidFieldError("query", "holds a NUL character")


def check_event_type(event_type: EventType) -> None:
    """Refuse an event type that cannot work.

    Raises:
        InvalidFieldError: naming the field of the type.
    """
    check_name(event_type.name)
    if not 0.0 <= event_type.weight <= 100.0:
        raise InvalidFieldError("weight", f"is {event_type.weight}; must be from 0 to 100")
    for name in ("value_min", "value_max"):
        bound = getattr(event_type, name)
        if bound is not None and not math.isfinite(bound):
            raise InvalidFieldError(name, "must be a finite number")
    low, high = event_type.value_min, event_type.value_max
    if low is not None and high is not None and low > high:
        raise InvalidFieldError("value_min", f"is {low}, above value_max {high}")


def check_event(
    event: Event,
    event_types: Mapping[str, EventType],
    now_us: int,
    *,
    max_ahead_us: int = MAX_AHEAD_US,
    id_required: bool = True,
) -> None:
    """Refuse an event that must not enter the log.

    Args:
        event: what the caller sent.
        event_types: the registered types, by name.
        now_us: the time of receipt, microseconds since 1970 UTC.
        max_ahead_us: how far in the future event_time may lie.
        id_required: False for events that are not stored.

    Raises:
        InvalidFieldError: naming the first field at fault.
    """
    check_id("event_id", event.event_id, required=id_required)
    event_type = event_types.get(event.event_type)
    if event_type is None:
        shown = event.event_type[:64]
        raise InvalidFieldError("event_type", f"{shown!r} is not registered" if shown else "must not be empty")
    if id_required and not event.user_id and not event.visitor_id:
        raise InvalidFieldError("user_id", "one of user_id and visitor_id is required")
    for name in ("user_id", "visitor_id", "session_id"):
        check_id(name, getattr(event, name))
    check_id("item_id", event.item_id, required=event.event_type != SEARCH)
    if event.event_type == SEARCH and not event.query.strip():
        raise InvalidFieldError("query", "is required for a search")
    check_query(event.query)
    _check_value(event.value, event_type)
    if event.event_time_us is not None:
        if event.event_time_us < 0:
            raise InvalidFieldError("event_time", "is before 1970")
        if event.event_time_us > now_us + max_ahead_us:
            raise InvalidFieldError("event_time", f"is more than {max_ahead_us // 1_000_000} s ahead of the server")
    if len(event.attribution_token) > MAX_TOKEN_CHARS or "\x00" in event.attribution_token:
        raise InvalidFieldError("attribution_token", "is not a token of ours")
    if event.slate_position is not None and event.slate_position < 1:
        raise InvalidFieldError("position", f"is {event.slate_position}; ranks start at 1")
    check_attributes("attributes", event.attributes)


def _check_value(value: float | None, event_type: EventType) -> None:
    if value is None:
        return
    if not math.isfinite(value):
        raise InvalidFieldError("value", "must be a finite number")
    if event_type.value_min is not None and value < event_type.value_min:
        raise InvalidFieldError("value", f"is {value}, below the {event_type.name} type's {event_type.value_min}")
    if event_type.value_max is not None and value > event_type.value_max:
        raise InvalidFieldError("value", f"is {value}, above the {event_type.name} type's {event_type.value_max}")
