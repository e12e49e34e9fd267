"""Running means and deviations of values."""

from __future__ import annotations

import numpy as np
import pytest

from headwater_core.events import HistoryEvent
from headwater_core.histories import fit_vocabulary, tokens
from headwater_core.towers import TowerConfig
from headwater_updater.value_statistics import count_values, follow_values


def ratings(values: np.ndarray, event_type: str = "rating") -> list[HistoryEvent]:
    return [HistoryEvent(at, at, event_type, "i1", float(value)) for at, value in enumerate(values)]


def fitted(values: np.ndarray) -> tuple[TowerConfig, np.ndarray]:
    histories = [ratings(values)]
    config = fit_vocabulary(TowerConfig(), histories, ["click"])
    return config, count_values(config, histories)


def usual(config: TowerConfig, event_type: str = "rating") -> tuple[float, float]:
    at = config.event_types.index(event_type)
    return config.value_mean[at], config.value_std[at]


def test_what_stays_as_it_was_keeps_its_statistics() -> None:
    """Further values of the same kind leave mean and deviation where they are, within what chance does."""
    rng = np.random.default_rng(0)
    config, counts = fitted(rng.normal(3.0, 1.0, 5000))
    mean, std = usual(follow_values(config, counts, ratings(rng.normal(3.0, 1.0, 5000))))
    assert mean == pytest.approx(3.0, abs=0.05)
    assert std == pytest.approx(1.0, abs=0.05)
    assert counts.sum() == 10_000


def test_a_lasting_change_is_followed() -> None:
    """When prices double, a usual one is usual again after some tens of thousands."""
    rng = np.random.default_rng(1)
    config, counts = fitted(rng.normal(10.0, 2.0, 5000))
    config = follow_values(config, counts, ratings(rng.normal(20.0, 4.0, 60_000)))
    assert usual(config)[0] == pytest.approx(20.0, abs=0.3)
    assert usual(config)[1] == pytest.approx(4.0, abs=0.4)
    assert abs(float(tokens(ratings(np.array([20.0])), config, lambda _: 1).value[0])) < 0.1


def test_one_absurd_value_moves_little() -> None:
    """It counts as far as the towers would see it: four deviations."""
    config, counts = fitted(np.random.default_rng(2).normal(3.0, 1.0, 5000))
    before = usual(config)
    after = usual(follow_values(config, counts, ratings(np.array([1e9]))))
    assert after[0] - before[0] < 0.01
    assert after[1] - before[1] < 0.01


@pytest.mark.parametrize("values", [[1e200], [1.0, -1e308, 1e308], [1e160] * 200])
def test_no_value_is_too_large_to_go_on(values: list[float]) -> None:
    """Whoever writes 1e200 as a rating stops nobody's learning: statistics stay finite, in full training, too."""
    config, counts = fitted(np.array([3.0, 4.0]))
    for event_type in ("rating", "click"):
        mean, std = usual(follow_values(config, counts, ratings(np.array(values), event_type)), event_type)
        assert np.isfinite([mean, std]).all()
        assert std > 0
    assert np.isfinite(usual(fitted(np.array(values))[0])).all()


def test_a_type_that_had_no_values_gets_statistics_of_its_own() -> None:
    """From its first value on; types outside the vocabulary and events without values change nothing."""
    config, counts = fitted(np.array([3.0, 4.0]))
    rng = np.random.default_rng(3)
    config = follow_values(config, counts, ratings(rng.normal(50.0, 5.0, 3000), "click"))
    assert usual(config, "click")[0] == pytest.approx(50.0, abs=0.6)
    assert usual(config, "click")[1] == pytest.approx(5.0, abs=0.5)
    untouched = [HistoryEvent(1, 1, "click", "i1"), HistoryEvent(2, 2, "unheard-of", "i1", 3.0)]
    assert follow_values(config, counts, untouched) == config
