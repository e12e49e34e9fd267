"""The items that one loaded generation can retrieve: its own, and those that came after it (the fresh shard)."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headwater_core.co_visits import NO_BONUSES, Bonuses
from headwater_core.newcomers import Heritage, inherit, unit_vectors
from headwater_core.retrieval import NO_ROWS, Retriever
from headwater_core.shards import Delta, Mask, Rows, Vectors, VectorTable, cosines, lengths
from headwater_core.strategies import CO_VISIT, FRESH, TOWER

_SLACK = 64
"""Candidates taken beyond what is wanted, for those that a filter refuses."""

_MAX_HEIRS = 1000
"""So many items at once inherit, and so many of a generation's own count as new: it must not take seconds."""
_SAMPLE = 2000
"""About how many items stand for the whole catalogue where a quantile is estimated."""


class Found(NamedTuple):
    """An item that was found for a request."""

    item_id: str
    score: float
    source: str
    """What speaks for it. Of an item space: FRESH: nobody has met it yet; CO_VISIT: its vector alone scores below all
    that was found; else TOWER."""


class ItemSpace:
    """Immutable: a change makes a new one, so a request sees one state from its first line to its last.

    Row space: the generation's rows, then the fresh shard's. New items are those of the fresh shard and those that a
    generation brings and nobody has met yet: they inherit the bonuses of what they are most like.
    """

    def __init__(
        self,
        table: VectorTable,
        retriever: Retriever,
        *,
        met: Rows = NO_ROWS,
        unmet: Rows = NO_ROWS,
    ) -> None:
        """A generation's own space.

        Args:
            table: the generation's vectors.
            retriever: searches them.
            met: rows that new items inherit from.
            unmet: rows of the generation that count as new; of very many the last.
        """
        self.version = 0
        self._table = table
        self._retriever = retriever
        self._known = _Known.of(table, met, unmet[-_MAX_HEIRS:])
        self._set_fresh(Delta.empty(table.dimension), Heritage.none(0))

    def _set_fresh(self, fresh: Delta, heritage: Heritage) -> None:
        """Args: heritage: of the fresh items, in their order."""
        self._fresh, self._fresh_heritage = fresh, heritage
        self._fresh_row = {item_id: self._table.rows + row for row, item_id in enumerate(fresh.item_ids)}
        self._new_rows = np.concatenate([self._known.unmet, self._fresh_rows])
        self._heritage = self._known.heritage.joined(heritage)

    def _with(self, fresh: Delta, heritage: Heritage) -> ItemSpace:
        other = copy.copy(self)
        other.version += 1
        other._set_fresh(fresh, heritage)
        return other

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return self._table.dimension

    @property
    def item_count(self) -> int:
        """Items that can be retrieved."""
        return self._table.item_count + len(self._fresh_row)

    @property
    def fresh_count(self) -> int:
        """Items newer than the generation."""
        return len(self._fresh_row)

    def no_interests(self) -> Vectors:
        """The interests of nobody. Shape (0, d)."""
        return np.zeros((0, self.dimension), dtype=np.float32)

    def knows(self, item_id: str) -> bool:
        """Whether the generation itself has a vector for the item."""
        return self._table.row(item_id) is not None

    def row(self, item_id: str) -> int | None:
        """The item's row; None when it has no vector."""
        row = self._table.row(item_id)
        return row if row is not None else self._fresh_row.get(item_id)

    def item_id(self, row: int) -> str:
        """The item of a row."""
        return self._fresh.item_ids[row - self._table.rows] if self.is_fresh(row) else self._table.item_id(row)

    def is_fresh(self, row: int) -> bool:
        """Whether the row's item is newer than the generation."""
        return row >= self._table.rows

    def inherited(self, bonuses: Bonuses) -> Bonuses:
        """Bonuses by row of the generation, and those that new items inherit of them."""
        return self._heritage.of(bonuses, self._new_rows)

    def heritage(self, vectors: Vectors) -> Heritage:
        """What new items of these vectors (n, d) inherit; of very many the last. For the compute threads."""
        heirs = inherit(vectors[-_MAX_HEIRS:], self._known.met, self._table.vectors)
        return Heritage.none(max(0, len(vectors) - _MAX_HEIRS)).joined(heirs)

    def with_fresh(self, item_ids: Sequence[str], vectors: Vectors, heritage: Heritage | None = None) -> ItemSpace:
        """This space with newer items joined; items that the generation knows are passed over.

        Args:
            item_ids: n of them.
            vectors: (n, d), theirs.
            heritage: of the n items; None: they inherit nothing.
        """
        new = {item_id: index for index, item_id in enumerate(item_ids) if not self.knows(item_id)}
        places = list(new.values())
        theirs = (heritage if heritage is not None else Heritage.none(len(item_ids))).at(places)
        kept = [row for row, item_id in enumerate(self._fresh.item_ids) if item_id not in new]
        fresh = self._fresh.updated(list(new), vectors[places])
        return self._with(fresh, self._fresh_heritage.at(kept).joined(theirs))

    def without_fresh(self, item_ids: Iterable[str]) -> ItemSpace:
        """This space without these newer items."""
        gone = {item_id for item_id in item_ids if item_id in self._fresh_row}
        if not gone:
            return self
        kept = [row for row, item_id in enumerate(self._fresh.item_ids) if item_id not in gone]
        fresh = Delta(tuple(self._fresh.item_ids[row] for row in kept), self._fresh.vectors[kept])
        return self._with(fresh, self._fresh_heritage.at(kept))

    def vectors(self, rows: npt.ArrayLike) -> Vectors:
        """The vectors (n, d) of rows (n,)."""
        wanted = np.asarray(rows, dtype=np.int64)
        fresh = wanted >= self._table.rows
        if not fresh.any():
            return self._table.vectors(wanted)
        found = np.empty((len(wanted), self.dimension), dtype=np.float32)
        found[~fresh] = self._table.vectors(wanted[~fresh])
        found[fresh] = self._fresh.vectors[wanted[fresh] - self._table.rows]
        return found

    def retrieve(
        self,
        interests: Vectors,
        k: int,
        passes: Callable[[str], bool],
        only: Iterable[str] | None = None,
        excluded: Collection[str] = (),
        bonuses: Bonuses = NO_BONUSES,
    ) -> list[Found]:
        """The k best items that pass, best first; fewer only when fewer pass.

        Args:
            interests: (K, d); an item's score is its best interest's inner product, plus its bonus.
            k: how many.
            passes: the filter's decision on one item; asked in the order of the scores, until k have passed.
            only: when given, every item that can pass (a selective filter's matches): these are scored exactly.
            excluded: items among those that `passes` refuses; the search itself leaves them out.
            bonuses: by row, what new items inherit among them (`inherited`).

        Nobody's interests, (0, d), find nothing.
        """
        if not len(interests):
            return []
        if only is not None:
            matches = np.array([row for item_id in only if (row := self.row(item_id)) is not None], np.int64)
            return self._best(matches, self._by_towers(matches, interests), k, bonuses)
        left_out = np.array(self._table.rows_of(excluded), np.int64)
        gaining = bonuses.items[: np.searchsorted(bonuses.items, self._table.rows)]
        gaining = np.delete(gaining, np.searchsorted(gaining, left_out[_are_in(gaining, left_out)]))
        others = np.concatenate([gaining, self._fresh_rows])  # scored whether a search would find them or not
        towers = self._by_towers(others, interests)
        passes = functools.cache(passes)  # asked once of an item, however often the search goes deeper
        wanted = k + _SLACK
        while True:
            searched, scores = self._retriever.search(interests, wanted, left_out)
            is_all = len(searched) < wanted
            # What the search has not reached scores no more than its last.
            settled = -math.inf if is_all else float(scores[-1])
            more = ~_are_in(gaining, searched)
            rows = np.concatenate([searched[more], others])
            found = self._best(rows, np.concatenate([scores[more], towers]), k, bonuses, passes, settled)
            if len(found) == k or is_all:
                return found
            wanted *= 4

    def fitting_new(
        self, interests: Vectors, k: int, share: float, passes: Callable[[str], bool], bonuses: Bonuses = NO_BONUSES
    ) -> list[Found]:
        """The k best of the new items that pass and fit: by direction among the best `share` of the generation's items.

        Direction alone (the cosine) decides whether one fits: a new item's vector is short, since nobody has made it
        popular yet. Those that fit are in the order of their scores, interests and bonuses as in `retrieve`.
        """
        if not len(self._new_rows) or not len(interests):
            return []
        unit = unit_vectors(interests)  # (K, d)
        sample = self._known.sample
        bar = float(np.quantile((sample @ unit.T).max(axis=1), 1.0 - share)) if len(sample) else -1.0
        cosines = (unit_vectors(self.vectors(self._new_rows)) @ unit.T).max(axis=1)  # (n, K) -> (n,)
        fitting = self._new_rows[cosines >= bar]
        return self._best(fitting, self._by_towers(fitting, interests), k, bonuses, passes)

    def similar(self, item_id: str, k: int, passes: Callable[[str], bool]) -> list[Found]:
        """The k items of highest cosine with an item that has a row, itself left out, best first."""
        row = self.row(item_id)
        if row is None:
            return []
        anchor = self.vectors([row])[0]
        fresh = self._fresh.vectors
        near = np.concatenate([self._table.cosines(anchor), cosines(fresh, lengths(fresh), anchor)])
        near[row] = -np.inf
        found: list[Found] = []
        for at in itertools.takewhile(
            lambda at: near[at] > -np.inf, _best_first(np.arange(len(near)), near, k + _SLACK)
        ):
            candidate = self.item_id(at)
            if passes(candidate):
                found.append(Found(candidate, float(near[at]), self._source(at)))
                if len(found) == k:
                    break
        return found

    @property
    def _fresh_rows(self) -> Rows:
        return np.arange(self._table.rows, self._table.rows + len(self._fresh_row), dtype=np.int64)

    def _source(self, row: int, otherwise: str = TOWER) -> str:
        return FRESH if self.is_fresh(row) or self._known.is_unmet[row] else otherwise

    def _by_towers(self, rows: Rows, interests: Vectors) -> npt.NDArray[np.float32]:
        """The towers' scores: (n,) rows and (K, d) → (n,)."""
        scores: npt.NDArray[np.float32] = (self.vectors(rows) @ interests.T).max(axis=1, initial=-np.inf)
        return scores

    def _best(
        self,
        rows: Rows,
        towers: npt.NDArray[np.float32],
        k: int,
        bonuses: Bonuses,
        passes: Callable[[str], bool] | None = None,
        at_least: float = -math.inf,
    ) -> list[Found]:
        """The k best of rows (n,) that pass and score at least so much, best first (ties: the lower row).

        Args:
            rows: different ones.
            towers: (n,) their scores by the towers alone.
            k: how many.
            bonuses: what is added to them.
            passes: the filter's decision on one item.
            at_least: what scores less is left out.
        """
        scores = towers + bonuses.of(rows)
        worth = np.flatnonzero(scores >= at_least)
        rows, towers, scores = rows[worth], towers[worth], scores[worth]
        best_first = _best_first(rows, scores, k + _SLACK)
        passing = (at for at in best_first if passes is None or passes(self.item_id(int(rows[at]))))
        best = list(itertools.islice(passing, k))
        lowest = scores[best[-1]] if best else 0.0
        return [
            Found(
                self.item_id(int(rows[at])),
                float(scores[at]),
                self._source(int(rows[at]), CO_VISIT if towers[at] < lowest else TOWER),
            )
            for at in best
        ]


