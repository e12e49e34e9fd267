"""Metrics against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headwater_updater.evaluation.metrics import bootstrap_interval, coverage, target_ranks, user_metrics

LIST = [str(rank) for rank in range(1, 101)]


def test_ranks_start_at_one_and_zero_is_a_miss() -> None:
    """What is not in the list has no rank."""
    assert target_ranks(LIST, ["1", "100", "none"]).tolist() == [1, 100, 0]


def test_a_users_value_is_the_mean_over_their_targets() -> None:
    """One relevant item for each target: rank 3 gains 1 / log2(4) = 1/2, rank 1 gains 1, beyond the cut nothing."""
    found = user_metrics([LIST, LIST, LIST[:2]], [["3"], ["1", "11"], ["3"]])
    assert found["hr_at_10"].tolist() == [1.0, 0.5, 0.0]
    assert found["ndcg_at_10"].tolist() == pytest.approx([0.5, 0.5, 0.0])
    assert found["hr_at_50"].tolist() == [1.0, 1.0, 0.0]
    assert found["ndcg_at_50"].tolist() == pytest.approx([0.5, (1 + 1 / math.log2(12)) / 2, 0.0])


def test_coverage_counts_items_anyone_sees_in_the_first_ten() -> None:
    """Eleventh places do not count."""
    assert coverage([LIST[:11], LIST[5:20]], n_candidates=100) == 0.15


def test_the_interval_is_where_the_mean_of_a_sample_would_lie() -> None:
    """About 1.96 standard errors to each side; the same for the same seed; none where all values are equal."""
    values = np.random.default_rng(0).normal(2.0, 1.0, 2500)
    found = bootstrap_interval(values, seed=1)
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 50, rel=0.1)
    assert found.low < found.mean < found.high
    assert bootstrap_interval(values, seed=1) == found
    assert bootstrap_interval(np.full(10, 0.25), seed=0) == (0.25, 0.25, 0.25)
