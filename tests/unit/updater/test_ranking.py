"""Full ranking and its figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headwater_updater import ranking
from headwater_updater.ranking import hr_at, ndcg_at, ranks


@pytest.mark.parametrize("chunk_elements", [1, 10**6])
def test_ranks_count_all_candidates(monkeypatch: pytest.MonkeyPatch, chunk_elements: int) -> None:
    """A target's rank is its place among all candidates by score, whatever the size of the chunks."""
    monkeypatch.setattr(ranking, "_CHUNK_ELEMENTS", chunk_elements)
    items = torch.tensor([[3.0], [1.0], [2.0]])
    assert ranks(torch.ones(3, 1, 1), items, np.array([0, 1, 2])).tolist() == [1, 3, 2]


def test_ties_count_against_the_target() -> None:
    """A model that gives every item the same score finds nothing."""
    assert ranks(torch.ones(1, 2, 1), torch.ones(50, 1), np.array([0])).tolist() == [50]


def test_excluded_candidates_make_room_and_excluded_targets_miss() -> None:
    """Items left out do not count; a target among them has rank 0."""
    items = torch.tensor([[3.0], [2.0], [1.0]])
    found = ranks(torch.ones(2, 1, 1), items, np.array([1, 0]), [np.array([0]), np.array([0])])
    assert found.tolist() == [1, 0]


def test_figures_are_means_over_targets() -> None:
    """HR@10 counts places 1 to 10, NDCG@10 discounts them by their logarithm; misses are 0."""
    found = np.array([1, 3, 11, 0])
    assert hr_at(found) == 0.5
    assert ndcg_at(found) == pytest.approx((1 + 0.5) / 4)
    assert hr_at(np.array([])) == ndcg_at(np.array([])) == 0.0
