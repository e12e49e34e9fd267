"""Choosing how much co-visits count: as much as they help on what was held out, and not at all where they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from headwater_core.co_visits import Blend
from headwater_core.events import HistoryEvent
from headwater_core.histories import TokenSequence
from headwater_core.towers import TowerConfig
from headwater_core.trends import HALF_LIVES
from headwater_updater import blending
from headwater_updater.blending import choose_blend, choose_trend, trends_of
from headwater_updater.learner import Learner
from headwater_updater.learner_config import LearnerConfig
from headwater_updater.ranking import Request, ndcg_at

N_ITEMS = 30
CANDIDATES = np.arange(1, N_ITEMS + 1)
CONFIG = LearnerConfig(
    TowerConfig(dimension=4, n_layers=1, text_dimension=1, event_types=("click",), value_mean=(0.0,), value_std=(1.0,)),
    {"click": 1.0},
    exclude_seen=False,
)


class GivenTowers(Learner):
    """Everything is real but what the towers say."""

    opinion: Callable[[Request], np.ndarray]
    """(N,) scores for a request."""
    n_asked = 0

    def tower_scores(
        self, requests: Sequence[Request], candidates: np.ndarray, vectors: Tensor
    ) -> tuple[Tensor, Tensor]:
        self.n_asked += len(requests)
        scores = np.stack([self.opinion(request) for request in requests]).astype(np.float32)
        return torch.from_numpy(scores)[:, candidates - 1], torch.from_numpy(
            np.searchsorted(candidates, [request.row for request in requests])
        )


def blind(_: Request) -> np.ndarray:
    """All items are alike."""
    return np.zeros(N_ITEMS)


def all_but_sure(request: Request) -> np.ndarray:
    """What comes next is ahead of the others by very little."""
    return np.where(request.row == CANDIDATES, 0.05, 0.0)


def learner_with(
    opinion: Callable[[Request], np.ndarray], counted: Sequence[np.ndarray], *, exclude_seen: bool = False
) -> GivenTowers:
    learner = GivenTowers.create(replace(CONFIG, exclude_seen=exclude_seen), 0)
    assert isinstance(learner, GivenTowers)
    learner.opinion = opinion
    learner.add_items([f"i{i}" for i in range(N_ITEMS)], np.zeros((N_ITEMS, 1)))
    learner.counts[1:] = 1.0
    sequences = [clicks(learner, items) for items in counted]
    learner.successors.fit(((s, learner.target_weights(s, 0)) for s in sequences), learner.counts)
    return learner


def clicks(learner: Learner, items: np.ndarray) -> TokenSequence:
    return learner.tokens([HistoryEvent(n, n * 1_000_000, "click", f"i{i}") for n, i in enumerate(items, start=1)])


def last_items(learner: Learner, histories: Sequence[np.ndarray]) -> list[Request]:
    return [Request(clicks(learner, items[:-1]), learner.row(f"i{items[-1]}")) for items in histories]


def walks(n_users: int, seed: int) -> list[np.ndarray]:
    """Round the items: each is followed by the one of the next number."""
    starts = np.random.default_rng(seed).integers(0, N_ITEMS, n_users)
    return [(start + np.arange(7)) % N_ITEMS for start in starts]


def noise(n_users: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, N_ITEMS, (n_users, 7)))


def habits(n_users: int, seed: int) -> list[np.ndarray]:
    """Every user has three items of their own, and comes back to one of them again and again."""
    rng = np.random.default_rng(seed)
    return [rng.choice(rng.choice(N_ITEMS, 3, replace=False), 7) for _ in range(n_users)]


def test_a_pattern_in_the_co_visits_is_used() -> None:
    """Where towers see nothing and co-visits all, what followed counts."""
    learner = learner_with(blind, walks(100, seed=0))
    requests = last_items(learner, walks(60, seed=1))
    learner.blend = choose_blend(learner, requests)
    assert learner.blend.strength > 0
    assert ndcg_at(learner.ranks(requests, CANDIDATES)) > 0.9


def test_towers_stand_alone_where_co_visits_are_noise() -> None:
    """What is found without them is not given up for them."""
    learner = learner_with(all_but_sure, noise(100, seed=0))
    requests = last_items(learner, noise(60, seed=1))
    assert choose_blend(learner, requests) == Blend()
    assert ndcg_at(learner.ranks(requests, CANDIDATES)) == 1.0
    learner.blend = Blend(strength=1.0, repeat_strength=1.0)
    assert ndcg_at(learner.ranks(requests, CANDIDATES)) < 0.9  # there was something to give up


def test_habits_are_used_where_users_repeat_items() -> None:
    """Items of the history themselves get a bonus; where seen items are left out, never."""
    histories = habits(60, seed=1)
    learner = learner_with(blind, noise(100, seed=0))
    requests = last_items(learner, histories)
    learner.blend = choose_blend(learner, requests)
    assert learner.blend.repeat_strength > 0
    assert ndcg_at(learner.ranks(requests, CANDIDATES)) > 0.5
    elsewhere = learner_with(blind, habits(100, seed=0), exclude_seen=True)
    assert choose_blend(elsewhere, last_items(elsewhere, histories)).repeat_strength == 0.0


def test_the_choice_is_the_best_of_what_was_tried() -> None:
    """Ranking with the chosen blend finds no less than with any of its neighbours."""
    learner = learner_with(blind, [*walks(30, seed=0), *noise(60, seed=0)])
    requests = last_items(learner, [*walks(30, seed=1), *habits(30, seed=1)])
    chosen = choose_blend(learner, requests)

    def found(blend: Blend) -> float:
        learner.blend = blend
        return ndcg_at(learner.ranks(requests, CANDIDATES))

    assert chosen.is_active
    for strength in blending.STRENGTHS:
        for repeat_strength in blending.REPEAT_STRENGTHS:
            other = Blend(strength=strength, repeat_strength=repeat_strength, decay=chosen.decay)
            assert found(chosen) >= found(other)


def test_nothing_to_choose_by_leaves_the_towers_alone() -> None:
    """No requests, or none whose item has ever been a target."""
    learner = learner_with(blind, walks(10, seed=0))
    requests = last_items(learner, walks(3, seed=1))
    learner.counts[[request.row for request in requests]] = 0.0
    assert choose_blend(learner, []) == choose_blend(learner, requests) == Blend()


def test_few_users_decide_about_a_large_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """What choosing costs is bounded, and it still finds what is there."""
    monkeypatch.setattr(blending, "_MIN_REQUESTS", 10)
    monkeypatch.setattr(blending, "_MAX_SCORES", 12 * N_ITEMS)
    learner = learner_with(blind, walks(100, seed=0))
    assert choose_blend(learner, last_items(learner, walks(60, seed=1))).strength > 0
    assert learner.n_asked == 12


def fashions(n_users: int) -> list[TokenSequence]:
    """Everybody takes what is in fashion, another item each hour; the learner's towers see nothing."""
    learner = learner_with(blind, [])
    found = []
    for user in range(n_users):
        hours = np.random.default_rng(user).choice(24, 8, replace=False)
        hours.sort()
        events = [HistoryEvent(1, int(hour) * 3_600_000_000 + user * 1_000_000, "click", f"i{hour}") for hour in hours]
        found.append(learner.tokens(events))
    return found


