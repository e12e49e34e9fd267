"""Retrieval over base shards and the delta: candidates by the shards' indexes, scored by the exact vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headwater_core.indexes import MEASURED_DEPTH, OVERSAMPLING, Bits, n_lists, n_probes, search_index
from headwater_core.shards import Delta, Rows, Shard, Vectors, VectorTable

NO_ROWS: Rows = np.empty(0, np.int64)
_EXACT_BELOW = 4096
"""With no more allowed rows than this, all of them are scored exactly: faster than a search, and never short."""
_DEEPER = 4
"""So many times more lists are searched when too little was found."""


class Candidates(NamedTuple):
    """The rows that retrieval found, best first."""

    rows: Rows
    """(n,)."""
    scores: npt.NDArray[np.float32]
    """(n,), exact."""


class Retriever:
    """Finds the best rows for a user's interests over all shards and the delta. Safe to call from many threads.

    What it costs does not grow with the catalogue where the indexes' own cost does not: which rows are alive is kept
    as bits, and a request changes its copy of them where it leaves rows out.
    """

    def __init__(self, shards: Sequence[Shard], delta: Delta, table: VectorTable) -> None:
        """Search these shards and this delta; `table` must be made of the same."""
        self._indexes = tuple(shard.index for shard in shards)
        self._starts = np.cumsum([0, *(len(shard.item_ids) for shard in shards)])  # (shards + 1,)
        parts = [table.alive[start:stop] for start, stop in zip(self._starts[:-1], self._starts[1:], strict=True)]
        self._alive: tuple[Bits, ...] = tuple(np.packbits(part, bitorder="little") for part in parts)
        self._is_whole = tuple(bool(part.all()) for part in parts)
        self._n_alive = int(np.count_nonzero(table.alive))
        self._delta, self._table = delta, table
        self._whole_stretch = max((n_lists(index) / n_probes(index) for index in self._indexes), default=1.0)

    def search(self, queries: Vectors, k: int, excluded: Rows = NO_ROWS) -> Candidates:
        """The k best living rows, best first (ties: the lower row); fewer only when fewer are left.

        Args:
            queries: (Q, d) one vector per interest; a row's score is its best interest's inner product.
            k: how many.
            excluded: (n,) rows that must not be returned.

        Raises:
            ValueError: when the queries' shape does not fit.
            IndexError: when an excluded row does not exist.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self._table.dimension:
            raise ValueError(f"queries has shape {queries.shape}; (Q, {self._table.dimension}) is needed")
        excluded = np.unique(excluded)
        if len(excluded) and (excluded[0] < 0 or excluded[-1] >= self._table.rows):
            raise IndexError(
                f"excluded reaches from {excluded[0]} to {excluded[-1]}; there are {self._table.rows} rows"
            )
        excluded = excluded[self._table.alive[excluded]]
        if k < 1 or not len(queries):
            return Candidates(NO_ROWS, np.empty(0, np.float32))
        if self._n_alive - len(excluded) <= max(_EXACT_BELOW, k):
            return self._best(self._left(excluded), queries, k)
        return self._best(self._candidates(queries, k, excluded), queries, k)

    def _candidates(self, queries: Vectors, k: int, excluded: Rows) -> Rows:
        """(n,) different living rows, none excluded, at least k: the best that the indexes find, and of the delta."""
        of_delta = self._of_delta(queries, k, excluded)
        allowed = [self._allowed(number, excluded) for number in range(len(self._indexes))]
        # The lists were counted for the best 100 of all rows. What lies deeper is spread over more of them, though
        # far from ten times as many at ten times the depth; and what is excluded mostly lies above what is wanted.
        stretch = max(1.0, math.sqrt((k + len(excluded)) / MEASURED_DEPTH))
        while True:
            rows = np.concatenate([self._of_shards(queries, k, allowed, stretch), of_delta])
            if len(rows) >= k:
                return rows
            if stretch >= self._whole_stretch:
                return self._left(excluded)
            stretch *= _DEEPER

    def _of_shards(self, queries: Vectors, k: int, allowed: Sequence[Bits | None], stretch: float) -> Rows:
        found = [
            search_index(index, queries, k, bits, stretch) for index, bits in zip(self._indexes, allowed, strict=True)
        ]
        if not found:
            return NO_ROWS
        scores = np.concatenate([hits.scores for hits in found], axis=1)
        parts = [
            np.where(hits.rows >= 0, hits.rows + start, -1) for hits, start in zip(found, self._starts, strict=False)
        ]
        rows = np.concatenate(parts, axis=1)  # (Q, n)
        enough = k * OVERSAMPLING
        if rows.shape[1] > enough:
            # What the codes of several shards say can be compared, so no more is scored exactly than of one shard.
            best = np.argpartition(-scores, enough - 1, axis=1)[:, :enough]
            rows = np.take_along_axis(rows, best, axis=1)
        rows = np.unique(rows)  # one row may be near several interests
        return rows[rows >= 0]

    def _of_delta(self, queries: Vectors, k: int, excluded: Rows) -> Rows:
        """The delta's best rows, all that score as the k-th."""
        scores = (self._delta.vectors @ queries.T).max(axis=1, initial=-np.inf)  # (n, Q) -> (n,)
        first = self._table.base_rows
        scores[excluded[np.searchsorted(excluded, first) :] - first] = -np.inf
        bar = np.partition(scores, -k)[-k] if k < len(scores) else -np.inf
        return np.flatnonzero((scores >= bar) & (scores > -np.inf)) + first

    def _allowed(self, number: int, excluded: Rows) -> Bits | None:
        """A bit for each row of a shard that may be returned; None: all may be."""
        start, stop = self._starts[number : number + 2]
        mine = excluded[slice(*np.searchsorted(excluded, (start, stop)))] - start
        if not len(mine):
            return None if self._is_whole[number] else self._alive[number]
        bits = self._alive[number].copy()
        np.bitwise_and.at(bits, mine >> 3, ~(1 << (mine & 7)).astype(np.uint8))
        return bits

    def _left(self, excluded: Rows) -> Rows:
        """All living rows that are not excluded."""
        mask = self._table.alive.copy()
        mask[excluded] = False
        return np.flatnonzero(mask)

    def _best(self, rows: Rows, queries: Vectors, k: int) -> Candidates:
        scores = (self._table.vectors(rows) @ queries.T).max(axis=1, initial=-np.inf)  # (n, Q) -> (n,)
        order = np.lexsort((rows, -scores))[:k]
        return Candidates(rows[order], scores[order])
