"""Rows of items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.v1.item_pb2 import Item
from headwater_client._importing import values

REQUIRED_COLUMNS = ("item_id",)
_KNOWN = frozenset({"item_id", "title", "description", "categories", "available", "publish_time", "expire_time"})
_TRUTH = {"": True, "true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def item_of(fields: Mapping[str, Any]) -> Item:
    """The item of a row.

    Args:
        fields: `item_id`, and as wanted `title`, `description`, `categories` (`|` between them, or a JSON list),
            `available`, `publish_time`, `expire_time`; anything else becomes an attribute.

    Raises:
        ValueError: a cell cannot be used.
    """
    available = _TRUTH.get(values.text(fields, "available").strip().lower())
    if available is None:
        raise ValueError("available: must be true or false")
    return Item(
        item_id=values.text(fields, "item_id"),
        title=values.text(fields, "title"),
        description=values.text(fields, "description"),
        categories=_categories(fields),
        attributes=values.attributes(fields, _KNOWN),
        available=available,
        publish_time=values.moment(fields, "publish_time"),
        expire_time=values.moment(fields, "expire_time"),
    )


def _categories(fields: Mapping[str, Any]) -> list[str]:
    given = fields.get("categories")
    if isinstance(given, list):
        if not all(isinstance(category, str) for category in given):
            raise ValueError("categories: must be a list of texts")
        return given
    return [name.strip() for name in values.text(fields, "categories").split("|") if name.strip()]
