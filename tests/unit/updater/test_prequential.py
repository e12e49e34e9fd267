"""Prequential figures: rolling, total, sliced."""

from __future__ import annotations

import json
import math

import pytest

from headwater_updater.prequential import Prequential, ScoredTarget


def target(rank: int, *, new_item: bool = False, new_user: bool = False) -> ScoredTarget:
    return ScoredTarget(1, rank, new_item, new_user)


@pytest.mark.parametrize(("rank", "hit", "gain"), [(0, 0, 0), (1, 1, 1), (3, 1, 0.5), (10, 1, 0.289), (11, 0, 0)])
def test_a_targets_figures(rank: int, hit: float, gain: float) -> None:
    """A hit is a rank from 1 to 10, its gain one over the log of its place; rank 0 is a miss."""
    assert target(rank).hit == hit
    assert target(rank).gain == pytest.approx(gain, abs=1e-3)


def test_rolling_figures_are_over_the_latest_targets() -> None:
    """Old targets leave the rolling figures and stay in the totals."""
    prequential = Prequential(window=2)
    prequential.add([target(1), target(0), target(3)])
    assert prequential.rolling()["all"].hr == 0.5
    assert prequential.rolling()["all"].ndcg == 0.25
    assert prequential.total()["all"].n == 3
    assert prequential.total()["all"].hits == 2


def test_new_items_and_users_are_counted_in_all_and_apart() -> None:
    """A slice's targets are part of the whole as well."""
    prequential = Prequential()
    prequential.add([target(1), target(0, new_item=True), target(2, new_item=True, new_user=True)])
    tallies = prequential.total()
    assert {name: tally.n for name, tally in tallies.items()} == {"all": 3, "new_item": 2, "new_user": 1}
    assert tallies["new_item"].hr == 0.5


def test_metrics_name_only_what_was_measured() -> None:
    """A slice without targets has no figure instead of an invented one."""
    prequential = Prequential()
    assert prequential.metrics() == {}
    assert math.isnan(prequential.total()["all"].hr)
    prequential.add([target(1)])
    assert prequential.metrics() == {
        "prequential_hr_at_10": 1.0,
        "prequential_ndcg_at_10": 1.0,
        "prequential_targets": 1.0,
    }


def test_state_survives_json() -> None:
    """What state describes, load_state continues."""
    prequential = Prequential(window=3)
    prequential.add([target(rank, new_user=rank > 4) for rank in range(6)])
    loaded = Prequential.load_state(json.loads(json.dumps(prequential.state())))
    for each in (prequential, loaded):
        each.add([target(2)])
    assert loaded.state() == prequential.state()
    assert loaded.metrics() == prequential.metrics()


def test_a_window_must_hold_something() -> None:
    """A window of none is refused."""
    with pytest.raises(ValueError, match="window"):
        Prequential(0)
