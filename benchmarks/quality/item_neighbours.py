"""Scores of items by what a user met last: item-kNN and co-visitation are two matrices of one model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sequences import Sequences

_MAX_DENSE_ELEMENTS = 50_000_000
_DENSE_SHARE = 0.05
"""Above it adding whole rows is faster than adding their entries one by one."""


@dataclass(frozen=True, slots=True)
class Recency:
    """How much each of a user's events counts."""

    last: int
    """Events (or blocks) from the end; what is before them counts nothing."""
    decay: float = 1.0
    """From one event (or block) to the one before it."""
    by_block: bool = False
    """Whether age is counted in blocks of one time: within a basket there is no order."""
    binary: bool = False
    """Whether an item counts once however often it was met."""

    def weights(self, asked: Sequences, n_items: int) -> sparse.csr_array:
        """(B, N): what each item counts for each user."""
        users = asked.users
        ages = asked.starts[users + 1] - 1 - np.arange(len(users))  # (E,) 0 for a user's last event
        if self.by_block and len(users):
            ages = asked.blocks[asked.starts[users + 1] - 1] - asked.blocks
        kept = ages < self.last
        values = np.power(self.decay, ages[kept]).astype(np.float32)
        found = _summed(values, users[kept], asked.items[kept], (len(asked.starts) - 1, n_items))
        if self.binary:
            found.data[:] = 1.0
        return found


class ItemNeighbours:
    """score(user, item) = Σ over the user's items j of weight(j) · matrix[j, item]."""

    def __init__(self, matrix: sparse.csr_array, recency: Recency) -> None:
        """Args: matrix: (N, N) float32, row j what item j speaks for; recency: the weights of a user's items."""
        self._n_items = matrix.shape[0]
        is_small = self._n_items**2 <= _MAX_DENSE_ELEMENTS and matrix.nnz > _DENSE_SHARE * self._n_items**2
        self._matrix = matrix.toarray() if is_small else matrix
        self._recency = recency

    def score(self, asked: Sequences) -> np.ndarray:
        """(B, N) float32."""
        found = self._recency.weights(asked, self._n_items) @ self._matrix
        scores: np.ndarray = found.toarray() if sparse.issparse(found) else found
        return scores


def cosine_neighbours(learned: Sequences, n_items: int) -> sparse.csr_array:
    """(N, N) cosines between the columns of the binary user-item matrix, none of an item with itself."""
    users = Recency(last=len(learned.items) + 1, binary=True).weights(learned, n_items)  # (U, N)
    norms = np.sqrt(np.maximum(users.sum(0), 1.0)).astype(np.float32)
    together = (users.T @ users).tocoo()
    other = together.row != together.col
    values = together.data[other] / (norms[together.row[other]] * norms[together.col[other]])
    return _summed(values, together.row[other], together.col[other], (n_items, n_items))


def rank_in_row(matrix: sparse.csr_array) -> np.ndarray:
    """For each stored value its place in its row from 0, the highest first. (n,) int64."""
    rows = _rows(matrix)
    ranks = np.empty(len(rows), np.int64)
    ranks[np.lexsort((-matrix.data, rows))] = np.arange(len(rows)) - matrix.indptr[rows]
    return ranks


def nearest(matrix: sparse.csr_array, ranks: np.ndarray, k: int) -> sparse.csr_array:
    """Each row's k highest values alone; `ranks` are those of `rank_in_row`."""
    kept = ranks < k
    return _summed(matrix.data[kept], _rows(matrix)[kept], matrix.indices[kept], matrix.shape)


def co_visits(
    learned: Sequences, n_items: int, window: int, *, by_block: bool, pairs_in_block: bool
) -> sparse.csr_array:
    """(N, N): how often the column's item follows the row's within the window, each time 1 / distance.

    Items of one block have no order, so neither follows the other.

    Args:
        learned: events to count in.
        n_items: N.
        window: the greatest distance that counts.
        by_block: whether distance is counted in blocks rather than events.
        pairs_in_block: whether items of one block count as neighbours both ways, at distance 1.
    """
    shape = (n_items, n_items)
    users, blocks, items = learned.users, learned.blocks, learned.items
    found = sparse.csr_array(shape, dtype=np.float32)
    n_blocks = int(blocks[-1]) + 1 if len(blocks) else 0
    baskets = _summed(np.ones(len(items), np.float32), blocks, items, (n_blocks, n_items))
    if by_block:
        baskets.data[:] = 1.0
        owner = np.zeros(n_blocks, np.int64)
        owner[blocks] = users
        for distance in range(1, min(window, n_blocks - 1) + 1):
            followed = np.flatnonzero(owner[:-distance] == owner[distance:])
            found = found + (baskets[followed].T @ baskets[followed + distance]) * np.float32(1 / distance)
    else:
        for distance in range(1, min(window, len(items) - 1) + 1):
            first = np.flatnonzero((users[:-distance] == users[distance:]) & (blocks[:-distance] != blocks[distance:]))
            values = np.full(len(first), 1 / distance, np.float32)
            found = found + _summed(values, items[first], items[first + distance], shape)
    if pairs_in_block:
        baskets.data[:] = 1.0
        together = (baskets.T @ baskets).tocoo()
        other = together.row != together.col
        found = found + _summed(together.data[other], together.row[other], together.col[other], shape)
    return found.tocsr()


def damped(counts: sparse.csr_array, popularity: np.ndarray, exponent: float) -> sparse.csr_array:
    """Columns divided by popularity^exponent."""
    scale = np.power(np.maximum(popularity, 1.0), -exponent).astype(np.float32)
    return sparse.csr_array((counts.data * scale[counts.indices], counts.indices, counts.indptr), counts.shape)


def _rows(matrix: sparse.csr_array) -> np.ndarray:
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def _summed(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    """A sparse matrix in which values of the same place are added up."""
    found = sparse.coo_array((values.astype(np.float32), (rows, columns)), shape).tocsr()
    found.sum_duplicates()
    return found
