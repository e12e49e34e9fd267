"""The joint loss of one batch: next item, value, event type."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from headwater_core.losses import Offsets, full_softmax_loss, sampled_softmax_loss, type_loss, value_loss
from headwater_core.towers import ItemTower, JointHeads, UserTower
from headwater_updater.examples import Batch
from headwater_updater.learner_config import LearnerConfig
from headwater_updater.trend_prior import PriorOf

_UNIFORM_SHARE = 0.25
"""Of the negatives, how many are drawn evenly; the others are drawn by popularity."""


class Losses(NamedTuple):
    """A batch's losses, and where the gradient of the id embeddings will be found."""

    total: Tensor
    next_item: float
    rows: Tensor
    """(m,) int64, sorted, row 0 first: the items that took part."""
    id_vectors: Tensor
    """(m, d), a leaf: after `total.backward()` its gradient is that of the id table's rows."""


def joint_loss(
    config: LearnerConfig,
    towers: tuple[UserTower, ItemTower, JointHeads],
    item_features: Tensor,
    counts: np.ndarray,
    batch: Batch,
    rng: np.random.Generator,
    prior_of: PriorOf | None = None,
) -> Losses:
    """The loss of a batch.

    Candidates are the items that have been a target at least once: as a mere negative an item would be pushed away
    from everybody, and what was never seen is to be placed by its features.

    Args:
        config: loss weights and sampling.
        towers: user tower, item tower and heads, in training mode or not.
        item_features: (n + 1, F), by row.
        counts: (n + 1,), how often each item was a target so far, those of this batch included.
        batch: what to learn.
        rng: draws negatives and what the heads learn from.
        prior_of: what candidates are given beforehand, by the times of the targets.
    """
    user_tower, item_tower, heads = towers
    candidates = np.flatnonzero(counts)
    is_full = len(candidates) <= config.full_softmax_limit
    negatives = candidates if is_full else _draw_negatives(candidates, counts, config.n_negatives, rng)
    used = (np.zeros(1, np.int64), negatives, batch.tensors.item_rows.numpy().ravel(), batch.target_rows.numpy())
    rows = torch.from_numpy(np.unique(np.concatenate(used)))
    id_vectors = item_tower.id_embedding.detach()[rows].requires_grad_()  # (m, d)
    vectors = item_tower.compose(id_vectors, item_features[rows].float())  # (m, d)

    history = vectors[torch.searchsorted(rows, batch.tensors.item_rows)]  # (B, T, d)
    interests = _interests(user_tower, batch, history)  # (P, K, d)
    targets = torch.searchsorted(rows, batch.target_rows)  # (P,) places in `rows`
    places = torch.searchsorted(rows, torch.from_numpy(negatives))  # (N,)
    leaves_out_seen = config.exclude_seen and config.softmax_without_seen
    if is_full:
        local = torch.searchsorted(places, targets)
        offsets = _without_seen(batch, torch.from_numpy(candidates)) if leaves_out_seen else None
        prior = prior_of(batch.target_times_us, negatives) if prior_of else None
        next_item = full_softmax_loss(interests, vectors[places], local, batch.target_weights, offsets, prior)
    else:
        log_counts = torch.from_numpy(np.log(_expected_counts(negatives, candidates, counts, len(negatives))))
        left_out = targets.unsqueeze(1) == places  # (P, M)
        if leaves_out_seen:
            left_out |= _is_seen(batch, torch.from_numpy(negatives))
        priors = _sampled_prior(batch, negatives, prior_of) if prior_of else None
        next_item = sampled_softmax_loss(
            interests, vectors[targets], vectors[places], left_out, log_counts.float(), batch.target_weights, priors
        )
    value, event_type = _head_losses(config, heads, interests, vectors, targets, batch, rng)
    total = next_item + config.value_loss_weight * value + config.type_loss_weight * event_type
    return Losses(total, float(next_item.detach()), rows, id_vectors)


