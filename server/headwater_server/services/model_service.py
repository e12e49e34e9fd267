"""ModelService: administers the published generations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc

from headwater.v1 import model_service_pb2 as pb
from headwater.v1 import model_service_pb2_grpc as pb_grpc
from headwater_core.errors import InvalidFieldError, NotFoundError
from headwater_core.names import check_name
from headwater_core.notifications import Topic
from headwater_core.registry import STABLE, GenerationRecord
from headwater_server import convert, queries
from headwater_server.rooms import Rooms
from headwater_server.tokens import ListToken


class ModelService(pb_grpc.ModelServiceServicer):
    """See protos/headwater/v1/model_service.proto."""

    def __init__(self, rooms: Rooms) -> None:
        """Answer from these rooms."""
        self._rooms = rooms

    async def ListGenerations(  # noqa: N802
        self, request: pb.ListGenerationsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListGenerationsResponse:
        """List generations, newest first."""
        size = queries.list_size(request.page_size)
        before = ListToken.open_number(request.page_token, "page_token") if request.page_token else None
        registry = self._rooms.registry
        found = await self._rooms.in_database(registry.list, before, size + 1)
        labels = await self._rooms.in_database(registry.labels)
        page = found[:size]
        return pb.ListGenerationsResponse(
            generations=[self._message(record, labels) for record in page],
            next_page_token=ListToken(str(page[-1].number)).seal() if len(found) > size else "",
        )

    async def GetGeneration(  # noqa: N802
        self, request: pb.GetGenerationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetGenerationResponse:
        """Get one generation."""
        number = request.number
        if number < 0:
            raise InvalidFieldError("number", f"is {number}; numbers start at 1")
        if number == 0:
            number = self._rooms.generations.by_label(STABLE).number
        record = await self._rooms.in_database(self._rooms.registry.get, number)
        if record is None:
            raise NotFoundError(f"number: no generation {number}")
        labels = await self._rooms.in_database(self._rooms.registry.labels)
        return pb.GetGenerationResponse(generation=self._message(record, labels))

    async def SetLabel(  # noqa: N802
        self, request: pb.SetLabelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.SetLabelResponse:
        """Point a label at a generation and load what it names here."""
        check_name(request.label, "label")
        expected = request.expected_generation if request.HasField("expected_generation") else None
        previous = await self._rooms.in_writing(
            lambda: self._rooms.registry.set_label(request.label, request.generation, expected=expected)
        )
        self._rooms.notifications.announce(Topic.LABELS)
        await self._rooms.mirror_label(request.label, request.generation)
        await self._rooms.generations.refresh(impatient=True)
        return pb.SetLabelResponse(previous_generation=previous)

    async def Rollback(  # noqa: N802
        self, request: pb.RollbackRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RollbackResponse:
        """Point a label back."""
        label = request.label or STABLE
        check_name(label, "label")
        now, before = await self._rooms.in_writing(self._rooms.registry.rollback, label)
        self._rooms.notifications.announce(Topic.LABELS)
        await self._rooms.mirror_label(label, now)
        await self._rooms.generations.refresh(impatient=True)
        return pb.RollbackResponse(generation=now, previous_generation=before)

    async def Reload(  # noqa: N802
        self, request: pb.ReloadRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ReloadResponse:
        """Look at the labels now."""
        generations = self._rooms.generations
        await generations.refresh(impatient=True)
        stable = generations.stable
        return pb.ReloadResponse(
            generation=stable.number if stable is not None else 0,
            failures=[f"generation {number}: {why.reason}" for number, why in sorted(generations.failures.items())],
        )

    async def WatchGenerations(  # noqa: N802
        self, request: pb.WatchGenerationsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.WatchGenerationsResponse]:
        """Stream what serves under `stable`, at once and after every swap."""
        rooms = self._rooms
        told: int | None = None
        while not rooms.generations.is_closed:
            stable = rooms.generations.stable
            number = stable.number if stable is not None else 0
            if number != told:
                told = number
                record = await rooms.in_database(rooms.registry.get, number) if number else None
                labels = await rooms.in_database(rooms.registry.labels)
                message = self._message(record, labels) if record is not None else pb.Generation(number=number)
                yield pb.WatchGenerationsResponse(generation=message)
            async with rooms.generations.changed:
                current = rooms.generations.stable
                if (current.number if current is not None else 0) == told and not rooms.generations.is_closed:
                    await rooms.generations.changed.wait()

    def _message(self, record: GenerationRecord, labels: Mapping[str, int]) -> pb.Generation:
        named: defaultdict[int, list[str]] = defaultdict(list)
        for label, number in labels.items():
            named[number].append(label)
        generations = self._rooms.generations
        failure = generations.failures.get(record.number)
        if generations.labels_of(record.number):
            state = pb.GENERATION_STATE_SERVING
        elif generations.loading == record.number:
            state = pb.GENERATION_STATE_LOADING
        elif failure is not None:
            state = pb.GENERATION_STATE_FAILED
        else:
            state = pb.GENERATION_STATE_PUBLISHED
        return convert.from_generation(record, named[record.number], state, failure.reason if failure else "")
