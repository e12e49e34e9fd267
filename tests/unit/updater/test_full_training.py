"""The learning rate over a full training."""

from __future__ import annotations

import pytest

from headwater_core.towers import TowerConfig
from headwater_updater.full_training import Schedule
from headwater_updater.learner_config import LearnerConfig

CONFIG = LearnerConfig(TowerConfig(), {}, learning_rate=1.0, warm_up=0.1)


def test_the_rate_rises_then_falls_to_the_end_of_the_budget() -> None:
    """A tenth of the budget up, the rest a cosine down to a hundredth."""
    schedule = Schedule(CONFIG)
    assert schedule.rate(0.05) == pytest.approx(0.5)
    assert schedule.rate(0.1) == pytest.approx(1.0)
    assert schedule.rate(0.55) == pytest.approx(0.505)
    assert schedule.rate(1.0) == pytest.approx(0.01)
    assert (schedule.end, schedule.is_annealing) == (1.0, False)


def test_annealing_falls_from_where_it_begins_to_an_earlier_end() -> None:
    """After 0.2 of the budget it takes 0.12 more, from the rate there was."""
    schedule = Schedule(CONFIG)
    before = schedule.rate(0.2)
    schedule.anneal(0.2)
    assert schedule.is_annealing
    assert schedule.end == pytest.approx(0.32)
    assert schedule.rate(0.2) == pytest.approx(before)
    assert schedule.rate(0.26) == pytest.approx(0.505 * before)
    assert schedule.rate(0.32) == pytest.approx(0.01 * before)


def test_annealing_never_outlasts_the_budget() -> None:
    """Late, it only falls faster."""
    schedule = Schedule(CONFIG)
    schedule.anneal(0.9)
    assert schedule.end == 1.0
