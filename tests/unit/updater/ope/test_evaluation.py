"""Whole evaluations on logs whose truth is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from headwater_core.errors import InvalidFieldError
from headwater_updater.ope import estimators
from headwater_updater.ope.evaluation import evaluate_policy
from headwater_updater.ope.log import BanditLog, ShownRow, bandit_log
from headwater_updater.ope.predictions import Predictions
from headwater_updater.ope.support import SupportError
from headwater_updater.ope.target import Distribution, Target, logged, uniform

N_ITEMS = 8
N_SEGMENTS = 4
UNIFORM = np.full((N_SEGMENTS, N_ITEMS), 1 / N_ITEMS)


class World:
    """Segments of users who like different items, and a policy that knows a little of it.

    `chances` are the expected rewards, `serving` the probabilities of the policy that serves: (segments, items) each.
    """

    def __init__(self, greed: float = 0.8, scale: float = 0.3) -> None:
        rng = np.random.default_rng(0)
        tastes = rng.normal(size=(N_SEGMENTS, N_ITEMS))
        self.chances = scale / (1 + np.exp(-tastes))
        shares = np.exp(greed * tastes)
        self.serving = shares / shares.sum(1, keepdims=True)

    def log(self, n: int, seed: int) -> BanditLog:
        """n rows, their rewards 0 or 1, the segment among the context."""
        rng = np.random.default_rng(seed)
        segments = rng.integers(0, N_SEGMENTS, n)
        items = np.array([rng.choice(N_ITEMS, p=self.serving[segment]) for segment in segments])
        rewards = rng.random(n) < self.chances[segments, items]
        rows = [
            ShownRow(f"i{item}", 1, float(reward), float(self.serving[segment, item]), context=(f"s{segment}",))
            for segment, item, reward in zip(segments, items, rewards, strict=True)
        ]
        return bandit_log(rows, context=["context_segment"])

    def truth(self, policy: np.ndarray) -> float:
        """What a policy (segments, items) earns on average."""
        return float((policy * self.chances).sum(1).mean())


def segments_of(log: BanditLog) -> np.ndarray:
    return np.array([int(cell[1:]) for cell in log.context["context_segment"]])


def target_of(log: BanditLog, policy: np.ndarray) -> Target:
    """A policy (segments, items) as the log sees it."""
    table = policy[:, [int(item_id[1:]) for item_id in log.item_ids]]
    rows = segments_of(log)
    return Target("test", table[rows, log.items], Distribution(table, rows))


def right_predictions(world: World, log: BanditLog) -> Predictions:
    """What the world's chances say, of the policy that shows every item as often."""
    rows = segments_of(log)
    items = [int(log.item_ids[item][1:]) for item in log.items]
    return Predictions(world.chances[rows, items], world.chances.mean(1)[rows], np.zeros(len(log)))


@pytest.mark.parametrize("scale", [0.9, 0.03])
def test_every_interval_holds_the_truth_about_as_often_as_it_says(scale: float) -> None:
    """Over many logs, of a policy that depends on the segment; rewards frequent, and rare."""
    world = World(scale=scale)
    policy = np.random.default_rng(1).dirichlet(np.ones(N_ITEMS), N_SEGMENTS)
    held: dict[str, list[bool]] = {}
    for seed in range(60):
        log = world.log(1_000, seed)
        for name, each in evaluate_policy(log, target_of(log, policy), seed).estimates.items():
            truth = world.truth(world.serving if name == "logged" else policy)
            held.setdefault(name, []).append(each.low <= truth <= each.high)
    shares = {name: np.mean(each) for name, each in held.items()}
    assert shares.keys() == {"logged", "ips", "snips", "dm", "dr"}
    assert min(shares.values()) >= 0.9, shares


def test_what_only_the_policy_that_served_knew_does_no_harm() -> None:
    """Without the segment in the log, weights still hold what it did: they count in fitting the reward model, too."""
    world = World(scale=0.9)
    policy = np.random.default_rng(1).dirichlet(np.ones(N_ITEMS), N_SEGMENTS)
    log = world.log(20_000, 0)
    target = target_of(log, policy)
    found = evaluate_policy(dataclasses.replace(log, context={}), target, 0).estimates
    held = {name for name, each in found.items() if each.low <= world.truth(policy) <= each.high}
    assert held == {"ips", "snips", "dm", "dr"}


