"""The reward model: it learns what there is, sees no row that it predicts, and knows how sure it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from headwater_updater.ope import reward_model
from headwater_updater.ope.log import BanditLog, ShownRow, bandit_log
from headwater_updater.ope.predictions import Predictions
from headwater_updater.ope.reward_model import cross_fitted
from headwater_updater.ope.target import Distribution, uniform


def make(n: int, seed: int = 0, noise: float = 0.1) -> BanditLog:
    """Rewards that are a sum of what item, place, segment and age say."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        item, place, segment, age = rng.integers(5), int(rng.integers(1, 4)), rng.integers(3), rng.normal(40, 10)
        reward = item + 0.5 * place + 2 * segment + 0.1 * age + rng.normal(0, noise)
        rows.append(ShownRow(f"i{item}", place, reward, 0.2, context=(f"s{segment}", f"{age:.6f}")))
    return bandit_log(rows, context=["context_segment", "context_age"])


def predict(log: BanditLog, seed: int = 0, weights: np.ndarray | None = None) -> Predictions:
    distribution = uniform(log).distribution
    assert distribution is not None
    return cross_fitted(log, distribution, seed, weights)


def test_it_learns_what_item_place_and_context_say() -> None:
    """Rows that no model saw are foreseen up to their noise, and so is the mean over what would be shown."""
    log = make(2_000)
    found = predict(log)
    assert np.std(log.rewards - found.shown) == pytest.approx(0.1, rel=0.1)
    items = np.array([int(log.item_ids[item][1:]) for item in log.items])
    assert found.value - found.shown == pytest.approx(2.0 - items, abs=0.05)


def test_it_expects_the_mean_where_there_is_nothing_to_learn() -> None:
    """Rewards of pure noise are shrunk to their mean."""
    log = make(2_000)
    noise = np.random.default_rng(1).normal(7.0, 1.0, 2_000)
    found = predict(dataclasses.replace(log, rewards=noise))
    assert np.std(found.shown) < 0.1
    assert found.shown.mean() == pytest.approx(7.0, abs=0.1)


def test_no_row_is_foreseen_by_a_model_that_saw_it() -> None:
    """Nor by one that saw a row that belongs with it: their rewards may be anything."""
    log = make(300)
    log = dataclasses.replace(log, clusters=np.arange(300) // 3, clustered_by="slate")
    found = predict(log)
    rewards = log.rewards.copy()
    rewards[30:33] += 1_000
    changed = predict(dataclasses.replace(log, rewards=rewards))
    assert changed.shown[30:33] == pytest.approx(found.shown[30:33])
    assert changed.value[30:33] == pytest.approx(found.value[30:33])
    assert np.abs(changed.shown - found.shown).max() > 1


def test_the_same_seed_deals_the_same_folds() -> None:
    """Another one does not."""
    log = make(200)
    assert np.array_equal(predict(log, 1).shown, predict(log, 1).shown)
    assert not np.array_equal(predict(log, 1).shown, predict(log, 2).shown)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_leverage_is_how_far_a_reward_moves_the_values(monkeypatch: pytest.MonkeyPatch, is_weighted: bool) -> None:
    """Measured by moving one reward, the penalty held; models of all folds but its own move, and the sum of values."""
    monkeypatch.setattr(reward_model, "_PENALTIES", np.array([3.0]))
    log = make(120)
    weights = None if not is_weighted else np.random.default_rng(0).uniform(0.1, 5, 120)
    found = predict(log, weights=weights)
    for row in (0, 17, 88):
        rewards = log.rewards.copy()
        rewards[row] += 1.0
        moved = predict(dataclasses.replace(log, rewards=rewards), weights=weights).value.sum() - found.value.sum()
        assert found.leverage[row] == pytest.approx(moved, abs=1e-6)


def test_a_row_of_weight_two_counts_as_two() -> None:
    """And one of weight 0 as none."""
    log = dataclasses.replace(make(300), context={})
    twice = log.clusters % 3.0
    rows = np.repeat(np.arange(300), twice.astype(int))  # the last cluster is among them: folds are the same
    repeated = dataclasses.replace(
        log,
        items=log.items[rows],
        positions=log.positions[rows],
        rewards=log.rewards[rows],
        propensities=log.propensities[rows],
        clusters=log.clusters[rows],
    )
    weighted, counted = predict(log, weights=twice), predict(repeated)
    assert counted.shown == pytest.approx(weighted.shown[rows])
    assert predict(log).shown != pytest.approx(weighted.shown, abs=0.02)


def test_many_rows_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same result."""
    log = make(500)
    whole = predict(log)
    monkeypatch.setattr(reward_model, "_CHUNK", 7)
    for part, expected in zip(predict(log), whole, strict=True):
        assert part == pytest.approx(expected)


def test_it_learns_who_likes_what() -> None:
    """Also where no item and no segment is better than another: each likes its own."""
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 3, (2_000, 2)).tolist()
    rows = [ShownRow(f"i{item}", 1, float(item == segment), 0.3, context=(f"s{segment}",)) for item, segment in pairs]
    log = bandit_log(rows, context=["context_segment"])
    found = predict(log)
    assert found.shown == pytest.approx(log.rewards, abs=0.05)
    assert found.value == pytest.approx(1 / 3, abs=0.05)


def test_items_and_cells_beyond_the_limits_are_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rare ones have no coefficient of their own, and are foreseen all the same."""
    monkeypatch.setattr(reward_model, "MAX_ITEMS", 2)
    monkeypatch.setattr(reward_model, "MAX_CELLS", 1)
    monkeypatch.setattr(reward_model, "MAX_PAIRS", 3)
    found = predict(make(300))
    assert np.isfinite(found.shown).all()
    assert np.std(found.shown) > 0


def test_a_column_that_never_changes_says_nothing() -> None:
    """Numbers or not."""
    rows = [ShownRow(f"i{n % 2}", 1, float(n % 2), 0.5, context=("x", "1.0", "nan")) for n in range(100)]
    log = bandit_log(rows, context=["a", "b", "c"])
    found = cross_fitted(log, Distribution(np.full((1, 2), 0.5), np.zeros(100, np.int64)), 0)
    assert np.isfinite(found.shown).all()
    assert found.shown[1::2].mean() > 0.9 > 0.1 > found.shown[::2].mean()
