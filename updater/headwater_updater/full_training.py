"""Full training: everything moves, on whole histories, until the budget ends; validation chooses the weights kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from headwater_core.events import HistoryEvent
from headwater_core.histories import TokenSequence
from headwater_updater import incremental
from headwater_updater.blending import choose_blend, choose_trend
from headwater_updater.co_visitation import co_visitation_vectors
from headwater_updater.examples import Window, batches, block_starts, windows
from headwater_updater.head_fitting import fit_heads
from headwater_updater.learner_config import Budget, LearnerConfig, falling
from headwater_updater.ranking import Request, hr_at, ndcg_at
from headwater_updater.trend_prior import PriorOf, TrendPrior, choose_prior
from headwater_updater.value_statistics import count_values

if TYPE_CHECKING:
    from headwater_updater.learner import Learner

_ID_INIT_STD = 0.02
_HELD_OUT_BATCH = 64
_MAX_BLOCK_TARGETS = 5
"""Of a basket of dozens, so many are validated on: validation is to cost a tenth of training."""
_ANNEALING_SHARE = 0.6
"""How long the learning rate falls once validation gets no better, relative to the time till then."""
_HEADS_SHARE = 0.03
"""Of the time, what the heads' last lesson may take."""


class Progress(NamedTuple):
    """How far full training is."""

    elapsed_fraction: float
    epoch: int
    loss: float
    """Of the next item, a running mean."""
    validation_ndcg_at_10: float | None
    """The latest, of the towers alone; None before the first."""


class FitResult(NamedTuple):
    """What full training reached; the validation figures are of the weights that were kept."""

    epochs: int
    loss: float
    validation_hr_at_10: float
    validation_ndcg_at_10: float
    towers_validation_ndcg_at_10: float
    """Without co-visits."""
    curve: tuple[Progress, ...] = ()
    """How it went: what each validation found."""


class HeldOut(NamedTuple):
    """A user's whole history, its last timestamp block kept from training."""

    sequence: TokenSequence
    start: int
    """Where the block begins."""


OnProgress = Callable[[Progress], None]


