"""The catalogue as requests see it: items in memory, with what filters ask for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from headwater_core.catalogue import Item, ItemChange


class CatalogueView:
    """Every item that is not deleted, by id and by category."""

    def __init__(self) -> None:
        """Make an empty view."""
        self._items: dict[str, Item] = {}
        self._by_category: defaultdict[str, set[str]] = defaultdict(set)
        self.revision = 0
        """Every change of the catalogue up to here is applied."""

    @property
    def items(self) -> Mapping[str, Item]:
        """The items by id."""
        return self._items

    def apply(self, change: ItemChange) -> None:
        """Take in one change. Call in the order of revisions."""
        before = self._items.get(change.item_id)
        if before is not None:
            for category in before.categories:
                ids = self._by_category[category]
                ids.discard(change.item_id)
                if not ids:
                    del self._by_category[category]
        if change.item is None:
            self._items.pop(change.item_id, None)
        else:  # in place: whoever looks it up from another thread finds the one or the other, never none
            self._items[change.item_id] = change.item
            for category in change.item.categories:
                self._by_category[category].add(change.item_id)
        self.revision = max(self.revision, change.revision)

    def in_category(self, category: str) -> frozenset[str] | set[str]:
        """The ids of a category's items; empty for a category that no item has."""
        return self._by_category.get(category, frozenset())
