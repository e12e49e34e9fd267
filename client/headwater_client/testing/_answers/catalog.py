"""The fake's answers of CatalogService."""

from __future__ import annotations

from headwater.v1 import catalog_service_pb2 as catalog
from headwater.v1.item_pb2 import Item
from headwater_client.testing._answers.core import Answers, page_of
from headwater_client.testing._state import FakeState


def upsert_items(state: FakeState, request: catalog.UpsertItemsRequest) -> catalog.UpsertItemsResponse:
    errors: list[catalog.ItemError] = []
    for index, item in enumerate(request.items):
        known = state.items.get(item.item_id)
        if not item.item_id:
            errors.append(catalog.ItemError(index=index, field="item_id", reason="must not be empty", code=3))
        elif not request.update_mask.paths:
            state.items[item.item_id] = item
        elif known is None:
            reason = "is not known, and the update mask changes known items only"
            errors.append(catalog.ItemError(index=index, item_id=item.item_id, field="item_id", reason=reason, code=5))
        else:
            changed = Item.FromString(known.SerializeToString())
            for path in request.update_mask.paths:
                changed.ClearField(path)  # type: ignore[arg-type]
            masked = Item()
            request.update_mask.MergeMessage(item, masked)
            changed.MergeFrom(masked)
            state.items[item.item_id] = changed
    state.revision += 1
    return catalog.UpsertItemsResponse(
        upserted_count=len(request.items) - len(errors), errors=errors, revision=state.revision
    )


def get_items(state: FakeState, request: catalog.GetItemsRequest) -> catalog.GetItemsResponse:
    return catalog.GetItemsResponse(
        items=[state.items[item_id] for item_id in request.item_ids if item_id in state.items],
        missing_item_ids=[item_id for item_id in request.item_ids if item_id not in state.items],
    )


def list_items(state: FakeState, request: catalog.ListItemsRequest) -> catalog.ListItemsResponse:
    rows = [
        state.items[item_id]
        for item_id in sorted(state.items)
        if not request.category or request.category in state.items[item_id].categories
    ]
    page, next_page_token = page_of(rows, request.page_size, request.page_token)
    return catalog.ListItemsResponse(items=page, next_page_token=next_page_token)


def delete_items(state: FakeState, request: catalog.DeleteItemsRequest) -> catalog.DeleteItemsResponse:
    deleted = sum(state.items.pop(item_id, None) is not None for item_id in set(request.item_ids))
    state.revision += 1
    return catalog.DeleteItemsResponse(deleted_count=deleted, revision=state.revision)


def set_availability(state: FakeState, request: catalog.SetAvailabilityRequest) -> catalog.SetAvailabilityResponse:
    known = [item_id for item_id in request.item_ids if item_id in state.items]
    for item_id in known:
        state.items[item_id].available = request.available
    state.revision += 1
    return catalog.SetAvailabilityResponse(
        changed_count=len(known),
        missing_item_ids=[item_id for item_id in request.item_ids if item_id not in state.items],
        revision=state.revision,
    )


ANSWERS: Answers = {
    "/headwater.v1.CatalogService/UpsertItems": upsert_items,
    "/headwater.v1.CatalogService/GetItems": get_items,
    "/headwater.v1.CatalogService/ListItems": list_items,
    "/headwater.v1.CatalogService/DeleteItems": delete_items,
    "/headwater.v1.CatalogService/SetAvailability": set_availability,
}
