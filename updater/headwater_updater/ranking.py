"""Full ranking: a target's rank among all candidates, never among sampled ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from headwater_core.histories import TokenSequence


class Request(NamedTuple):
    """A history, and the row of an item that came next."""

    sequence: TokenSequence
    row: int
    weight: float = 1.0
    """What it counts in a mean; the targets of one block share theirs, so that every user counts the same."""
    time_us: int = 0
    """When the item came, where that matters."""


def rank_targets(scores: Tensor, targets: Tensor) -> np.ndarray:
    """Each target's rank, from 1; ties count against it; 0 (a miss) where the target itself is left out.

    Args:
        scores: (P, N), minus infinity for candidates that are left out.
        targets: (P,) int64, which candidate each target is.

    Returns:
        (P,) int64.
    """
    target_scores = scores.gather(1, targets.unsqueeze(1))  # (P, 1)
    found = (scores >= target_scores).sum(1).masked_fill_(target_scores.squeeze(1) == -torch.inf, 0)
    ranks: np.ndarray = found.numpy()
    return ranks


def hr_at(found: np.ndarray, weights: np.ndarray | None = None, k: int = 10) -> float:
    """The share of targets in the first k. (P,) ranks, 0 = a miss; (P,) what each counts."""
    return _mean(hits(found, k), weights)


def ndcg_at(found: np.ndarray, weights: np.ndarray | None = None, k: int = 10) -> float:
    """Mean discounted gain in the first k, one relevant item for each target. (P,) ranks, 0 = a miss; (P,) weights."""
    return _mean(gains(found, k), weights)


def hits(found: np.ndarray, k: int = 10) -> np.ndarray:
    """1 for each rank in the first k, else 0. (…,) ranks, 0 = a miss → (…,) float64."""
    return ((found > 0) & (found <= k)).astype(np.float64)


def gains(found: np.ndarray, k: int = 10) -> np.ndarray:
    """The discounted gain of each rank, 0 beyond k. (…,) ranks, 0 = a miss → (…,)."""
    return np.where((found > 0) & (found <= k), 1.0 / np.log2(found + 1.0).clip(1.0), 0.0)


def _mean(values: np.ndarray, weights: np.ndarray | None) -> float:
    return float(np.average(values, weights=weights)) if len(values) else 0.0
