"""From a log and a policy to estimates, or to the reason why there are none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headwater_core.errors import InvalidFieldError
from headwater_updater.ope import estimators
from headwater_updater.ope.estimators import Estimate
from headwater_updater.ope.log import BanditLog
from headwater_updater.ope.reward_model import cross_fitted
from headwater_updater.ope.support import Support, check, measure
from headwater_updater.ope.target import Target


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a policy would have earned per shown item."""

    support: Support
    estimates: dict[str, Estimate]
    """By estimator; `logged` is what the policy that served did earn."""
    reward_model: str
    """Where the predictions of the direct method come from; why there are none, when it is not among the estimates."""


def evaluate_policy(log: BanditLog, target: Target, seed: int) -> Evaluation:
    """All estimates that the log and what is known of the policy allow.

    Raises:
        SupportError: the log cannot tell what the policy would earn.
        InvalidFieldError: no interval can be said: all rows belong together, or have the same reward.
    """
    support = measure(log, target)
    check(support)
    if log.clusters.max() < 1:
        raise InvalidFieldError("cluster", "all rows belong together: an interval needs at least two that do not")
    if np.ptp(log.rewards) == 0:
        raise InvalidFieldError("reward", f"is {log.rewards[0]:g} in every row: nothing can be told from it")
    weights = target.propensities / log.propensities
    terms = {
        "logged": estimators.logged(log.rewards),
        "ips": estimators.ips(weights, log.rewards),
        "snips": estimators.snips(weights, log.rewards),
    }
    widened = {"ips", "snips", "dr"}
    if target.predictions is not None:
        reward_model = "the log's columns predicted_reward and predicted_value"
        terms["dm"] = estimators.direct_method(log.rewards, target.predictions)
        terms["dr"] = estimators.doubly_robust(weights, log.rewards, target.predictions)
    elif target.distribution is not None:
        reward_model = "ridge regression, cross-fitted"
        # What the policy would show often counts in fitting, or the items that were liked and shown decide alone. Where
        # the same weights correct the model anyway, they would only add to the noise.
        fitted_to_target = cross_fitted(log, target.distribution, seed, weights)
        fitted_to_log = cross_fitted(log, target.distribution, seed)
        terms["dm"] = estimators.direct_method(log.rewards, fitted_to_target)
        terms["dr"] = estimators.doubly_robust(weights, log.rewards, fitted_to_log)
        widened.add("dm")
    else:
        reward_model = "none: of the policy only the probability of what was shown is known"
    estimates = estimators.bootstrap_intervals(terms, log.clusters, seed)
    for name in estimates.keys() & widened:
        wide = estimators.score_interval(estimates[name].value, support.effective_rows, log.rewards)
        estimates[name] = estimates[name].widened(wide)
    return Evaluation(support, estimates, reward_model)
