"""HR and NDCG of ranked lists, as means over users with bootstrap intervals; how much of the catalogue they show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CUTS = (10, 50)
_RESAMPLES = 1000
_CHUNK_DRAWS = 2_000_000


class Interval(NamedTuple):
    """A mean over users and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def target_ranks(items: Sequence[str], targets: Sequence[str]) -> np.ndarray:
    """Each target's rank in the list, from 1; 0 when it is not in it. (P,) int64."""
    rank = {item_id: place for place, item_id in enumerate(items, start=1)}
    return np.array([rank.get(target, 0) for target in targets], np.int64)


def user_metrics(lists: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Each user's metrics by name, (U,) float64.

    Every target is asked for by itself, as in leave-one-out with one target; a user's value is the mean over their
    targets. HR is the share of targets in the first k, NDCG the mean of 1 / log2(rank + 1) over them.

    Args:
        lists: per user, best item first.
        targets: per user, at least one.
    """
    found = {f"{name}_at_{k}": np.zeros(len(lists)) for k in CUTS for name in ("hr", "ndcg")}
    for user, (items, wanted) in enumerate(zip(lists, targets, strict=True)):
        ranks = target_ranks(items, wanted)
        for k in CUTS:
            hit = (ranks > 0) & (ranks <= k)
            found[f"hr_at_{k}"][user] = hit.mean()
            found[f"ndcg_at_{k}"][user] = np.where(hit, 1.0 / np.log2(np.maximum(ranks, 1) + 1.0), 0.0).mean()
    return found


def bootstrap_interval(values: np.ndarray, seed: int, resamples: int = _RESAMPLES) -> Interval:
    """The mean of (U,) values and the 2.5 % and 97.5 % quantiles of means over users drawn with replacement."""
    rng = np.random.default_rng(seed)
    n = len(values)
    step = max(1, _CHUNK_DRAWS // n)
    parts = [
        values[rng.integers(0, n, (min(step, resamples - start), n))].mean(1) for start in range(0, resamples, step)
    ]
    low, high = np.quantile(np.concatenate(parts), (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))


def coverage(lists: Sequence[Sequence[str]], n_candidates: int, k: int = 10) -> float:
    """The share of the candidates that at least one user sees among the first k."""
    return len({item_id for items in lists for item_id in items[:k]}) / n_candidates
