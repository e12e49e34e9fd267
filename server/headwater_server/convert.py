"""Between the wire's messages and core's values: nothing else knows both."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from headwater.v1 import event_pb2, item_pb2, model_service_pb2
from headwater_core.catalogue import Item
from headwater_core.errors import InvalidFieldError
from headwater_core.events import Event, EventType, LoggedEvent
from headwater_core.registry import GenerationRecord
from headwater_server.errors import shown

_MAX_SECONDS = 253_402_300_799  # 9999-12-31T23:59:59Z, the end of Timestamp's range
ITEM_FIELDS = frozenset(field.name for field in item_pb2.Item.DESCRIPTOR.fields) - {"item_id", "update_time"}
"""Those that an update can change."""


def to_time_us(field: str, timestamp: Timestamp) -> int:
    """Microseconds since 1970 UTC.

    Raises:
        InvalidFieldError: the timestamp is outside its own range.
    """
    if not -62_135_596_800 <= timestamp.seconds <= _MAX_SECONDS or not 0 <= timestamp.nanos < 1_000_000_000:
        raise InvalidFieldError(field, "is not a valid timestamp (year 1 to 9999, nanos 0 to 999,999,999)")
    return timestamp.seconds * 1_000_000 + timestamp.nanos // 1000


def from_time_us(time_us: int) -> Timestamp:
    """The wire's form of a time."""
    return Timestamp(seconds=time_us // 1_000_000, nanos=time_us % 1_000_000 * 1000)


def to_event(message: event_pb2.Event, *, backfill: bool = False) -> Event:
    """The event as core knows it; not checked yet.

    Raises:
        InvalidFieldError: event_time is outside Timestamp's range.
    """
    return Event(
        event_id=message.event_id,
        event_type=message.event_type,
        user_id=message.user_id,
        visitor_id=message.visitor_id,
        session_id=message.session_id,
        item_id=message.item_id,
        query=message.query,
        value=message.value if message.HasField("value") else None,
        event_time_us=to_time_us("event_time", message.event_time) if message.HasField("event_time") else None,
        attribution_token=message.attribution_token,
        slate_position=message.position if message.HasField("position") else None,
        attributes=dict(message.attributes) if message.attributes else {},
        backfill=backfill,
    )


def from_logged_event(logged: LoggedEvent) -> event_pb2.Event:
    """The wire's form of a stored event."""
    event = logged.event
    message = event_pb2.Event(
        event_id=event.event_id,
        event_type=event.event_type,
        user_id=event.user_id,
        visitor_id=event.visitor_id,
        session_id=event.session_id,
        item_id=event.item_id,
        query=event.query,
        value=event.value,
        event_time=from_time_us(event.event_time_us if event.event_time_us is not None else logged.received_time_us),
        attribution_token=event.attribution_token,
        position=event.slate_position,
    )
    message.attributes.update(event.attributes)
    return message


def to_event_type(message: event_pb2.EventType) -> EventType:
    """The event type as core knows it; unset fields take core's defaults."""
    given = {field.name: value for field, value in message.ListFields()}  # optional fields are listed when set
    return EventType(**{"name": message.name, **given})


def from_event_type(event_type: EventType) -> event_pb2.EventType:
    """The wire's form of an event type."""
    return event_pb2.EventType(
        name=event_type.name,
        weight=event_type.weight,
        in_history=event_type.in_history,
        is_target=event_type.is_target,
        is_negative=event_type.is_negative,
        value_min=event_type.value_min,
        value_max=event_type.value_max,
    )


def to_item(message: item_pb2.Item) -> Item:
    """The item as core knows it; not checked yet.

    Raises:
        InvalidFieldError: a time is outside Timestamp's range.
    """
    return Item(
        item_id=message.item_id,
        title=message.title,
        description=message.description,
        categories=tuple(message.categories),
        attributes=dict(message.attributes),
        available=message.available if message.HasField("available") else True,
        publish_time_us=to_time_us("publish_time", message.publish_time) if message.HasField("publish_time") else None,
        expire_time_us=to_time_us("expire_time", message.expire_time) if message.HasField("expire_time") else None,
        embedding=tuple(message.embedding) or None,
    )


def from_item(item: Item) -> item_pb2.Item:
    """The wire's form of an item."""
    message = item_pb2.Item(
        item_id=item.item_id,
        title=item.title,
        description=item.description,
        categories=item.categories,
        available=item.available,
        embedding=item.embedding or (),
        update_time=from_time_us(item.update_time_us),
        publish_time=None if item.publish_time_us is None else from_time_us(item.publish_time_us),
        expire_time=None if item.expire_time_us is None else from_time_us(item.expire_time_us),
    )
    message.attributes.update(item.attributes)
    return message


def to_item_mask(paths: Iterable[str]) -> frozenset[str] | None:
    """The fields that an update mask names, as the catalogue takes them; None for an empty mask.

    Raises:
        InvalidFieldError: a path is not a field that can be changed.
    """
    mask = frozenset(paths)
    if unknown := sorted(mask - ITEM_FIELDS):
        raise InvalidFieldError("update_mask", f"{shown(unknown[0])} is not one of {', '.join(sorted(ITEM_FIELDS))}")
    return mask or None


def from_generation(
    record: GenerationRecord,
    labels: Iterable[str],
    state: model_service_pb2.GenerationState.ValueType,
    failure: str,
) -> model_service_pb2.Generation:
    """The wire's form of a generation."""
    return model_service_pb2.Generation(
        number=record.number,
        parent=record.parent,
        publish_time=from_time_us(record.publish_time_us),
        watermark=record.watermark,
        labels=sorted(labels),
        state=state,
        failure=failure,
        item_count=record.item_count,
        dimension=record.dimension,
        full=record.full,
        total_bytes=record.total_bytes,
        metrics=record.metrics,
    )