def _interests(user_tower: UserTower, batch: Batch, history: Tensor) -> Tensor:
    """The interests from which each target is predicted, (P, K, d)."""
    b, t = batch.tensors.item_rows.shape
    ends = torch.arange(b) * t + batch.tensors.lengths - 1
    if bool(torch.isin(batch.sources, ends).all()):  # incremental steps, mostly: decode one position of each history
        at_end: Tensor = user_tower(batch.tensors, history)  # (B, K, d)
        return at_end[batch.sources // t]
    return user_tower.forward_all(batch.tensors, history).flatten(0, 1)[batch.sources]


def _sampled_prior(batch: Batch, negatives: np.ndarray, prior_of: PriorOf) -> tuple[Tensor, Tensor]:
    """The targets' (P,) and the negatives' (P, M)."""
    different = np.unique(np.concatenate([negatives, batch.target_rows.numpy()]))
    values, which = prior_of(batch.target_times_us, different)
    of_targets = values[which, torch.from_numpy(np.searchsorted(different, batch.target_rows.numpy()))]
    return of_targets, values[:, torch.from_numpy(np.searchsorted(different, negatives))][which]


def _without_seen(batch: Batch, candidates: Tensor) -> Offsets:
    """Leaves the items that a user has already met out of the softmax, as serving leaves them out of the answer.

    What will never be asked need not be learned: without it, much of the towers' capacity goes into pushing a user's
    own items down.
    """
    b, t = batch.sources // batch.tensors.item_rows.shape[1], batch.sources % batch.tensors.item_rows.shape[1]
    row = batch.tensors.item_rows[b]  # (P, T)
    place = torch.searchsorted(candidates, row).clamp_max(len(candidates) - 1)
    target = batch.target_rows.unsqueeze(1)
    seen = (torch.arange(row.shape[1]) <= t.unsqueeze(1)) & (candidates[place] == row) & (row != target)
    # A place that is not to be left out becomes the target's, which stays as it is.
    place = torch.where(seen, place, torch.searchsorted(candidates, target))
    return Offsets(place, torch.where(seen, -torch.inf, 0.0))


def _is_seen(batch: Batch, negatives: Tensor) -> Tensor:
    """Which negatives the user of each target had already met. (M,) → (P, M)."""
    length = batch.tensors.item_rows.shape[1]
    order = negatives.argsort()
    drawn = negatives[order]  # ascending; an item that was drawn twice is found at its first place
    first = torch.searchsorted(drawn, drawn)  # (M,)
    place = torch.searchsorted(drawn, batch.tensors.item_rows).clamp_max(len(drawn) - 1)  # (B, T)
    met = drawn[place] == batch.tensors.item_rows
    when = torch.where(met, torch.arange(length), length)  # (B, T); `length`: not at all
    earliest = torch.full((len(when), len(drawn)), length).scatter_reduce_(1, place, when, "amin")[:, first]  # (B, M)
    earliest = torch.empty_like(earliest).index_copy_(1, order, earliest)
    return earliest[batch.sources // length] <= (batch.sources % length).unsqueeze(1)


def _draw_negatives(candidates: np.ndarray, counts: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    popularity = counts[candidates] / counts[candidates].sum()
    drawn = rng.choice(candidates, n, p=(1 - _UNIFORM_SHARE) * popularity + _UNIFORM_SHARE / len(candidates))
    return np.asarray(drawn, np.int64)


def _expected_counts(drawn: np.ndarray, candidates: np.ndarray, counts: np.ndarray, n: int) -> np.ndarray:
    """How often each drawn item is expected among n draws, as `_draw_negatives` makes them."""
    popularity = counts[drawn] / counts[candidates].sum()
    expected: np.ndarray = n * ((1 - _UNIFORM_SHARE) * popularity + _UNIFORM_SHARE / len(candidates))
    return expected


def _head_losses(
    config: LearnerConfig,
    heads: JointHeads,
    interests: Tensor,
    vectors: Tensor,
    targets: Tensor,
    batch: Batch,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Value and type loss of some of the targets; reference items are other targets, hence drawn by popularity."""
    n = min(config.head_targets, len(targets))
    chosen = torch.from_numpy(rng.choice(len(targets), n, replace=False))
    drawn = torch.from_numpy(rng.integers(0, len(targets), (n, config.head_references)))
    items = vectors[torch.cat([targets[chosen].unsqueeze(1), targets[drawn]], dim=1)]  # (n, 1 + R, d)
    type_logits, values = heads.of_best_interest(interests[chosen], items)
    event_type = type_loss(type_logits[:, 0], batch.target_types[chosen], type_logits[:, 1:], config.reference_exposure)
    return value_loss(values[:, 0], batch.target_values[chosen]), event_type
