"""The file of events: who met what, in which order."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from headwater_core.events import BUILT_IN_EVENT_TYPES, EventType, HistoryEvent, check_event_type, check_id
from headwater_updater.evaluation.csv_rows import DataFileError, OnShare, number, read_rows

DEFAULT_EVENT_TYPE = "click"
"""What an event is when the file does not say."""
ORDER_STEP_US = 1_000_000
"""Without timestamps a user's events are taken to be a second apart: each has a time of its own, none a meaning."""
_MAX_UNIX_S = 99_999_999_999  # the year 5138; in milliseconds that is March 1973, so nothing real is mistaken


class Ordering(StrEnum):
    """What says in which order a user's events came."""

    TIMESTAMP = "timestamp"
    """Events of one user that share a time form a block; `order`, where there is one, sorts inside it."""
    ORDER = "order"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class EventData:
    """What a file of events says."""

    histories: dict[str, list[HistoryEvent]]
    """By user, oldest event first."""
    ordering: Ordering
    event_types: dict[str, EventType]
    """The built-in types, and as plain targets those that the file adds."""
    n_bad_rows: int = 0
    n_left_out: int = 0
    """Events of types that are in no history (impressions)."""

    def is_target(self, event: HistoryEvent) -> bool:
        """Whether ranking is to foresee the event: it is on an item, of a target type that speaks for it."""
        return bool(event.item_id) and self.event_types[event.event_type].target_weight > 0


class _Row(NamedTuple):
    user_id: str
    item_id: str
    time_us: int
    order: float
    event_type: str
    value: float | None
    query: str


def read_events(path: Path, max_bad_rows: int = 0, on_share: OnShare | None = None) -> EventData:
    """Read `user_id,item_id` and where there are such columns `timestamp` (Unix seconds or ISO 8601), `order`,
    `event_type`, `value` and `query`; any other column is ignored.

    Values are taken as they are: the bounds that types set for the feedback log do not refuse them here. An event
    needs an item, but where it has a query.

    Args:
        path: CSV, gzipped when its name ends in .gz.
        max_bad_rows: how many rows that cannot be used are put up with.
        on_share: told how far it is.

    Raises:
        DataFileError: the file cannot be used, or holds fewer than two users or two items.
    """
    rows = read_rows(path, ("user_id", "item_id"), _row, max_bad_rows, on_share)
    ordering = next((each for each in (Ordering.TIMESTAMP, Ordering.ORDER) if each in rows.columns), Ordering.FILE)
    event_types = dict(BUILT_IN_EVENT_TYPES)
    for name in dict.fromkeys(row.event_type for row in rows.values):
        event_types.setdefault(name, EventType(name))
    by_user: dict[str, list[tuple[int, float, int]]] = {}
    for index, row in enumerate(rows.values):
        if event_types[row.event_type].in_history:
            by_user.setdefault(row.user_id, []).append((row.time_us, row.order, index))
    histories: dict[str, list[HistoryEvent]] = {}
    for user_id, keys in by_user.items():
        events = histories[user_id] = []
        for place, (time_us, _, index) in enumerate(sorted(keys)):
            row = rows.values[index]
            known_time_us = time_us if ordering is Ordering.TIMESTAMP else place * ORDER_STEP_US
            events.append(HistoryEvent(index + 1, known_time_us, row.event_type, row.item_id, row.value, row.query))
    items = {event.item_id for events in histories.values() for event in events if event.item_id}
    if len(histories) < 2:
        raise DataFileError(path, f"holds events of {_count(len(histories), 'user')}; there is nothing to learn from")
    if len(items) < 2:
        raise DataFileError(path, f"holds events on {_count(len(items), 'item')}; there is nothing to rank")
    n_kept = sum(map(len, histories.values()))
    return EventData(histories, ordering, event_types, rows.n_bad, len(rows.values) - n_kept)


def read_users(path: Path, max_bad_rows: int = 0) -> list[str]:
    """The ids in the column `user_id`, each once, in the file's order.

    Raises:
        DataFileError: the file cannot be used.
    """
    return list(dict.fromkeys(read_rows(path, ("user_id",), _user, max_bad_rows).values))


def _user(_line: int, fields: Mapping[str, str]) -> str:
    check_id("user_id", fields["user_id"], required=True)
    return sys.intern(fields["user_id"])


def _row(line: int, fields: Mapping[str, str]) -> _Row:
    """Raises: ValueError or InvalidFieldError when a cell cannot be used."""
    query = fields.get("query", "")
    check_id("item_id", fields["item_id"], required=not query)
    event_type = fields.get("event_type", "").strip().lower() or DEFAULT_EVENT_TYPE
    if event_type not in BUILT_IN_EVENT_TYPES:
        check_event_type(EventType(event_type))
    shown = fields.get("value", "").strip()
    # Ids and types repeat by the thousand; interned, each is in memory once.
    return _Row(
        _user(line, fields),
        sys.intern(fields["item_id"]),
        _moment_us(fields["timestamp"].strip()) if "timestamp" in fields else 0,
        number("order", fields["order"].strip()) if "order" in fields else 0.0,
        sys.intern(event_type),
        number("value", shown) if shown else None,
        query,
    )


def _moment_us(shown: str) -> int:
    """Unix seconds, or ISO 8601 (UTC when it names no zone), as microseconds."""
    try:
        seconds = float(shown)
    except ValueError:
        try:
            moment = datetime.fromisoformat(shown)
        except ValueError:
            raise ValueError(f"timestamp: {shown[:40]!r} is neither Unix seconds nor ISO 8601") from None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not abs(seconds) <= _MAX_UNIX_S:
        raise ValueError(f"timestamp: {shown[:40]} is too far off for Unix seconds; is it milliseconds?")
    return round(seconds * 1_000_000)


def _count(n: int, name: str) -> str:
    return f"only one {name}" if n == 1 else f"no {name}"
