"""What the daemon and the prequential evaluation do with every round of events: foresee, correct, learn."""

from __future__ import annotations

from collections.abc import Container, Sequence

from headwater_updater.blend_search import BlendSearch
from headwater_updater.examples import Example
from headwater_updater.learner import Learner, StepResult
from headwater_updater.prequential import ScoredTarget


class OnlineLearning:
    """A learner that goes on learning, round by round.

    Attributes:
        learner: what learns.
        search: corrects the learner's blend.
    """

    def __init__(self, learner: Learner, search: BlendSearch | None = None, n_steps: int = 1) -> None:
        """Args: learner: already trained; search: where it was; None: begins at the learner's blend."""
        self.learner = learner
        self.search = search or BlendSearch(learner.blend, with_repeats=not learner.config.exclude_seen)
        self._n_steps = n_steps

    def foresee(self, examples: Sequence[Example], asked: Container[int] | None = None) -> list[ScoredTarget]:
        """Rank the new events' targets before they are learned; see `Learner.score`."""
        return self.learner.score(examples, self.search.blends, asked)

    def count(self, new: Sequence[Example], foreseen: Sequence[ScoredTarget]) -> None:
        """Learn what counting teaches (co-visits, trends, popularity, the blend); no weight moves."""
        self._correct(foreseen)
        self.learner.count_latest(new)

    def learn(
        self, new: Sequence[Example], replayed: Sequence[Example], foreseen: Sequence[ScoredTarget]
    ) -> StepResult:
        """Learn new events, mixed with earlier ones, and how well they were foreseen."""
        self._correct(foreseen)
        return self.learner.step(new, replayed, self._n_steps)

    def _correct(self, foreseen: Sequence[ScoredTarget]) -> None:
        if self.search.observe(foreseen):
            self.learner.blend = self.search.blend
