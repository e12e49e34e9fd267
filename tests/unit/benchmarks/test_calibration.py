"""Calibration: bins, losses, and the methods that expected values are compared with."""

from __future__ import annotations

import calibration
import numpy as np
import pytest
import value_baselines

from headwater_core.events import HistoryEvent


def rated(n_users: int = 40, n_items: int = 30, seed: int = 0) -> dict[str, list[HistoryEvent]]:
    """Ratings that are the sum of a user's and an item's offset."""
    rng = np.random.default_rng(seed)
    of_user, of_item = rng.normal(0, 1, n_users), rng.normal(0, 1, n_items)
    return {
        f"u{user}": [
            HistoryEvent(k + 1, k * 1_000_000, "rating", f"i{item}", float(3 + of_user[user] + of_item[item]))
            for k, item in enumerate(rng.permutation(n_items)[:20].tolist())
        ]
        for user in range(n_users)
    }


def test_honest_probabilities_have_no_calibration_error() -> None:
    """What happens as often as was said is calibrated; half of it is not."""
    rng = np.random.default_rng(0)
    said = rng.uniform(0, 1, 200_000)
    happened = rng.uniform(0, 1, len(said)) < said
    assert calibration.reliability(said, happened, 10).error < 0.01
    assert calibration.reliability(said / 2, happened, 10).error > 0.2


def test_bins_have_equal_mass() -> None:
    """However the probabilities are spread."""
    bins = calibration.reliability(np.random.default_rng(0).beta(0.1, 5, 1000), np.zeros(1000, bool), 10)
    assert bins.pairs.tolist() == [100] * 10
    assert (np.diff(bins.predicted) > 0).all()


def test_the_base_rate_has_the_entropy_as_its_loss() -> None:
    """-p log p - (1 - p) log (1 - p)."""
    happened = np.arange(100) < 10
    assert calibration.log_loss(np.full(100, 0.1), happened) == pytest.approx(-0.1 * np.log(0.1) - 0.9 * np.log(0.9))


@pytest.mark.parametrize("method", ["user-item mean", "factors"])
def test_offsets_are_found(method: str) -> None:
    """Values that are a sum of offsets are foreseen on pairs that nobody has seen."""
    histories = rated()
    held = [(user_id, events[-1].item_id) for user_id, events in histories.items()]
    truth = np.array([events[-1].value for events in histories.values()])
    known = {user_id: events[:-1] for user_id, events in histories.items()}
    ratings = value_baselines.Ratings.of(known, "rating", lambda _: True)
    if method == "factors":
        found = value_baselines.matrix_factorisation(ratings, held, seed=0)
    else:
        found = value_baselines.user_item_mean(ratings, held)
    spread = float(np.std(truth))
    assert float(np.sqrt(np.square(found - truth).mean())) < 0.5 * spread


def test_an_unknown_user_gets_the_items_mean() -> None:
    """And an unknown item the user's: no pair is left without an answer."""
    ratings = value_baselines.Ratings.of(rated(), "rating", lambda _: True)
    found = value_baselines.user_item_mean(ratings, [("nobody", "nothing"), ("u0", "nothing")])
    assert found[0] == pytest.approx(ratings.values.mean(), abs=1e-6)
    assert found[1] != found[0]
