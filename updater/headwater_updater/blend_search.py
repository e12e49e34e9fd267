"""Corrects the blend while events come in: which of its neighbours would have ranked the latest targets better?

Every target is ranked under the blend that serves and under those one step away from it, before it is learned. When
one of them has been better for long enough that chance does not explain it, it takes over. So how much co-visits, a
user's own items and trends count follows what users do, without anybody training anything for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from headwater_core.co_visits import Blend
from headwater_updater.blending import DECAYS, REPEAT_DECAYS, REPEAT_STRENGTHS, STRENGTHS, trends_of
from headwater_updater.prequential import ScoredTarget
from headwater_updater.ranking import gains

_MIN_TARGETS = 100
_MOST_TARGETS = 4000.0
"""What is older than about so many targets is faded out."""
_SURE = 3.0
"""By how many standard errors a neighbour must be better: there are dozens, and one of them is always the luckiest."""


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
        self._sums = np.zeros(len(self._neighbours))
        self._squares = np.zeros(len(self._neighbours))

    @property
    def blends(self) -> list[Blend]:
        """What targets are to be ranked under, the blend that serves first."""
        return [self.blend, *self._neighbours]

    def observe(self, targets: Iterable[ScoredTarget]) -> bool:
        """Take in how targets ranked under `blends`; whether the blend is another one now."""
        # Of a user of whom nothing was known there are no ranks: blends make no difference.
        wanted = len(self._neighbours) + 1
        ranks = [target.ranks_under for target in targets if len(target.ranks_under) == wanted]
        if ranks:
            found = gains(np.array(ranks))  # (n, V)
            advantage = found[:, 1:] - found[:, :1]
            self._n += len(ranks)
            self._sums += advantage.sum(0)
            self._squares += (advantage**2).sum(0)
        if self._n < _MIN_TARGETS:
            return False
        certainty = self._certainty()
        best = int(certainty.argmax())
        if certainty[best] > _SURE:
            self._move(self._neighbours[best])
            return True
        if self._n > _MOST_TARGETS:
            self._n /= 2
            self._sums /= 2
            self._squares /= 2
        return False

    def _certainty(self) -> np.ndarray:
        """Each neighbour's mean advantage in standard errors; (V,)."""
        means = self._sums / self._n
        variances = np.maximum(self._squares / self._n - means**2, 0.0)
        errors = np.sqrt(variances / self._n)
        return np.divide(means, errors, out=np.zeros_like(means), where=errors > 0)

    def state(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "blend": self.blend.to_dict(),
            "with_repeats": self._with_repeats,
            "n": self._n,
            "sums": self._sums.tolist(),
            "squares": self._squares.tolist(),
        }

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> BlendSearch:
        """The search that `state` described; one whose neighbours were others, in another release, counts anew."""
        search = cls(Blend.from_dict(state["blend"]), with_repeats=bool(state["with_repeats"]))
        sums, squares = np.array(state["sums"], float), np.array(state["squares"], float)
        if len(sums) == len(squares) == len(search._neighbours):
            search._n, search._sums, search._squares = float(state["n"]), sums, squares
        return search


def neighbours(blend: Blend, *, with_repeats: bool) -> list[Blend]:
    """The blends that differ from this one by a step in one respect, or by any other trend, which may turn fast."""
    found: list[Blend] = []
    found += _steps(blend, "strength", STRENGTHS)
    if blend.strength:
        found += _steps(blend, "decay", DECAYS)
    if with_repeats:
        found += _steps(blend, "repeat_strength", REPEAT_STRENGTHS)
        if blend.repeat_strength:
            found += _steps(blend, "repeat_decay", REPEAT_DECAYS)
    return found + [other for other in trends_of(blend) if other != blend]


def _steps(blend: Blend, name: str, grid: tuple[float, ...]) -> list[Blend]:
    """The blends one step down and one step up from the place that is nearest to this one's."""
    steps = sorted(grid)
    place = min(range(len(steps)), key=lambda index: abs(steps[index] - asdict(blend)[name]))
    others = [steps[index] for index in (place - 1, place + 1) if 0 <= index < len(steps)]
    return [replace(blend, **{name: value}) for value in others]
