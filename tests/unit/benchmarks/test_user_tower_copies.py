"""Copies of the user tower answer like the tower itself, and are smaller."""

from __future__ import annotations

import pytest
import torch
import user_tower_copies
from torch.nn import functional as F  # noqa: N812 the name every reader of PyTorch code expects

from headwater_core.histories import HistoryTensors
from headwater_core.towers import TowerConfig, UserTower

CONFIG = TowerConfig(
    dimension=16, n_layers=1, history_length=8, event_types=("click",), value_mean=(0.0,), value_std=(1.0,)
)


@pytest.fixture
def tower() -> UserTower:
    torch.manual_seed(0)
    return UserTower(CONFIG).eval()


def batch() -> tuple[HistoryTensors, torch.Tensor]:
    torch.manual_seed(1)
    shape = (4, 8)
    tensors = HistoryTensors(
        torch.ones(shape, dtype=torch.int64),
        torch.ones(shape, dtype=torch.int64),
        torch.full(shape, torch.nan),
        torch.zeros(shape, dtype=torch.int64),
        None,
        torch.tensor([8, 5, 3, 1]),
    )
    return tensors, torch.randn(*shape, CONFIG.dimension)


@pytest.mark.parametrize("name", ["bfloat16", "int8, dynamic", "int8, weights only"])
def test_a_rounded_copy_answers_nearly_the_same(tower: UserTower, name: str) -> None:
    """Interests point where the tower's do, in float32, from a fraction of the bytes."""
    found = user_tower_copies.copies(tower)
    with torch.inference_mode():
        own, theirs = (found[which].tower(*batch()) for which in ("float32", name))
    assert theirs.dtype == torch.float32
    assert float(F.cosine_similarity(own, theirs, dim=-1).min()) > 0.99
    assert found[name].size_bytes < 0.7 * found["float32"].size_bytes


def test_pruning_takes_the_smallest_weights(tower: UserTower) -> None:
    """Half of each layer is 0, what is left is unchanged, and the tower itself stays whole."""
    before = tower.decoder.query.weight.clone()
    found = user_tower_copies.pruned(tower, 0.5).decoder.query.weight
    assert float((found == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert bool(before[found == 0].abs().max() <= found[found != 0].abs().min())
    assert torch.equal(tower.decoder.query.weight, before)
