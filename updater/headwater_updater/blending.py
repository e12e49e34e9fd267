"""How much co-visits and trends count beside the towers: chosen on what training held out, then on the stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from headwater_core.co_visits import Blend
from headwater_core.histories import TokenSequence
from headwater_core.trends import HALF_LIVES, TrendTable
from headwater_updater.prequential import TOP
from headwater_updater.ranking import Request, ndcg_at, rank_targets
from headwater_updater.trend_prior import PriorOf

if TYPE_CHECKING:
    from headwater_updater.learner import Learner

STRENGTHS = (0.0, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0)
DECAYS = (0.8, 0.95)
REPEAT_STRENGTHS = (0.0, 0.8, 1.6, 2.4, 4.0, 6.0)
REPEAT_DECAYS = (1.0, 0.99, 0.97)
TREND_STRENGTHS = (0.15, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
TREND_SHARPNESSES = (1e3, 1e5)
_MAX_SCORES = 60_000_000
"""Scores that are looked at, at most: of a large catalogue fewer users decide."""
_MIN_REQUESTS = 200
_TREND_COST, _TREND_CHUNK = 10, 8
"""How dear a request is where trends are chosen, and how many of them see the same one."""
_SCORE_BATCH = 256
_SCORE_ELEMENTS = 8_000_000
"""Scores held at a time."""


class Judged(NamedTuple):
    """How n targets fare."""

    ranks: np.ndarray
    """(V, n) int64: under each of V blends, from 1; 0 = a miss."""
    losses: np.ndarray
    """(n,) float64: under the first, minus the log of the softmax's probability; NaN for a miss."""
    top: np.ndarray
    """(n, TOP) int64: under the first, the rows that lead, in no order; 0 where there are fewer."""


