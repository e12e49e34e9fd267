"""How the simulator judges: regret, the daily refit, recovery, and what several runs add up to."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from simulator import MOODS, STRATEGIES, Phase, daily_refit, phases_of, recovery, summary
from simulator_report import best_single, recoveries

N = 400
PHASES = [Phase("taste", 0, 200), Phase("novelty", 200, 400)]


def world() -> dict[str, np.ndarray]:
    """`category` is the best until visit 200 and half of `fresh` after; the experiment follows 80 visits later."""
    after = np.arange(N) >= 200
    earned = {name: np.full(N, 0.1) for name in STRATEGIES}
    earned["category"] = np.where(after, 0.4, 0.6)
    earned["fresh"] = np.where(after, 0.8, 0.2)
    earned["adaptive"] = np.where(np.arange(N) >= 280, 0.8, earned["category"])
    return earned


def test_regret_is_what_the_best_of_each_phase_would_have_earned_more() -> None:
    """The best single source is judged over the whole run."""
    found = summary(world(), PHASES, 200)
    assert found["oracle"] == pytest.approx(0.7)
    assert found["policies"]["category"]["regret"] == pytest.approx(200 * 0.4)
    assert found["policies"]["adaptive"]["regret"] == pytest.approx(80 * 0.4)
    assert found["tells_apart"] == [True]
    name, regret = best_single(found)
    assert (name, regret) == ("category", found["policies"]["category"]["regret"])


def test_the_refit_chooses_what_was_best_on_the_day_before() -> None:
    """So a change within a day reaches it with the next one."""
    single = {name: values for name, values in world().items() if name in STRATEGIES}
    chosen = daily_refit(single, 80)
    assert chosen[:240].tolist() == single["category"][:240].tolist()
    assert chosen[320:].tolist() == single["fresh"][320:].tolist()


def test_recovered_is_whose_last_visits_are_near_the_best() -> None:
    """Within 90 % over the last hundred, judged after fifty; one that never is needs all."""
    best = np.full(300, 1.0)
    assert recovery(best, best) == 50
    assert recovery(np.where(np.arange(300) >= 120, 1.0, 0.0), best) == 210
    assert recovery(np.full(300, 0.8), best) == 300
    late = np.where(np.arange(300) >= 100, 1.0, 0.1)  # the best rises slowly, and another stays where both began
    assert recovery(np.full(300, 0.1), late) == 300


def test_only_changes_that_tell_policies_apart_can_be_asked_for() -> None:
    """A change that the strategy before survives says nothing of whoever showed it."""
    run = {"tells_apart": [True, False], "policies": {"adaptive": {"visits_to_recover": [80, 50]}}}
    assert recoveries([run, run], "adaptive", only_telling=True) == [80, 80]
    assert recoveries([run], "adaptive", only_telling=False) == [80, 50]


def test_phases_cover_all_visits_and_each_is_a_change() -> None:
    """Whatever the seed."""
    for seed in range(20):
        phases = phases_of(np.random.default_rng(seed), 1_000, 6)
        assert (phases[0].start, phases[-1].end, len(phases)) == (0, 1_000, 6)
        for one, following in pairwise(phases):
            assert one.end == following.start
            assert one.mood != following.mood
            assert following.mood in MOODS
