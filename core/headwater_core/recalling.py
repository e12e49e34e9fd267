"""Whose history holds what: as few questions to the log as will do, before somebody is answered or learned from.

SQLAlchemy takes as long to make a statement as a database to look up what it asks for: these are made once.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from itertools import islice
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    CompoundSelect,
    Connection,
    Text,
    and_,
    bindparam,
    null,
    select,
    union_all,
)

from headwater_core.event_rows import NEWEST_FIRST
from headwater_core.events import NEVER_AGAIN, HistoryEvent, Subject, SubjectKind
from headwater_core.log_writing import POSITION
from headwater_core.schema import counters, events, visitor_links
from headwater_core.visitor_links import group

_HISTORY_COLUMNS = [events.c[name] for name in HistoryEvent._fields]
_OF_TENANT: BindParameter[str] = bindparam("of_tenant")
_KEPT = and_(
    events.c.tenant == _OF_TENANT,
    events.c.subject_kind == bindparam("kind"),
    events.c.subject_id == bindparam("id"),
    events.c.event_type.not_in(bindparam("left_out", expanding=True)),
)
_NEWEST = select(*_HISTORY_COLUMNS).where(_KEPT).order_by(*NEWEST_FIRST).limit(bindparam("limit"))
_ITEMS = select(events.c.item_id, events.c.event_type.in_(sorted(NEVER_AGAIN))).distinct().where(_KEPT)
_HEAD = select(counters.c.value, null().cast(Text).label("linked")).where(
    counters.c.tenant == _OF_TENANT, counters.c.name == POSITION
)


def _head_and(linked: ColumnElement[str], of_whom: ColumnElement[str]) -> CompoundSelect[int, str]:
    links = select(null().cast(BigInteger), linked)
    return union_all(_HEAD, links.where(visitor_links.c.tenant == _OF_TENANT, of_whom == bindparam("id")))


_HEAD_AND_VISITORS = _head_and(visitor_links.c.visitor_id, visitor_links.c.user_id)
_HEAD_AND_OWNER = _head_and(visitor_links.c.user_id, visitor_links.c.visitor_id)


class Recollection(NamedTuple):
    """What is known of a subject."""

    head: int
    """Everything in the log up to here is taken into account."""
    history: list[HistoryEvent]
    """The newest events that are part of histories, oldest first by (event_time_us, position)."""
    seen_item_ids: set[str]
    """Every item that one of all its events is on that are part of histories, however long ago."""
    unwanted_item_ids: set[str]
    """Those of them that it does not want to be shown again, however long ago it said so."""


def recall(
    connection: Connection, tenant: str, subject: Subject, limit: int, left_out: Collection[str]
) -> Recollection:
    """See FeedbackLog.recall."""
    parts: list[list[HistoryEvent]] = []
    seen: set[tuple[str, bool]] = set()
    # First of all: everything up to it is in what is read next.
    head, whose = _head_and_group(connection, tenant, subject)
    for each in whose:
        parts.append(_newest(connection, tenant, each, limit, left_out))
        if len(parts[-1]) == limit:  # else the history has them all
            asked = _asked(tenant, each, left_out)
            seen.update((item_id, bool(unwanted)) for item_id, unwanted in connection.execute(_ITEMS, asked))
    history = _joined(parts, limit)
    seen.update((event.item_id, event.event_type in NEVER_AGAIN) for part in parts for event in part)
    seen_item_ids = {item_id for item_id, _ in seen if item_id}
    return Recollection(head, history, seen_item_ids, {item_id for item_id, unwanted in seen if unwanted and item_id})


def history(
    connection: Connection, tenant: str, whose: Sequence[Subject], limit: int, left_out: Collection[str]
) -> list[HistoryEvent]:
    """The newest `limit` events of all of these subjects that are part of histories, in their order."""
    return _joined([_newest(connection, tenant, each, limit, left_out) for each in whose], limit)


def _newest(
    connection: Connection, tenant: str, subject: Subject, limit: int, left_out: Collection[str]
) -> list[HistoryEvent]:
    # One question per subject, each answered from one range of the index, newest first without sorting: asked
    # together, all the events of all of them would be read and sorted.
    asked = {**_asked(tenant, subject, left_out), "limit": limit}
    return [HistoryEvent(*row) for row in connection.execute(_NEWEST, asked)]


def _asked(tenant: str, subject: Subject, left_out: Collection[str]) -> dict[str, object]:
    return {"of_tenant": tenant, "kind": subject.kind.value, "id": subject.id, "left_out": list(left_out)}


def _joined(newest_first: Sequence[Sequence[HistoryEvent]], limit: int) -> list[HistoryEvent]:
    merged = heapq.merge(*newest_first, key=lambda event: (event.event_time_us, event.position), reverse=True)
    return list(islice(merged, limit))[::-1]


def _head_and_group(connection: Connection, tenant: str, subject: Subject) -> tuple[int, list[Subject]]:
    # The head, and whose events make up the history of the subject or, linked, of its user.
    is_user = subject.kind is SubjectKind.USER
    asked = {"of_tenant": tenant, "id": subject.id}
    found = connection.execute(_HEAD_AND_VISITORS if is_user else _HEAD_AND_OWNER, asked).all()
    head = max((value for value, _ in found if value is not None), default=0)
    linked = [linked for _, linked in found if linked is not None]
    if is_user:
        return head, [subject, *(Subject(SubjectKind.VISITOR, visitor_id) for visitor_id in linked)]
    return head, group(connection, tenant, Subject(SubjectKind.USER, linked[0]) if linked else subject)
