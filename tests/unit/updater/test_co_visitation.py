"""Where id embeddings start."""

from __future__ import annotations

import numpy as np
import torch

from headwater_core.events import HistoryEvent
from headwater_core.histories import TokenSequence, tokens
from headwater_core.towers import TowerConfig
from headwater_updater.co_visitation import co_visitation_vectors


def sequence(rows: list[int]) -> TokenSequence:
    events = [HistoryEvent(i, i, "click", str(row)) for i, row in enumerate(rows)]
    return tokens(events, TowerConfig(), int)


def test_items_visited_together_lie_together() -> None:
    """With two groups of items that are never mixed, an item is nearer to its own group than to the other."""
    rng = np.random.default_rng(0)
    histories = [sequence((rng.permutation(10)[:6] + 1 + 10 * (u % 2)).tolist()) for u in range(200)]
    torch.manual_seed(0)
    vectors = co_visitation_vectors(histories, 24, 8)
    own, other = vectors[1:11].mean(0), vectors[11:21].mean(0)
    assert ((vectors[1:11] @ own) > (vectors[1:11] @ other)).all()
    assert ((vectors[11:21] @ other) > (vectors[11:21] @ own)).all()
    assert vectors[[0, 21, 22, 23]].abs().max() < 1e-5  # no item, and items nobody visited
    assert torch.isfinite(vectors).all()


def test_without_neighbours_there_is_nothing_to_say() -> None:
    """No history, or none with two different items, gives zeros."""
    for histories in ([], [sequence([1])], [sequence([2, 2, 2])]):
        assert not co_visitation_vectors(histories, 5, 8).any()
