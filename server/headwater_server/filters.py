"""Which items an answer may hold. Pure: one decision per item, used before ranking and again on the final slate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headwater_core.catalogue import Item
from headwater_core.strategies import Only
from headwater_server.catalogue_view import CatalogueView


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """What the request asks of an item, and what must be left out."""

    categories: frozenset[str] = frozenset()
    """Items of at least one of these; empty: all."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    available_only: bool = True
    published_after_us: int | None = None
    published_before_us: int | None = None
    excluded: frozenset[str] = frozenset()
    only: Only | None = None
    """What the strategy shows at all; None: any."""

    def passes(self, item: Item | None, now_us: int) -> bool:
        """Whether this item may be answered now; never for one that the catalogue does not hold."""
        if item is None or item.item_id in self.excluded:
            return False
        if self.available_only and (
            not item.available or (item.expire_time_us is not None and item.expire_time_us <= now_us)
        ):
            return False
        if self.categories and self.categories.isdisjoint(item.categories):
            return False
        if any(item.attributes.get(key) != value for key, value in self.attributes.items()):
            return False
        if self.only is not None and not _is_within(item, self.only):
            return False
        published_us = item.publish_time_us if item.publish_time_us is not None else item.update_time_us
        if self.published_after_us is not None and published_us < self.published_after_us:
            return False
        return self.published_before_us is None or published_us < self.published_before_us

    @property
    def is_selective(self) -> bool:
        """Whether it asks for more than that items are available and not excluded."""
        return bool(
            self.categories
            or self.attributes
            or self.published_after_us is not None
            or self.published_before_us is not None
            or (self.only is not None and (self.only.categories or self.only.attributes))
        )

    def candidates(self, view: CatalogueView) -> list[str]:
        """The ids of all items that can pass, in no order.

        A copy, made on the event loop: threads may look closer at it while the view changes.
        """
        categories = self.categories or (self.only.categories if self.only is not None else ())
        if categories:
            return list(set[str]().union(*(view.in_category(category) for category in categories)))
        return list(view.items)


def _is_within(item: Item, only: Only) -> bool:
    if only.categories and not any(category in only.categories for category in item.categories):
        return False
    if any(category in only.without_categories for category in item.categories):
        return False
    return all(item.attributes.get(key) == value for key, value in only.attributes.items())


def unknown_categories(item_filter: ItemFilter, view: CatalogueView) -> list[str]:
    """What a caller is told of the filter's categories that no item has."""
    return [
        f"filter.categories: no item has the category {category!r}"
        for category in sorted(item_filter.categories)
        if not view.in_category(category)
    ]
