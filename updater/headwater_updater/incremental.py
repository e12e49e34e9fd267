"""Incremental training: a few steps on new events, mixed with earlier ones.

The item tower's shared weights stand still, and of the ids only those of items that events were about move: publishing
then means a new user tower and a handful of item vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headwater_core.histories import TokenSequence
from headwater_updater.examples import Example, Window, windows
from headwater_updater.trend_prior import PriorOf, prior
from headwater_updater.value_statistics import follow_values

if TYPE_CHECKING:
    from headwater_updater.learner import Learner


class StepResult(NamedTuple):
    """What an incremental step did."""

    loss: float
    """Of the next item; NaN when there was nothing to learn."""
    touched_rows: np.ndarray
    """(m,) int64, sorted: the items whose vectors moved."""
    touched_sources: np.ndarray
    """(s,) int64, sorted: the items whose successors were counted."""


def step(
    learner: Learner, new: Sequence[Example], replay: Sequence[Example] = (), n_steps: int = 1, rate: float = 1.0
) -> StepResult:
    """Learn new events, mixed with replayed ones.

    Args:
        learner: trained.
        new: one example per subject; its last `n_new` events have not been learned yet.
        replay: examples whose last `n_new` events have.
        n_steps: how many times to go through the round.
        rate: what the configured rates are multiplied with.
    """
    result = learn_latest(
        learner, [_split(learner, e) for e in new], [_split(learner, e) for e in replay], n_steps, rate
    )
    _follow_values(learner, new)
    return result


def learn_latest(
    learner: Learner,
    new: Sequence[tuple[TokenSequence, int]],
    replay: Sequence[tuple[TokenSequence, int]],
    n_steps: int,
    rate: float = 1.0,
    prior_of: PriorOf | None = None,
) -> StepResult:
    """As `step`, on pairs of a history and the index of its first new event.

    Where the towers were trained beside the trend, so are they now: beside `prior_of`, or today's.
    """
    if prior_of is None and learner.beside_trend:
        prior_of = _trend_until_now(learner)
    touched_sources = _count(learner, new)
    fresh = [window for sequence, start in new for window in _recent_windows(learner, sequence, start)]
    old = [window for sequence, start in replay for window in _recent_windows(learner, sequence, start)]
    touched = _target_rows(fresh)
    others = np.setdiff1d(_target_rows(old), touched)
    if len(others) > learner.config.touched_replay_rows:
        others = learner.rng.choice(others, learner.config.touched_replay_rows, replace=False)
    touched = np.union1d(touched, others)
    mixed = fresh + _reweighted(old, fresh, learner.config.replay_share)
    if not mixed:
        return StepResult(math.nan, touched, touched_sources)
    n_batches = max(1, round(sum(len(window.tokens) for window in mixed) / learner.config.batch_tokens))
    losses = []
    for _ in range(n_steps):
        order = learner.rng.permutation(len(mixed))
        for part in np.array_split(order, n_batches):
            group = [mixed[index] for index in part]
            rates = rate * learner.config.online_learning_rate, rate * learner.config.online_id_learning_rate
            losses.append(learner.learn_batch(group, *rates, touched, prior_of))
    return StepResult(float(np.mean(losses)), touched, touched_sources)


def _trend_until_now(learner: Learner) -> PriorOf:
    """The trend that serves now as the prior of all targets; what is counted later does not change it."""
    trend = learner.trend(learner.blend)
    return lambda times_us, rows: prior([trend], np.zeros(len(times_us), np.int64), rows)


def count(learner: Learner, new: Sequence[Example]) -> np.ndarray:
    """Count new events without moving a weight; the items whose successors were counted, (s,) sorted."""
    counted = _count(learner, [_split(learner, example) for example in new])
    _follow_values(learner, new)
    return counted


def _follow_values(learner: Learner, new: Sequence[Example]) -> None:
    """Let the next events' values be normalised by what was usual up to now."""
    events = (event for each in new for event in each.events[len(each.events) - each.n_new :])
    learner.take_tower_config(follow_values(learner.config.tower, learner.value_counts, events))


def _count(learner: Learner, new: Sequence[tuple[TokenSequence, int]]) -> np.ndarray:
    sources = [np.empty(0, np.int64)]
    learner.follow_trend(new)
    for sequence, start in new:
        learner.count(sequence, start)
        sources.append(learner.successors.add(sequence, learner.target_weights(sequence, start), start))
    found = np.unique(np.concatenate(sources))
    learner.moved[found] = True
    return found


def _recent_windows(learner: Learner, sequence: TokenSequence, start: int) -> list[Window]:
    """Windows for the targets from `start` on, with as much before them as steps read."""
    length = min(learner.config.online_history_length, learner.config.tower.history_length)
    first = max(start - length, 0)
    weights = learner.target_weights(sequence, start)
    return windows(sequence.window(first, len(sequence)), weights[first:], length)


def _split(learner: Learner, example: Example) -> tuple[TokenSequence, int]:
    """The example's tokens and the index of the first new one."""
    context = example.events[: len(example.events) - example.n_new]
    return learner.tokens(example.events), sum(learner.is_token(event) for event in context)


def _target_rows(cut: Sequence[Window]) -> np.ndarray:
    """The items the windows' targets are on, sorted."""
    return np.unique(np.concatenate([np.empty(0, np.int64), *(window.target_rows for window in cut)]))


def _reweighted(old: Sequence[Window], fresh: Sequence[Window], share: float) -> list[Window]:
    """The replayed windows, weighted so that together they make up `share` of the loss."""
    old_weight = sum(float(window.target_weights.sum()) for window in old)
    fresh_weight = sum(float(window.target_weights.sum()) for window in fresh)
    if not old_weight or not fresh_weight:
        return list(old)
    factor = np.float32(share / (1 - share) * fresh_weight / old_weight)
    return [window._replace(target_weights=window.target_weights * factor) for window in old]
