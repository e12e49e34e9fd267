"""Full ranking: a target's rank among all candidates, never among sampled ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from headwater_core.towers import score

_CHUNK_ELEMENTS = 8_000_000


@torch.inference_mode()
def ranks(
    interests: Tensor, items: Tensor, targets: np.ndarray, excluded: Sequence[np.ndarray] | None = None
) -> np.ndarray:
    """Each target's rank, from 1; ties count against it.

    Args:
        interests: (P, K, d).
        items: (N, d), the candidates.
        targets: (P,) int64, which candidate each target is.
        excluded: for each target, the candidates that are left out (the user has seen them); a target that is left
            out itself has rank 0: a miss.

    Returns:
        (P,) int64.
    """
    p, k, _ = interests.shape
    chunk = max(1, _CHUNK_ELEMENTS // (items.shape[0] * k))
    found = np.zeros(p, np.int64)
    for start in range(0, p, chunk):
        stop = min(start + chunk, p)
        scores = score(interests[start:stop], items)  # (c, N)
        target_scores = scores[torch.arange(stop - start), torch.from_numpy(targets[start:stop])]
        if excluded is not None:
            for row, left_out in enumerate(excluded[start:stop]):
                scores[row, torch.from_numpy(left_out)] = -torch.inf
        found[start:stop] = (scores >= target_scores.unsqueeze(1)).sum(1).numpy()
        if excluded is not None:
            for row, left_out in enumerate(excluded[start:stop]):
                if targets[start + row] in left_out:
                    found[start + row] = 0
    return found


def hr_at(found: np.ndarray, k: int = 10) -> float:
    """The share of targets in the first k. (P,) ranks, 0 = a miss."""
    return float(((found > 0) & (found <= k)).mean()) if len(found) else 0.0


def ndcg_at(found: np.ndarray, k: int = 10) -> float:
    """Mean discounted gain in the first k, one relevant item for each target. (P,) ranks, 0 = a miss."""
    if not len(found):
        return 0.0
    return float(np.where((found > 0) & (found <= k), 1.0 / np.log2(found + 1.0).clip(1.0), 0.0).mean())
