"""Co-visits as they are published: what follows each item, in a base file and a delta file, mapped by every reader.

Rows and successors are written as numbers, not as ids: a number is an item's place among the ids of the base file
followed by those of the delta file. A delta's lists supersede the base's of the same items.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from headwater_core.co_visits import HISTORY_EVENTS, NO_BONUSES, Blend, Bonuses, Successors, Weights, bonuses
from headwater_core.errors import ArtifactError
from headwater_core.item_files import Layout, map_tensors, pack_ids, unpack_ids, write_tensors
from headwater_core.shards import VectorTable

Numbers: TypeAlias = npt.NDArray[np.int32]

_KEPT_LISTS = 10_000
"""So many items' successors stay at hand by row: 1.5 KB each."""

_LAYOUT: Layout = {
    "item_ids": ("U8", 1),
    "offsets": ("I64", 1),
    "sources": ("I32", 1),
    "starts": ("I64", 1),
    "successors": ("I32", 1),
    "weights": ("F32", 1),
}


class SuccessorList(NamedTuple):
    """What follows one item."""

    item_id: str
    successors: Sequence[str]
    """s different items; there may be none."""
    weights: Weights
    """(s,), above 0."""


@dataclass(frozen=True, slots=True, eq=False)
class SuccessorLists:
    """What one file holds: for some items, the list of what follows each. List i has edges starts[i] to starts[i+1]."""

    numbers: Mapping[str, int]
    """Every item that can be named, in the order of its number: in a delta, the base's items come first."""
    n_before: int
    """How many of them the base names; in a base, 0."""
    sources: Numbers
    """(m,) which item each list belongs to, all different."""
    starts: npt.NDArray[np.int64]
    """(m + 1,)."""
    successors: Numbers
    """(e,)."""
    weights: Weights
    """(e,), above 0."""

    @classmethod
    def empty(cls, base: SuccessorLists | None = None) -> SuccessorLists:
        """No lists; over a base, a delta that changes nothing."""
        numbers = {} if base is None else base.numbers
        none = np.empty(0, np.int32)
        return cls(numbers, len(numbers), none, np.zeros(1, np.int64), none, np.empty(0, np.float32))

    def __len__(self) -> int:
        """How many items have a list."""
        return len(self.sources)

    def updated(self, lists: Iterable[SuccessorList]) -> SuccessorLists:
        """These lists with newer ones, of different items, in place of older ones."""
        numbers = dict(self.numbers)
        sources: list[int] = []
        successors: list[Numbers] = []
        weights: list[Weights] = []
        for newer in lists:
            sources.append(numbers.setdefault(newer.item_id, len(numbers)))
            named = (numbers.setdefault(item_id, len(numbers)) for item_id in newer.successors)
            successors.append(np.fromiter(named, np.int32, len(newer.successors)))
            weights.append(newer.weights)
        lengths = np.diff(self.starts)  # (m,)
        stays = ~np.isin(self.sources, sources)  # (m,)
        edge_stays = np.repeat(stays, lengths)  # (e,)
        new_lengths = [*lengths[stays].tolist(), *(len(part) for part in successors)]
        return SuccessorLists(
            numbers,
            self.n_before,
            np.concatenate([self.sources[stays], np.array(sources, np.int32)]),
            np.cumsum([0, *new_lengths], dtype=np.int64),
            np.concatenate([self.successors[edge_stays], *successors]),
            np.concatenate([self.weights[edge_stays], *weights]).astype(np.float32, copy=False),
        )

    def save(self, path: Path) -> Path:
        """Write the file `path`, which must not exist yet; its path.

        Raises:
            ValueError: when something of it would not be read back.
        """
        if (damage := self._damage()) is not None:
            raise ValueError(damage)
        blob, offsets = pack_ids(list(itertools.islice(self.numbers, self.n_before, None)))
        write_tensors(
            path,
            {
                "item_ids": blob,
                "offsets": offsets,
                "sources": self.sources,
                "starts": self.starts,
                "successors": self.successors,
                "weights": self.weights,
            },
        )
        return path

    @classmethod
    def load(cls, path: Path, base: SuccessorLists | None = None) -> SuccessorLists:
        """Map a saved file; a delta's needs the base that it was made over.

        Raises:
            ArtifactError: when the file is damaged, or no delta over this base.
        """
        tensors = map_tensors(path, _LAYOUT)
        item_ids = unpack_ids(tensors["item_ids"], tensors["offsets"], path)  # type: ignore[arg-type]
        numbers = {} if base is None else dict(base.numbers)
        n_before = len(numbers)
        numbers.update(zip(item_ids, itertools.count(n_before), strict=False))
        if len(numbers) != n_before + len(item_ids):
            raise ArtifactError("map", str(path), "names an item twice")
        names = ("sources", "starts", "successors", "weights")
        lists = cls(numbers, n_before, *(tensors[name] for name in names))  # type: ignore[arg-type]
        if (damage := lists._damage()) is not None:
            raise ArtifactError("map", str(path), damage)
        return lists

    def _damage(self) -> str | None:
        """What is wrong with the arrays; None when nothing is."""
        starts = self.starts
        fits = len(starts) == len(self) + 1 and starts[0] == 0 and starts[-1] == len(self.successors)
        if not fits or np.any(starts[1:] < starts[:-1]):
            return "has starts that do not fit its lists"
        for numbers in (self.sources, self.successors):
            if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self.numbers):
                return f"has a number that none of its {len(self.numbers)} items has"
        if len(np.unique(self.sources)) != len(self):
            return "has two lists of one item"
        if len(self.weights) != len(self.successors) or not np.all((self.weights > 0) & np.isfinite(self.weights)):
            return "has a successor without a finite weight above 0"
        return None


