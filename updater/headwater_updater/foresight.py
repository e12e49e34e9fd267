"""How well events are foreseen: each target is ranked by what came before it, as serving would have."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

import numpy as np

from headwater_core.co_visits import Blend
from headwater_core.histories import TokenSequence
from headwater_updater.examples import Example, block_starts
from headwater_updater.prequential import ScoredTarget
from headwater_updater.ranking import Request

if TYPE_CHECKING:
    from headwater_updater.learner import Learner

_MAX_OTHER_SCORES = 100_000_000
"""Scores under other blends that are looked at in one round, at most."""


def score(
    learner: Learner,
    examples: Sequence[Example],
    blends: Sequence[Blend] | None = None,
    asked: Container[int] | None = None,
    among: np.ndarray | None = None,
) -> list[ScoredTarget]:
    """Rank each target among the last `n_new` events of the examples, among all items there are now.

    Each is predicted from the events before its timestamp block, as serving would have: nothing is learned here.

    Args:
        examples: one per subject.
        blends: how the target would rank under others is told, too; None: under this learner's alone.
        asked: positions of the events that matter; None: all.
        among: the rows that are candidates, as far as they are not removed; None: all.
    """
    scored: list[ScoredTarget] = []
    requests: list[Request] = []
    waiting: list[int] = []
    candidates = learner.present_rows()
    if among is not None:
        candidates = np.intersect1d(candidates, among, assume_unique=True)
    popular: np.ndarray | None = None
    for example in examples:
        sequence = learner.tokens(example.events)
        times_us = np.array([event.event_time_us for event in example.events], np.int64)
        starts = block_starts(times_us)
        kept = np.cumsum([0, *(learner.is_token(event) for event in example.events)])
        before: dict[int, TokenSequence] = {}  # the targets of one block share a history
        for index in range(len(example.events) - example.n_new, len(example.events)):
            event = example.events[index]
            if not learner.config.target_weights.get(event.event_type) or not event.item_id:
                continue
            if asked is not None and event.position not in asked:
                continue
            row, known = learner.row(event.item_id), int(kept[starts[index]])
            scored.append(ScoredTarget(event.position, 0, bool(learner.counts[row] == 0), known == 0))
            if row and known:
                waiting.append(len(scored) - 1)
                before.setdefault(known, sequence.window(0, known))
                requests.append(Request(before[known], row))
            elif row:
                popular = _popularity(learner) if popular is None else popular
                rank = int((popular[candidates] >= popular[row]).sum())
                scored[-1] = scored[-1]._replace(rank=rank)
    # Of many targets in a large catalogue some are enough to tell of other blends.
    wanted = len(requests) * len(candidates) * len(blends or ())
    stride = max(1, math.ceil(wanted / _MAX_OTHER_SCORES))
    tried = set(range(0, len(requests), stride)) if blends is not None else set()
    for chosen, under in ((sorted(tried), blends), (sorted(set(range(len(requests))) - tried), None)):
        found = learner.judge([requests[place] for place in chosen], candidates, under)
        of_each = (found.ranks.T.tolist(), found.losses.tolist(), found.top.tolist())
        for place, ranks, loss, top in zip(chosen, *of_each, strict=True):
            index = waiting[place]
            known_loss = None if math.isnan(loss) else loss
            scored[index] = scored[index]._replace(
                rank=ranks[0],
                loss=known_loss,
                ranks_under=tuple(ranks) if under is not None else (),
                top=tuple(top),
            )
    return scored


def _popularity(learner: Learner) -> np.ndarray:
    """(n + 1,), what a user of whom nothing is known is offered by."""
    if not learner.blend.trend_strength:
        return learner.counts
    trend = learner.trends.trend(int(learner.blend.trend_half_life))
    # What no trend names comes after all that one does.
    popular: np.ndarray = learner.counts / (1.0 + learner.counts.sum()) * 1e-3
    popular[trend.items] += trend.weights
    return popular
