"""The calls of CatalogService."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.field_mask_pb2 import FieldMask

from headwater.v1 import catalog_service_pb2 as pb
from headwater.v1.item_pb2 import Item
from headwater_client._calls.core import Call, as_is, call, method
from headwater_client._results import RefusedItem, UpsertResult
from headwater_client.errors import rpc_error

_SERVICE = "CatalogService"
# the server embeds the texts before it answers, which takes seconds for a full batch
UPSERT_ITEMS = method(_SERVICE, "UpsertItems", pb.UpsertItemsRequest, pb.UpsertItemsResponse, timeout_s=60)
GET_ITEMS = method(_SERVICE, "GetItems", pb.GetItemsRequest, pb.GetItemsResponse, timeout_s=5)
LIST_ITEMS = method(_SERVICE, "ListItems", pb.ListItemsRequest, pb.ListItemsResponse, timeout_s=10)
# a repeated deletion would answer that nothing was there to delete
DELETE_ITEMS = method(
    _SERVICE, "DeleteItems", pb.DeleteItemsRequest, pb.DeleteItemsResponse, timeout_s=30, idempotent=False
)
SET_AVAILABILITY = method(
    _SERVICE, "SetAvailability", pb.SetAvailabilityRequest, pb.SetAvailabilityResponse, timeout_s=10
)


def upsert_items(
    items: Iterable[Item],
    *,
    update_mask: Iterable[str] = (),
    defer_features: bool = False,
    timeout_s: float | None = None,
) -> Call[UpsertResult]:
    """Adds items or changes known ones; bad ones are reported in the result's `refused`, the good ones are written.

    Args:
        items: 1 to 1,000, each id once, made by `item(…)`.
        update_mask: which fields to change on known items, for example `["title"]`. Default: the whole item.
        defer_features: True for imports: texts are embedded later, so new items wait for the next generation.
        timeout_s: the deadline. Default 60 s.

    Raises:
        RpcError: the call failed as a whole.
    """
    paths = list(update_mask)
    request = pb.UpsertItemsRequest(
        items=items, update_mask=FieldMask(paths=paths) if paths else None, defer_features=defer_features
    )
    return call(UPSERT_ITEMS, request, _read_upsert, timeout_s)


def get_items(item_ids: Iterable[str], *, timeout_s: float | None = None) -> Call[dict[str, Item]]:
    """Gets items by id; ids that the catalogue does not know are left out.

    Args:
        item_ids: 1 to 1,000.
        timeout_s: the deadline. Default 5 s.

    Raises:
        RpcError: the call failed.
    """
    request = pb.GetItemsRequest(item_ids=item_ids)
    return call(GET_ITEMS, request, lambda response: {item.item_id: item for item in response.items}, timeout_s)


def list_items(
    *, category: str = "", page_size: int = 0, page_token: str = "", timeout_s: float | None = None
) -> Call[pb.ListItemsResponse]:
    """Lists items by id.

    Args:
        category: only items of this category.
        page_size: how many; 0 means 100, at most 1,000.
        page_token: the next_page_token of the page before.
        timeout_s: the deadline. Default 10 s.

    Raises:
        RpcError: the call failed.
    """
    request = pb.ListItemsRequest(category=category, page_size=page_size, page_token=page_token)
    return call(LIST_ITEMS, request, as_is, timeout_s)


def delete_items(item_ids: Iterable[str], *, timeout_s: float | None = None) -> Call[int]:
    """Deletes items and says how many there were; their events stay and no longer count.

    Args:
        item_ids: 1 to 1,000; unknown ids are ignored.
        timeout_s: the deadline. Default 30 s.

    Raises:
        RpcError: the call failed.
    """
    request = pb.DeleteItemsRequest(item_ids=item_ids)
    return call(DELETE_ITEMS, request, lambda response: response.deleted_count, timeout_s)


def set_availability(
    item_ids: Iterable[str], *, available: bool, timeout_s: float | None = None
) -> Call[pb.SetAvailabilityResponse]:
    """Hides items from every answer, or shows them again.

    Args:
        item_ids: 1 to 1,000.
        available: True shows, False hides.
        timeout_s: the deadline. Default 10 s.

    Raises:
        RpcError: the call failed.
    """
    request = pb.SetAvailabilityRequest(item_ids=item_ids, available=available)
    return call(SET_AVAILABILITY, request, as_is, timeout_s)


def _read_upsert(response: pb.UpsertItemsResponse) -> UpsertResult:
    return UpsertResult(
        upserted=response.upserted_count,
        refused=tuple(
            RefusedItem(error.index, error.item_id, error.field, error.reason, rpc_error(error.code, "").status)
            for error in response.errors
        ),
        revision=response.revision,
    )
