"""How far a round's steps go: by how fast events arrive, and by how well they are foreseen.

Two things are set anew each round, within bounds, beside `steps_per_round`, which the operator sets:

- the rates rise, up to _MAX_RISE times, while targets are foreseen worse than they used to be by more than chance
  explains (drift), and with them the steps;
- above _BUSY_EVENTS_PER_S replay and further steps give way, so that learning keeps up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from headwater_updater.prequential import ScoredTarget

_MAX_RISE = 4.0
_BUSY_EVENTS_PER_S = 200.0
_FAST, _SLOW = 20.0, 500.0
"""Rounds over which the loss of now and the loss it used to be are averaged. A round counts once, however many targets
it has: those of one user are foreseen well or badly together."""
_SURE = 4.0
"""Standard errors by which the one must exceed the other before anything rises; each further one doubles it."""
_ARRIVAL_ROUNDS = 10.0
"""Rounds over which the arrival rate is averaged."""


class RoundPlan(NamedTuple):
    """What one round does."""

    rate: float
    """What the learning rates are multiplied with."""
    n_steps: int
    """How often it goes through its events."""
    replay_share: float
    """How much of the replay it would have that it takes, 0 to 1."""


class Pacing:
    """Follows the loss and the arrival rate of a stream."""

    def __init__(self, steps_per_round: int = 1) -> None:
        """Args: steps_per_round: of a round while nothing is unusual."""
        self._steps_per_round = steps_per_round
        self._n = 0.0
        self._fast = self._slow = self._square = 0.0
        self._events_per_s = 0.0
        self._last_us: int | None = None

    @property
    def events_per_s(self) -> float:
        """How fast events arrive, of late."""
        return self._events_per_s

    @property
    def drift(self) -> float:
        """By how many standard errors targets are foreseen worse than they used to be; 0 while little is known."""
        variance = self._square - self._slow**2
        if self._n < 2 * _FAST or variance <= 0:
            return 0.0
        # An exponential mean over so many rounds varies half as much as a plain one over them.
        return (self._fast - self._slow) / math.sqrt(variance / (2 * _FAST - 1))

    def foresaw(self, targets: Iterable[ScoredTarget]) -> None:
        """Take in how well a round's targets were foreseen."""
        losses = [target.loss for target in targets if target.loss is not None]
        if not losses:
            return
        loss = math.fsum(losses) / len(losses)
        self._n += 1.0
        self._fast += (loss - self._fast) / min(self._n, _FAST)
        self._slow += (loss - self._slow) / min(self._n, _SLOW)
        self._square += (loss**2 - self._square) / min(self._n, _SLOW)

    def arrived(self, n_events: int, last_us: int) -> None:
        """Take in that so many events came until `last_us`, microseconds."""
        if self._last_us is not None and last_us > self._last_us:
            rate = n_events / ((last_us - self._last_us) / 1e6)
            # Seldom rounds tell at once that it is quiet; a burst is believed only once it lasts.
            weight = 1.0 if rate < self._events_per_s else 1.0 / _ARRIVAL_ROUNDS
            self._events_per_s += (rate - self._events_per_s) * weight
        self._last_us = max(last_us, self._last_us or 0)

    def plan(self) -> RoundPlan:
        """How the next round is learned."""
        rise = min(_MAX_RISE, 2.0 ** max(0.0, self.drift - _SURE))
        allowed = _BUSY_EVENTS_PER_S / max(self._events_per_s, 1e-9)
        n_steps = max(1, math.floor(min(self._steps_per_round * math.sqrt(rise), allowed)))
        return RoundPlan(rise, n_steps, min(1.0, allowed))

    def state(self) -> dict[str, Any]:
        """Everything but the setting, as JSON can hold it."""
        return {
            "n": self._n,
            "fast": self._fast,
            "slow": self._slow,
            "square": self._square,
            "events_per_s": self._events_per_s,
            "last_us": self._last_us,
        }

    @classmethod
    def load_state(cls, state: Mapping[str, Any], steps_per_round: int) -> Pacing:
        """The pacing that `state` told of."""
        pacing = cls(steps_per_round)
        pacing._n, pacing._fast, pacing._slow = float(state["n"]), float(state["fast"]), float(state["slow"])
        pacing._square, pacing._events_per_s = float(state["square"]), float(state["events_per_s"])
        pacing._last_us = None if state["last_us"] is None else int(state["last_us"])
        return pacing
