"""The test that watches a candidate beside a reference."""

from __future__ import annotations

import json

import numpy as np
import pytest

from headwater_updater.sequential_test import ALPHA, SequentialTest


def pairs(n: int, reference: float, candidate: float, seed: int) -> list[tuple[float, float]]:
    """Gains of two models that agree on most targets, as two generations do."""
    rng = np.random.default_rng(seed)
    draws = np.where(rng.random(n) < 0.8, rng.random(n), np.nan)
    a, b = rng.random(n), rng.random(n)
    a, b = np.where(np.isnan(draws), a, draws), np.where(np.isnan(draws), b, draws)
    return list(zip((a < reference).astype(float).tolist(), (b < candidate).astype(float).tolist(), strict=True))


def ends(tolerance: float, given: list[tuple[float, float]]) -> tuple[str, int]:
    test = SequentialTest(tolerance)
    for start in range(0, len(given), 20):
        test.add(given[start : start + 20])
        if test.has_fallen or test.has_held:
            return "fallen" if test.has_fallen else "held", test.n
    return "undecided", test.n


def test_equal_models_are_hardly_ever_told_apart_however_often_one_looks() -> None:
    """200 streams of 5,000 targets, looked at every 20: at alpha of one in a thousand, none or one is a false alarm."""
    found = [ends(0.0, pairs(5_000, 0.1, 0.1, seed))[0] for seed in range(200)]
    assert found.count("fallen") <= 1 + 200 * ALPHA
    assert found.count("held") <= 1 + 200 * ALPHA


def test_a_fall_is_told_within_about_as_many_targets_as_are_stated() -> None:
    """The smallest fall that n targets tell, by the test's own account, is told by them most of the time."""
    probe = SequentialTest(0.05)
    probe.add(pairs(5_000, 0.1, 0.1, seed=1))
    n = 6_000
    fall = probe.smallest_fall(n)
    assert 0.05 < fall < 0.5
    told = [ends(0.0, pairs(2 * n, 0.1, 0.1 * (1 - fall), seed)) for seed in range(20)]
    assert [outcome for outcome, _ in told].count("fallen") >= 16
    assert n / 3 < np.median([at for _, at in told]) < 2 * n


def test_a_candidate_that_is_no_worse_is_promoted_in_the_end_and_one_that_is_not() -> None:
    """Better by a tenth: it has held. Worse by a fifth: it has fallen. The tolerance is what may be lost."""
    assert ends(0.05, pairs(40_000, 0.1, 0.11, seed=2))[0] == "held"
    assert ends(0.05, pairs(40_000, 0.1, 0.08, seed=3))[0] == "fallen"
    assert ends(0.3, pairs(40_000, 0.1, 0.099, seed=4))[0] == "held"


def test_nothing_is_decided_of_nothing() -> None:
    """No targets, or targets that nobody foresees, say nothing."""
    test = SequentialTest(0.05)
    test.add([(0.0, 0.0)] * 100)
    assert not test.has_fallen
    assert not test.has_held
    assert test.fall == 0.0
    assert test.smallest_fall(1000) == float("inf")


def test_its_state_goes_on_where_it_was() -> None:
    """Through JSON, to the last bit."""
    one = SequentialTest(0.05)
    one.add(pairs(300, 0.3, 0.2, seed=5))
    other = SequentialTest.load_state(json.loads(json.dumps(one.state())))
    for each in (one, other):
        each.add(pairs(300, 0.3, 0.2, seed=6))
    assert one.state() == other.state()
    with pytest.raises(ValueError, match="stakes"):
        SequentialTest.load_state({**one.state(), "against_equal": [0.0]})


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_a_tolerance_that_is_none_is_refused(tolerance: float) -> None:
    """It is a share."""
    with pytest.raises(ValueError, match="tolerance"):
        SequentialTest(tolerance)
