"""How much co-visits count beside the towers: chosen on what training held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from headwater_core.co_visits import Blend
from headwater_updater.ranking import Request, ndcg_at, rank_targets

if TYPE_CHECKING:
    from headwater_updater.learner import Learner

_STRENGTHS = (0.0, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0)
_DECAYS = (0.8, 0.95)
_REPEAT_STRENGTHS = (0.0, 0.8, 1.6, 2.4, 4.0)
_REPEAT_DECAYS = (1.0, 0.97)
_MAX_SCORES = 60_000_000
"""Scores that are looked at, at most: of a large catalogue fewer users decide."""
_MIN_REQUESTS = 200
_CHUNK = 128


def choose_blend(learner: Learner, requests: Sequence[Request]) -> Blend:
    """The blend with the best NDCG@10 on these requests among dozens; towers alone where nothing beats them.

    Args:
        learner: trained; its successors count nothing of the targets.
        requests: histories, each with an item that came next.
    """
    candidates = np.flatnonzero(learner.counts)
    requests = [request for request in requests if learner.counts[request.row] > 0]
    limit = max(_MIN_REQUESTS, _MAX_SCORES // max(1, len(candidates)))
    if len(requests) > limit:
        requests = [requests[index] for index in np.linspace(0, len(requests) - 1, limit).astype(int)]
    repeats = (0.0,) if learner.config.exclude_seen else _REPEAT_STRENGTHS
    grid = [
        Blend(strength=strength, decay=decay, repeat_strength=repeat, repeat_decay=repeat_decay)
        for strength, decay in _pairs(_STRENGTHS, _DECAYS)
        for repeat, repeat_decay in _pairs(repeats, _REPEAT_DECAYS)
    ]
    vectors = learner.vectors(torch.from_numpy(candidates))
    found: list[list[np.ndarray]] = [[] for _ in grid]
    for start in range(0, len(requests), _CHUNK):
        part = requests[start : start + _CHUNK]
        scores, targets = learner.tower_scores(part, candidates, vectors)  # (c, N), (c,)
        units = _unit_bonuses(learner, part, candidates, repeats)
        total = torch.empty_like(scores)  # one for all: new ones each time would tear holes into the memory
        for index, blend in enumerate(grid):
            total.copy_(scores)
            if blend.strength:
                total.add_(units[Blend(strength=1.0, decay=blend.decay)], alpha=blend.strength)
            if blend.repeat_strength:
                unit = Blend(repeat_strength=1.0, repeat_decay=blend.repeat_decay)
                total.add_(units[unit], alpha=blend.repeat_strength)
            found[index].append(rank_targets(total, targets))
    if not requests:
        return Blend()
    weights = np.array([request.weight for request in requests])
    return grid[int(np.argmax([ndcg_at(np.concatenate(ranks), weights) for ranks in found]))]


def _pairs(strengths: Sequence[float], decays: Sequence[float]) -> list[tuple[float, float]]:
    """All combinations; without strength a decay means nothing."""
    return [(strength, decay) for strength in strengths for decay in (decays if strength else decays[:1])]


def _unit_bonuses(
    learner: Learner, requests: Sequence[Request], candidates: np.ndarray, repeats: Sequence[float]
) -> dict[Blend, Tensor]:
    """For each blend of strength 1, what every request's candidates get; (c, N) each."""
    blends = [Blend(strength=1.0, decay=decay) for decay in _DECAYS]
    if any(repeats):
        blends += [Blend(repeat_strength=1.0, repeat_decay=decay) for decay in _REPEAT_DECAYS]
    return {blend: learner.dense_bonuses(requests, candidates, blend) for blend in blends}