def test_a_trend_is_chosen_by_what_was_popular_at_each_time() -> None:
    """Where fashion decides, it counts, and its memory is short; the learner's own trends stay as they were."""
    learner = learner_with(blind, [])
    sequences = fashions(200)
    training = [sequence.window(0, len(sequence) - 1) for sequence in sequences]
    requests = [
        Request(before, int(whole.item_rows[-1]), 1.0, int(whole.event_time_us[-1]))
        for before, whole in zip(training, sequences, strict=True)
    ]
    chosen = choose_trend(learner, training, requests)
    assert chosen.trend_strength > 0
    assert chosen.trend_half_life == min(HALF_LIVES)
    assert not learner.trends.weights.any()
    assert choose_trend(learner, training, []) == learner.blend


def test_a_trend_is_left_out_where_it_says_nothing() -> None:
    """What the towers know is not given up for it."""
    learner = learner_with(all_but_sure, [])
    sequences = fashions(100)
    rng = np.random.default_rng(0)
    requests = [Request(each, int(rng.integers(1, N_ITEMS + 1)), 1.0, 10**15) for each in sequences]
    assert choose_trend(learner, sequences, requests).trend_strength == 0


def test_every_trend_ranks_as_it_serves() -> None:
    """Judged beside others or alone."""
    learner = learner_with(all_but_sure, walks(50, seed=0))
    learner.trends.add(np.random.default_rng(0).integers(1, 8, 300))
    requests = last_items(learner, walks(20, seed=1))
    blends = [Blend(strength=1.0), *trends_of(Blend(strength=1.0))]
    together = learner.judge(requests, CANDIDATES, blends).ranks
    for blend, ranks in zip(blends, together, strict=True):
        np.testing.assert_array_equal(learner.judge(requests, CANDIDATES, [blend]).ranks[0], ranks)
