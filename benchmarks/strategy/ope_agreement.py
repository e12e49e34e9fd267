"""Whether `headwater-updater ope` and the Open Bandit Pipeline (`obp`) estimate the same from the same log.

`PYTHONPATH=core:updater .venv-obp/bin/python benchmarks/strategy/ope_agreement.py LOG.csv.gz` runs in the environment
that docs/ope.md makes. The policy is uniform. obp gets the same rows and propensities, and what our
cross-fitted models expect of every item in every row. Printed are the estimates of both and how far apart they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import obp
from obp.ope import (
    DirectMethod,
    DoublyRobust,
    InverseProbabilityWeighting,
    SelfNormalizedInverseProbabilityWeighting,
)

from headwater_updater.ope.csv_log import column_names, read_csv_log
from headwater_updater.ope.evaluation import evaluate_policy
from headwater_updater.ope.log import BanditLog
from headwater_updater.ope.reward_model import cross_fitted
from headwater_updater.ope.target import Distribution, Target, uniform

SEED = 0


def ours(log: BanditLog, target: Target) -> dict[str, float]:
    """The estimates as the command makes them."""
    found = evaluate_policy(log, target, SEED).estimates
    return {name: found[name].value for name in ("ips", "snips", "dm", "dr")}


def theirs(log: BanditLog, target: Target) -> dict[str, float]:
    """obp's, from what the models of the same folds expect; arrays as obp wants them, (N, A, 1)."""
    assert target.distribution is not None
    weights = target.propensities / log.propensities
    feedback = {
        "reward": log.rewards,
        "action": log.items,
        "pscore": log.propensities,
        "position": np.zeros(len(log), np.int64),
        "action_dist": target.distribution.table[target.distribution.rows][:, :, None],
    }
    of_target, of_log = expected_rewards(log, weights), expected_rewards(log, None)
    estimates = {
        "ips": InverseProbabilityWeighting().estimate_policy_value(**feedback),
        "snips": SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(**feedback),
        "dm": DirectMethod().estimate_policy_value(**feedback, estimated_rewards_by_reg_model=of_target),
        "dr": DoublyRobust().estimate_policy_value(**feedback, estimated_rewards_by_reg_model=of_log),
    }
    return {name: float(value) for name, value in estimates.items()}


def expected_rewards(log: BanditLog, weights: np.ndarray | None) -> np.ndarray:
    """Of every item in every row, (N, A, 1): the value of the policy that always shows the item."""
    n_items = len(log.item_ids)
    always = [Distribution(np.eye(n_items)[[item]], np.zeros(len(log), np.int64)) for item in range(n_items)]
    return np.stack([cross_fitted(log, each, SEED, weights).value for each in always], 1)[:, :, None]


def main() -> None:
    """Compare on each log named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", nargs="+", type=Path)
    parser.add_argument("--column", action="append", default=[], help="as of `headwater-updater ope`")
    given = parser.parse_args()
    largest = 0.0
    print(f"obp {obp.__version__}")
    for path in given.logs:
        log = read_csv_log(path, column_names(given.column))
        target = uniform(log)
        of_obp = theirs(log, target)
        for name, value in ours(log, target).items():
            apart = abs(value - of_obp[name])
            largest = max(largest, apart)
            print(f"{path.name:24} {name:6} ours {value:.12g}  obp {of_obp[name]:.12g}  apart {apart:.1e}")
    print(f"largest difference {largest:.1e}")


if __name__ == "__main__":
    main()