def fit(
    learner: Learner,
    histories: Sequence[Sequence[HistoryEvent]],
    budget: Budget,
    on_progress: OnProgress | None = None,
    *,
    learn_held_out: bool = True,
    with_trend: bool = False,
) -> FitResult:
    """Train everything on whole histories; keep the weights with the best validation NDCG@10.

    Once validation gets no better, training goes back to the best weights, lets the learning rate fall and ends.

    Validation is on the last timestamp block of up to `max_validation_users` users, which training does not see. It
    chooses the weights and then how co-visits join them, and calibrates the heads. After that its targets are learned
    too, by incremental steps, so that all of the log has been learned.

    Args:
        learner: knows all items that the histories are on.
        histories: per subject, oldest event first.
        budget: by epochs alone, the seed fixes the result.
        on_progress: called after every batch and every validation.
        learn_held_out: False leaves the validation targets unlearned.
        with_trend: whether trends count, by what was popular when each target came: for who will be asked next, not
            for a list of no time. The blend gets one, and the softmax where the catalogue turns over (`trend_prior`).
    """
    started = time.monotonic()
    heads_s: float | None = None
    if budget.seconds is not None:
        heads_s = _HEADS_SHARE * budget.seconds
        budget = replace(budget, seconds=budget.seconds - heads_s)
    sequences = [sequence for events in histories if len(sequence := learner.tokens(events))]
    held = _hold_out(learner, sequences)
    training = [s for i, s in enumerate(sequences) if i not in held]
    training += [each.sequence.window(0, each.start) for each in held.values()]
    for sequence in training:
        learner.count(sequence, 0)
    learner.follow_trend([(sequence, 0) for sequence in training])
    learner.value_counts = count_values(learner.config.tower, histories)
    prior_of = _prior(learner, training) if with_trend else None
    learner.successors.fit(((s, learner.target_weights(s, 0)) for s in training), learner.counts)
    _start_ids(learner, training)
    requests = _requests(learner, list(held.values()))
    counts_as = np.array([request.weight for request in requests])
    best: FitResult | None = None
    weights: dict[str, Tensor] = {}
    curve: list[Progress] = []
    validation: float | None = None
    loss, epoch, stale, share, validation_s = math.nan, 0, 0, 0.0, 0.0
    schedule = Schedule(learner.config)
    while share < schedule.end:
        if stale >= learner.config.patience and not schedule.is_annealing:
            learner.restore(weights)
            schedule.anneal(share)
        groups = list(batches(_varied_windows(learner, training), learner.config.batch_tokens, learner.rng))
        for index, group in enumerate(groups):
            share = budget.share(time.monotonic() - started, epoch + index / len(groups))
            if share >= schedule.end:
                break
            rate = schedule.rate(share)
            batch_loss = learner.learn_batch(group, rate, rate, None, prior_of)
            loss = batch_loss if math.isnan(loss) else 0.95 * loss + 0.05 * batch_loss
            if on_progress:
                on_progress(Progress(share, epoch + 1, loss, validation))
        epoch += 1
        elapsed_s = time.monotonic() - started
        share = budget.share(elapsed_s, epoch) if groups else 1.0  # nothing to learn: no budget is needed
        # By the clock, validation may cost a tenth of the time; by epochs it must not depend on the clock.
        if share >= schedule.end or budget.seconds is None or validation_s <= 0.1 * elapsed_s:
            found = learner.ranks(requests, np.flatnonzero(learner.counts), prior_of)
            validation = ndcg_at(found, counts_as)
            validation_s += time.monotonic() - started - elapsed_s
            if share >= learner.config.warm_up:  # while the rate is still rising, standing still says little
                stale += 1
            if best is None or validation > best.validation_ndcg_at_10:
                best, stale = FitResult(epoch, loss, hr_at(found, counts_as), validation, validation), 0
                weights = learner.snapshot()
            curve.append(Progress(share, epoch, loss, validation))
            if on_progress:
                on_progress(curve[-1])
    assert best is not None  # the last round always validates
    best = best._replace(curve=tuple(curve))
    learner.restore(weights)
    _settle_types(learner, training)
    learner.blend = choose_blend(learner, requests, prior_of)
    if learner.blend.is_active:
        found = learner.ranks(requests, np.flatnonzero(learner.counts), prior_of)
        hr, ndcg = hr_at(found, counts_as), ndcg_at(found, counts_as)
        best = best._replace(validation_hr_at_10=hr, validation_ndcg_at_10=ndcg)
    if with_trend:
        learner.blend = choose_trend(learner, training, requests)
    _fit_heads(learner, training, list(held.values()), heads_s)
    if learn_held_out:
        for start in range(0, len(held), _HELD_OUT_BATCH):
            part = list(held.values())[start : start + _HELD_OUT_BATCH]
            latest = [(each.sequence, each.start) for each in part]
            incremental.learn_latest(learner, latest, [], 1, prior_of=prior_of)
    _explain_by_features(learner)
    return best


def _prior(learner: Learner, training: Sequence[TokenSequence]) -> PriorOf | None:
    """The trend of every moment, where towers are to be trained beside it."""
    rows, times_us = learner.targets_in_time((sequence, 0) for sequence in training)
    blend = choose_prior(rows, times_us, len(learner.item_ids))
    learner.beside_trend = blend is not None
    return None if blend is None else TrendPrior(rows, times_us, len(learner.item_ids), blend).at


class Schedule:
    """The learning rate by the share of the budget that is used: a cosine to its end, or to an earlier one.

    A budget may be far longer than what the data can teach. When validation gets no better, the rate is still high and
    the weights are not settled: it falls from there on, which is worth more than stopping at once.
    """

    def __init__(self, config: LearnerConfig) -> None:
        self._config = config
        self._start: float | None = None
        self._start_rate = 0.0
        self.end = 1.0
        """The share of the budget at which training ends."""

    @property
    def is_annealing(self) -> bool:
        """Whether an earlier end is set."""
        return self._start is not None

    def anneal(self, share: float) -> None:
        """Let the rate fall from now on."""
        self._start_rate = self.rate(share)
        self._start = share
        self.end = min(1.0, (1.0 + _ANNEALING_SHARE) * share)

    def rate(self, share: float) -> float:
        """The learning rate once `share` (0 to 1) of the budget is used."""
        if self._start is None:
            return self._config.scheduled_rate(share)
        return self._start_rate * falling((share - self._start) / max(self.end - self._start, 1e-9))


