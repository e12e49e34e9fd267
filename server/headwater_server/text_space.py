"""The items' texts as a query finds them: their features, before any tower. The vector half of search.

What a tower makes of a text says what its readers like, not what it says: searched there, a film's own title finds it
among the first ten in 5 of 100 cases (docs/search.md). Independent of generations, so new items are found at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from headwater_core.shards import Delta, Mask, Vectors

MAX_CHANGED = 4_096
"""Texts that may lie beside the index, or an eighth of it if that is more; then it is built anew."""
_DEEPER = 4
"""How much further the index is searched where a filter refused too much."""


class TextSpace:
    """Immutable: a change makes a new one, so a search sees one state. Features are of length 1, or 0 for no text.

    Most of them lie in a FAISS index, as float16 like the stored features; what changed since lies beside it.
    """

    def __init__(self, dimension: int) -> None:
        """Without any item."""
        self._index: Any = None
        self._item_ids: tuple[str, ...] = ()
        self._row_of: dict[str, int] = {}
        self._alive: Mask = np.ones(0, np.bool_)
        self._changed = Delta.empty(dimension)
        self._changed_row: dict[str, int] = {}

    @property
    def item_count(self) -> int:
        """Items that can be found."""
        return int(self._alive.sum()) + len(self._changed.item_ids)

    @property
    def is_full(self) -> bool:
        """Whether so much has changed that the index should be built anew."""
        return len(self._changed.item_ids) > max(MAX_CHANGED, len(self._item_ids) // 8)

    def with_texts(self, item_ids: Sequence[str], features: npt.NDArray[np.float16]) -> TextSpace:
        """This space with the features (n, F) of n items' texts in place of older ones."""
        return self._with(item_ids, self._changed.updated(item_ids, features.astype(np.float32)))

    def without(self, item_ids: Sequence[str]) -> TextSpace:
        """This space without these items."""
        none = np.zeros((0, self._changed.vectors.shape[1]), np.float32)
        return self._with(item_ids, self._changed.updated([], none, item_ids))

    def rebuilt(self) -> TextSpace:
        """The same items, all of them in the index. For the compute threads."""
        alive = np.flatnonzero(self._alive)
        kept = self._index.reconstruct_n(0, len(self._alive))[alive] if len(alive) else self._changed.vectors[:0]
        vectors = np.concatenate([kept, self._changed.vectors])
        other = TextSpace(vectors.shape[1])
        if len(vectors):
            faiss.omp_set_num_threads(1)
            other._index = faiss.IndexScalarQuantizer(
                vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
            )
            other._index.add(np.ascontiguousarray(vectors))
        other._item_ids = (*(self._item_ids[row] for row in alive.tolist()), *self._changed.item_ids)
        other._row_of = {item_id: row for row, item_id in enumerate(other._item_ids)}
        other._alive = np.ones(len(other._item_ids), np.bool_)
        return other

    def features(self, item_ids: Iterable[str]) -> dict[str, Vectors]:
        """The features (F,) of those of the items that have some."""
        found: dict[str, Vectors] = {}
        for item_id in item_ids:
            if (row := self._changed_row.get(item_id)) is not None:
                found[item_id] = self._changed.vectors[row]
            elif (row := self._row_of.get(item_id)) is not None and self._alive[row]:
                found[item_id] = self._index.reconstruct(row)
        return found

    def nearest(self, features: Vectors, k: int, passes: Callable[[str], bool]) -> list[str]:
        """The k items whose texts are most like a query's features (F,), by cosine, best first, of those that pass."""
        return [item_id for _, item_id in self.scored(features, k, passes)]

    def scored(self, features: Vectors, k: int, passes: Callable[[str], bool]) -> list[tuple[float, str]]:
        """As `nearest`, with the inner products."""
        beside = zip(self._changed.item_ids, (self._changed.vectors @ features).tolist(), strict=True)
        changed = [(score, item_id) for item_id, score in beside if passes(item_id)]
        wanted = 2 * k
        while True:
            found = self._searched(features, wanted)
            passing = [(score, item_id) for score, item_id in found if passes(item_id)]
            if len(passing) >= k or len(found) < wanted:
                return sorted(passing + changed, key=lambda scored: (-scored[0], scored[1]))[:k]
            wanted *= _DEEPER

    def _searched(self, features: Vectors, k: int) -> list[tuple[float, str]]:
        """The k best of the index."""
        if self._index is None:
            return []
        # The selector reads the bits in place, so both must live until the search is done.
        bits = np.packbits(self._alive, bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]
        parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        faiss.omp_set_num_threads(1)  # kept per calling thread: else callers × cores threads fight for the cores
        count = min(k, len(self._item_ids))
        scores, rows = self._index.search(features[None, :], count, params=parameters)
        return [
            (score, self._item_ids[row])
            for score, row in zip(scores[0].tolist(), rows[0].tolist(), strict=True)
            if row >= 0 and self._alive[row]
        ]

    def _with(self, item_ids: Iterable[str], changed: Delta) -> TextSpace:
        other = copy.copy(self)
        other._changed = Delta(changed.item_ids, changed.vectors)  # the mask below is what tells who is gone
        other._changed_row = {item_id: row for row, item_id in enumerate(changed.item_ids)}
        other._alive = self._alive.copy()
        other._alive[[row for item_id in item_ids if (row := self._row_of.get(item_id)) is not None]] = False
        return other
