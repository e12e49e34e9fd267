"""StrategyService: administers how slates are made."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict

from headwater.v1 import strategy_service_pb2 as pb
from headwater.v1 import strategy_service_pb2_grpc as pb_grpc
from headwater_core.document_store import Version
from headwater_core.errors import ConflictError, InvalidFieldError, NotFoundError
from headwater_core.names import check_name
from headwater_core.strategies import DEFAULT, Strategy
from headwater_server import convert, queries
from headwater_server.catalogue_view import CatalogueView
from headwater_server.rooms import Rooms
from headwater_server.services.slate_response import slate_response
from headwater_server.strategy import values
from headwater_server.strategy_book import NamedStrategy
from headwater_server.tokens import ListToken

_PREVIEW = "preview"


class StrategyService(pb_grpc.StrategyServiceServicer):
    """See protos/headwater/v1/strategy_service.proto."""

    def __init__(self, rooms: Rooms) -> None:
        """Answer from these rooms."""
        self._rooms = rooms

    async def PutStrategy(  # noqa: N802
        self, request: pb.PutStrategyRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PutStrategyResponse:
        """Write the next version of a strategy."""
        check_name(request.name)
        strategy = self._checked(request.strategy)
        expected = request.expected_version if request.HasField("expected_version") else None
        rooms = self._rooms
        version = await rooms.in_writing(rooms.strategy_store.put, request.name, strategy, expected)
        await rooms.refresh_documents()
        return pb.PutStrategyResponse(version=version)

    async def GetStrategy(  # noqa: N802
        self, request: pb.GetStrategyRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetStrategyResponse:
        """Get a strategy."""
        name = request.name or DEFAULT
        found = next((each for each in await self._all() if each.name == name), None)
        if found is None:
            raise NotFoundError(f"name: no strategy {name!r}")
        return pb.GetStrategyResponse(strategy=_message(found))

    async def ListStrategies(  # noqa: N802
        self, request: pb.ListStrategiesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListStrategiesResponse:
        """List the strategies that can answer now."""
        return pb.ListStrategiesResponse(strategies=[_message(each) for each in await self._all()])

    async def ListStrategyVersions(  # noqa: N802
        self, request: pb.ListStrategyVersionsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListStrategyVersionsResponse:
        """List the versions of one strategy, newest first."""
        check_name(request.name)
        size = queries.list_size(request.page_size)
        before = ListToken.open_number(request.page_token, "page_token") if request.page_token else None
        rooms = self._rooms
        found = await rooms.in_database(rooms.strategy_store.versions, request.name, before, size + 1)
        page = found[:size]
        return pb.ListStrategyVersionsResponse(
            versions=[_message(each) for each in page],
            next_page_token=ListToken(str(page[-1].number)).seal() if len(found) > size else "",
        )

    async def DeleteStrategy(  # noqa: N802
        self, request: pb.DeleteStrategyRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DeleteStrategyResponse:
        """Delete a strategy that no experiment needs."""
        check_name(request.name)
        rooms = self._rooms
        for name, experiment in rooms.experiments.experiments.items():
            if request.name != DEFAULT and any(arm.strategy == request.name for arm in experiment.arms):
                raise ConflictError(f"strategy {request.name!r} is an arm of the experiment {name!r}: end that first")
        version = await rooms.in_writing(rooms.strategy_store.delete, request.name)
        await rooms.refresh_documents()
        return pb.DeleteStrategyResponse(version=version)

    async def PreviewStrategy(  # noqa: N802
        self, request: pb.PreviewStrategyRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PreviewStrategyResponse:
        """Make one slate by two strategies."""
        rooms = self._rooms
        preview = NamedStrategy(_PREVIEW, 0, self._checked(request.strategy))
        try:
            query = queries.recommend_query(
                request.request, rooms.event_types, rooms.tenant, rooms.now_us(), rooms.max_ahead_us
            )
            current = rooms.strategies.of(query.strategy)
        except InvalidFieldError as error:
            raise error.within("request") from error
        slates = [await rooms.recommender.recommend(query, named) for named in (current, preview)]
        answers = [slate_response(rooms, query, slate) for slate in slates]
        return pb.PreviewStrategyResponse(current=answers[0], preview=answers[1])

    async def _all(self) -> list[Version[Strategy]]:
        """As the database has them, the built-in one among them."""
        rooms = self._rooms
        stored = await rooms.in_database(rooms.strategy_store.all)
        names = {each.name for each in stored}
        built_in = [Version(DEFAULT, 0, rooms.strategies.built_in, 0)] if DEFAULT not in names else []
        return sorted([*stored, *built_in])

    def _checked(self, message: pb.Strategy) -> Strategy:
        """The strategy that a message says.

        Raises:
            InvalidFieldError: it cannot work, or speaks of what the catalogue or the event types do not have.
        """
        content = MessageToDict(message, preserving_proto_field_name=True)
        try:
            strategy = Strategy.from_dict(content)
            for key, field in strategy.keys().items():
                if not _is_known(self._rooms.view, key):
                    raise InvalidFieldError(field, f"no item has {key!r}")
            for index, category in enumerate(strategy.only.categories):
                if not self._rooms.view.in_category(category):
                    raise InvalidFieldError(f"only.categories[{index}]", f"no item has the category {category!r}")
            for index, pinned in enumerate(strategy.pins):
                if pinned.item_id not in self._rooms.view.items:
                    raise InvalidFieldError(f"pins[{index}].item_id", f"no item {pinned.item_id!r}")
            for name in strategy.event_weights:
                if name not in self._rooms.event_types:
                    raise InvalidFieldError(f"event_weights[{name!r}]", "is not a registered event type")
        except InvalidFieldError as error:
            raise error.within("strategy") from error
        return strategy


def _is_known(view: CatalogueView, key: str) -> bool:
    return any(values(item, key) for item in view.items.values())


def _message(stored: Version[Strategy]) -> pb.StrategyVersion:
    message = pb.StrategyVersion(name=stored.name, version=stored.number)
    if stored.content is not None:
        ParseDict(stored.content.to_dict(), message.strategy)
    if stored.create_time_us:
        message.create_time.CopyFrom(convert.from_time_us(stored.create_time_us))
    return message
