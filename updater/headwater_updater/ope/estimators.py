"""What a policy would have earned per shown item: four estimators of one mean, and how sure they are.

Weights are w = π(item | x) / π₀(item | x): the policy to be evaluated over the one that served. Sources: IPS, Horvitz &
Thompson (JASA 1952); SNIPS, Swaminathan & Joachims (NeurIPS 2015); doubly robust, Dudík, Langford & Li (ICML 2011),
cross-fitted as in Chernozhukov et al. (2018).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from headwater_updater.ope.predictions import Predictions

RESAMPLES = 2_000
LEVEL = (0.025, 0.975)
Z = 1.959964
"""The same level, of a normal distribution."""


class Estimate(NamedTuple):
    """A mean reward per shown item and its 95 % interval."""

    value: float
    low: float
    high: float

    def widened(self, other: Estimate) -> Estimate:
        """With an interval that holds both."""
        return Estimate(self.value, min(self.low, other.low), max(self.high, other.high))


class Terms(NamedTuple):
    """An estimator as rows: its value is the sum of one over the sum of the other; (N,) each."""

    numerator: np.ndarray
    denominator: np.ndarray

    @property
    def value(self) -> float:
        """The estimate."""
        return float(self.numerator.sum() / self.denominator.sum())


def logged(rewards: np.ndarray) -> Terms:
    """What the policy that served did earn."""
    return Terms(rewards, np.ones(len(rewards)))


def ips(weights: np.ndarray, rewards: np.ndarray) -> Terms:
    """Inverse propensity scoring: Σ w r / N."""
    return Terms(weights * rewards, np.ones(len(rewards)))


def snips(weights: np.ndarray, rewards: np.ndarray) -> Terms:
    """Self-normalised: Σ w r / Σ w."""
    return Terms(weights * rewards, weights)


def direct_method(rewards: np.ndarray, predictions: Predictions) -> Terms:
    """What the reward model expects of the policy: the mean of its values.

    Each row's reward moves the model, too; where it is known by how much, the term is in the rows, with mean 0, so that
    resampling them sees it (the infinitesimal jackknife). A model that is wrong is beyond any interval.
    """
    moved = predictions.leverage * (rewards - predictions.shown)
    return Terms(predictions.value + moved - moved.mean(), np.ones(len(rewards)))


def doubly_robust(weights: np.ndarray, rewards: np.ndarray, predictions: Predictions) -> Terms:
    """The reward model's value, corrected by IPS of what it got wrong."""
    return Terms(predictions.value + weights * (rewards - predictions.shown), np.ones(len(rewards)))


def effective_rows(weights: np.ndarray) -> float:
    """The effective sample size (Σ w)² / Σ w² (Kish 1965): N when all weights are equal, 0 when all are 0."""
    squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def bootstrap_intervals(terms: dict[str, Terms], clusters: np.ndarray, seed: int) -> dict[str, Estimate]:
    """The estimates and the percentiles of resamples of whole clusters, the same ones for all.

    Args:
        terms: by name, of N rows.
        clusters: (N,) int64, from 0, none left out.
        seed: of the resampling.
    """
    sums = np.column_stack([np.bincount(clusters, part) for each in terms.values() for part in each])  # (C, 2 E)
    rng = np.random.default_rng(seed)
    n = len(sums)
    drawn = np.array([np.bincount(rng.integers(0, n, n), minlength=n) @ sums for _ in range(RESAMPLES)])
    low, high = np.quantile(drawn[:, ::2] / drawn[:, 1::2], LEVEL, axis=0)
    return {
        name: Estimate(each.value, float(low[place]), float(high[place]))
        for place, (name, each) in enumerate(terms.items())
    }


def score_interval(value: float, n_effective: float, rewards: np.ndarray) -> Estimate:
    """Between which means the estimate would be no surprise, if rewards varied about them as they do in the log.

    A resample knows the rewards that the log has. The rare row of great weight had none, most likely, and percentiles
    come out too narrow. So the variance taken is that of a mean μ, not the sample's: κ (μ − a) (b − μ), a and b the
    least and the greatest reward seen, and κ such that it is right for the log. For rewards of 0 and 1 κ is 1, and this
    is Wilson's interval (JASA 1927) on the effective sample size.

    Args:
        value: the estimate.
        n_effective: see effective_rows.
        rewards: (N,) as logged, not all the same.
    """
    least, greatest = float(rewards.min()), float(rewards.max())
    span, mean = greatest - least, float(rewards.mean())
    n = n_effective * (mean - least) * (greatest - mean) / float(rewards.var())
    share = min(max((value - least) / span, 0.0), 1.0)
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + (Z / (2 * n)) ** 2)
    return Estimate(value, least + span * (middle - half), least + span * (middle + half))
