"""What a learner's lists are made of: the scores by which it ranks itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headwater_core.co_visits import Blend
from headwater_core.events import HistoryEvent
from headwater_core.towers import TowerConfig
from headwater_updater.evaluation.learner_scorer import LearnerScorer
from headwater_updater.evaluation.ranked_lists import ranked_lists
from headwater_updater.evaluation.splits import leave_one_out
from headwater_updater.learner import Learner
from headwater_updater.learner_config import Budget, LearnerConfig
from headwater_updater.ranking import Request

N_ITEMS = 25
CONFIG = LearnerConfig(
    TowerConfig(
        dimension=16,
        n_layers=1,
        text_dimension=4,
        history_length=12,
        event_types=("click",),
        value_mean=(0.0,),
        value_std=(1.0,),
    ),
    {"click": 1.0},
)
BLEND = Blend(strength=0.7, repeat_strength=0.4, sharpness=50.0, decay=0.9)


def histories(n_users: int, seed: int) -> list[list[HistoryEvent]]:
    """Up to a dozen events each, on items that are near each other."""
    rng = np.random.default_rng(seed)
    walks = [
        (rng.integers(N_ITEMS) + rng.integers(0, 8, rng.integers(2, 12)).cumsum()) % N_ITEMS for _ in range(n_users)
    ]
    return [[HistoryEvent(n, n * 10**6, "click", f"i{i}") for n, i in enumerate(walk, start=1)] for walk in walks]


def learner_with(blend: Blend, *, exclude_seen: bool) -> Learner:
    learner = trained(replace(CONFIG, exclude_seen=exclude_seen), histories(40, seed=0))
    learner.blend = blend
    return learner


def trained(config: LearnerConfig, training: list[list[HistoryEvent]]) -> Learner:
    learner = Learner.create(config, 0)
    texts = np.random.default_rng(0).normal(size=(N_ITEMS, 4))
    learner.add_items([f"i{i}" for i in range(N_ITEMS)], texts)
    learner.fit(training, Budget(epochs=3))
    return learner


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("blend", [Blend(), BLEND], ids=["towers", "blend"])
def test_lists_are_in_the_order_of_the_learners_own_ranks(blend: Blend, *, exclude_seen: bool) -> None:
    """What validation and prequential figures are measured by is what lists are made by."""
    learner = learner_with(blend, exclude_seen=exclude_seen)
    candidates = np.arange(1, N_ITEMS + 1)
    asked = histories(8, seed=1)
    scorer = LearnerScorer(learner, learner.item_ids)
    for events, listed in zip(
        asked, ranked_lists(scorer, asked, allow_repeats=not exclude_seen, length=N_ITEMS), strict=True
    ):
        sequence = learner.tokens(events)
        ranks = learner.ranks([Request(sequence, row) for row in candidates.tolist()], candidates)
        in_order = sorted(candidates[ranks > 0].tolist(), key=lambda row: ranks[row - 1])
        assert listed == [learner.item_ids[row - 1] for row in in_order]
        seen = {event.item_id for event in events}
        assert exclude_seen == seen.isdisjoint(listed)


def test_only_candidates_are_scored() -> None:
    """An item that is none may speak for its successors; candidates' scores are what they are among all items."""
    learner = learner_with(BLEND, exclude_seen=False)
    asked = histories(8, seed=1)
    everything = LearnerScorer(learner, learner.item_ids).score_batch(asked)
    some = [f"i{i}" for i in (20, 3, 7, 11)]
    found = LearnerScorer(learner, some).score_batch(asked)
    np.testing.assert_allclose(found, everything[:, [20, 3, 7, 11]], atol=1e-5)


@pytest.mark.parametrize("reads_query_time", [False, True])
def test_the_time_of_what_is_asked_is_read_only_where_it_may_be(*, reads_query_time: bool) -> None:
    """Tests that happen later, in the same order, change no list; but those of towers that read the query's time."""
    config = replace(CONFIG, tower=replace(CONFIG.tower, reads_query_time=reads_query_time))
    data = {f"u{n}": events for n, events in enumerate(histories(40, seed=0))}
    later = {user_id: [*events[:-1], events[-1]._replace(event_time_us=10**14)] for user_id, events in data.items()}
    scores, lists = [], []
    for each in (data, later):
        split = leave_one_out(each, lambda _: True)
        scorer = LearnerScorer(trained(config, split.training), split.candidates)
        asked, times_us = [user.history for user in split.test], [user.query_time_us for user in split.test]
        scores.append(scorer.score_batch(asked, times_us))
        lists.append(ranked_lists(scorer, asked, allow_repeats=False, query_times_us=times_us))
    assert np.array_equal(scores[0], scores[1]) != reads_query_time
    assert (lists[0] == lists[1]) != reads_query_time
