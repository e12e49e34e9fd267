"""Prequential evaluation: every event is foreseen first and learned after, so every event is a test."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

TOP = 10
SLICES = ("all", "new_item", "new_user")


class ScoredTarget(NamedTuple):
    """How well one event was foreseen, before it was learned."""

    position: int
    """Of the event in the log."""
    rank: int
    """Of its item among all known ones, from 1; 0: a miss, because it was not known or is left out as seen."""
    is_new_item: bool
    """No event on the item had been learned."""
    is_new_user: bool
    """Nothing of the user came before it."""
    loss: float | None = None
    """Minus the log of its probability among all items; None for a miss and for a new user."""
    ranks_under: tuple[int, ...] = ()
    """What its rank would have been under other blends, where that was asked."""
    top: tuple[int, ...] = ()
    """The rows of the first ten, where that was asked."""

    @property
    def hit(self) -> float:
        """1 when the item was among the first ten, else 0: HR@10 of one target."""
        return float(0 < self.rank <= TOP)

    @property
    def gain(self) -> float:
        """The discounted gain of the item's place among the first ten: NDCG@10 of one target."""
        return self.hit / math.log2(self.rank + 1) if self.rank else 0.0


class Tally(NamedTuple):
    """Sums over targets."""

    n: int = 0
    hits: float = 0.0
    gains: float = 0.0

    def plus(self, target: ScoredTarget) -> Tally:
        """With one target more."""
        return Tally(self.n + 1, self.hits + target.hit, self.gains + target.gain)

    @property
    def hr(self) -> float:
        """HR@10; NaN without a target."""
        return self.hits / self.n if self.n else math.nan

    @property
    def ndcg(self) -> float:
        """NDCG@10; NaN without a target."""
        return self.gains / self.n if self.n else math.nan


class Prequential:
    """HR@10 and NDCG@10 over the latest targets and over all, with slices for new items and new users.

    Targets on new items and of new users are reported apart and counted in "all": leaving them out would flatter.
    """

    def __init__(self, window: int = 1000) -> None:
        """Args: window: how many of the latest targets the rolling figures are over."""
        if window < 1:
            raise ValueError(f"window is {window}; must be at least 1")
        self._latest: deque[ScoredTarget] = deque(maxlen=window)
        self._total = dict.fromkeys(SLICES, Tally())

    def add(self, targets: Iterable[ScoredTarget]) -> None:
        """Count targets, in the log's order."""
        for target in targets:
            self._latest.append(target._replace(ranks_under=(), top=()))
            for name in _slices(target):
                self._total[name] = self._total[name].plus(target)

    def rolling(self) -> dict[str, Tally]:
        """Over the latest targets, by slice."""
        found = dict.fromkeys(SLICES, Tally())
        for target in self._latest:
            for name in _slices(target):
                found[name] = found[name].plus(target)
        return found

    def total(self) -> dict[str, Tally]:
        """Over all targets so far, by slice."""
        return dict(self._total)

    def metrics(self) -> dict[str, float]:
        """The rolling figures by name, as manifests and gauges carry them; slices without a target are left out."""
        named: dict[str, float] = {}
        for name, tally in self.rolling().items():
            if tally.n:
                prefix = "prequential" if name == "all" else f"prequential_{name}"
                named[f"{prefix}_hr_at_10"] = tally.hr
                named[f"{prefix}_ndcg_at_10"] = tally.ndcg
                named[f"{prefix}_targets"] = float(tally.n)
        losses = [target.loss for target in self._latest if target.loss is not None]
        if losses:
            named["prequential_loss"] = math.fsum(losses) / len(losses)
        return named

    def state(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "window": self._latest.maxlen,
            "latest": [list(target[:5]) for target in self._latest],
            "total": {name: list(tally) for name, tally in self._total.items()},
        }

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> Prequential:
        """The metrics that `state` described."""
        metrics = cls(int(state["window"]))
        metrics._latest.extend(ScoredTarget(*entry[:5]) for entry in state["latest"])
        metrics._total.update({name: Tally(*entry) for name, entry in state["total"].items()})
        return metrics


def _slices(target: ScoredTarget) -> list[str]:
    return ["all"] + ["new_item"] * target.is_new_item + ["new_user"] * target.is_new_user
