"""Which index a base shard is searched with: the fastest of those that find enough, as measured on this machine.

Recall is that of the hundred best rows, as the server finds them: by the index, then scored by the exact vectors.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from headwater_core.indexes import MEASURED_DEPTH, IndexKind, kind_of, n_lists
from headwater_core.retrieval import Retriever
from headwater_core.shards import Delta, Rows, Shard, Vectors, VectorTable

MEASURED_ABOVE = 20_000
"""Items of a shard up to which flat is taken unmeasured: what another kind saves there is nothing beside a request."""
_QUERIES = 200
"""At most so many are searched for; of each kind two seconds at a million items."""
_ENOUGH_QUERIES = 64
"""Item vectors make up for interests that are fewer."""
_SURE = 1.64
"""Standard errors below the mean of what is measured."""
_SEED = 0


class Recall(NamedTuple):
    """The share of the hundred best rows that an index finds."""

    mean: float
    """Over queries."""
    at_least: float
    """What the mean over all that users ask for surely is: with 95 %, by how much the queries differ."""


class ChosenShard(NamedTuple):
    """A base shard, and what is known of its index."""

    shard: Shard
    recall: float | None = None
    """The share of the hundred best rows that are found, mean over queries; None: not measured."""
    search_us: float | None = None
    """What a search takes, median over queries, in microseconds; None: not measured."""

    @property
    def kind(self) -> IndexKind:
        """What the shard is searched with."""
        return kind_of(self.shard.index)


def choose(
    item_ids: Sequence[str], vectors: Vectors, interests: Vectors, recall: float, kind: IndexKind | None = None
) -> ChosenShard:
    """A shard of these items, in this order, with the fastest index that reaches a recall.

    Args:
        item_ids: n different ones.
        vectors: (n, d), theirs.
        interests: (q, d), what users ask for; where there are few, item vectors are asked for beside them.
        recall: what is surely to be reached; an inverted file searches as few lists as do.
        kind: None: the fastest; else this one, or flat where it does not reach the recall.
    """
    if len(item_ids) <= MEASURED_ABOVE or kind in (IndexKind.FLAT, IndexKind.SQ8):
        return ChosenShard(Shard.build(item_ids, vectors, kind or IndexKind.FLAT))
    flat = Shard.build(item_ids, vectors, IndexKind.FLAT)
    bench = ShardBench(flat, _queries(vectors, interests))
    # SQ8 is not tried: lists of the same codes are faster unless nothing at all may be missed (docs/performance.md).
    lists = Shard.build(item_ids, vectors, IndexKind.IVF)
    reached = bench.tune(lists, recall)
    reaching = [ChosenShard(lists, reached.mean)] if reached.at_least >= recall else []
    if kind is None or not reaching:
        reaching.append(ChosenShard(flat, 1.0))
    timed = zip(reaching, bench.search_us([chosen.shard for chosen in reaching]), strict=True)
    return min((chosen._replace(search_us=search_us) for chosen, search_us in timed), key=attrgetter("search_us"))


def _queries(vectors: Vectors, interests: Vectors) -> Vectors:
    """(q, d), what is searched for in order to measure."""
    chance = np.random.default_rng(_SEED)
    if len(interests) > _QUERIES:
        return interests[chance.choice(len(interests), _QUERIES, replace=False)]
    missing = max(0, _ENOUGH_QUERIES - len(interests))
    return np.concatenate([interests, vectors[chance.choice(len(vectors), missing, replace=False)]])


class ShardBench:
    """Searches the same items by several indexes, as the server does."""

    def __init__(self, flat: Shard, queries: Vectors) -> None:
        """Args: flat: a shard of the items that is searched exactly; queries: (q, d), searched for one by one."""
        self._queries = queries
        self._delta = Delta.empty(flat.vectors.shape[1])
        self._table = VectorTable([flat], self._delta)
        self._best = self._found(flat)

    def tune(self, shard: Shard, recall: float) -> Recall:
        """Let an inverted file search as few lists as surely reach a recall; what recall an index reaches."""
        reached = Recall(0.0, 0.0)
        for n_probes in _steps(n_lists(shard.index)):
            if n_lists(shard.index) > 1:
                shard.index.nprobe = n_probes
            reached = self.recall(shard)
            if reached.at_least >= recall:
                break
        return reached

    def recall(self, shard: Shard) -> Recall:
        """What recall an index reaches as it is."""
        shares = [np.isin(best, rows).mean() for best, rows in zip(self._best, self._found(shard), strict=True)]
        mean = float(np.mean(shares))
        return Recall(mean, mean - _SURE * float(np.std(shares)) / math.sqrt(len(shares)))

    def search_us(self, shards: Sequence[Shard]) -> list[float]:
        """What a search takes, by shard: each query is searched for by all of them before the next, so all meet the
        machine in the same mood."""
        retrievers = [self._retriever(shard) for shard in shards]
        took_s = np.empty((len(self._queries), len(shards)))
        for query, row in zip(self._queries, took_s, strict=True):
            for at, retriever in enumerate(retrievers):
                began_s = time.perf_counter()
                retriever.search(query[None], MEASURED_DEPTH)
                row[at] = time.perf_counter() - began_s
        return [float(each) for each in np.median(took_s, axis=0) * 1e6]

    def _found(self, shard: Shard) -> list[Rows]:
        retriever = self._retriever(shard)
        return [retriever.search(query[None], MEASURED_DEPTH).rows for query in self._queries]

    def _retriever(self, shard: Shard) -> Retriever:
        return Retriever([shard], self._delta, self._table)


def _steps(last: int) -> Iterable[int]:
    """1, 2, 3, 4, 6, 8, 12, … and the last."""
    step = 1
    while step < last:
        yield step
        if 3 * step // 2 < last and step > 1:
            yield 3 * step // 2
        step *= 2
    yield last
