"""Experiments as data, who gets which arm, and what the figures say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_core.allocation import Record, by_hash, thompson_shares, within_bounds
from headwater_core.errors import InvalidFieldError
from headwater_core.experiment_statistics import Rate, UserSums, leader, mismatch, rate
from headwater_core.experiments import Arm, Experiment, check_disjoint

CLICK = {"click": 1.0}
HALVES = [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5}]
FREE = [{"name": "a"}, {"name": "b"}]


def experiment(**fields: Any) -> Experiment:
    return Experiment.from_dict({"arms": HALVES, "rewards": CLICK, **fields})


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"arms": HALVES[:1]}, "arms", "at least 2"),
        ({"allocation": "thompson", "arms": [{"name": f"arm-{n}"} for n in range(21)]}, "arms", "at most 20"),
        ({"arms": [HALVES[0], HALVES[0]]}, "arms", "a is there more than once"),
        ({"arms": FREE}, "arms", "add up to 0; must be 1"),
        ({"arms": [{"name": "a", "share": 1.0}, {"name": "b"}]}, "arms", "every one needs a share above 0"),
        ({"arms": [{"name": "a", "share": 0.5, "min_share": 0.1}, HALVES[1]]},
         "arms", "are for the allocations `thompson` and `interleaved`"),
        ({"arms": [{"name": "A b"}, HALVES[1]]}, "arms[0].name", "pattern"),
        ({"segment_by": "activity"}, "segment_by", "is for the allocations that learn"),
        ({"segment_by": "mood", "allocation": "thompson", "arms": FREE}, "segment_by", "pattern"),
        ({"allocation": "thompson"}, "arms", "share is for the allocation `fixed`"),
        ({"allocation": "thompson", "arms": [{"name": n, "min_share": 0.6} for n in "ab"]}, "arms", "more than 1"),
        ({"allocation": "thompson", "arms": [{"name": n, "max_share": 0.4} for n in "ab"]}, "arms", "less than 1"),
        ({"allocation": "thompson", "arms": [{"name": "a", "min_share": 0.6, "max_share": 0.5}, {"name": "b"}]},
         "arms", "a has a min_share above its max_share"),
        ({"allocation": "luck"}, "allocation", "'fixed', 'thompson' or 'interleaved'"),
        ({"allocation": "interleaved"}, "arms", "share is for the allocation `fixed`"),
        ({"allocation": "interleaved", "arms": [{"name": "a", "label": "canary"}, {"name": "b"}]},
         "arms", "an interleaved slate is of one generation"),
        ({"rewards": {}}, "rewards", "at least 1"),
        ({"rewards": {"click": 2.0}}, "rewards.click", "less than or equal to 1"),
        ({"window_s": 0}, "window_s", "greater than 0"),
        ({"half_life_slates": 1}, "half_life_slates", "greater than or equal to 10"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_the_field_and_the_reason(
    fields: dict[str, Any], field: str, reason: str
) -> None:
    """Each mistake an operator can make in a document."""
    with pytest.raises(InvalidFieldError) as refused:
        experiment(**fields)
    assert refused.value.field == field
    assert reason in refused.value.reason


def test_no_request_is_taken_by_two_experiments() -> None:
    """Whose surfaces overlap cannot run at the same time; none given means all."""
    home, basket = experiment(surfaces=["home"]), experiment(surfaces=["basket", "home"])
    check_disjoint({"one": home, "other": experiment(surfaces=["basket"])})
    for others in ({"other": basket}, {"other": experiment()}):
        with pytest.raises(InvalidFieldError, match="would both take"):
            check_disjoint({"one": home, **others})


def test_segments_are_as_the_experiment_says() -> None:
    """By activity, by surface, by a key of the context; unknown keys are a segment of their own."""

    def segment(by: str, n_events: int = 0) -> str:
        learning = experiment(arms=FREE, allocation="thompson", segment_by=by)
        return learning.segment(n_events, "home", {"device": "phone"})

    assert [segment("activity", n) for n in (0, 2, 3)] == ["new", "new", "returning"]
    assert [segment(by) for by in ("", "surface", "context.device", "context.x")] == ["", "home", "phone", ""]


@given(st.text(max_size=20), st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_a_hash_stays(key: str, shares: list[float]) -> None:
    """The same key always falls into the same share, whatever the shares' sum."""
    place = by_hash(key, "salt", shares)
    assert 0 <= place < len(shares)
    assert place == by_hash(key, "salt", [2 * share for share in shares])


def test_hashes_spread_by_shares_and_apart_by_salt() -> None:
    """Ten thousand users come to the arms as they should, and to another experiment's independently."""
    places = [by_hash(str(n), "one", [0.2, 0.8]) for n in range(10_000)]
    assert abs(np.mean(places) - 0.8) < 0.02
    other = [by_hash(str(n), "other", [0.5, 0.5]) for n in range(10_000)]
    assert abs(np.corrcoef(places, other)[0, 1]) < 0.05


