"""The simple recommenders that a prequential report holds the product against; each learns event by event.

Their options are tuned on the tuning window, as the product's are (`prequential_run`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np

from headwater_core.events import HistoryEvent
from headwater_updater.evaluation.splits import IsTarget
from headwater_updater.evaluation.streams import Round
from headwater_updater.examples import Example, block_starts
from headwater_updater.prequential import TOP, ScoredTarget

_RESCALE_AT = 1e100
_MAX_BASKET = 20
"""Of a timestamp block, so many items are paired with others."""


class CountingArm(ABC):
    """Scores every known item by counts; ties count against the target, as everywhere."""

    def __init__(self, name: str, is_target: IsTarget, *, allow_repeats: bool) -> None:
        """Knows nothing yet."""
        self.name = name
        self.is_target = is_target
        self._allow_repeats = allow_repeats
        self._place: dict[str, int] = {}
        self.learned_until_us = -1

    @property
    def n_items(self) -> int:
        """How many items are known."""
        return len(self._place)

    def place(self, item_id: str) -> int | None:
        """The item's column; None when it is not known."""
        return self._place.get(item_id)

    @abstractmethod
    def scores(self, history: Sequence[HistoryEvent]) -> np.ndarray:
        """(n_items,): what speaks for each known item after this history, which may be empty."""

    @abstractmethod
    def count(self, history: Sequence[HistoryEvent], new: Sequence[HistoryEvent]) -> None:
        """Learn one user's new events, which follow the history; their items are known."""

    def judge(self, each: Round) -> list[ScoredTarget]:
        """How the targets asked for fare."""
        found: list[ScoredTarget] = []
        for example in each.examples:
            starts = block_starts(np.array([event.event_time_us for event in example.events], np.int64))
            of_block: dict[int, np.ndarray] = {}
            for index in range(len(example.events) - example.n_new, len(example.events)):
                event = example.events[index]
                if event.position in each.asked:
                    start = int(starts[index])
                    if start not in of_block:
                        of_block[start] = self._asked(example.events[:start])
                    found.append(self._judged(event, of_block[start], start == 0))
        return found

    def _asked(self, history: Sequence[HistoryEvent]) -> np.ndarray:
        scores = self.scores(history).astype(np.float64)
        if not self._allow_repeats:
            seen = [place for event in history if (place := self._place.get(event.item_id)) is not None]
            scores[seen] = -np.inf
        return scores

    def _judged(self, event: HistoryEvent, scores: np.ndarray, is_new_user: bool) -> ScoredTarget:
        place = self._place.get(event.item_id)
        rank = 0
        if place is not None and np.isfinite(scores[place]) and scores[place] > 0:
            rank = int((scores >= scores[place]).sum())
        k = min(TOP, len(scores))
        best = np.argpartition(-scores, k - 1)[:k] if k else np.empty(0, np.int64)
        return ScoredTarget(event.position, rank, place is None, is_new_user, top=tuple(best.tolist()))

    def learn(self, each: Round) -> None:
        """Learn the round's events."""
        self.learn_examples(each.examples)
        self.learned_until_us = each.end_us

    def learn_examples(self, examples: Iterable[Example]) -> None:
        """Learn the last `n_new` events of each."""
        for example in examples:
            split = len(example.events) - example.n_new
            new = [event for event in example.events[split:] if event.item_id]
            for event in new:
                self._place.setdefault(event.item_id, len(self._place))
            self.count(example.events[:split], new)


class PopularArm(CountingArm):
    """Items by their events, an older one counting half after `half_life` further ones; None: all alike."""

    def __init__(self, name: str, is_target: IsTarget, *, allow_repeats: bool, half_life: float | None = None) -> None:
        """Knows nothing yet."""
        super().__init__(name, is_target, allow_repeats=allow_repeats)
        self._growth = 1.0 if half_life is None else 2.0 ** (1.0 / half_life)
        self._scale = 1.0
        self._counts = np.zeros(0)

    def scores(self, history: Sequence[HistoryEvent]) -> np.ndarray:
        """See the base class."""
        return _grown(self._counts, self.n_items)

    def learn_examples(self, examples: Iterable[Example]) -> None:
        """In the order of time, over all users."""
        new = [event for example in examples for event in example.events[len(example.events) - example.n_new :]]
        new.sort(key=lambda event: (event.event_time_us, event.position))
        for event in new:
            if event.item_id:
                self._place.setdefault(event.item_id, len(self._place))
        self.count((), [event for event in new if event.item_id])

    def count(self, history: Sequence[HistoryEvent], new: Sequence[HistoryEvent]) -> None:
        """See the base class."""
        self._counts = _grown(self._counts, self.n_items)
        for event in new:
            if self.is_target(event):
                self._scale *= self._growth
                self._counts[self._place[event.item_id]] += self._scale
            if self._scale > _RESCALE_AT:
                self._counts /= self._scale
                self._scale = 1.0