def choose_blend(learner: Learner, requests: Sequence[Request], prior_of: PriorOf | None = None) -> Blend:
    """The blend with the best NDCG@10 on these requests among dozens; towers alone where nothing beats them.

    Trends have no part in it: the requests are of different times, and of the trend there is only the latest.

    Args:
        learner: trained; its successors count nothing of the targets.
        requests: histories, each with an item that came next.
        prior_of: what the towers were trained beside; it is added under every blend.
    """
    candidates = np.flatnonzero(learner.counts)
    requests = [request for request in requests if learner.counts[request.row] > 0]
    if not requests:
        return Blend()
    limit = max(_MIN_REQUESTS, _MAX_SCORES // max(1, len(candidates)))
    if len(requests) > limit:
        requests = [requests[index] for index in np.linspace(0, len(requests) - 1, limit).astype(int)]
    repeats = (0.0,) if learner.config.exclude_seen else REPEAT_STRENGTHS
    grid = [
        Blend(strength=strength, decay=decay, repeat_strength=repeat, repeat_decay=repeat_decay)
        for strength, decay in _pairs(STRENGTHS, DECAYS)
        for repeat, repeat_decay in _pairs(repeats, REPEAT_DECAYS)
    ]
    ranks = judge(learner, requests, candidates, grid, prior_of).ranks
    weights = np.array([request.weight for request in requests])
    return grid[int(np.argmax([ndcg_at(found, weights) for found in ranks]))]


def judge(
    learner: Learner,
    requests: Sequence[Request],
    candidates: np.ndarray,
    blends: Sequence[Blend],
    prior_of: PriorOf | None = None,
) -> Judged:
    """How each request's target fares under each blend.

    Args:
        learner: gives the towers' scores and the bonuses.
        requests: histories, each with the row of an item that came next.
        candidates: (N,) rows, ascending; targets that are none of them are misses.
        blends: at least one.
        prior_of: added to the towers' scores, by the requests' times.
    """
    ranks, losses = np.zeros((len(blends), len(requests)), np.int64), np.full(len(requests), np.nan)
    top = np.zeros((len(requests), TOP), np.int64)
    n_top = min(TOP, len(candidates))
    known = np.flatnonzero(np.isin([request.row for request in requests], candidates)).tolist()
    known.sort(key=lambda index: len(requests[index].sequence))  # like lengths together: less padding
    chunk = min(_SCORE_BATCH, max(1, _SCORE_ELEMENTS // max(1, len(candidates))))
    vectors = learner.table()[torch.from_numpy(candidates)]
    wanted = list(dict.fromkeys(unit for blend in blends for _, unit in _units(blend)))
    for start in range(0, len(known), chunk):
        places = known[start : start + chunk]
        part = [requests[index] for index in places]
        towers, targets = learner.tower_scores(part, candidates, vectors)  # (c, N), (c,)
        if prior_of is not None:
            values, which = prior_of(np.array([request.time_us for request in part]), candidates)
            towers = towers + values[which]
        # One each for all blends: new ones each time would tear holes into the memory.
        base, total = torch.empty_like(towers), torch.empty_like(towers)
        based_on: Blend | None = None
        units = learner.dense_bonuses(part, candidates, wanted)
        for index, blend in enumerate(blends):
            lasting = without_trend(blend)
            if lasting != based_on:
                based_on = lasting
                base.copy_(towers)
                for strength, unit in _units(lasting):
                    base.add_(units[unit], alpha=strength)
            if blend.trend_strength:
                unit = replace(blend, strength=0.0, repeat_strength=0.0, trend_strength=1.0)
                if unit not in units:
                    units[unit] = torch.from_numpy(learner.trend(unit).of(candidates))  # (N,)
                torch.add(base, units[unit], alpha=blend.trend_strength, out=total)
            else:
                total.copy_(base)
            ranks[index, places] = rank_targets(total, targets)
            if not index:
                chosen = total.gather(1, targets.unsqueeze(1)).squeeze(1)  # (c,)
                losses[places] = (total.logsumexp(1) - chosen).numpy()
                top[places, :n_top] = candidates[total.topk(n_top, sorted=False).indices.numpy()]
        units.clear()  # not beside the next chunk's
    losses[~np.isfinite(losses)] = np.nan
    return Judged(ranks, losses, top)


def choose_trend(learner: Learner, training: Sequence[TokenSequence], requests: Sequence[Request]) -> Blend:
    """The learner's blend with the trend that ranks these requests best, each by what was popular at its time.

    Args:
        learner: trained and blended; its trends are left as they are.
        training: what it learned; the trend of any time is counted from it.
        requests: histories, each with an item that came next and when, unlearned.
    """
    candidates = np.flatnonzero(learner.counts)
    limit = max(_MIN_REQUESTS, _MAX_SCORES // max(1, _TREND_COST * len(candidates)))
    asked = sorted((each for each in requests if learner.counts[each.row] > 0), key=lambda each: each.time_us)
    if not asked:
        return learner.blend
    asked = [asked[int(place)] for place in np.linspace(0, len(asked) - 1, min(limit, len(asked)))]
    rows_in_time, times_in_time = learner.targets_in_time((sequence, 0) for sequence in training)
    blends = [learner.blend, *trends_of(learner.blend)]
    kept, learner.trends = learner.trends, TrendTable()
    learner.trends.grow(len(learner.item_ids))
    found: list[np.ndarray] = []
    start = 0
    for first in range(0, len(asked), _TREND_CHUNK):
        part = asked[first : first + _TREND_CHUNK]
        stop = int(np.searchsorted(times_in_time, part[0].time_us))
        learner.trends.add(rows_in_time[start:stop])
        start = stop
        found.append(judge(learner, part, candidates, blends).ranks)
    learner.trends = kept
    weights = np.array([request.weight for request in asked])
    ranks = np.concatenate(found, axis=1)  # (V, n)
    return blends[int(np.argmax([ndcg_at(each, weights) for each in ranks]))]


def trends_of(blend: Blend) -> list[Blend]:
    """The blend with every trend of the grid, and with none."""
    return [
        without_trend(blend),
        *(
            replace(blend, trend_strength=strength, trend_half_life=half_life, trend_sharpness=sharpness)
            for strength in TREND_STRENGTHS
            for half_life in HALF_LIVES
            for sharpness in TREND_SHARPNESSES
        ),
    ]


def without_trend(blend: Blend) -> Blend:
    """The blend with no trend, whatever trend it had."""
    none = Blend()
    return replace(
        blend,
        trend_strength=0.0,
        trend_half_life=none.trend_half_life,
        trend_sharpness=none.trend_sharpness,
    )


def _pairs(strengths: Sequence[float], decays: Sequence[float]) -> list[tuple[float, float]]:
    """All combinations; without strength a decay means nothing."""
    return [(strength, decay) for strength in strengths for decay in (decays if strength else decays[:1])]


def _units(blend: Blend) -> list[tuple[float, Blend]]:
    """The bonuses of a blend without a trend as a sum of blends of strength 1."""
    sharpness = blend.sharpness
    parts = [
        (blend.strength, Blend(strength=1.0, decay=blend.decay, sharpness=sharpness)),
        (
            blend.repeat_strength,
            Blend(repeat_strength=1.0, repeat_decay=blend.repeat_decay, sharpness=sharpness),
        ),
    ]
    return [(strength, unit) for strength, unit in parts if strength]
