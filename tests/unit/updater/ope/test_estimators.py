"""The estimators as formulas: what must hold for any log."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_updater.ope.estimators import (
    Estimate,
    Terms,
    bootstrap_intervals,
    direct_method,
    doubly_robust,
    effective_rows,
    ips,
    score_interval,
    snips,
)
from headwater_updater.ope.predictions import Predictions

rewards_ = st.lists(st.floats(-100, 100), min_size=1, max_size=30).map(np.array)
weights_ = st.floats(1e-3, 1e3)


@st.composite
def weighted(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Weights and rewards of as many rows."""
    rewards = draw(rewards_)
    return np.array(draw(st.lists(weights_, min_size=len(rewards), max_size=len(rewards)))), rewards


@given(rewards_)
def test_the_policy_that_served_earns_the_mean(rewards: np.ndarray) -> None:
    """Where target and logging policy are one, every weight is 1, and IPS and SNIPS are the mean reward."""
    ones = np.ones(len(rewards))
    assert ips(ones, rewards).value == pytest.approx(rewards.mean())
    assert snips(ones, rewards).value == pytest.approx(rewards.mean())


@given(weighted(), st.floats(-100, 100))
def test_snips_moves_with_the_rewards(log: tuple[np.ndarray, np.ndarray], shift: float) -> None:
    """A constant on all rewards is on the estimate; IPS moves by the mean weight times as much."""
    weights, rewards = log
    assert snips(weights, rewards + shift).value == pytest.approx(snips(weights, rewards).value + shift, abs=1e-6)
    moved = ips(weights, rewards).value + shift * weights.mean()
    assert ips(weights, rewards + shift).value == pytest.approx(moved, abs=1e-6 * weights.max())


@given(weighted())
def test_snips_stays_within_the_rewards(log: tuple[np.ndarray, np.ndarray]) -> None:
    """It is a weighted mean."""
    weights, rewards = log
    assert rewards.min() - 1e-9 <= snips(weights, rewards).value <= rewards.max() + 1e-9


@given(weighted())
def test_the_effective_sample_size_is_at_most_the_rows(log: tuple[np.ndarray, np.ndarray]) -> None:
    """And at least one row, as far as any has a weight; the scale of weights does not matter."""
    weights, _ = log
    assert 1 - 1e-9 <= effective_rows(weights) <= len(weights) + 1e-9
    assert effective_rows(7 * weights) == pytest.approx(effective_rows(weights))


@given(weights_, st.integers(1, 50))
def test_equal_weights_are_all_effective(weight: float, n: int) -> None:
    """And weights that are all 0 are none."""
    assert effective_rows(np.full(n, weight)) == pytest.approx(n)
    assert effective_rows(np.zeros(n)) == 0


@given(weighted())
def test_a_model_that_is_right_leaves_nothing_to_correct(log: tuple[np.ndarray, np.ndarray]) -> None:
    """With predictions equal to the rewards the doubly robust estimate is the direct method's."""
    weights, rewards = log
    model = Predictions(rewards, rewards[::-1], np.zeros(len(rewards)))
    assert doubly_robust(weights, rewards, model).value == pytest.approx(direct_method(rewards, model).value)


@given(weighted())
def test_a_model_that_says_nothing_leaves_ips(log: tuple[np.ndarray, np.ndarray]) -> None:
    """With predictions of 0 the doubly robust estimate is IPS."""
    weights, rewards = log
    nothing = Predictions(*np.zeros((3, len(rewards))))
    assert doubly_robust(weights, rewards, nothing).value == pytest.approx(ips(weights, rewards).value)


def test_leverage_does_not_move_the_direct_method() -> None:
    """It is there for the interval alone."""
    rewards = np.array([1.0, 0.0, 0.0])
    model = Predictions(np.array([0.5, 0.2, 0.1]), np.array([0.3, 0.4, 0.5]), np.array([2.0, 1.0, 0.0]))
    terms = direct_method(rewards, model)
    assert terms.value == pytest.approx(0.4)
    assert np.ptp(terms.numerator - model.value) > 0


