"""How often the 95 % intervals of `headwater-updater ope` hold the truth, on synthetic logs whose truth is known.

`python benchmarks/strategy/ope_coverage.py` makes logs of 40 items and 10 segments of users. The policy that served
prefers what each segment likes, the more the greedier it is; the one asked about shows all items alike. For each
estimator: how often the interval holds the truth, and how often the bootstrap's alone would (in parentheses); last, the
width of the doubly robust interval as a share of the truth. Refused logs are counted and left out; the effective rows
are the median of the others.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np

from headwater_updater.ope import estimators
from headwater_updater.ope.estimators import Terms
from headwater_updater.ope.evaluation import evaluate_policy
from headwater_updater.ope.log import BanditLog
from headwater_updater.ope.reward_model import cross_fitted
from headwater_updater.ope.support import SupportError
from headwater_updater.ope.target import uniform

N_ITEMS = 40
N_SEGMENTS = 10
ITEM_IDS = tuple(f"i{item:02d}" for item in range(N_ITEMS))


def make_log(greed: float, rate: float, n_rows: int, rng: np.random.Generator) -> tuple[BanditLog, float]:
    """A log, and what showing all items alike would earn. Rewards are clicks, `rate` about their mean over items."""
    tastes = np.random.default_rng(7).normal(size=(N_SEGMENTS, N_ITEMS))  # the same world for every log
    chances = rate * np.exp(0.5 * tastes) / np.exp(0.5 * tastes).mean()
    shares = np.exp(greed * tastes)
    serving = shares / shares.sum(1, keepdims=True)
    segments = rng.integers(0, N_SEGMENTS, n_rows)
    draws = rng.random(n_rows)
    items = np.minimum((serving.cumsum(1)[segments] < draws[:, None]).sum(1), N_ITEMS - 1)
    log = BanditLog(
        item_ids=ITEM_IDS,
        items=items,
        positions=np.ones(n_rows, np.int64),
        rewards=(rng.random(n_rows) < chances[segments, items]).astype(np.float64),
        propensities=serving[segments, items],
        clusters=np.arange(n_rows),
        clustered_by="row",
        context={"context_segment": np.array([f"s{segment}" for segment in segments])},
    )
    return log, float(chances.mean())


def bootstrap_alone(log: BanditLog, seed: int) -> dict[str, estimators.Estimate]:
    """The estimates with the intervals that are widened in the product."""
    target = uniform(log)
    assert target.distribution is not None
    weights = target.propensities / log.propensities
    terms: dict[str, Terms] = {
        "ips": estimators.ips(weights, log.rewards),
        "snips": estimators.snips(weights, log.rewards),
        "dm": estimators.direct_method(log.rewards, cross_fitted(log, target.distribution, seed, weights)),
        "dr": estimators.doubly_robust(weights, log.rewards, cross_fitted(log, target.distribution, seed)),
    }
    return estimators.bootstrap_intervals(terms, log.clusters, seed)


def main() -> None:
    """Print a table for each rate of clicks and each greed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=100, help="for each row of the table")
    parser.add_argument("--rows", type=int, default=10_000, help="of a log")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| click rate | greed | effective rows | refused | IPS | SNIPS | direct method | doubly robust | width |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for rate in (0.005, 0.2):
        for greed in (1.0, 2.0, 2.5):
            rng = np.random.default_rng(given.seed)
            held, held_alone, widths = (defaultdict[str, list[float]](list) for _ in range(3))
            effective: list[float] = []
            for seed in range(given.logs):
                log, truth = make_log(greed, rate, given.rows, rng)
                try:
                    found = evaluate_policy(log, uniform(log), seed)
                except SupportError:
                    continue
                effective.append(found.support.effective_rows)
                for name, alone in bootstrap_alone(log, seed).items():
                    each = found.estimates[name]
                    held[name].append(each.low <= truth <= each.high)
                    held_alone[name].append(alone.low <= truth <= alone.high)
                    widths[name].append((each.high - each.low) / truth)
            cells = [f"{np.mean(held[name]):.2f} ({np.mean(held_alone[name]):.2f})" for name in held]
            print(
                f"| {rate} | {greed} | {np.median(effective):.0f} | {given.logs - len(effective)} of {given.logs} | "
                f"{' | '.join(cells)} | {np.median(widths['dr']):.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
