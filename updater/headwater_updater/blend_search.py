"""Corrects the blend while events come in: which of its neighbours would have ranked the latest targets better?

Every target is ranked under the blend that serves and under those one step away from it, before it is learned. When
one of them has been better for long enough that chance does not explain it, it takes over. So how much co-visits, a
user's own items and trends count follows what users do, without anybody training anything for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from headwater_core.co_visits import Blend
from headwater_core.trends import HALF_LIVES
from headwater_updater.blending import DECAYS, REPEAT_DECAYS, REPEAT_STRENGTHS, STRENGTHS
from headwater_updater.prequential import ScoredTarget

TREND_STRENGTHS = (0.0, 0.15, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0)
_MIN_TARGETS = 200
_MOST_TARGETS = 4000.0
"""What is older than about so many targets is faded out."""
_SURE = 2.0
"""By how many standard errors a neighbour must be better."""


class BlendSearch:
    """A walk over blends. Attributes: blend: where it is."""

    def __init__(self, blend: Blend, *, with_repeats: bool) -> None:
        """Args: blend: where to begin; with_repeats: whether a user's own items are candidates."""
        self._with_repeats = with_repeats
        self._move(blend)

    def _move(self, blend: Blend) -> None:
        self.blend = blend
        self._neighbours = neighbours(blend, with_repeats=self._with_repeats)
        self._n = 0.0
        self._sums = [0.0] * len(self._neighbours)
        self._squares = [0.0] * len(self._neighbours)

    @property
    def blends(self) -> list[Blend]:
        """What targets are to be ranked under, the blend that serves first."""
        return [self.blend, *self._neighbours]

    def observe(self, targets: Iterable[ScoredTarget]) -> bool:
        """Take in how targets ranked under `blends`; whether the blend is another one now."""
        for target in targets:
            if len(target.ranks_under) != len(self._neighbours) + 1:
                continue  # of a user of whom nothing was known: blends make no difference
            served, *others = (target._replace(rank=rank).gain for rank in target.ranks_under)
            self._n += 1
            for index, gain in enumerate(others):
                self._sums[index] += gain - served
                self._squares[index] += (gain - served) ** 2
        if self._n < _MIN_TARGETS:
            return False
        best = max(range(len(self._neighbours)), key=self._certainty)
        if self._certainty(best) > _SURE:
            self._move(self._neighbours[best])
            return True
        if self._n > _MOST_TARGETS:
            self._n /= 2
            self._sums = [value / 2 for value in self._sums]
            self._squares = [value / 2 for value in self._squares]
        return False

    def _certainty(self, index: int) -> float:
        """A neighbour's mean advantage in standard errors."""
        mean = self._sums[index] / self._n
        variance = max(self._squares[index] / self._n - mean**2, 0.0)
        return mean / math.sqrt(variance / self._n) if variance else 0.0

    def state(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "blend": self.blend.to_dict(),
            "with_repeats": self._with_repeats,
            "n": self._n,
            "sums": self._sums,
            "squares": self._squares,
        }

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> BlendSearch:
        """The search that `state` described."""
        search = cls(Blend.from_dict(state["blend"]), with_repeats=bool(state["with_repeats"]))
        search._n = float(state["n"])
        search._sums, search._squares = list(map(float, state["sums"])), list(map(float, state["squares"]))
        if not len(search._sums) == len(search._squares) == len(search._neighbours):
            raise ValueError("the blend's neighbours are others now")
        return search


def neighbours(blend: Blend, *, with_repeats: bool) -> list[Blend]:
    """The blends that differ from this one by a step in one respect."""
    found: list[Blend] = []
    found += _steps(blend, "strength", STRENGTHS)
    if blend.strength:
        found += _steps(blend, "decay", DECAYS)
    if with_repeats:
        found += _steps(blend, "repeat_strength", REPEAT_STRENGTHS)
        if blend.repeat_strength:
            found += _steps(blend, "repeat_decay", REPEAT_DECAYS)
    if blend.trend_strength:
        found += _steps(blend, "trend_strength", TREND_STRENGTHS)
        found += _steps(blend, "trend_half_life", HALF_LIVES)
    else:
        first = replace(blend, trend_strength=TREND_STRENGTHS[1])
        found += [replace(first, trend_half_life=half_life) for half_life in HALF_LIVES]
    return found


def _steps(blend: Blend, name: str, grid: tuple[float, ...]) -> list[Blend]:
    """The blends one step down and one step up from the place that is nearest to this one's."""
    steps = sorted(grid)
    place = min(range(len(steps)), key=lambda index: abs(steps[index] - asdict(blend)[name]))
    others = [steps[index] for index in (place - 1, place + 1) if 0 <= index < len(steps)]
    return [replace(blend, **{name: value}) for value in others]
