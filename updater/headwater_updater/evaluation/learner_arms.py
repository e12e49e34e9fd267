"""The product's learner as arms of a prequential evaluation: frozen, live, learning, and deliberately spoilt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from headwater_core.events import HistoryEvent
from headwater_updater.evaluation.streams import Round
from headwater_updater.examples import Example, example_of
from headwater_updater.held_out import is_held_out_user
from headwater_updater.learner import Learner
from headwater_updater.online import OnlineLearning
from headwater_updater.prequential import ScoredTarget
from headwater_updater.replay import ReplayBuffer
from headwater_updater.settings import UpdaterSettings

Features = Callable[[Sequence[str]], np.ndarray]
"""Item ids → what the item tower reads of them, (n, F)."""


class LiveArm:
    """Weights that stand still; histories go on, new items join by what is written of them."""

    def __init__(self, name: str, learner: Learner, features: Features) -> None:
        """Args: name: of the arm; learner: trained on all before the stream; features: of items."""
        self.name = name
        self.learner = learner
        self.learned_until_us = -1
        self._features = features

    def judge(self, each: Round) -> list[ScoredTarget]:
        """How the targets asked for fare."""
        return self.learner.score(each.examples, asked=each.asked)

    def learn(self, each: Round) -> None:
        """Take in the items that came."""
        if each.new_item_ids:
            self.learner.add_items(each.new_item_ids, self._features(each.new_item_ids))
        self.learned_until_us = each.end_us


class FrozenArm(LiveArm):
    """Weights, histories and catalogue as they were when the stream began."""

    def __init__(self, name: str, learner: Learner, features: Features, before: Mapping[str, Sequence[HistoryEvent]]):
        """Args: before: the histories when the stream begins; the others as for `LiveArm`."""
        super().__init__(name, learner, features)
        self._before = before

    def judge(self, each: Round) -> list[ScoredTarget]:
        """Every target is foreseen from the same history of its user."""
        examples = [
            Example([*self._before.get(user_id, ()), event], 1)
            for user_id, example in zip(each.user_ids, each.examples, strict=True)
            for event in example.events[len(example.events) - example.n_new :]
            if event.position in each.asked
        ]
        return self.learner.score(examples, asked=each.asked)

    def learn(self, each: Round) -> None:
        """Nothing is taken in."""


class OnlineArm(LiveArm):
    """The product: every round is learned after it was foreseen, as the daemon does it."""

    def __init__(
        self,
        name: str,
        learner: Learner,
        features: Features,
        before: Mapping[str, Sequence[HistoryEvent]],
        settings: UpdaterSettings,
        *,
        delay_rounds: int = 0,
        order: np.random.Generator | None = None,
        other_items: Mapping[int, str] | None = None,
        is_counting_only: bool = False,
    ) -> None:
        """Go on from what was learned before.

        Args:
            name: of the arm.
            learner: trained on `before`.
            features: of items.
            before: histories that can be replayed.
            settings: how much is replayed, and how many steps a round takes.
            delay_rounds: so many rounds wait to be learned.
            order: draws which of those that wait is learned next; None: the one that waits longest.
            other_items: by position, what is learned in place of an event's item; nothing while that is not known.
            is_counting_only: whether counts alone go on (co-visits, trends, popularity) and no weight moves.
        """
        super().__init__(name, learner, features)
        self.online = OnlineLearning(learner, settings)
        self._settings = settings
        self._delay_rounds, self._other_items = delay_rounds, other_items
        self._is_counting_only = is_counting_only
        self._order = order
        self._waiting: list[tuple[Round, list[ScoredTarget]]] = []
        self._foreseen: list[ScoredTarget] = []
        self._histories = {user_id: list(events) for user_id, events in before.items()}
        self._place = {
            event.position: (user_id, at)
            for user_id, events in before.items()
            if not is_held_out_user(user_id)
            for at, event in enumerate(events)
        }
        self._replay = ReplayBuffer(settings.replay_capacity, settings.seed)
        self._replay.add(sorted(self._place))

    def judge(self, each: Round) -> list[ScoredTarget]:
        """How the targets asked for fare, also under the blends that might serve next."""
        self._foreseen = self.online.foresee(each.examples, each.asked)
        return self._foreseen

    def learn(self, each: Round) -> None:
        """Take in the items that came, and learn the round whose turn it is."""
        super().learn(each)
        self._waiting.append((each, self._foreseen))
        if len(self._waiting) > self._delay_rounds:
            at = 0 if self._order is None else int(self._order.integers(len(self._waiting)))
            self._learn(*self._waiting.pop(at))

    def _learn(self, each: Round, foreseen: Sequence[ScoredTarget]) -> None:
        length = self.learner.config.tower.history_length
        learned = [
            (user_id, example)
            for user_id, example in zip(each.user_ids, each.examples, strict=True)
            if not is_held_out_user(user_id)
        ]
        new = [self._spoilt(Example(e.events[-(length + e.n_new) :], e.n_new)) for _, e in learned]
        self.online.pacing.arrived(len(each.examples), each.end_us)
        replayed = []
        for position in self._replay.sample(self.online.n_replayed(sum(e.n_new for e in new))):
            user_id, at = self._place[position]
            replayed.append(example_of(self._histories[user_id], at, length))
        if self._other_items is not None:  # the blend, too, learns from the others alone
            foreseen = self.online.foresee(new, each.asked)
        if self._is_counting_only:
            self.online.count(new, foreseen)
        else:
            self.online.learn(new, replayed, foreseen)
        for (user_id, _), example in zip(learned, new, strict=True):
            history = self._histories.setdefault(user_id, [])
            events = example.events[len(example.events) - example.n_new :]
            self._place.update((event.position, (user_id, len(history) + k)) for k, event in enumerate(events))
            history += events
            self._replay.add(event.position for event in events if event.item_id)

    def _spoilt(self, example: Example) -> Example:
        """The example with other items in its new events, where that is asked."""
        if self._other_items is None:
            return example
        split = len(example.events) - example.n_new
        other = [
            event._replace(item_id=item_id if self.learner.row(item_id) else "")
            for event in example.events[split:]
            for item_id in [self._other_items.get(event.position, event.item_id)]
        ]
        return Example([*example.events[:split], *other], example.n_new)


class RetrainedArm(LiveArm):
    """Trained anew, from nothing, on all there is whenever so many events have come; frozen in between."""

    def __init__(
        self,
        name: str,
        learner: Learner,
        features: Features,
        before: Mapping[str, Sequence[HistoryEvent]],
        train: Callable[[Mapping[str, Sequence[HistoryEvent]]], Learner],
        interval: int,
    ) -> None:
        """Args: train: histories → a learner; interval: events from one training to the next."""
        super().__init__(name, learner, features)
        self._histories = {user_id: list(events) for user_id, events in before.items()}
        self._train, self._interval = train, interval
        self._n_waiting = 0

    def learn(self, each: Round) -> None:
        """Take in the round, and train when it is time."""
        super().learn(each)
        for user_id, example in zip(each.user_ids, each.examples, strict=True):
            self._histories[user_id] = list(example.events)
            self._n_waiting += example.n_new
        if self._n_waiting >= self._interval:
            self._n_waiting = 0
            self.learner = self._train(self._histories)


class LeakingArm(OnlineArm):
    """Learns what it is about to be asked: the evaluation has to notice."""

    def judge(self, each: Round) -> list[ScoredTarget]:
        """After having learned the round."""
        super().judge(each)
        super().learn(each)
        return self.learner.score(each.examples, asked=each.asked)

    def learn(self, each: Round) -> None:
        """Has been done."""
