"""Full ranking and its figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headwater_core.co_visits import NO_BONUSES, Bonuses
from headwater_updater.ranking import hr_at, ndcg_at, rank_targets


def test_ranks_count_all_candidates() -> None:
    """A target's rank is its place among all candidates by score."""
    scores = torch.tensor([[3.0, 1.0, 2.0]]).expand(3, 3)
    assert rank_targets(scores, torch.tensor([0, 1, 2])).tolist() == [1, 3, 2]


def test_ties_count_against_the_target() -> None:
    """A model that gives every item the same score finds nothing."""
    assert rank_targets(torch.ones(1, 50), torch.tensor([0])).tolist() == [50]


def test_excluded_candidates_make_room_and_excluded_targets_miss() -> None:
    """Items left out do not count; a target among them has rank 0."""
    scores = torch.tensor([[-math.inf, 2.0, 1.0], [-math.inf, 2.0, 1.0], [-math.inf, -math.inf, -math.inf]])
    assert rank_targets(scores, torch.tensor([1, 0, 2])).tolist() == [1, 0, 0]


def test_nothing_asked_is_nothing_found() -> None:
    """No targets have no ranks."""
    assert rank_targets(torch.ones(0, 5), torch.empty(0, dtype=torch.int64)).tolist() == []


@given(st.sets(st.integers(1, 30)), st.dictionaries(st.integers(1, 30), st.floats(0.0, 9.0, width=32)))
def test_bonuses_are_the_candidates_own(candidates: set[int], gains: dict[int, float]) -> None:
    """Each candidate gets its bonus or nothing; bonuses of other items go nowhere."""
    rows = np.array(sorted(candidates), np.int64)
    some = Bonuses(np.array(sorted(gains), np.int64), np.array([gains[row] for row in sorted(gains)], np.float32))
    found = some.of(rows)
    assert found.dtype == np.float32
    assert found.tolist() == [gains.get(row, 0.0) for row in sorted(candidates)]
    assert not NO_BONUSES.of(rows).any()


def test_figures_are_means_over_targets() -> None:
    """HR@10 counts places 1 to 10, NDCG@10 discounts them by their logarithm; misses are 0."""
    found = np.array([1, 3, 11, 0])
    assert hr_at(found) == 0.5
    assert ndcg_at(found) == pytest.approx((1 + 0.5) / 4)
    assert hr_at(np.array([])) == ndcg_at(np.array([])) == 0.0
