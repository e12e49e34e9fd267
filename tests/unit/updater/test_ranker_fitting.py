"""From what was shown and what came of it to a ranker, on clicks whose causes are known."""

from __future__ import annotations

import numpy as np
import pytest

from headwater_core.ranker import FEATURES
from headwater_updater.ranker_fitting import Fit, Shown, divided, fit, judged

N_PLACES = 10
AGE, POPULARITY = FEATURES.index("age"), FEATURES.index("popularity")


def clicks(n_slates: int, seed: int, *, relevance: float = 1.5, by_popularity: bool = False) -> Shown:
    """Users click on what is old, and on what stands high. `by_popularity`: popular items are put first."""
    rng = np.random.default_rng(seed)
    read = np.zeros((n_slates, N_PLACES, len(FEATURES)), np.float32)
    read[..., AGE] = rng.normal(size=(n_slates, N_PLACES))
    read[..., POPULARITY] = rng.normal(size=(n_slates, N_PLACES))
    if by_popularity:
        order = np.argsort(-read[..., POPULARITY], axis=1)
        read = np.take_along_axis(read, order[..., None], axis=1)
    place = np.tile(np.arange(1, N_PLACES + 1), (n_slates, 1))
    odds = -1.0 + relevance * read[..., AGE] - 0.5 * (place - 1)
    acted = rng.random((n_slates, N_PLACES)) < 1 / (1 + np.exp(-odds))
    slate = np.repeat(np.arange(n_slates), N_PLACES)
    user = slate // 4  # four slates each
    return Shown(read.reshape(-1, len(FEATURES)), place.ravel(), acted.ravel().astype(np.float64), slate, user)


def found(shown: Shown) -> Fit:
    return fit(divided(shown)[0])


def test_it_finds_what_users_act_on_and_what_places_do() -> None:
    """Both as they were made up; features that say nothing get no weight to speak of."""
    result = found(clicks(3_000, seed=0))
    assert result.ranker.weights["age"].weight == pytest.approx(1.5, abs=0.15)
    assert abs(result.ranker.weights["popularity"].weight) < 0.1
    assert set(result.ranker.weights) == {"age", "popularity"}
    assert result.places[:N_PLACES] == pytest.approx(-0.5 * np.arange(N_PLACES), abs=0.4)


def test_what_was_put_first_is_not_taken_for_what_is_liked() -> None:
    """Where what is popular always stood first, its clicks are the place's."""
    shown = clicks(3_000, seed=1, by_popularity=True)
    result = found(shown)
    assert abs(result.ranker.weights["popularity"].weight) < 0.2
    biased = fit(divided(shown)[0]._replace(place=np.ones(len(divided(shown)[0].place), np.int64)))
    assert biased.ranker.weights["popularity"].weight > 0.8


def test_a_ranker_that_knows_is_surely_better_and_one_that_does_not_is_not() -> None:
    """Judged by users that it was not fitted on."""
    shown = clicks(3_000, seed=2)
    learned_from, judges = divided(shown)
    assert not set(learned_from.user) & set(judges.user)
    assert judged(fit(learned_from), judges).is_sure
    noise = clicks(3_000, seed=3, relevance=0.0)
    assert not judged(fit(divided(noise)[0]), divided(noise)[1]).is_sure


def test_what_was_never_seen_counts_as_the_nearest_that_was() -> None:
    """All items were written within a minute, the liked ones first: their age must not decide when new ones come."""
    shown = clicks(1_000, seed=4)
    features = shown.features.copy()
    features[:, AGE] *= 0.001
    ranker = fit(shown._replace(features=features)).ranker
    oldest = features[np.argmax(features[:, AGE])][None]
    older = oldest.copy()
    older[:, AGE] = 7.0
    assert ranker.scores(older) == pytest.approx(ranker.scores(oldest))


@pytest.mark.parametrize("worth", [0.0, 1.0])
def test_without_a_difference_there_is_nothing_to_learn(worth: float) -> None:
    """Nothing acted on, or everything."""
    shown = clicks(10, seed=0)
    with pytest.raises(ValueError, match="acted on"):
        fit(shown._replace(worth=np.full(len(shown.worth), worth)))


def test_nobody_judges_nothing() -> None:
    """Without an action of a held-out user nothing is sure."""
    shown = clicks(200, seed=0)
    gain = judged(found(shown), shown._replace(worth=np.zeros(len(shown.worth))))
    assert gain.users == 0
    assert not gain.is_sure