class CoVisits:
    """A generation's co-visits: the base's lists and the delta's, over the rows of its vector table.

    Safe to call from many threads.
    """

    def __init__(self, base: SuccessorLists, delta: SuccessorLists, table: VectorTable) -> None:
        """Join a base, a delta made over it, and the table whose rows the bonuses are for."""
        self.base, self.delta = base, delta
        self._table = table
        rows = (-1 if (row := table.row(item_id)) is None else row for item_id in delta.numbers)
        self._row_of = np.fromiter(rows, np.int64, len(delta.numbers))  # number -> living row; -1: none
        self._base_list = _list_of(base, len(delta.numbers))
        self._delta_list = _list_of(delta, len(delta.numbers))
        self._kept: dict[str, Successors] = {}  # what many visit is asked for again and again

    @classmethod
    def none(cls, table: VectorTable) -> CoVisits:
        """The co-visits of a generation that has none."""
        base = SuccessorLists.empty()
        return cls(base, SuccessorLists.empty(base), table)

    @property
    def met(self) -> npt.NDArray[np.int64]:
        """The living rows of the items that were met beside another, (n,)."""
        return self._row_of[self._row_of >= 0]

    def bonuses(self, item_ids: Sequence[str], blend: Blend) -> Bonuses:
        """The bonuses that a history's items give to the table's living rows.

        Args:
            item_ids: of the history's events on items that the table knows, the last event first.
            blend: how votes become bonuses.
        """
        latest = [self._successors(item_id) for item_id in item_ids[:HISTORY_EVENTS]] if blend.strength else []
        visited = np.array(self._table.rows_of(item_ids) if blend.repeat_strength else (), np.int64)
        return bonuses(latest, visited, blend)

    def _successors(self, item_id: str) -> Successors:
        """What follows an item, by row; items that have no living row are left out."""
        found = self._kept.get(item_id)
        if found is None:
            if len(self._kept) >= _KEPT_LISTS:
                self._kept.clear()
            found = self._kept[item_id] = self._read(item_id)
        return found

    def _read(self, item_id: str) -> Successors:
        number = self.delta.numbers.get(item_id)
        if number is None:
            return _NOTHING
        lists, at = self.delta, self._delta_list[number]
        if at < 0:
            lists, at = self.base, self._base_list[number]
        if at < 0:
            return _NOTHING
        edges = slice(lists.starts[at], lists.starts[at + 1])
        rows = self._row_of[lists.successors[edges]]  # (s,)
        living = rows >= 0
        return Successors(rows[living], lists.weights[edges][living])


_NOTHING = Successors(NO_BONUSES.items, NO_BONUSES.values)


def _list_of(lists: SuccessorLists, n_items: int) -> npt.NDArray[np.int64]:
    """Number -> which list is the item's; -1: none. (n_items,)."""
    places = np.full(n_items, -1, np.int64)
    places[lists.sources] = np.arange(len(lists))
    return places
