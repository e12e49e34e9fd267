"""Events and items, made from plain Python values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from headwater.v1.event_pb2 import Event
from headwater.v1.item_pb2 import Item
from headwater_client._uuid7 import uuid7

MessageType = TypeVar("MessageType", bound=Message)


def event(
    event_type: str,
    *,
    user_id: str = "",
    visitor_id: str = "",
    item_id: str = "",
    query: str = "",
    value: float | None = None,
    session_id: str = "",
    event_time: datetime | None = None,
    attribution_token: str = "",
    position: int | None = None,
    attributes: Mapping[str, str] | None = None,
    event_id: str = "",
) -> Event:
    """What a user did, ready to be written.

    The event gets its id here, before the first attempt to write it, which is what makes a retry harmless: keep the
    event and write the same one again.

    Args:
        event_type: a registered type: view, click, search, like, rating, cart, purchase, dislike, …
        user_id: who did it, when signed in; one of user_id and visitor_id is required.
        visitor_id: who did it, when not signed in. Both together link the visitor's events to the user.
        item_id: what it was done to; required for every type but `search`.
        query: what was searched for; required for `search`.
        value: stars of a rating, quantity of a purchase, seconds of a view.
        session_id: the visit it happened in.
        event_time: when it happened, with a time zone. Default: when the server receives it.
        attribution_token: of the answer that showed the item.
        position: the item's rank in that answer, from 1.
        attributes: anything else worth keeping.
        event_id: an id of your own, unique for 30 days. Default: a new UUIDv7.

    Raises:
        ValueError: event_time has no time zone.
    """
    return Event(
        event_id=event_id or str(uuid7()),
        event_type=event_type,
        user_id=user_id,
        visitor_id=visitor_id,
        item_id=item_id,
        query=query,
        value=value,
        session_id=session_id,
        event_time=timestamp(event_time),
        attribution_token=attribution_token,
        position=position,
        attributes=attributes or {},
    )


def item(
    item_id: str,
    *,
    title: str = "",
    description: str = "",
    categories: Iterable[str] = (),
    attributes: Mapping[str, str] | None = None,
    available: bool = True,
    publish_time: datetime | None = None,
    expire_time: datetime | None = None,
    embedding: Iterable[float] = (),
) -> Item:
    """Something that can be recommended, ready to be upserted.

    Args:
        item_id: your id of it.
        title: what it is called.
        description: what it is about; title, categories and description place an item that nobody has touched yet.
        categories: what kind of thing it is, most general first.
        attributes: anything that filters should see.
        available: False hides it from every answer.
        publish_time: when it came out, with a time zone. Default: the time of its first upsert.
        expire_time: when it stops being recommended, with a time zone. Default: never.
        embedding: a vector of your own, the same length for every item.

    Raises:
        ValueError: a time has no time zone.
    """
    return Item(
        item_id=item_id,
        title=title,
        description=description,
        categories=categories,
        attributes=attributes or {},
        available=available,
        publish_time=timestamp(publish_time),
        expire_time=timestamp(expire_time),
        embedding=embedding,
    )


def timestamp(moment: datetime | None) -> Timestamp | None:
    """A moment as the wire wants it; None stays None.

    Raises:
        ValueError: the moment has no time zone, so nobody knows when it was.
    """
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; use datetime.now(UTC) or .replace(tzinfo=UTC)")
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def message_of(kind: type[MessageType], content: MessageType | Mapping[str, Any], what: str) -> MessageType:
    """A message, also from what its JSON says. Args: what: to call it when the JSON does not fit.

    Raises:
        ValueError: the JSON does not fit the message.
    """
    if isinstance(content, kind):
        return content
    assert isinstance(content, Mapping)
    try:
        return ParseDict(dict(content), kind())
    except ParseError as error:
        raise ValueError(f"{what}: {error}") from error
