"""What was popular when a target came, as a prior that training's softmax starts from.

Where a catalogue turns over within hours, most of what can be said of a next item is which items live just now. Towers
trained without that knowledge learn it in place of taste: who reads together with whom on one day. With the trend of
each target's own moment added to the logits, and not learned, they are left with what differs between users.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from headwater_core.co_visits import Blend, Bonuses, trend_bonuses
from headwater_core.losses import Prior
from headwater_core.trends import HALF_LIVES, TrendTable
from headwater_updater.ranking import gains

_MIN_RATIO = 3.0
"""How many times as well as popularity of all time the trend must rank. News: 12; films and a shop: 1.5 and 1.9."""
_MOMENTS = 1000
"""At so many moments of a log the trend is looked at, at most."""
_MIN_PART = 64
_MAX_TRIED = 4000
"""Targets that the choice rests on, at most."""


class TrendPrior:
    """The trend at every moment of a log."""

    def __init__(self, rows: np.ndarray, times_us: np.ndarray, n_items: int, blend: Blend) -> None:
        """Follow a log from its beginning.

        Args:
            rows: (t,) the targets' rows, in the order of their times.
            times_us: (t,), ascending.
            n_items: how many items there are; their rows are 1 to n.
            blend: which trend, and how it is added.
        """
        table = TrendTable()
        table.grow(n_items)
        size = _part(len(rows))
        self._starts_us, self._bonuses = times_us[::size], list[Bonuses]()
        for start in range(0, len(rows), size):
            self._bonuses.append(trend_bonuses(table.trend(int(blend.trend_half_life)), blend))
            table.add(rows[start : start + size])

    def at(self, times_us: np.ndarray, rows: np.ndarray) -> Prior:
        """The prior of targets at these times, of candidates (N,), ascending and different.

        It knows nothing that shares the target's time.
        """
        moment = _moments(self._starts_us, times_us)
        different, which = np.unique(moment, return_inverse=True)
        return prior([self._bonuses[index] for index in different.tolist()], which, rows)


def prior(moments: Sequence[Bonuses], which: np.ndarray, rows: np.ndarray) -> Prior:
    """What each of some moments gives the candidates (N,), ascending and different, and (P,) each target's moment."""
    values = np.zeros((len(moments), len(rows)), np.float32)
    for index, given in enumerate(moments):
        at = np.searchsorted(rows, given.items)
        met = at < len(rows)
        met[met] = rows[at[met]] == given.items[met]
        values[index, at[met]] = given.values[met]
    return Prior(torch.from_numpy(values), torch.from_numpy(which))


def choose_prior(rows: np.ndarray, times_us: np.ndarray, n_items: int) -> Blend | None:
    """The trend that training is to start from; None where what was popular ever says about as much.

    Args:
        rows: (t,) the targets' rows, in the order of their times; the later half decides.
        times_us: (t,), ascending. What shares a target's moment says nothing of it, as in `TrendPrior`.
        n_items: how many items there are.
    """
    tried = np.unique(np.linspace(len(rows) // 2, len(rows), _MAX_TRIED, endpoint=False).astype(np.int64))
    table, counts = TrendTable(), np.zeros(n_items + 1)
    table.grow(n_items)
    ranks: dict[int | None, list[int]] = {None: [], **{half_life: [] for half_life in HALF_LIVES}}
    done, size = 0, _part(len(rows))
    tried = tried[tried < len(rows)]
    known = size * _moments(times_us[::size], times_us[tried])
    for place, until in zip(tried.tolist(), known.tolist(), strict=True):
        table.add(rows[done:until])
        np.add.at(counts, rows[done:until], 1.0)
        done, row = until, int(rows[place])
        ranks[None].append(_rank(counts, row))
        for half_life in HALF_LIVES:
            ranks[half_life].append(_rank(table.faded(half_life), row))
    if not ranks[None]:
        return None
    found = {half_life: float(gains(np.array(each)).mean()) for half_life, each in ranks.items()}
    best = max(HALF_LIVES, key=lambda half_life: found[half_life])
    if found[best] <= _MIN_RATIO * found[None]:
        return None
    return Blend(trend_strength=1.0, trend_half_life=best, trend_sharpness=1e5)


def _part(n_targets: int) -> int:
    """Targets from one moment to the next."""
    return max(_MIN_PART, -(-n_targets // _MOMENTS))


def _moments(starts_us: np.ndarray, times_us: np.ndarray) -> np.ndarray:
    """The last moment before each time; the first one knows nothing."""
    found: np.ndarray = np.maximum(np.searchsorted(starts_us, times_us, side="left") - 1, 0)
    return found


def _rank(weights: np.ndarray, row: int) -> int:
    """Ties count against it; 0 where nothing had happened to it."""
    return int((weights >= weights[row]).sum()) if weights[row] > 0 else 0


PriorOf = Callable[[np.ndarray, np.ndarray], Prior]
"""(P,) times in microseconds and (N,) candidate rows, ascending → the prior."""
