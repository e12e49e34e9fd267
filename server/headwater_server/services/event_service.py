"""EventService: takes in what users do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as pb
from headwater.v1 import event_service_pb2_grpc as pb_grpc
from headwater_core.errors import InvalidFieldError
from headwater_core.events import MAX_ID_BYTES, Event, check_event, check_id
from headwater_core.feedback_log import EventQuery
from headwater_core.log_writing import AppendOutcome
from headwater_server import convert, queries
from headwater_server.arrivals import arrived
from headwater_server.rooms import Rooms
from headwater_server.tokens import ConsistencyToken, ListToken

MAX_EVENTS = 10_000
MAX_STREAMED_EVENTS = 1000
MAX_DELETED_EVENTS = 1000
MAX_EVENT_TYPES = 100
_AT_ONCE = 250
_NOT_BY_BACKFILL = "; to register types by backfill needs the scope admin"
_INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]
_EXISTS = grpc.StatusCode.ALREADY_EXISTS.value[0]
# Thousands are the same: one message is copied into every answer.
_RESULTS = {
    AppendOutcome.ACCEPTED: event_pb2.EventResult(outcome=event_pb2.EVENT_OUTCOME_ACCEPTED),
    AppendOutcome.DUPLICATE: event_pb2.EventResult(outcome=event_pb2.EVENT_OUTCOME_DUPLICATE),
}


class EventService(pb_grpc.EventServiceServicer):
    """See protos/headwater/v1/event_service.proto."""

    def __init__(self, rooms: Rooms) -> None:
        """Answer from these rooms."""
        self._rooms = rooms

    async def WriteEvents(  # noqa: N802
        self, request: pb.WriteEventsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.WriteEventsResponse:
        """Write a batch in one commit."""
        queries.check_count("events", request.events, MAX_EVENTS, smallest=1)
        results, token = await self._write(request.events, backfill=request.backfill)
        return pb.WriteEventsResponse(results=results, consistency_token=token)

    async def StreamEvents(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.StreamEventsRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.StreamEventsResponse]:
        """Write batches as they come; gRPC's flow control bounds what is under way to one batch and its window."""
        last: int | None = None
        async for request in request_iterator:
            if last is not None and request.sequence <= last:
                raise InvalidFieldError("sequence", f"is {request.sequence}, not above the one before, {last}")
            last = request.sequence
            queries.check_count("events", request.events, MAX_STREAMED_EVENTS, smallest=1)
            results, token = await self._write(request.events, backfill=request.backfill)
            errors = [result.error for result in results if result.outcome == event_pb2.EVENT_OUTCOME_REFUSED]
            yield pb.StreamEventsResponse(
                sequence=request.sequence, committed=len(results) - len(errors), errors=errors, consistency_token=token
            )

    async def ListEvents(  # noqa: N802
        self, request: pb.ListEventsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListEventsResponse:
        """List stored events."""
        if request.user_id and request.visitor_id:
            raise InvalidFieldError("visitor_id", "not together with user_id")
        check_id("item_id", request.item_id)
        queries.check_ids("event_types", request.event_types, MAX_EVENT_TYPES)
        time_from_us, time_to_us = (
            convert.to_time_us(name, getattr(request, name)) if request.HasField(name) else None
            for name in ("event_time_from", "event_time_to")
        )
        query = EventQuery(
            subject=queries.subject_of(request.user_id, request.visitor_id),
            item_id=request.item_id,
            event_types=tuple(request.event_types),
            event_time_from_us=time_from_us,
            event_time_to_us=time_to_us,
        )
        size = queries.list_size(request.page_size)
        after = ListToken.open_number(request.page_token, "page_token") if request.page_token else 0
        found = await self._rooms.in_database(self._rooms.log.list_events, query, after, size + 1)
        page = found[:size]
        return pb.ListEventsResponse(
            events=[
                pb.StoredEvent(
                    event=convert.from_logged_event(logged),
                    log_position=logged.position,
                    received_time=convert.from_time_us(logged.received_time_us),
                )
                for logged in page
            ],
            next_page_token=ListToken(str(page[-1].position)).seal() if len(found) > size else "",
        )

    async def DeleteEvents(  # noqa: N802
        self, request: pb.DeleteEventsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DeleteEventsResponse:
        """Erase single events."""
        queries.check_ids("event_ids", request.event_ids, MAX_DELETED_EVENTS, smallest=1)
        rooms = self._rooms
        subjects = await rooms.in_writing(rooms.log.delete_events, list(request.event_ids), rooms.now_us())
        for subject in subjects:
            rooms.states.drop(subject)
        return pb.DeleteEventsResponse(deleted_count=len(subjects))

    async def ListEventTypes(  # noqa: N802
        self, request: pb.ListEventTypesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListEventTypesResponse:
        """List the registered event types."""
        size = queries.list_size(request.page_size)
        after = ListToken.open(request.page_token, "page_token").after if request.page_token else ""
        types = await self._rooms.in_database(self._rooms.event_type_store.all)
        names = sorted(name for name in types if name > after)
        return pb.ListEventTypesResponse(
            event_types=[convert.from_event_type(types[name]) for name in names[:size]],
            next_page_token=ListToken(names[size - 1]).seal() if len(names) > size else "",
        )

    async def UpsertEventTypes(  # noqa: N802
        self, request: pb.UpsertEventTypesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.UpsertEventTypesResponse:
        """Register or change event types."""
        queries.check_count("event_types", request.event_types, MAX_EVENT_TYPES, smallest=1)
        types = [convert.to_event_type(message) for message in request.event_types]
        await self._rooms.in_writing(self._rooms.event_type_store.upsert, types)
        await self._rooms.refresh_event_types()
        return pb.UpsertEventTypesResponse(event_types=[convert.from_event_type(event_type) for event_type in types])

    async def _write(
        self, messages: Sequence[event_pb2.Event], *, backfill: bool
    ) -> tuple[list[event_pb2.EventResult], str]:
        """Check, write and apply; one result per event and the token that covers the accepted ones."""
        rooms = self._rooms
        arrival = arrived.get()
        registers = backfill and arrival.may_administer()
        if registers:
            by = arrival.caller.name if arrival.caller is not None else None
            await rooms.register_event_types({message.event_type for message in messages}, by)
        elif not rooms.event_types.keys() >= {message.event_type for message in messages}:
            await rooms.refresh_event_types()  # another server may have registered it
        now_us = rooms.now_us()
        results: list[event_pb2.EventResult | None] = []
        good: list[tuple[int, Event]] = []
        for index, message in enumerate(messages):
            if index % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)  # other calls go on between the parts of a large batch
            try:
                event = convert.to_event(message, backfill=backfill)
                check_event(event, rooms.event_types, now_us, max_ahead_us=rooms.max_ahead_us)
            except InvalidFieldError as error:
                reason = error.reason
                if error.field == "event_type" and backfill and not registers:
                    reason += _NOT_BY_BACKFILL
                results.append(_refused(index, message.event_id, error.field, reason, _INVALID))
            else:
                results.append(None)
                good.append((index, event))
        appended = await rooms.committer.append([event for _, event in good]) if good else []
        newest = 0
        for (index, event), result in zip(good, appended, strict=True):
            if index % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            if result.outcome is AppendOutcome.CONFLICT:
                reason = "was used before for an event with other content"
                results[index] = _refused(index, event.event_id, "event_id", reason, _EXISTS)
            else:
                results[index] = _RESULTS[result.outcome]
                newest = max(newest, result.position)
        done = [result for result in results if result is not None]
        for outcome, count in Counter(each.outcome for each in done).items():
            name = event_pb2.EventOutcome.Name(outcome).removeprefix("EVENT_OUTCOME_").lower()
            rooms.metrics.events.labels(name).inc(count)
        return done, ConsistencyToken(rooms.tenant, newest).seal() if newest else ""


def _refused(index: int, event_id: str, field: str, reason: str, code: int) -> event_pb2.EventResult:
    shown = event_id.encode()[:MAX_ID_BYTES].decode(errors="ignore")
    error = event_pb2.EventError(index=index, event_id=shown, field=field, reason=reason, code=code)
    return event_pb2.EventResult(outcome=event_pb2.EVENT_OUTCOME_REFUSED, error=error)
