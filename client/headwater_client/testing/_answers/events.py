"""The fake's answers of EventService."""

from __future__ import annotations

from headwater.v1 import event_service_pb2 as events
from headwater.v1.event_pb2 import EVENT_OUTCOME_REFUSED
from headwater_client.testing._answers.core import Answers, invalid, page_of
from headwater_client.testing._state import FakeState


def write_events(state: FakeState, request: events.WriteEventsRequest) -> events.WriteEventsResponse:
    if not 1 <= len(request.events) <= 10_000:
        raise invalid(f"events: has {len(request.events)} entries; must be 1 to 10000")
    results = [state.write(index, event, backfill=request.backfill) for index, event in enumerate(request.events)]
    written = any(result.outcome != EVENT_OUTCOME_REFUSED for result in results)
    return events.WriteEventsResponse(results=results, consistency_token=f"fake-{state.head}" if written else "")


def list_events(state: FakeState, request: events.ListEventsRequest) -> events.ListEventsResponse:
    rows = state.history(request.user_id, request.visitor_id) if request.user_id or request.visitor_id else state.events
    rows = [
        stored
        for stored in rows
        if (not request.item_id or stored.event.item_id == request.item_id)
        and (not request.event_types or stored.event.event_type in request.event_types)
        and (
            not request.HasField("event_time_from")
            or stored.event.event_time.ToNanoseconds() >= request.event_time_from.ToNanoseconds()
        )
        and (
            not request.HasField("event_time_to")
            or stored.event.event_time.ToNanoseconds() < request.event_time_to.ToNanoseconds()
        )
    ]
    page, next_page_token = page_of(rows, request.page_size, request.page_token)
    return events.ListEventsResponse(events=page, next_page_token=next_page_token)


def delete_events(state: FakeState, request: events.DeleteEventsRequest) -> events.DeleteEventsResponse:
    return events.DeleteEventsResponse(deleted_count=state.forget(set(request.event_ids)))


def list_event_types(state: FakeState, request: events.ListEventTypesRequest) -> events.ListEventTypesResponse:
    rows = [state.event_types[name] for name in sorted(state.event_types)]
    page, next_page_token = page_of(rows, request.page_size, request.page_token)
    return events.ListEventTypesResponse(event_types=page, next_page_token=next_page_token)


def upsert_event_types(state: FakeState, request: events.UpsertEventTypesRequest) -> events.UpsertEventTypesResponse:
    for event_type in request.event_types:
        if not event_type.HasField("weight"):
            event_type.weight = 1
        state.event_types[event_type.name] = event_type
    return events.UpsertEventTypesResponse(event_types=request.event_types)


ANSWERS: Answers = {
    "/headwater.v1.EventService/WriteEvents": write_events,
    "/headwater.v1.EventService/ListEvents": list_events,
    "/headwater.v1.EventService/DeleteEvents": delete_events,
    "/headwater.v1.EventService/ListEventTypes": list_event_types,
    "/headwater.v1.EventService/UpsertEventTypes": upsert_event_types,
}
