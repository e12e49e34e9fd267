"""The calls of EventService."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from headwater.v1 import event_service_pb2 as pb
from headwater.v1.event_pb2 import EVENT_OUTCOME_ACCEPTED, EVENT_OUTCOME_DUPLICATE, Event, EventType
from headwater_client._calls.core import Call, as_is, call, method
from headwater_client._messages import timestamp
from headwater_client._results import RefusedEvent, WriteResult
from headwater_client.errors import rpc_error

_SERVICE = "EventService"
WRITE_EVENTS = method(_SERVICE, "WriteEvents", pb.WriteEventsRequest, pb.WriteEventsResponse, timeout_s=30)
LIST_EVENTS = method(_SERVICE, "ListEvents", pb.ListEventsRequest, pb.ListEventsResponse, timeout_s=10)
# a repeated deletion would answer that nothing was there to delete
DELETE_EVENTS = method(
    _SERVICE, "DeleteEvents", pb.DeleteEventsRequest, pb.DeleteEventsResponse, timeout_s=30, idempotent=False
)
LIST_EVENT_TYPES = method(_SERVICE, "ListEventTypes", pb.ListEventTypesRequest, pb.ListEventTypesResponse, timeout_s=10)
UPSERT_EVENT_TYPES = method(
    _SERVICE, "UpsertEventTypes", pb.UpsertEventTypesRequest, pb.UpsertEventTypesResponse, timeout_s=10
)


def write(*events: Event, backfill: bool = False, timeout_s: float | None = None) -> Call[WriteResult]:
    """Writes events in one commit; bad ones are reported in the result's `refused`, the good ones are written.

    Safe to repeat with the same events: their ids make a second write a duplicate.

    Args:
        events: 1 to 10,000, made by `event(…)`.
        backfill: True for imports of past events: robot rules do not apply, and unknown event types are registered if
            the token has the scope admin too.
        timeout_s: the deadline. Default 30 s.

    Raises:
        RpcError: the call failed as a whole.
    """
    return call(WRITE_EVENTS, pb.WriteEventsRequest(events=events, backfill=backfill), _read_write, timeout_s)


def list_events(
    *,
    user_id: str = "",
    visitor_id: str = "",
    item_id: str = "",
    event_types: Iterable[str] = (),
    event_time_from: datetime | None = None,
    event_time_to: datetime | None = None,
    page_size: int = 0,
    page_token: str = "",
    timeout_s: float | None = None,
) -> Call[pb.ListEventsResponse]:
    """Lists stored events, oldest log position first.

    Args:
        user_id: only events of this user; not together with visitor_id.
        visitor_id: only events of this visitor.
        item_id: only events on this item.
        event_types: only these types.
        event_time_from: only events that happened at or after this time.
        event_time_to: only events that happened before this time.
        page_size: how many; 0 means 100, at most 1,000.
        page_token: the next_page_token of the page before.
        timeout_s: the deadline. Default 10 s.

    Raises:
        RpcError: the call failed.
    """
    request = pb.ListEventsRequest(
        user_id=user_id,
        visitor_id=visitor_id,
        item_id=item_id,
        event_types=event_types,
        event_time_from=timestamp(event_time_from),
        event_time_to=timestamp(event_time_to),
        page_size=page_size,
        page_token=page_token,
    )
    return call(LIST_EVENTS, request, as_is, timeout_s)


def delete_events(event_ids: Iterable[str], *, timeout_s: float | None = None) -> Call[int]:
    """Erases single events and says how many there were.

    Args:
        event_ids: 1 to 1,000; unknown ids are ignored.
        timeout_s: the deadline. Default 30 s.

    Raises:
        RpcError: the call failed.
    """
    request = pb.DeleteEventsRequest(event_ids=event_ids)
    return call(DELETE_EVENTS, request, lambda response: response.deleted_count, timeout_s)


def list_event_types(
    *, page_size: int = 0, page_token: str = "", timeout_s: float | None = None
) -> Call[pb.ListEventTypesResponse]:
    """Lists the registered event types, by name.

    Args:
        page_size: how many; 0 means 100, at most 1,000.
        page_token: the next_page_token of the page before.
        timeout_s: the deadline. Default 10 s.

    Raises:
        RpcError: the call failed.
    """
    request = pb.ListEventTypesRequest(page_size=page_size, page_token=page_token)
    return call(LIST_EVENT_TYPES, request, as_is, timeout_s)


def upsert_event_types(event_types: Iterable[EventType], *, timeout_s: float | None = None) -> Call[list[EventType]]:
    """Registers event types, or changes how registered ones are understood; gives them as they stand now.

    Args:
        event_types: 1 to 100; fields not set take their defaults.
        timeout_s: the deadline. Default 10 s.

    Raises:
        RpcError: the call failed.
    """
    request = pb.UpsertEventTypesRequest(event_types=event_types)
    return call(UPSERT_EVENT_TYPES, request, lambda response: list(response.event_types), timeout_s)


def _read_write(response: pb.WriteEventsResponse) -> WriteResult:
    outcomes = [result.outcome for result in response.results]
    return WriteResult(
        accepted=outcomes.count(EVENT_OUTCOME_ACCEPTED),
        duplicates=outcomes.count(EVENT_OUTCOME_DUPLICATE),
        refused=tuple(
            RefusedEvent(
                index=place,
                event_id=result.error.event_id,
                field=result.error.field,
                reason=result.error.reason,
                status=rpc_error(result.error.code, "").status,
            )
            for place, result in enumerate(response.results)
            if result.outcome not in (EVENT_OUTCOME_ACCEPTED, EVENT_OUTCOME_DUPLICATE)
        ),
        consistency_token=response.consistency_token,
    )