def test_formulas_by_hand() -> None:
    """Two rows, by pen."""
    weights, rewards = np.array([2.0, 0.5]), np.array([1.0, 4.0])
    model = Predictions(np.array([0.5, 3.0]), np.array([1.0, 2.0]), np.zeros(2))
    assert ips(weights, rewards).value == pytest.approx(2.0)
    assert snips(weights, rewards).value == pytest.approx(1.6)
    assert direct_method(rewards, model).value == pytest.approx(1.5)
    assert doubly_robust(weights, rewards, model).value == pytest.approx((1 + 2 * 0.5 + 2 + 0.5 * 1) / 2)
    assert effective_rows(weights) == pytest.approx(2.5**2 / 4.25)


def test_the_bootstrap_is_as_wide_as_the_standard_error_says() -> None:
    """For a plain mean of many rows; twice the same seed is the same interval."""
    rewards = np.random.default_rng(0).normal(3.0, 2.0, 2_000)
    terms = {"mean": Terms(rewards, np.ones(2_000))}
    found = bootstrap_intervals(terms, np.arange(2_000), seed=1)["mean"]
    half = 1.96 * rewards.std() / np.sqrt(2_000)
    assert found.value == pytest.approx(rewards.mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert bootstrap_intervals(terms, np.arange(2_000), seed=1)["mean"] == found
    assert bootstrap_intervals(terms, np.arange(2_000), seed=2)["mean"] != found


def test_rows_that_belong_together_make_intervals_wider() -> None:
    """Each row told ten times over says no more than once."""
    once = np.random.default_rng(0).normal(size=200)
    rewards, clusters = np.repeat(once, 10), np.repeat(np.arange(200), 10)
    terms = {"mean": Terms(rewards, np.ones(2_000))}
    alone = bootstrap_intervals({"mean": Terms(once, np.ones(200))}, np.arange(200), seed=0)["mean"]
    together = bootstrap_intervals(terms, clusters, seed=0)["mean"]
    assert together.high - together.low == pytest.approx(alone.high - alone.low)
    naive = bootstrap_intervals(terms, np.arange(2_000), seed=0)["mean"]
    assert together.high - together.low > 2.5 * (naive.high - naive.low)


def test_the_score_interval_of_clicks_is_wilsons() -> None:
    """3 of 100, by the textbook: .0103 to .0845."""
    clicks = np.array([1.0] * 3 + [0.0] * 97)
    found = score_interval(0.03, 100, clicks)
    assert (found.low, found.high) == pytest.approx((0.0103, 0.0845), abs=5e-5)
    in_cents = score_interval(5 + 0.03 * 200, 100, 5 + 200 * clicks)
    assert (in_cents.low, in_cents.high) == pytest.approx((5 + 200 * found.low, 5 + 200 * found.high))


def test_the_score_interval_knows_how_much_rewards_vary() -> None:
    """Of many rewards of a narrow spread it is the normal interval, wherever the extremes lie."""
    rewards = np.random.default_rng(0).normal(50, 1, 10_000)
    found = score_interval(50.0, 10_000, rewards)
    assert (found.low, found.high) == pytest.approx((50 - 0.0196, 50 + 0.0196), abs=5e-4)


def test_the_score_interval_is_open_where_no_reward_was_seen() -> None:
    """An estimate of 0 from few effective rows is not certain; one beyond the rewards is put at their end."""
    clicks = np.array([1.0] * 3 + [0.0] * 97)
    assert score_interval(0.0, 100, clicks).high > 0.03
    assert score_interval(-0.2, 100, clicks)[1:] == score_interval(0.0, 100, clicks)[1:]


def test_the_wider_interval_holds_both() -> None:
    """On either side."""
    assert Estimate(2, 1, 3).widened(Estimate(2, 0, 2.5)) == Estimate(2, 0, 3)
