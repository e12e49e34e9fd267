"""What the softmax leaves out: what a user has already met, as serving leaves it out of the answer."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_core.histories import HistoryTensors
from headwater_core.towers import ItemTower, JointHeads, TowerConfig, UserTower
from headwater_updater import objective
from headwater_updater.examples import Batch
from headwater_updater.learner_config import LearnerConfig
from headwater_updater.objective import joint_loss

N_ITEMS = 8
LENGTH = 6
CONFIG = TowerConfig(
    dimension=8, n_layers=1, text_dimension=2, event_types=("click",), value_mean=(0.0,), value_std=(1.0,)
)


class Asked(NamedTuple):
    """Two histories, and for each target its history, the last event before it and its item."""

    histories: list[list[int]]
    targets: list[tuple[int, int, int]]

    def seen(self, target: int) -> set[int]:
        """What the target's user had met when it was asked for."""
        b, t, _ = self.targets[target]
        return set(self.histories[b][: t + 1])

    def batch(self) -> Batch:
        b, t, rows = (torch.tensor([each[part] for each in self.targets]) for part in range(3))
        shape = (len(self.histories), LENGTH)
        tensors = HistoryTensors(
            torch.tensor(self.histories),
            torch.ones(shape, dtype=torch.int64),
            torch.full(shape, torch.nan),
            torch.zeros(shape, dtype=torch.int64),
            None,
            torch.full((len(self.histories),), LENGTH),
        )
        n = len(self.targets)
        types, values = torch.ones(n, dtype=torch.int64), torch.full((n,), torch.nan)
        return Batch(tensors, b * LENGTH + t, rows, types, values, torch.ones(n), np.zeros(n, np.int64))


_ROWS = st.integers(1, N_ITEMS)
_HISTORY = st.lists(st.integers(0, N_ITEMS), min_size=LENGTH, max_size=LENGTH)
_TARGETS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, LENGTH - 1), _ROWS), min_size=1, max_size=5)
ASKED = st.builds(Asked, st.lists(_HISTORY, min_size=2, max_size=2), _TARGETS)


@settings(deadline=None)
@given(ASKED, st.lists(_ROWS, min_size=1, max_size=12))
def test_sampled_items_that_the_user_has_met_are_known(asked: Asked, drawn: list[int]) -> None:
    """Each draw of them, in the order in which they were drawn: by all that happened up to the target's source."""
    found = objective._is_seen(asked.batch(), torch.tensor(drawn))
    assert found.tolist() == [[row in asked.seen(p) for row in drawn] for p in range(len(asked.targets))]


def test_an_item_that_was_drawn_twice_is_left_out_twice() -> None:
    """And one that comes only after the target's source is not."""
    asked = Asked([[3, 5, 0, 7, 0, 0]] * 2, [(0, 1, 8), (1, 3, 8)])
    found = objective._is_seen(asked.batch(), torch.tensor([5, 7, 3, 5, 1]))
    assert found.tolist() == [[True, False, True, True, False], [True, True, True, True, False]]


@settings(deadline=None)
@given(ASKED, st.sets(_ROWS))
def test_all_that_the_user_has_met_is_left_out_but_the_target(asked: Asked, others: set[int]) -> None:
    """A target that was met before stays one; no other candidate's logit changes."""
    candidates = sorted(others.union(row for _, _, row in asked.targets))
    offsets = objective._without_seen(asked.batch(), torch.tensor(candidates))
    for p, (_, _, target) in enumerate(asked.targets):
        added = dict.fromkeys(candidates, 0.0)
        for place, value in zip(offsets.places[p].tolist(), offsets.values[p].tolist(), strict=True):
            assert value in (0.0, -np.inf)
            assert value == 0.0 or candidates[place] != target
            added[candidates[place]] += value
        wanted = {row: -np.inf if row in asked.seen(p) - {target} else 0.0 for row in candidates}
        assert added == wanted


@pytest.mark.parametrize("full_softmax_limit", [0, N_ITEMS])
def test_what_was_met_is_not_pushed_down(full_softmax_limit: int) -> None:
    """Where users do not repeat items, the loss is as if those they had met were no candidates; elsewhere it is not."""
    config = LearnerConfig(CONFIG, {"click": 1.0}, full_softmax_limit=full_softmax_limit, n_negatives=4096)
    torch.manual_seed(0)
    towers = UserTower(CONFIG).eval(), ItemTower(CONFIG).eval(), JointHeads(CONFIG).eval()
    towers[1].grow(N_ITEMS)
    towers[1].id_embedding.data.normal_()
    asked = Asked([[1, 2, 3, 4, 5, 5]] * 2, [(0, 4, 8), (1, 5, 8)])
    everything = np.array([0.0] + [1.0] * N_ITEMS)
    unseen = np.array([0.0] * 6 + [1.0] * 3)

    def loss(*, exclude_seen: bool, counts: np.ndarray, without_seen: bool = True) -> float:
        features, rng = torch.zeros(N_ITEMS + 1, 2), np.random.default_rng(0)
        one = replace(config, exclude_seen=exclude_seen, softmax_without_seen=without_seen)
        return joint_loss(one, towers, features, counts, asked.batch(), rng).next_item

    # What is drawn is drawn anew, so the sampled loss is only near.
    wanted = pytest.approx(loss(exclude_seen=False, counts=unseen), abs=0.05 if not full_softmax_limit else 1e-6)
    assert loss(exclude_seen=True, counts=everything) == wanted
    pushed_down = loss(exclude_seen=False, counts=everything)
    assert pushed_down != wanted
    assert loss(exclude_seen=True, counts=everything, without_seen=False) == pushed_down
