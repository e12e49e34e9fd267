"""The items that one loaded generation can retrieve: its own, and those that came after it (the fresh shard)."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headwater_core.co_visits import NO_BONUSES, Bonuses
from headwater_core.newcomers import NOBODY, Inheritance, inherit, unit_vectors
from headwater_core.shards import Delta, Retriever, Rows, Vectors, VectorTable
from headwater_server.strategy import CO_VISIT, FRESH, TOWER

_SLACK = 64
"""Candidates taken beyond what is wanted, for those that a filter refuses."""

_MAX_UNMET = 1000
"""So many of a generation's unmet items count as new, the newest: an old catalogue may be full of them."""
_SAMPLE = 2000
"""About how many items stand for the whole catalogue where a quantile is estimated."""


class Found(NamedTuple):
    """An item that retrieval found."""

    item_id: str
    score: float
    source: str
    """FRESH: nobody has met it yet; CO_VISIT: its vector alone scores below all that was found; else TOWER."""


class ItemSpace:
    """Immutable: a change makes a new one, so a request sees one state from its first line to its last.

    Row space: the generation's rows, then the fresh shard's. New items are those of the fresh shard and the latest of
    the generation's own that nobody has met yet: they inherit the bonuses of what they are most like.
    """

    def __init__(
        self,
        table: VectorTable,
        retriever: Retriever,
        fresh: Delta | None = None,
        version: int = 0,
        known: _Known | None = None,
        unmet: Iterable[str] = (),
    ) -> None:
        """Join a generation's table and retriever with the items that came after it.

        Args:
            table: the generation's vectors.
            retriever: searches them.
            fresh: the items that came after it.
            version: counts the changes.
            known: what an earlier space of the same generation found out about it.
            unmet: else, those of the generation's items that nobody has met yet, the newest last.
        """
        self.version = version
        self._table = table
        self._retriever = retriever
        self._fresh = fresh if fresh is not None else Delta.empty(table.dimension)
        self._known = known if known is not None else _Known.of(table, unmet)
        self._fresh_row = {item_id: table.rows + row for row, item_id in enumerate(self._fresh.item_ids)}
        self._inheritance = self._known.inheritance.joined(self._known.inherit(self._fresh_rows, self._fresh.vectors))

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

    def is_fresh(self, row: int) -> bool:
        """Whether the row's item is newer than the generation."""
        return row >= self._table.rows

    def inherited(self, bonuses: Bonuses) -> Bonuses:
        """Bonuses by row of the generation, and those that new items inherit of them."""
        return self._inheritance.of(bonuses)

    def with_fresh(self, item_ids: Sequence[str], vectors: Vectors) -> ItemSpace:
        """This space with newer items, vectors (n, d), joined; items that the generation knows are passed over."""
        new = [index for index, item_id in enumerate(item_ids) if not self.knows(item_id)]
        fresh = self._fresh.updated([item_ids[index] for index in new], vectors[new])
        return ItemSpace(self._table, self._retriever, fresh, self.version + 1, self._known)

    def without_fresh(self, item_ids: Iterable[str]) -> ItemSpace:
        """This space without these newer items."""
        gone = [item_id for item_id in item_ids if item_id in self._fresh_row]
        if not gone:
            return self
        fresh = self._fresh.updated((), self.no_interests(), gone)
        fresh = Delta(fresh.item_ids, fresh.vectors)
        return ItemSpace(self._table, self._retriever, fresh, self.version + 1, self._known)

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
            bonuses: by row of the generation; new items inherit of them.

        Nobody's interests, (0, d), find nothing.
        """
        if not len(interests):
            return []
        bonuses = self.inherited(bonuses)
        if only is not None:
            matches = [row for item_id in only if (row := self.row(item_id)) is not None]
            return self._best(np.array(matches, np.int64), interests, k, bonuses)
        searchable = np.ones(self._table.rows, dtype=np.bool_)
        searchable[[row for item_id in excluded if (row := self._table.row(item_id)) is not None]] = False
        gaining = bonuses.items[bonuses.items < self._table.rows]
        gaining = gaining[searchable[gaining]]
        searchable[gaining] = False
        others = np.concatenate([gaining, self._fresh_rows])  # scored whether a search would find them or not
        passes = functools.cache(passes)  # asked once of an item, however often the search goes deeper
        wanted = k + _SLACK
        while True:
            candidates = self._retriever.search(interests, wanted, allowed=searchable)
            is_all = len(candidates) < wanted
            # What the search has not reached scores no more than its last.
            settled = -math.inf if is_all else candidates[-1].score
            searched = np.fromiter((candidate.row for candidate in candidates), np.int64, len(candidates))
            found = self._best(np.concatenate([searched, others]), interests, k, bonuses, passes, settled)
            if len(found) == k or is_all:
                return found
            wanted *= 4

    def fitting_new(
        self, interests: Vectors, share: float, passes: Callable[[str], bool], bonuses: Bonuses = NO_BONUSES
    ) -> list[Found]:
        """The new items that pass and fit: by direction among the best `share` of the generation's items.

        Direction alone (the cosine) decides whether one fits: a new item's vector is short, since nobody has made it
        popular yet. Those that fit are in the order of their scores, bonuses as in `retrieve`.
        """
        rows = np.array([row for row in self._new_rows.tolist() if passes(self._id(row))], np.int64)
        if not len(rows) or not len(interests):
            return []
        unit = unit_vectors(interests)  # (K, d)
        sample = self._known.sample
        bar = float(np.quantile((sample @ unit.T).max(axis=1), 1.0 - share)) if len(sample) else -1.0
        cosines = (unit_vectors(self.vectors(rows)) @ unit.T).max(axis=1)  # (n, K) -> (n,)
        fitting = rows[cosines >= bar]
        return self._best(fitting, interests, len(fitting), self.inherited(bonuses))

    def similar(self, item_id: str, k: int, passes: Callable[[str], bool]) -> list[Found]:
        """The k items of highest cosine with an item that has a row, itself left out, best first."""
        row = self.row(item_id)
        if row is None:
            return []
        rows = np.concatenate([np.flatnonzero(self._table.alive), self._fresh_rows])
        rows = rows[rows != row]
        vectors = self.vectors(rows)
        anchor = self.vectors([row])[0]
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(anchor)
        cosines = (vectors @ anchor) / np.maximum(norms, 1e-12)
        found: list[Found] = []
        for at in np.argsort(-cosines, kind="stable"):
            candidate = self._id(int(rows[at]))
            if passes(candidate):
                found.append(Found(candidate, float(cosines[at]), self._source(int(rows[at]))))
                if len(found) == k:
                    break
        return found

    @property
    def _fresh_rows(self) -> Rows:
        return np.arange(self._table.rows, self._table.rows + len(self._fresh_row), dtype=np.int64)

    @property
    def _new_rows(self) -> Rows:
        return np.concatenate([np.fromiter(self._known.unmet, np.int64), self._fresh_rows])

    def _source(self, row: int, otherwise: str = TOWER) -> str:
        return FRESH if self.is_fresh(row) or row in self._known.unmet else otherwise

    def _id(self, row: int) -> str:
        return self._fresh.item_ids[row - self._table.rows] if self.is_fresh(row) else self._table.item_id(row)

    def _best(
        self,
        rows: Rows,
        interests: Vectors,
        k: int,
        bonuses: Bonuses,
        passes: Callable[[str], bool] | None = None,
        at_least: float = -math.inf,
    ) -> list[Found]:
        """The k best of rows (n,) that pass and score at least so much, best first (ties: the lower row)."""
        towers = (self.vectors(rows) @ interests.T).max(axis=1, initial=-np.inf)  # (n, K) -> (n,)
        scores = towers + bonuses.of(rows)
        order = np.lexsort((rows, -scores))
        order = order[scores[order] >= at_least]
        passing = (at for at in order if passes is None or passes(self._id(int(rows[at]))))
        best = list(itertools.islice(passing, k))
        lowest = scores[best[-1]] if best else 0.0
        return [
            Found(
                self._id(int(rows[at])),
                float(scores[at]),
                self._source(int(rows[at]), CO_VISIT if towers[at] < lowest else TOWER),
            )
            for at in best
        ]


@dataclass(frozen=True, slots=True)
class _Known:
    """What a generation's own items, which do not change, say about new ones."""

    sample: Vectors
    """(s, d), directions of some of them: enough to estimate a quantile of cosines."""
    unmet: frozenset[int]
    """The rows of the newest that nobody has met yet."""
    met: Rows
    """(n,), all others."""
    met_vectors: Callable[[npt.ArrayLike], Vectors]
    inheritance: Inheritance
    """What `unmet` inherit."""

    @classmethod
    def of(cls, table: VectorTable, unmet_ids: Iterable[str]) -> _Known:
        living = np.flatnonzero(table.alive)
        latest = list(unmet_ids)[-_MAX_UNMET:]
        unmet = np.array([row for item_id in latest if (row := table.row(item_id)) is not None], np.int64)
        met = np.setdiff1d(living, unmet, assume_unique=True)
        sample = unit_vectors(table.vectors(living[:: max(1, len(living) // _SAMPLE)]))
        known = cls(sample, frozenset(unmet.tolist()), met, table.vectors, NOBODY)
        return replace(known, inheritance=known.inherit(unmet, table.vectors(unmet)))

    def inherit(self, rows: Rows, vectors: Vectors) -> Inheritance:
        """What these new items, vectors (m, d), inherit of what was met."""
        return inherit(rows, vectors, self.met, self.met_vectors)