def test_estimates_come_close_with_many_rows() -> None:
    """Of the weighted ones; they are no farther off than a hundredth."""
    world = World(scale=0.9)
    log = world.log(40_000, 0)
    found = evaluate_policy(log, target_of(log, UNIFORM), 0)
    for name in ("ips", "snips", "dr"):
        assert found.estimates[name].value == pytest.approx(world.truth(UNIFORM), abs=0.015)
    assert abs(found.estimates["logged"].value - world.truth(UNIFORM)) > 0.05


def test_doubly_robust_forgives_a_wrong_model() -> None:
    """Right propensities and a model that is far off: the direct method is lost, the doubly robust estimate is not."""
    world = World(scale=0.9)
    log = world.log(20_000, 3)
    wrong = Predictions(np.full(len(log), 0.9), np.full(len(log), 0.9), np.zeros(len(log)))
    found = evaluate_policy(log, dataclasses.replace(target_of(log, UNIFORM), predictions=wrong), 0)
    truth = world.truth(UNIFORM)
    assert found.estimates["dr"].low <= truth <= found.estimates["dr"].high
    assert abs(found.estimates["dr"].value - truth) < 0.02
    assert found.estimates["dm"].value == pytest.approx(0.9)


def test_doubly_robust_forgives_wrong_propensities() -> None:
    """A right model and weights that are far off: IPS is lost, the doubly robust estimate is not."""
    world = World(scale=0.9)
    log = world.log(20_000, 3)
    right = right_predictions(world, log)
    truth = world.truth(UNIFORM)
    weights = np.full(len(log), 1.7)
    terms = {
        "ips": estimators.ips(weights, log.rewards),
        "dr": estimators.doubly_robust(weights, log.rewards, right),
    }
    found = estimators.bootstrap_intervals(terms, log.clusters, 0)
    assert found["dr"].low <= truth <= found["dr"].high
    assert abs(found["ips"].value - truth) > 0.2


def test_a_good_model_makes_the_estimate_surer() -> None:
    """Where predictions are right, weights multiply noise alone, and resamples spread less than those of IPS."""
    world = World(greed=1.5)
    log = world.log(5_000, 5)
    right = right_predictions(world, log)
    noise = np.random.default_rng(0).normal(0, 0.01, 5_000)
    weights = target_of(log, UNIFORM).propensities / log.propensities
    terms = {
        "ips": estimators.ips(weights, right.shown + noise),
        "dr": estimators.doubly_robust(weights, right.shown + noise, right),
    }
    found = estimators.bootstrap_intervals(terms, log.clusters, 0)
    assert found["dr"].high - found["dr"].low < 0.5 * (found["ips"].high - found["ips"].low)


def test_the_policy_that_served_is_its_mean() -> None:
    """With every row effective, and no direct method: nothing says what else it would have shown."""
    log = World().log(1_000, 0)
    found = evaluate_policy(log, logged(log), 0)
    assert found.estimates.keys() == {"logged", "ips", "snips"}
    assert {each.value for each in found.estimates.values()} == {log.rewards.mean()}
    assert found.support.effective_rows == pytest.approx(1_000)
    assert found.reward_model.startswith("none")


def test_an_interval_is_never_narrower_than_the_bootstrap() -> None:
    """It is widened for the effective sample size, never narrowed."""
    log = World().log(1_000, 0)
    target = uniform(log)
    weights = target.propensities / log.propensities
    found = evaluate_policy(log, target, 4).estimates["ips"]
    plain = estimators.bootstrap_intervals({"ips": estimators.ips(weights, log.rewards)}, log.clusters, 4)["ips"]
    assert found.low <= plain.low
    assert found.high >= plain.high


def test_without_any_support_there_is_no_estimate() -> None:
    """A greedy log says nothing of a policy that tries everything."""
    log = World(greed=8.0).log(2_000, 0)
    with pytest.raises(SupportError, match="refused for lack of support"):
        evaluate_policy(log, uniform(log), 0)


def test_no_interval_from_rows_that_all_belong_together() -> None:
    """One user, however many rows."""
    log = World().log(1_000, 0)
    together = dataclasses.replace(log, clusters=np.zeros(1_000, np.int64), clustered_by="user")
    with pytest.raises(InvalidFieldError, match="cluster: all rows belong together"):
        evaluate_policy(together, logged(log), 0)


def test_no_interval_from_rewards_that_are_all_the_same() -> None:
    """No click in the whole log says nothing about which policy gets more."""
    log = World().log(1_000, 0)
    with pytest.raises(InvalidFieldError, match="reward: is 0 in every row"):
        evaluate_policy(dataclasses.replace(log, rewards=np.zeros(1_000)), logged(log), 0)