def test_a_better_arm_gets_more_and_an_unknown_one_its_chance() -> None:
    """With much evidence nearly all, with little a part; the shares are the same whenever they are asked for."""
    arms = [Arm(name=name) for name in "ab"]
    sure = thompson_shares([Record(10_000, 1_000), Record(10_000, 800)], arms)
    unsure = thompson_shares([Record(20, 2), Record(20, 1)], arms)
    assert sure[0] > 0.99
    assert 0.55 < unsure[0] < 0.85
    assert thompson_shares([Record(0, 0), Record(10_000, 4_000)], arms)[0] == pytest.approx(0.6, abs=0.02)
    assert (unsure == thompson_shares([Record(20, 2), Record(20, 1)], arms)).all()


def test_the_more_decided_the_less_a_doubtful_arm_gets() -> None:
    """With 2 as much as two draws agree on; its bounds hold all the same, and equals stay equal."""
    arms = [Arm(name=name, min_share=0.05) for name in "ab"]
    records = [Record(200, 30), Record(200, 20)]
    once, twice = (thompson_shares(records, arms, decided)[1] for decided in (1.0, 2.0))
    assert twice == pytest.approx(max(0.05, once**2 / (once**2 + (1 - once) ** 2)), abs=0.001)
    assert thompson_shares([Record(10_000, 900), Record(10_000, 10)], arms, 2.0)[1] == pytest.approx(0.05)
    assert thompson_shares([Record(0, 0)] * 2, arms, 2.0)[1] == pytest.approx(0.5, abs=0.02)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.2), st.floats(0.5, 1)), min_size=2, max_size=5))
def test_bounds_are_never_crossed(rows: list[tuple[float, float, float]]) -> None:
    """Whatever the shares: each within its bounds, all together 1."""
    total = sum(row[0] for row in rows) or 1.0
    shares = np.array([row[0] / total if sum(r[0] for r in rows) else 1 / len(rows) for row in rows])
    found = within_bounds(shares, [row[1] for row in rows], [row[2] for row in rows])
    assert found.sum() == pytest.approx(1.0)
    for share, (_, low, high) in zip(found, rows, strict=True):
        assert low <= share <= high


def sums(rng: np.random.Generator, n: int, rate_: float) -> UserSums:
    slates = rng.integers(1, 10, n).astype(float)
    lucks = np.clip(rng.normal(rate_, 0.05, n), 0, 1)  # users differ: their slates are not independent
    reward = rng.binomial(slates.astype(int), lucks).astype(float)
    return UserSums(n, slates.sum(), reward.sum(), (slates**2).sum(), (reward**2).sum(), (slates * reward).sum())


def test_intervals_hold_at_every_look() -> None:
    """Of 200 experiments looked at twelve times as they grow, hardly one has ever had the truth outside."""
    outside = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        looks = [sums(rng, n, 0.2) for n in (20, 30, 50, 80, 120, 200, 300, 500, 800, 1200, 2000, 3000)]
        # Users come and stay: later looks hold the earlier ones'.
        total = looks[0]
        for look in looks[1:]:
            found = rate(total)
            outside += abs(found.value - 0.2) > found.half_width
            total = UserSums(total.users + look.users, *(a + b for a, b in zip(total[1:], look[1:], strict=True)))
    assert outside <= 0.05 * 200


def test_an_interval_narrows_and_needs_users() -> None:
    """Nothing is said of one user; ten times the users make it much narrower."""
    rng = np.random.default_rng(0)
    assert rate(UserSums(1, 5, 1, 25, 1, 5)).half_width == math.inf
    assert rate(UserSums(0, 0, 0, 0, 0, 0)) == Rate(0.0, math.inf)
    few, many = rate(sums(rng, 1_000, 0.2)), rate(sums(rng, 100_000, 0.2))
    assert many.half_width < few.half_width / 5
    assert rate(UserSums(100, 300, 0, 1000, 0, 0)).half_width > 0.01


def test_a_leader_is_above_all_others() -> None:
    """Overlapping intervals leave it open."""
    assert leader([Rate(0.1, 0.01), Rate(0.2, 0.01)]) == 1
    assert leader([Rate(0.1, 0.06), Rate(0.2, 0.05)]) is None
    assert leader([Rate(0.3, 0.01), Rate(0.2, 0.01), Rate(0.28, 0.02)]) is None


def test_a_wrong_ratio_of_users_is_noticed_and_a_right_one_is_not() -> None:
    """Evidence grows with what differs, and stays low for years where nothing does."""
    assert mismatch([5_000, 5_000], [0.5, 0.5]) < 1
    assert mismatch([5_300, 4_700], [0.5, 0.5]) > 1000
    assert mismatch([0, 0], [0.5, 0.5]) == pytest.approx(1.0)
    rng = np.random.default_rng(1)
    highest = []
    for _ in range(200):
        arm = np.cumsum(rng.random(3_000) < 0.3)
        highest.append(max(mismatch([int(arm[n]), n + 1 - int(arm[n])], [0.3, 0.7]) for n in range(50, 3_000, 50)))
    assert np.mean(np.array(highest) >= 100) <= 0.01
