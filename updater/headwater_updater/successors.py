"""Counting co-visits: which items users went on to after an item, as training keeps it.

Events that share a time (a basket) have no order, so pairs are counted from block to block, never inside one: an item
counts for those of the next REACH blocks, the nearer the more (1 / distance), and a large block no more than a small
one. This is the strongest of the simple recommenders; docs/quality.md has its figures by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headwater_core.co_visits import SUCCESSORS, Successors
from headwater_core.histories import TokenSequence
from headwater_updater.examples import block_starts

REACH = 10
"""In timestamp blocks."""
MAX_DISTANCE = 40
"""In events, so that the work for a basket of hundreds stays bounded."""
POPULARITY_POWER = 0.5
"""A successor's weight is its count over its popularity to this power: what everybody meets says little."""
_CONSOLIDATE_AT = 8_000_000
"""Pairs that are counted before they are summed: what bounds the memory of counting a large log."""

Rows = npt.NDArray[np.int64]


class SuccessorTable:
    """The counts of each row's strongest successors; row 0 is no item.

    Attributes:
        rows: (n + 1, SUCCESSORS) int32, the successors; 0 = an empty place.
        counts: (n + 1, SUCCESSORS) float32, 0 where empty.
    """

    def __init__(self, *, keeps_repeats: bool) -> None:
        """A table without items. Args: keeps_repeats: whether an item may follow itself."""
        self.rows = np.zeros((1, SUCCESSORS), np.int32)
        self.counts = np.zeros((1, SUCCESSORS), np.float32)
        self._keeps_repeats = keeps_repeats

    def grow(self, n: int) -> None:
        """Append n items that nothing follows yet."""
        self.rows = np.concatenate([self.rows, np.zeros((n, SUCCESSORS), np.int32)])
        self.counts = np.concatenate([self.counts, np.zeros((n, SUCCESSORS), np.float32)])

    def fit(self, histories: Iterable[tuple[TokenSequence, np.ndarray]], popularity: np.ndarray) -> None:
        """Count anew, from whole histories and (T,) what each of their events counts as a target.

        Args:
            histories: all that may be counted.
            popularity: (n + 1,), decides which successors are kept.
        """
        n_rows = len(self.rows)
        keys, sums = np.empty(0, np.int64), np.empty(0, np.float64)
        waiting: list[tuple[Rows, np.ndarray]] = []
        n_waiting = 0
        for sequence, weights in histories:
            sources, targets, counts = self._pairs(sequence, weights, 0)
            waiting.append((sources * n_rows + targets, counts))
            n_waiting += len(sources)
            if n_waiting > _CONSOLIDATE_AT:
                keys, sums = _summed([(keys, sums), *waiting])
                waiting, n_waiting = [], 0
        keys, sums = _summed([(keys, sums), *waiting])
        self.rows[:], self.counts[:] = 0, 0.0
        sources, targets = keys // n_rows, keys % n_rows
        order = np.lexsort((targets, -sums / _damping(popularity[targets]), sources))
        sources, targets, sums = sources[order], targets[order], sums[order]
        place = np.arange(len(sources)) - np.searchsorted(sources, sources)
        kept = place < SUCCESSORS
        self.rows[sources[kept], place[kept]] = targets[kept]
        self.counts[sources[kept], place[kept]] = sums[kept]

    def add(self, sequence: TokenSequence, weights: np.ndarray, start: int) -> Rows:
        """Count the pairs whose targets are events from `start` on; the rows whose successors changed, sorted."""
        sources, targets, counts = self._pairs(sequence, weights, start)
        for source, target, count in zip(sources.tolist(), targets.tolist(), counts.tolist(), strict=True):
            found = np.flatnonzero(self.rows[source] == target)
            # A full row gives up its weakest successor (Metwally et al. 2005, without the inherited count).
            place = int(found[0]) if len(found) else int(self.counts[source].argmin())
            if not len(found):
                self.rows[source, place], self.counts[source, place] = target, 0.0
            self.counts[source, place] += count
        return np.unique(sources)

    def of(self, row: int, popularity: np.ndarray) -> Successors:
        """What follows an item, by row. Args: popularity: (n + 1,)."""
        used = self.counts[row] > 0
        items = self.rows[row, used].astype(np.int64)
        return Successors(items, (self.counts[row, used] / _damping(popularity[items])).astype(np.float32))

    def state(self, of: Rows) -> dict[str, Tensor]:
        """The counts of these rows, without the empty places (the last of every row)."""
        rows, counts = torch.from_numpy(self.rows[of]), torch.from_numpy(self.counts[of])
        used = counts > 0
        return {"lengths": used.sum(1), "rows": rows[used], "counts": counts[used]}

    def load_state(self, state: Mapping[str, Tensor], of: Rows) -> None:
        """Take over what `state` returned of these rows.

        Raises:
            ValueError: it does not fit.
        """
        lengths = state["lengths"].numpy()
        if len(lengths) != len(of) or len({len(state["rows"]), len(state["counts"]), int(lengths.sum())}) > 1:
            raise ValueError("the successors do not fit the items")
        used = np.arange(SUCCESSORS) < lengths[:, None]
        rows, counts = np.zeros(used.shape, np.int32), np.zeros(used.shape, np.float32)
        rows[used], counts[used] = state["rows"].numpy(), state["counts"].numpy()
        self.rows[of], self.counts[of] = rows, counts

    def _pairs(self, sequence: TokenSequence, weights: np.ndarray, start: int) -> tuple[Rows, Rows, np.ndarray]:
        """(p,) sources, (p,) targets from `start` on, and (p,) what each pair counts."""
        at = np.flatnonzero(sequence.item_rows > 0)
        rows, worth = sequence.item_rows[at], np.where(at >= start, weights[at], 0.0)
        block = blocks(sequence.event_time_us[at])
        size = np.bincount(block) if len(block) else block
        found: list[tuple[Rows, Rows, np.ndarray]] = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
        for distance in range(1, min(MAX_DISTANCE, len(rows) - 1) + 1):
            gap = block[distance:] - block[:-distance]
            if gap.min() > REACH:
                break
            source, target, value = rows[:-distance], rows[distance:], worth[distance:]
            counts = (gap > 0) & (gap <= REACH) & (value > 0)
            if not self._keeps_repeats:
                counts &= source != target
            weight = value[counts] / (gap[counts] * size[block[:-distance][counts]])
            found.append((source[counts], target[counts], weight))
        sources, targets, counted = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return sources, targets, counted


def blocks(event_time_us: np.ndarray) -> Rows:
    """Which timestamp block each event is in, from 0. (T,) in time order → (T,) int64."""
    return np.cumsum(block_starts(event_time_us) == np.arange(len(event_time_us))) - 1


def _damping(popularity: np.ndarray) -> np.ndarray:
    damping: np.ndarray = np.maximum(popularity, 1.0) ** POPULARITY_POWER
    return damping


def _summed(parts: Sequence[tuple[Rows, np.ndarray]]) -> tuple[Rows, np.ndarray]:
    """Different keys, ascending, with the sums of their values."""
    keys, place = np.unique(np.concatenate([keys for keys, _ in parts]), return_inverse=True)
    return keys, np.bincount(place, np.concatenate([values for _, values in parts]), len(keys))
