"""Whether a candidate may be published: has it become worse on events that it did not learn from?

Held-out subjects (`held_out`) give no gradients between full trainings, so their targets are new to every candidate.
A candidate is scored on the same targets as what was published before, and the differences are paired. Two windows are
looked at. The newest targets are compared with the generation before the candidate: they tell of sudden harm to what is
asked now, and nothing of drift that takes its time. Old ones, from before the last full training, are compared with
what that training gave: they tell of harm that adds up in steps too small to show.

Co-visits and the user's own items are part of the scores; trends are left out: they are meant to change by the minute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

GATE, WATCH = "gate", "watch"
"""The rules by which events are on record among the rejections: of a refused candidate, and of what was taken back."""
WINDOW = 250
"""Targets in a window, at most."""
MIN_TARGETS = 30
"""Fewer decide nothing."""
_SURE = 3.3
"""In standard errors: one candidate in 2,000 that is no worse would be refused by chance, were its targets alike. A
test at 95 % every five seconds would refuse hundreds a day."""


class CandidateRefusedError(Exception):
    """A candidate is worse than is allowed, or what was published has become so: the session ends."""


class Reference(NamedTuple):
    """How a held-out target fared under what was published."""

    position: int
    log_rank: float
    """Of its rank among all items. A rank is what an answer is made by; a loss also falls when scores flatten, which
    shuffled labels do to it."""


class Change(NamedTuple):
    """How much worse a candidate is on one window."""

    window: str
    targets: int
    rise: float
    """Mean of the paired differences of log ranks: 0.1 is a tenth further down; negative: better."""
    margin: float
    """How far the bound is from it: what chance could make of no change."""

    def exceeds(self, tolerance: float) -> bool:
        """Whether it is worse by more than the tolerance, and not by chance alone."""
        return self.targets >= MIN_TARGETS and self.rise > tolerance and self.rise > self.margin


class Verdict(NamedTuple):
    """What becomes of a candidate."""

    changes: list[Change]
    reason: str
    """Why it is refused; empty: it is not."""

    @property
    def passes(self) -> bool:
        """Whether it may be published."""
        return not self.reason

    def metrics(self) -> dict[str, float]:
        """As manifests carry them."""
        named: dict[str, float] = {}
        for change in self.changes:
            if change.targets:
                named[f"gate_{change.window}_log_rank_rise"] = change.rise
                named[f"gate_{change.window}_margin"] = change.margin
                named[f"gate_{change.window}_targets"] = float(change.targets)
        return named


class Gate:
    """The windows and their references. Attributes: new, old: what candidates are judged on, by position."""

    def __init__(self) -> None:
        """Empty windows: everything passes."""
        self.new: list[Reference] = []
        self.old: list[Reference] = []

    def take_in(self, references: Sequence[Reference], window: int = WINDOW) -> None:
        """Add the newest held-out targets, in the log's order; of more than `window` the oldest leave."""
        self.new = [*self.new, *references][-window:]

    def accept(self, log_ranks: Mapping[int, float]) -> None:
        """The candidate with these log ranks was published: the next one is compared with it on the new window."""
        self.new = [each._replace(log_rank=log_ranks.get(each.position, each.log_rank)) for each in self.new]

    def judge(self, log_ranks: Mapping[int, float], new_tolerance: float, old_tolerance: float) -> Verdict:
        """The verdict on a candidate.

        Args:
            log_ranks: the candidate's, by position; references without one cannot be scored any more.
            new_tolerance: by how much the mean log rank may rise on the new window.
            old_tolerance: the same of the old one.
        """
        judged = [
            (_change("new", self.new, log_ranks), new_tolerance),
            (_change("old", self.old, log_ranks), old_tolerance),
        ]
        changes = [change for change, _ in judged]
        reasons = [
            f"on {change.targets} {change.window} held-out targets ranks fell by {change.rise:.1%} "
            f"(give or take {change.margin:.1%}), more than {tolerance:.1%}"
            for change, tolerance in judged
            if change.exceeds(tolerance)
        ]
        return Verdict(changes, "; ".join(reasons))

    def state(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {"new": [list(each) for each in self.new], "old": [list(each) for each in self.old]}

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> Gate:
        """The gate that `state` told of."""
        gate = cls()
        gate.new = [Reference(int(position), float(log_rank)) for position, log_rank in state["new"]]
        gate.old = [Reference(int(position), float(log_rank)) for position, log_rank in state["old"]]
        return gate


def _change(window: str, references: Sequence[Reference], log_ranks: Mapping[int, float]) -> Change:
    theirs = [each for each in references if each.position in log_ranks]
    rises = np.array([log_ranks[each.position] - each.log_rank for each in theirs], np.float64)
    if not len(rises):
        return Change(window, 0, 0.0, math.inf)
    margin = _SURE * float(rises.std(ddof=1)) / math.sqrt(len(rises)) if len(rises) > 1 else math.inf
    return Change(window, len(rises), float(rises.mean()), margin)
