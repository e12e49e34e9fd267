"""Trends: event weights that fade with the log."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_core.co_visits import NO_BONUSES, Blend, trend_bonuses
from headwater_core.errors import ArtifactError
from headwater_core.trends import HALF_LIVES, TRENDING, TrendTable, load_trend, save_trend


def table(n: int) -> TrendTable:
    trends = TrendTable()
    trends.grow(n)
    return trends


@given(st.lists(st.integers(1, 5), max_size=400), st.integers(1, 50))
def test_a_weight_halves_after_so_many_further_events(events: list[int], parts: int) -> None:
    """However the events are divided into calls."""
    trends = table(5)
    for part in np.array_split(np.array(events, np.int64), parts):
        trends.add(part)
    for half_life in HALF_LIVES:
        ages = np.arange(len(events) - 1, -1, -1)
        wanted = np.zeros(6)
        np.add.at(wanted, events, 0.5 ** (ages / half_life)) if events else None
        found = np.zeros(6)
        items, weights = trends.trend(half_life)
        found[items] = weights
        np.testing.assert_allclose(found, np.where(wanted > 1e-3, wanted, 0.0), rtol=1e-5, atol=1e-6)


def test_a_long_stream_does_not_overflow() -> None:
    """What everything is measured by grows without bound; it is brought back in time."""
    trends = table(2)
    trends.add(np.ones(200_000, np.int64))
    assert np.isfinite(trends.weights).all()
    assert trends.trend(100).weights[0] == pytest.approx(1 / (1 - 0.5 ** (1 / 100)), rel=1e-6)


def test_only_the_strongest_trend_and_only_what_is_present() -> None:
    """Rows ascending, as bonuses want them."""
    trends = table(TRENDING + 5)
    trends.add(np.repeat(np.arange(1, TRENDING + 6), 1))
    items, _ = trends.trend(HALF_LIVES[-1])
    assert items.tolist() == list(range(6, TRENDING + 6))
    present = np.ones(TRENDING + 6, np.bool_)
    present[TRENDING + 5] = False
    assert trends.trend(HALF_LIVES[-1], present).items.tolist() == list(range(5, TRENDING + 5))


def test_what_trends_more_gains_more() -> None:
    """And nothing without strength."""
    trends = table(3)
    trends.add(np.array([1, 2, 2]))
    found = trend_bonuses(trends.trend(1000), Blend(trend_strength=2.0))
    assert found.items.tolist() == [1, 2]
    assert 0 < found.values[0] < found.values[1]
    assert trend_bonuses(trends.trend(1000), Blend()) is NO_BONUSES


def test_bonuses_of_two_sources_add_up() -> None:
    """For items that either gives one."""
    trends = table(3)
    trends.add(np.array([1, 2, 2]))
    one = trend_bonuses(trends.trend(1000), Blend(trend_strength=1.0))
    both = one.joined(one)
    assert both.items.tolist() == [1, 2]
    np.testing.assert_allclose(both.values, 2 * one.values)
    assert one.joined(NO_BONUSES) is one
    assert NO_BONUSES.joined(one) is one


def test_a_trend_survives_its_file(tmp_path: Path) -> None:
    """By row of whoever reads it; unknown items are left out."""
    path = tmp_path / "trend.json"
    path.write_bytes(save_trend(["b", "gone", "a"], [2.0, 3.0, 1.0]))
    items, weights = load_trend(path, {"a": 4, "b": 7}.get)
    assert (items.tolist(), weights.tolist()) == ([4, 7], [1.0, 2.0])


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{",
        json.dumps({"item_ids": ["a"], "weights": []}).encode(),
        json.dumps({"item_ids": ["a", "a"], "weights": [1, 1]}).encode(),
        json.dumps({"item_ids": [1], "weights": [1]}).encode(),
        json.dumps({"item_ids": ["a"], "weights": [-1]}).encode(),
        b'{"item_ids": ["a"], "weights": [NaN]}',
        b'{"item_ids": ["a"], "weights": [1e300]}',
        b'{"item_ids": ["a"], "weights": [1' + b"0" * 400 + b"]}",
        b"[" * 100_000,
        b" " * (5 << 20) + b'{"item_ids": ["a"], "weights": [1]}',
    ],
)
def test_what_is_no_trend_is_refused(tmp_path: Path, content: bytes) -> None:
    """With a reason, whatever is wrong with it."""
    path = tmp_path / "trend.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"trend\.json"):
        load_trend(path, {"a": 1}.get)
