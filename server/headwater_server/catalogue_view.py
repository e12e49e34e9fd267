"""The catalogue as requests see it: items in memory, with what filters ask for."""

from __future__ import annotations

import bisect
from array import array
from collections import defaultdict
from collections.abc import Mapping

from headwater_core.catalogue import Item, ItemChange

_KEPT_CHANGES = 10_000


class CatalogueView:
    """Every item that is not deleted, by id and by category."""

    def __init__(self) -> None:
        """Make an empty view."""
        self._items: dict[str, Item] = {}
        self._by_category: defaultdict[str, set[str]] = defaultdict(set)
        self._changed_at = array("q")
        """The revisions applied, ascending."""
        self._changed: list[str] = []
        """The item that each of them changed."""
        self.gone_after = 0
        """Of what was deleted up to here no record is left."""
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
        self._changed_at.append(change.revision)
        self._changed.append(change.item_id)
        if len(self._changed) > max(_KEPT_CHANGES, 2 * len(self._items)):
            self._forget_superseded()

    def newer(self, revision: int) -> list[Item]:
        """The items that changed last after a revision. Looks at no other: most of a catalogue is older."""
        items = (self._items.get(item_id) for item_id in self.changed_after(revision))
        return [item for item in items if item is not None and item.revision > revision]

    def changed_after(self, revision: int) -> list[str]:
        """The ids of the items that changed after a revision, those deleted after `gone_after` too."""
        return list(dict.fromkeys(self._changed[bisect.bisect_right(self._changed_at, revision) :]))

    def _forget_superseded(self) -> None:
        self.gone_after = self.revision
        order = sorted((item.revision, item_id) for item_id, item in self._items.items())
        self._changed_at = array("q", (revision for revision, _ in order))
        self._changed = [item_id for _, item_id in order]

    def in_category(self, category: str) -> frozenset[str] | set[str]:
        """The ids of a category's items; empty for a category that no item has."""
        return self._by_category.get(category, frozenset())
