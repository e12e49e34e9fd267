"""Brings the gate its figures: held-out targets from the log, scored by the learner as it is now."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import attrgetter

from headwater_core.feedback_log import FeedbackLog
from headwater_updater.blending import without_trend
from headwater_updater.examples import Example, example_of
from headwater_updater.gate import MIN_TARGETS, WINDOW, Gate, Reference, Verdict
from headwater_updater.learner import Learner
from headwater_updater.log_examples import replay_examples
from headwater_updater.settings import UpdaterSettings

_OF_ONE = 5
"""Targets of one subject that are taken in at a time."""
_MAX_SCORES = 10_000_000
"""Scores of one window, about."""
_DEPTH = 50
"""How deep in a history, in multiples of what the towers read, an old target is still found after a restart."""


class Gatekeeper:
    """Between a learner and its gate. The targets' histories are kept in memory, and read again after a restart."""

    def __init__(self, log: FeedbackLog, learner: Learner, gate: Gate, settings: UpdaterSettings) -> None:
        """Args: log: where histories are; learner: what is judged; gate: its windows; settings: the tolerances."""
        self._log, self._learner, self._gate, self._length = log, learner, gate, settings.foreseen_length
        self._tolerances = settings.gate_new_tolerance, settings.gate_old_tolerance
        self._examples: dict[int, Example] = {}
        self._judged: dict[int, float] = {}

    @property
    def examples(self) -> list[Example]:
        """The targets that are in memory, behind their histories."""
        return list(self._examples.values())

    def take_in(self, held_out: Sequence[Example]) -> None:
        """Score the new targets of held-out subjects, before anything else of their round is learned.

        Of one subject a few at a time: nobody decides alone about everybody.
        """
        held_out = [
            Example(each.events[: len(each.events) - max(0, each.n_new - _OF_ONE)], min(each.n_new, _OF_ONE))
            for each in held_out
        ]
        scored = self._log_ranks(held_out)
        self._gate.take_in([Reference(position, log_rank) for position, log_rank in scored.items()], self._window)
        for example in held_out:
            split = len(example.events) - example.n_new
            for index in range(split, len(example.events)):
                if example.events[index].position in scored:
                    self._examples[example.events[index].position] = example_of(example.events, index, self._length)
        wanted = {reference.position for reference in (*self._gate.new, *self._gate.old)}
        self._examples = {position: each for position, each in self._examples.items() if position in wanted}

    def take_in_old(self, positions: Iterable[int]) -> None:
        """Choose the old window: targets that a full training has just left out, scored by what it trained."""
        targets = self._log.read_at(list(positions)[-self._window :])
        examples = replay_examples(self._log, targets, self._length)
        self._examples.update((example.events[-1].position, example) for example in examples)
        self._gate.old = [
            Reference(position, log_rank) for position, log_rank in sorted(self._log_ranks(examples).items())
        ]

    def verdict(self) -> Verdict:
        """What the gate says of the learner as it is now."""
        wanted = [reference.position for reference in (*self._gate.new, *self._gate.old)]
        missing = [position for position in wanted if position not in self._examples]
        for example in replay_examples(self._log, self._log.read_at(missing), self._length, _DEPTH):
            self._examples[example.events[-1].position] = example
        log_ranks = self._log_ranks([self._examples[position] for position in wanted if position in self._examples])
        self._judged = log_ranks
        return self._gate.judge(log_ranks, *self._tolerances)

    def accepted(self) -> None:
        """What was judged last has been published."""
        self._gate.accept(self._judged)

    def forget(self) -> None:
        """Drop the histories: something was erased, and what is still in the log is read again."""
        self._examples.clear()

    @property
    def _window(self) -> int:
        """Fewer targets in a large catalogue: each is ranked among all items, twice a publication."""
        return min(WINDOW, max(2 * MIN_TARGETS, _MAX_SCORES // max(1, len(self._learner.item_ids))))

    def _log_ranks(self, examples: Sequence[Example]) -> dict[int, float]:
        """By position, in the log's order; without the trend, which is meant to change by the minute."""
        scored = self._learner.score(examples, [without_trend(self._learner.blend)]) if examples else []
        return {each.position: math.log(each.rank) for each in sorted(scored, key=attrgetter("position")) if each.rank}
