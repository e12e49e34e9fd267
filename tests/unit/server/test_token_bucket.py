"""So many a second, and a burst of what a second brings."""

from __future__ import annotations

import pytest

from headwater_server.token_bucket import TokenBucket


def test_what_a_second_brings_may_come_at_once_and_then_at_the_rate() -> None:
    """Who waits as long as it is told gets the next."""
    now_s = 100.0
    bucket = TokenBucket(4.0, lambda: now_s)
    assert [bucket.take() for _ in range(4)] == [0.0] * 4
    assert bucket.take() == pytest.approx(0.25)
    now_s += 0.2
    assert bucket.take() == pytest.approx(0.05)
    now_s += 0.0501
    assert bucket.take() == 0.0
    now_s += 1000.0
    assert [bucket.take() > 0 for _ in range(5)] == [False] * 4 + [True]


def test_a_rate_below_one_lets_one_in() -> None:
    """Else nobody would ever be."""
    now_s = 0.0
    bucket = TokenBucket(0.1, lambda: now_s)
    assert bucket.take() == 0.0
    assert bucket.take() == pytest.approx(10.0)
    now_s += 10.0
    assert bucket.take() == 0.0
