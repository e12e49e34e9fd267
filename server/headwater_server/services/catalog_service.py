"""CatalogService: keeps the items."""

from __future__ import annotations

from typing import Any

import grpc

from headwater.v1 import catalog_service_pb2 as pb
from headwater.v1 import catalog_service_pb2_grpc as pb_grpc
from headwater_core.catalogue import Item, check_item
from headwater_core.errors import InvalidFieldError
from headwater_core.events import MAX_ID_BYTES, check_id
from headwater_server import convert, queries
from headwater_server.rooms import Rooms
from headwater_server.tokens import ListToken

MAX_ITEMS = 1000
_INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]
_NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]


class CatalogService(pb_grpc.CatalogServiceServicer):
    """See protos/headwater/v1/catalog_service.proto."""

    def __init__(self, rooms: Rooms) -> None:
        """Answer from these rooms."""
        self._rooms = rooms

    async def UpsertItems(  # noqa: N802
        self, request: pb.UpsertItemsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.UpsertItemsResponse:
        """Add or change items; acknowledged means that this server can recommend them."""
        queries.check_count("items", request.items, MAX_ITEMS, smallest=1)
        mask = convert.to_item_mask(request.update_mask.paths)
        errors: list[pb.ItemError] = []
        good: dict[str, tuple[int, Item]] = {}
        embedding_length = await self._rooms.in_database(self._rooms.catalogue.embedding_length)
        for index, message in enumerate(request.items):
            try:
                item = convert.to_item(message)
                check_item(item)
                if item.embedding is not None:
                    embedding_length = embedding_length or len(item.embedding)
                    if len(item.embedding) != embedding_length:
                        reason = f"has {len(item.embedding)} numbers; the catalogue's have {embedding_length}"
                        raise InvalidFieldError("embedding", reason)
                if item.item_id in good:
                    raise InvalidFieldError("item_id", "is in the request twice")
            except InvalidFieldError as error:
                errors.append(_error(index, message.item_id, error.field, error.reason, _INVALID))
            else:
                good[item.item_id] = (index, item)
        rooms = self._rooms
        upserted = await rooms.in_writing(
            rooms.catalogue.upsert, [item for _, item in good.values()], mask, rooms.now_us()
        )
        errors += [
            _error(
                good[item_id][0], item_id, "item_id", "is not known; a masked update changes known items", _NOT_FOUND
            )
            for item_id in upserted.unknown_ids
        ]
        written = [item_id for item_id in good if item_id not in set(upserted.unknown_ids)]
        await rooms.catalogue_tail.catch_up()
        if not request.defer_features:
            await rooms.compute_features(written)
        return pb.UpsertItemsResponse(
            upserted_count=len(written),
            errors=sorted(errors, key=lambda error: error.index),
            revision=upserted.revision,
        )

    async def GetItems(  # noqa: N802
        self, request: pb.GetItemsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetItemsResponse:
        """Get items by id."""
        queries.check_ids("item_ids", request.item_ids, MAX_ITEMS, smallest=1)
        item_ids = list(dict.fromkeys(request.item_ids))
        found = await self._rooms.in_database(self._rooms.catalogue.get, item_ids)
        return pb.GetItemsResponse(
            items=[convert.from_item(found[item_id]) for item_id in item_ids if item_id in found],
            missing_item_ids=[item_id for item_id in item_ids if item_id not in found],
        )

    async def ListItems(  # noqa: N802
        self, request: pb.ListItemsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListItemsResponse:
        """List items by id."""
        check_id("category", request.category)
        size = queries.list_size(request.page_size)
        after = ListToken.open(request.page_token, "page_token").after if request.page_token else ""
        found = await self._rooms.in_database(self._rooms.catalogue.list, after, size + 1, request.category or None)
        page = found[:size]
        return pb.ListItemsResponse(
            items=[convert.from_item(item) for item in page],
            next_page_token=ListToken(page[-1].item_id).seal() if len(found) > size else "",
        )

    async def DeleteItems(  # noqa: N802
        self, request: pb.DeleteItemsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DeleteItemsResponse:
        """Delete items."""
        queries.check_ids("item_ids", request.item_ids, MAX_ITEMS, smallest=1)
        count, revision = await self._rooms.in_writing(self._rooms.catalogue.delete, list(request.item_ids))
        await self._rooms.catalogue_tail.catch_up()
        return pb.DeleteItemsResponse(deleted_count=count, revision=revision)

    async def SetAvailability(  # noqa: N802
        self, request: pb.SetAvailabilityRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.SetAvailabilityResponse:
        """Hide items, or show them again."""
        queries.check_ids("item_ids", request.item_ids, MAX_ITEMS, smallest=1)
        rooms = self._rooms
        changed = await rooms.in_writing(
            rooms.catalogue.set_availability, list(request.item_ids), request.available, rooms.now_us()
        )
        await self._rooms.catalogue_tail.catch_up()
        return pb.SetAvailabilityResponse(
            changed_count=changed.changed, missing_item_ids=changed.missing_ids, revision=changed.revision
        )


def _error(index: int, item_id: str, field: str, reason: str, code: int) -> pb.ItemError:
    shown = item_id.encode()[:MAX_ID_BYTES].decode(errors="ignore")
    return pb.ItemError(index=index, item_id=shown, field=field, reason=reason, code=code)
