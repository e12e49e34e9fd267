"""How far rounds go."""

from __future__ import annotations

import numpy as np
import pytest

from headwater_updater.pacing import Pacing
from headwater_updater.prequential import ScoredTarget

SECOND_US = 1_000_000


def foreseen(mean: float, n: int, seed: int = 0) -> list[ScoredTarget]:
    losses = np.random.default_rng(seed).normal(mean, 1.0, n)
    return [ScoredTarget(at, 3, False, False, float(loss)) for at, loss in enumerate(losses)]


def stream(pacing: Pacing, mean: float, n_rounds: int, seed: int = 0) -> None:
    for turn in range(n_rounds):
        pacing.foresaw(foreseen(mean, 20, seed=1000 * seed + turn))


def test_a_steady_stream_is_learned_as_configured() -> None:
    """A full round at the usual loss: the configured rates and steps, all of its replay."""
    pacing = Pacing(steps_per_round=3)
    stream(pacing, 7.0, 250)
    assert pacing.plan() == (1.0, 3, 1.0)


def test_drift_raises_rates_and_steps_within_bounds_until_it_is_over() -> None:
    """A loss that is clearly higher than it used to be, and no chance; in the end it is the usual one."""
    pacing = Pacing(steps_per_round=2)
    stream(pacing, 7.0, 250)
    stream(pacing, 7.3, 20, seed=1)
    risen = pacing.plan()
    assert pacing.drift > 3
    assert 1.0 < risen.rate <= 4.0
    stream(pacing, 12.0, 15, seed=2)
    assert pacing.plan() == (4.0, 4, 1.0)
    stream(pacing, 12.0, 3000, seed=3)
    assert pacing.plan().rate == 1.0


def test_one_user_who_is_hard_to_foresee_is_no_drift() -> None:
    """However many targets of one round: it counts once."""
    pacing = Pacing()
    for turn in range(250):
        pacing.foresaw(foreseen(7.0 + 2 * (turn % 5 == 0), 50, seed=turn))
    usual = pacing.drift
    pacing.foresaw(foreseen(9.0, 5000, seed=-1 + 2**20))
    assert pacing.drift - usual < 1.0


def test_better_than_usual_and_the_first_targets_are_no_drift() -> None:
    """A falling loss changes nothing, and before there is a usual loss nothing is unusual."""
    pacing = Pacing()
    stream(pacing, 7.0, 10)
    assert pacing.plan().rate == 1.0
    stream(pacing, 7.0, 200)
    stream(pacing, 4.0, 30)
    assert pacing.plan().rate == 1.0


def test_what_arrives_too_fast_is_learned_in_fewer_steps_and_with_less_replay() -> None:
    """At 1,000 events/s, believed once it lasts, one step and a fifth of the replay; when it is quiet, all again."""
    pacing = Pacing(steps_per_round=4)
    pacing.arrived(10, 0)
    pacing.arrived(10, SECOND_US)
    assert pacing.plan() == (1.0, 4, 1.0)
    for second in range(2, 100):
        pacing.arrived(1000, second * SECOND_US)
    assert pacing.events_per_s == pytest.approx(1000, rel=0.05)
    busy = pacing.plan()
    assert busy.n_steps == 1
    assert busy.replay_share == pytest.approx(0.2, rel=0.05)
    pacing.arrived(10, 101 * SECOND_US)
    assert pacing.plan() == (1.0, 4, 1.0)


def test_a_state_goes_on_where_it_was() -> None:
    """The same stream, with a restart in between, gives the same plans."""
    one, other = Pacing(2), Pacing(2)
    for turn in range(40):
        for each in (one, other):
            each.foresaw(foreseen(7.0 + (turn > 30), 50, seed=turn))
            each.arrived(50, turn * SECOND_US)
        other = Pacing.load_state(other.state(), 2)
    assert one.state() == other.state()
    assert one.plan() == other.plan()
