"""A test that may be looked at after every observation: has one model become worse than another, or surely not?

Both models rank the same targets. For a target, a is what the reference gained and b what the candidate did, both in
[0, 1]. Two claims are tested by betting against them (Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting", 2024): "the candidate gains at least what the reference does", and "it loses the tolerance or
more". The capital of who bets against a true claim exceeds 1/alpha with a probability of alpha at most, however often
one looks (Ville's inequality), so the test ends whenever it is sure, and knows nothing of a planned size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

ALPHA = 1e-3
"""How often a claim that is true is given up, at most."""
_STAKES = 2.0 ** -np.arange(1, 9)
"""(S,) parts of the capital put on each observation, side by side: small effects need small ones."""


class SequentialTest:
    """A candidate against a reference, target by target. Attributes: n: targets so far."""

    def __init__(self, tolerance: float) -> None:
        """Args: tolerance: the share of the reference's gain that may be lost, in [0, 1)."""
        if not 0.0 <= tolerance < 1.0:
            raise ValueError(f"tolerance is {tolerance}; must be in [0, 1)")
        self.tolerance = tolerance
        self.n = 0
        self._reference = self._fall = self._square = 0.0  # sums of a, a - b and (a - b)²
        self._against_equal = np.zeros(len(_STAKES))  # log capital of each stake
        self._against_worse = np.zeros(len(_STAKES))

    def add(self, pairs: Iterable[tuple[float, float]]) -> None:
        """Take in the reference's and the candidate's gain of each target."""
        for a, b in pairs:
            self.n += 1
            self._reference += a
            self._fall += a - b
            self._square += (a - b) ** 2
            self._against_equal += np.log1p(_STAKES * (a - b))
            self._against_worse += np.log1p(_STAKES * (b - (1.0 - self.tolerance) * a))

    @property
    def fall(self) -> float:
        """By what share of the reference's gain the candidate is behind it; negative: ahead."""
        return self._fall / self._reference if self._reference else 0.0

    @property
    def has_fallen(self) -> bool:
        """Whether the candidate is worse for sure."""
        return _capital(self._against_equal) > 1.0 / ALPHA

    @property
    def has_held(self) -> bool:
        """Whether the candidate surely does not lose as much as the tolerance."""
        return _capital(self._against_worse) > 1.0 / ALPHA

    def smallest_fall(self, n: int) -> float:
        """The smallest fall that so many targets like those so far would tell, about, as a share; infinite: unknown.

        The best stake's log capital grows by mean² / (2 · mean square) a target, and must reach the log of the number
        of stakes over alpha.
        """
        if not self.n or not n or not self._reference:
            return math.inf
        mean = math.sqrt(2.0 * math.log(len(_STAKES) / ALPHA) * self._square / self.n / n)
        return mean / (self._reference / self.n)

    def state(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "tolerance": self.tolerance,
            "n": self.n,
            "sums": [self._reference, self._fall, self._square],
            "against_equal": self._against_equal.tolist(),
            "against_worse": self._against_worse.tolist(),
        }

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> SequentialTest:
        """The test that `state` told of.

        Raises:
            ValueError: it is of a release with other stakes.
        """
        test = cls(float(state["tolerance"]))
        test.n = int(state["n"])
        test._reference, test._fall, test._square = (float(each) for each in state["sums"])
        test._against_equal, test._against_worse = np.array(state["against_equal"]), np.array(state["against_worse"])
        if not len(test._against_equal) == len(test._against_worse) == len(_STAKES):
            raise ValueError("the stakes are others")
        return test


def _capital(log_capitals: np.ndarray) -> float:
    """Of who divides one unit evenly among the stakes."""
    top = float(log_capitals.max())
    return math.exp(min(top, 700.0)) * float(np.exp(log_capitals - top).mean())