def _hold_out(learner: Learner, sequences: Sequence[TokenSequence]) -> dict[int, HeldOut]:
    """By index, the histories whose last timestamp block is kept from training: some of those of three blocks."""
    eligible: dict[int, HeldOut] = {}
    for index, sequence in enumerate(sequences):
        starts = block_starts(sequence.event_time_us)
        last = int(starts[-1])
        if last and starts[last - 1] > 0 and learner.target_weights(sequence, last).any():
            eligible[index] = HeldOut(sequence, last)
    if len(eligible) <= learner.config.max_validation_users:
        return eligible
    chosen = learner.rng.choice(list(eligible), learner.config.max_validation_users, replace=False)
    return {index: eligible[index] for index in sorted(chosen.tolist())}


def _requests(learner: Learner, held: Sequence[HeldOut]) -> list[Request]:
    """What each user did before the block that is held out, with each of its targets, or some where they are many."""
    requests: list[Request] = []
    for sequence, start in held:
        before = sequence.window(0, start)
        targets = sequence.item_rows[learner.target_weights(sequence, start) > 0]
        if len(targets) > _MAX_BLOCK_TARGETS:
            targets = learner.rng.choice(targets, _MAX_BLOCK_TARGETS, replace=False)
        time_us = int(sequence.event_time_us[start])
        requests += [Request(before, row, 1 / len(targets), time_us) for row in targets.tolist()]
    return requests


def _start_ids(learner: Learner, training: Sequence[TokenSequence]) -> None:
    """Give items about to be trained for the first time a place: near what they were visited with, plus noise."""
    fresh = torch.from_numpy(learner.counts > 0) & (learner.id_adam.steps == 0)
    shape = (len(learner.counts), learner.config.tower.dimension)
    with learner.seeded():
        start = torch.randn(shape) + learner.config.co_visitation_scale * co_visitation_vectors(training, *shape)
    learner.item_tower.id_embedding.data[fresh] += _ID_INIT_STD * start[fresh]
    learner.drop_table()


def _varied_windows(learner: Learner, training: Sequence[TokenSequence]) -> list[Window]:
    """All windows of an epoch; where they are cut differs from epoch to epoch."""
    length = learner.config.tower.history_length
    offsets = learner.rng.integers(0, length // 2 + 1, len(training))
    cut = (
        windows(sequence, learner.target_weights(sequence, 0), length, int(offset))
        for sequence, offset in zip(training, offsets, strict=True)
    )
    return [window for part in cut for window in part]


def _fit_heads(
    learner: Learner, training: Sequence[TokenSequence], held: Sequence[HeldOut], seconds: float | None
) -> None:
    length = learner.config.tower.history_length
    learned = [window for s in training for window in windows(s, learner.target_weights(s, 0), length)]
    judged = [window for s, start in held for window in windows(s, learner.target_weights(s, start), length)]
    fit_heads(learner, learned, judged, seconds)


@torch.no_grad()
def _settle_types(learner: Learner, training: Sequence[TokenSequence]) -> None:
    """Let event types that training did not meet read as the unknown type, which it did (`type_dropout`)."""
    met = np.unique(np.concatenate([np.zeros(1, np.int64), *(sequence.type_index for sequence in training)]))
    unmet = torch.from_numpy(np.setdiff1d(np.arange(learner.config.tower.n_types), met))
    for embedding in (learner.user_tower.type_embedding, learner.user_tower.value_direction):
        embedding.weight[unmet] = embedding.weight[0].clone()


@torch.no_grad()
def _explain_by_features(learner: Learner) -> None:
    """Let features explain all of the items' vectors that they can; ids keep the rest, so no learned vector moves.

    The projection becomes the ridge regression from features to vectors, items weighted by log(1 + targets).
    Gradients alone leave it far from that: they come through the id dropout only, and ids learn faster.
    """
    rows = torch.from_numpy(np.flatnonzero(learner.counts))
    rows = rows[(learner.item_features[rows] != 0).any(1)]
    if not len(rows):
        return
    vectors = learner.vectors(rows).double()  # (n, d)
    features = learner.item_features[rows].double()  # (n, F)
    weights = torch.from_numpy(np.log1p(learner.counts))[rows].unsqueeze(1)  # (n, 1)
    gram = features.T @ (weights * features)  # (F, F)
    gram += learner.config.text_ridge * float(weights.mean()) * torch.eye(len(gram), dtype=gram.dtype)
    projection = torch.linalg.solve(gram, features.T @ (weights * vectors))  # (F, d)
    learner.item_tower.shared.projection.weight.copy_(projection.T)
    learner.item_tower.id_embedding[rows] = (vectors - features @ projection).float()
    learner.drop_table()
