"""Watches what is published beside a generation that stood before it: the reference, on the same live targets.

The reference is a learner as some earlier generation left it. Every target that comes in is ranked by it and by the
learner that goes on, before that one learns it. When a sequential test is sure that the learner has become worse, what
was published since is taken back; when it has stood beside the reference for long enough, it becomes the next one.
Both rank the same items, as they serve, beside the trend of now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import structlog

from headwater_core.errors import ArtifactError
from headwater_core.events import HistoryEvent
from headwater_updater.examples import Example
from headwater_updater.learner import Learner
from headwater_updater.sequential_test import SequentialTest

_OF_ROUND = 32
"""Targets of one round that are ranked twice, at most: one of each subject and on each item. Two on one item come out
alike, and would count as two."""

_log = structlog.get_logger(__name__)


class Watch:
    """A reference and how the learner fares beside it.

    Attributes:
        reference: the number of the generation that is compared with; 0: none yet.
        is_canary: whether the learner serves a fraction of users, and the reference all others.
        test: the evidence so far.
    """

    def __init__(self, tolerance: float) -> None:
        """Nothing to compare with. Args: tolerance: what a canary may lose, as a share."""
        self.reference = 0
        self.is_canary = False
        self.test = SequentialTest(tolerance)
        self._learner: Learner | None = None  # loaded when it is needed
        self._shared = np.empty((2, 0), np.int64)  # rows of the items that both know, in either one's numbers

    def begin(self, reference: int, *, is_canary: bool = False) -> None:
        """Compare with this generation from now on; 0: with none."""
        self.reference, self.is_canary, self._learner = reference, is_canary, None
        self.test = SequentialTest(self.test.tolerance)

    def observe(self, learner: Learner, examples: Sequence[Example], load: Callable[[int], Learner]) -> None:
        """Rank some of the new targets by both, before they are learned.

        Args:
            learner: what goes on.
            examples: one per subject; their last `n_new` events are the targets.
            load: gives the learner that a generation left. When it cannot, another generation becomes the reference;
                of a canary it is tried again, for no other can be.
        """
        if not self.reference or not examples:
            return
        if self._learner is None:
            try:
                self._learner = load(self.reference)
                self._shared = _shared_rows(self._learner, learner)
            except ArtifactError as error:
                _log.warning("reference_lost", generation=self.reference, reason=str(error))
                if not self.is_canary:
                    self.begin(0)
                return
        asked = _asked(examples)
        examples = [each for each in examples if any(event.position in asked for event in _new(each))]
        gains: list[dict[int, float]] = []
        theirs, ours = self._shared
        self._learner.trends.weights[theirs] = learner.trends.weights[ours]
        self._learner.trends.scale = learner.trends.scale
        present = np.isin(theirs, self._learner.present_rows()) & np.isin(ours, learner.present_rows())
        for each, among in ((self._learner, theirs[present]), (learner, ours[present])):
            scored = each.score(examples, None, asked, among)
            gains.append({target.position: target.gain for target in scored if not target.is_new_user})
        both = sorted(gains[0].keys() & gains[1].keys())
        self.test.add((gains[0][position], gains[1][position]) for position in both)

    def metrics(self, n_full: int) -> dict[str, float]:
        """As manifests and gauges carry them. Args: n_full: after how many targets the reference is replaced."""
        if not self.test.n:
            return {}
        return {
            "watch_reference": float(self.reference),
            "watch_targets": float(self.test.n),
            "watch_fall": self.test.fall,
            "watch_smallest_fall": self.test.smallest_fall(n_full),
        }

    def state(self) -> dict[str, Any]:
        """Everything but the reference itself, as JSON can hold it."""
        return {"reference": self.reference, "is_canary": self.is_canary, "test": self.test.state()}

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> Watch:
        """The watch that `state` told of."""
        test = SequentialTest.load_state(state["test"])
        watch = cls(test.tolerance)
        watch.begin(int(state["reference"]), is_canary=bool(state["is_canary"]))
        watch.test = test
        return watch


def _shared_rows(one: Learner, other: Learner) -> np.ndarray:
    """(2, s): the rows of the items that both have had, in either one's numbers."""
    row_of = {item_id: row for row, item_id in enumerate(other.item_ids, start=1)}
    pairs = [(row, row_of[item_id]) for row, item_id in enumerate(one.item_ids, start=1) if item_id in row_of]
    return np.array(pairs, np.int64).reshape(-1, 2).T


def _new(example: Example) -> Sequence[HistoryEvent]:
    return example.events[len(example.events) - example.n_new :]


def _asked(examples: Sequence[Example]) -> set[int]:
    """The positions of the events that are ranked: of each subject the newest that is on an item of its own."""
    found: dict[str, int] = {}
    for each in examples:
        for event in reversed(_new(each)):
            if event.item_id and event.item_id not in found:
                found[event.item_id] = event.position
                break
        if len(found) == _OF_ROUND:
            break
    return set(found.values())