def _are_in(rows: Rows, wanted: Rows) -> Mask:
    """(w,), which of wanted are among rows, which ascend."""
    if not len(rows):
        return np.zeros(len(wanted), np.bool_)
    found: Mask = rows[np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)] == wanted
    return found


def _best_first(rows: Rows, scores: npt.NDArray[np.float32], n: int) -> Iterator[int]:
    """The places of rows by their scores, the highest first (ties: the lower row); sorts hardly more than is read.

    Args:
        rows: (m,) different ones.
        scores: (m,).
        n: about how many will be read.
    """
    left = np.arange(len(rows))
    while len(left):
        if n < len(left):
            is_next = scores[left] >= np.partition(scores[left], -n)[-n]
            part, left = left[is_next], left[~is_next]
        else:
            part, left = left, left[:0]
        yield from part[np.lexsort((rows[part], -scores[part]))].tolist()
        n *= 4


@dataclass(frozen=True, slots=True)
class _Known:
    """What a generation's own items, which do not change, say about new ones."""

    sample: Vectors
    """(s, d), directions of some of them: enough to estimate a quantile of cosines."""
    met: Rows
    """(n,), those that new items inherit from."""
    unmet: Rows
    """(u,), those that count as new."""
    is_unmet: Mask
    """(rows,), the same."""
    heritage: Heritage
    """Of `unmet`."""

    @classmethod
    def of(cls, table: VectorTable, met: Rows, unmet: Rows) -> _Known:
        living = np.flatnonzero(table.alive)
        sample = unit_vectors(table.vectors(living[:: max(1, len(living) // _SAMPLE)]))
        is_unmet = np.zeros(table.rows, np.bool_)
        is_unmet[unmet] = True
        return cls(sample, met, unmet, is_unmet, inherit(table.vectors(unmet), met, table.vectors))
