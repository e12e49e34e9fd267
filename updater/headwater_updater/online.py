"""What the daemon and the prequential evaluation do with every round of events: foresee, correct, learn."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence

from headwater_updater.blend_search import BlendSearch
from headwater_updater.examples import Example
from headwater_updater.incremental import StepResult
from headwater_updater.learner import Learner
from headwater_updater.pacing import Pacing
from headwater_updater.prequential import ScoredTarget
from headwater_updater.settings import UpdaterSettings


class OnlineLearning:
    """A learner that goes on learning, round by round.

    Attributes:
        learner: what learns.
        search: corrects the learner's blend.
        pacing: says how far each round goes.
    """

    def __init__(
        self,
        learner: Learner,
        settings: UpdaterSettings,
        search: BlendSearch | None = None,
        pacing: Pacing | None = None,
    ) -> None:
        """Args: learner: already trained; settings: of replay; search, pacing: where they were; None: they begin."""
        self.learner = learner
        self.search = search or BlendSearch(learner.blend, with_repeats=not learner.config.exclude_seen)
        self.pacing = pacing or Pacing(settings.steps_per_round)
        self._replay_ratio, self._replay_limit = settings.replay_ratio, settings.replay_limit

    def foresee(self, examples: Sequence[Example], asked: Container[int] | None = None) -> list[ScoredTarget]:
        """Rank the new events' targets before they are learned; see `Learner.score`."""
        return self.learner.score(examples, self.search.blends, asked)

    def n_replayed(self, n_new: int) -> int:
        """How many earlier events a round of so many new ones is mixed with.

        None where the trend is part of what is learned: today's trend says nothing about a target of last week.
        """
        if self.learner.beside_trend:
            return 0
        wanted = min(self._replay_limit, self._replay_ratio * n_new)
        return math.ceil(self.pacing.plan().replay_share * wanted)

    def count(self, new: Sequence[Example], foreseen: Sequence[ScoredTarget]) -> None:
        """Learn what counting teaches (co-visits, trends, popularity, the blend); no weight moves."""
        self._correct(foreseen)
        self.learner.count_latest(new)

    def learn(
        self, new: Sequence[Example], replayed: Sequence[Example], foreseen: Sequence[ScoredTarget]
    ) -> StepResult:
        """Learn new events, mixed with earlier ones, and how well they were foreseen."""
        self._correct(foreseen)
        plan = self.pacing.plan()
        return self.learner.step(new, replayed, plan.n_steps, plan.rate)

    def _correct(self, foreseen: Sequence[ScoredTarget]) -> None:
        self.pacing.foresaw(foreseen)
        if self.search.observe(foreseen):
            self.learner.blend = self.search.blend