class OwnItemsArm(CountingArm):
    """The user's own items, each event counting `decay` of the one after it."""

    def __init__(self, name: str, is_target: IsTarget, *, decay: float) -> None:
        """Knows nothing yet."""
        super().__init__(name, is_target, allow_repeats=True)
        self._decay = decay

    def scores(self, history: Sequence[HistoryEvent]) -> np.ndarray:
        """See the base class."""
        scores = np.zeros(self.n_items)
        theirs = [self._place[event.item_id] for event in history if event.item_id in self._place]
        np.add.at(scores, theirs, self._decay ** np.arange(len(theirs) - 1, -1, -1.0))
        return scores

    def count(self, history: Sequence[HistoryEvent], new: Sequence[HistoryEvent]) -> None:
        """There is nothing to learn but which items there are."""


class PairArm(CountingArm):
    """Items by the other items of those who had them: the counts of pairs, as a sparse table.

    `reach` 1 and `n_last` 1 is last-item co-visitation; without bound on the reach and by cosine it is item-kNN.
    """

    def __init__(
        self,
        name: str,
        is_target: IsTarget,
        *,
        allow_repeats: bool,
        reach: int,
        n_last: int,
        is_directed: bool,
        popularity_power: float,
    ) -> None:
        """Knows nothing yet.

        Args:
            name: of the arm.
            is_target: which events count.
            allow_repeats: whether items of the history are candidates.
            reach: how many earlier events on items a new one is paired with.
            n_last: how many of the user's last items speak.
            is_directed: whether only what came later counts for what came before.
            popularity_power: a pair's count is divided by the popularity of what it speaks for to this power, and, not
                being directed, by that of the speaker, too.
        """
        super().__init__(name, is_target, allow_repeats=allow_repeats)
        self._reach, self._n_last, self._is_directed = reach, n_last, is_directed
        self._power = popularity_power
        self._pairs: list[dict[int, float]] = []
        self._counts = np.zeros(0)

    def scores(self, history: Sequence[HistoryEvent]) -> np.ndarray:
        """See the base class."""
        counts = np.maximum(_grown(self._counts, self.n_items), 1.0)
        scores = np.zeros(self.n_items)
        last = [self._place[event.item_id] for event in history if event.item_id in self._place][-self._n_last :]
        for speaker in last:
            others = self._pairs[speaker] if speaker < len(self._pairs) else {}
            if others:
                places = np.fromiter(others, np.int64, len(others))
                values = np.fromiter(others.values(), np.float64, len(others))
                weight = 1.0 if self._is_directed else counts[speaker] ** -self._power
                scores[places] += weight * values
        scores *= counts**-self._power
        return scores

    def count(self, history: Sequence[HistoryEvent], new: Sequence[HistoryEvent]) -> None:
        """See the base class."""
        self._counts = _grown(self._counts, self.n_items)
        self._pairs += [{} for _ in range(self.n_items - len(self._pairs))]
        context = [event for event in history[-2 * self._reach :] if event.item_id in self._place][-self._reach :]
        waiting: list[HistoryEvent] = []
        for event in new:
            if waiting and waiting[-1].event_time_us != event.event_time_us:
                context, waiting = [*context, *waiting][-self._reach :], []
            if self.is_target(event):
                self._counts[self._place[event.item_id]] += 1
                others = context if self._is_directed else [*context, *waiting[-_MAX_BASKET:]]
                for other in others[-self._reach :]:
                    self._pair(self._place[other.item_id], self._place[event.item_id])
            waiting.append(event)

    def _pair(self, before: int, after: int) -> None:
        if before == after and not self._allow_repeats:
            return
        self._pairs[before][after] = self._pairs[before].get(after, 0.0) + 1.0
        if not self._is_directed and before != after:
            self._pairs[after][before] = self._pairs[after].get(before, 0.0) + 1.0


def _grown(values: np.ndarray, n: int) -> np.ndarray:
    """(n,): the values, 0 for what came since."""
    return values if len(values) == n else np.concatenate([values, np.zeros(n - len(values))])
