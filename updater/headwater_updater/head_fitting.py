"""The heads' last lesson: fitted to the finished towers, then calibrated on what training held out.

While everything moves, the heads run after towers that change, on a few targets of each batch, and follow the weights
that rank best rather than those that suit them. Once the towers stand still they learn in seconds what that left out.
Logits that were learned on training targets are too sure of themselves on new ones, and know nothing of co-visits: how
much a type's logit, the towers' score and the bonus speak for an event is fitted to the held-out targets, a logistic
regression for each type (Platt 1999, with three inputs in place of one).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 the name every reader of PyTorch code expects

from headwater_core.co_visits import Bonuses
from headwater_core.losses import type_loss, value_loss
from headwater_core.towers import UNCALIBRATED, calibrated
from headwater_updater.examples import Window, to_batch

if TYPE_CHECKING:
    from headwater_updater.learner import Learner

_MAX_TARGETS = 60_000
_MAX_HELD_TARGETS = 5_000
_BATCH_TARGETS = 512
_MIN_STEPS, _MAX_EPOCHS = 100, 5
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 0.05
_READ_TOKENS = 4096
_MIN_EVENTS = 20
"""A type with fewer held-out events stays as it was learned."""
_PRIOR_DEVIATIONS = (0.5, 0.5, 0.5, 1.0)
"""How far the weights of logit, score and bonus and the shift are expected to be from those of an uncalibrated type:
without much evidence little is changed."""


class Targets(NamedTuple):
    """What the heads read and what they are to say."""

    interests: Tensor
    """(P, K, d)."""
    rows: Tensor
    """(P,) int64."""
    types: Tensor
    """(P,) int64."""
    values: Tensor
    """(P,) float32, NaN = none."""
    origins: list[tuple[Window, int]]
    """The window that each is in, and after which of its events it was predicted."""


class _Asked(NamedTuple):
    """Held-out targets, each among the items drawn for it."""

    targets: Targets
    rows: Tensor
    """(P, 1 + R) int64, the targets' own items first."""
    bonuses: Tensor
    """(P, 1 + R)."""


def fit_heads(
    learner: Learner, training: Sequence[Window], held: Sequence[Window], seconds: float | None = None
) -> None:
    """Fit the heads to the towers as they are; what does not help on the held-out targets is undone.

    Args:
        learner: its towers stay as they are.
        training: windows with the targets to learn from; of very many a sample is taken.
        held: windows with targets that training did not see; without any, nothing is done.
        seconds: how long learning may take; none: the data alone decide, and the seed fixes the result.
    """
    started = time.monotonic()
    vectors = learner.vectors(torch.arange(len(learner.item_ids) + 1)).clone()  # (n + 1, d), outside inference mode
    until = math.inf if seconds is None else started + seconds
    judged = _read(learner, held, vectors, _MAX_HELD_TARGETS, until)
    learned = _read(learner, training, vectors, _MAX_TARGETS, until - (seconds or 0.0) / 2)
    if judged is None or learned is None:
        return
    drawn = _drawn(learner, learned, (len(judged.rows), learner.config.reference_exposure))
    asked = _asked(learner, judged, drawn)
    before = copy.deepcopy(learner.heads.state_dict())
    loss = _held_loss(learner, asked, vectors)
    _learn(learner, learned, vectors, until)
    if not _held_loss(learner, asked, vectors) < loss:
        learner.heads.load_state_dict(before)
    learner.heads.calibration.copy_(_calibration(_held_outputs(learner, asked, vectors), asked))


def platt(evidence: np.ndarray, happened: np.ndarray) -> np.ndarray:
    """The weights (4,) of the evidence (n, 4) under which what happened, (n,) bool, is likeliest; by Newton's method.

    A normal prior holds them near those of an uncalibrated type.
    """
    x = evidence.astype(np.float64)
    prior = 1.0 / np.square(_PRIOR_DEVIATIONS)
    found = np.array(UNCALIBRATED)
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ found, -50, 50)))
        gradient = x.T @ (p - happened) + prior * (found - UNCALIBRATED)
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(prior)
        step = np.clip(np.linalg.solve(curvature, gradient), -1.0, 1.0)
        found = found - step
        if np.abs(step).max() < 1e-6:
            break
    return found


@torch.no_grad()
def _read(learner: Learner, cut: Sequence[Window], vectors: Tensor, limit: int, until: float) -> Targets | None:
    """The targets of random windows, until they are enough or it is time; None when there is none."""
    learner.user_tower.eval()
    order = learner.rng.permutation(len(cut))
    n_targets = np.cumsum([len(cut[index].target_rows) for index in order])
    chosen = [cut[index] for index in order[: int(np.searchsorted(n_targets, limit)) + 1]]
    parts: list[Targets] = []
    start = 0
    while start < len(chosen) and (not parts or time.monotonic() < until):
        stop = start + 1
        longest = len(chosen[start].tokens)
        while stop < len(chosen) and (stop + 1 - start) * max(longest, len(chosen[stop].tokens)) <= _READ_TOKENS:
            longest = max(longest, len(chosen[stop].tokens))
            stop += 1
        origins = [(window, source) for window in chosen[start:stop] for source in window.sources.tolist()]
        batch = to_batch(chosen[start:stop], learner.config.tower, learner.text_features)
        interests = learner.user_tower.forward_all(batch.tensors, vectors[batch.tensors.item_rows]).flatten(0, 1)
        parts.append(
            Targets(interests[batch.sources], batch.target_rows, batch.target_types, batch.target_values, origins)
        )
        start = stop
    if not parts:
        return None
    tensors = [torch.cat(column) for column in list(zip(*parts, strict=True))[:4]]
    interests, rows, types, values = tensors
    return Targets(interests, rows, types, values, [origin for part in parts for origin in part.origins])


def _asked(learner: Learner, held: Targets, drawn: Tensor) -> _Asked:
    """Held-out targets beside the items drawn for them, (P, R)."""
    rows = torch.cat([held.rows.unsqueeze(1), drawn], dim=1)
    bonuses = np.zeros(rows.shape, np.float32)
    if learner.blend.is_active:
        found: dict[tuple[int, int], Bonuses] = {}  # targets of one block share a history
        for index, (window, source) in enumerate(held.origins):
            key = id(window), source
            if key not in found:
                found[key] = learner.bonuses(window.tokens.window(0, source + 1), learner.blend)
            bonuses[index] = found[key].of(rows[index].numpy())
    return _Asked(held, rows, torch.from_numpy(bonuses))


def _drawn(learner: Learner, learned: Targets, shape: tuple[int, int]) -> Tensor:
    """Rows of learned targets, hence drawn by popularity."""
    return learned.rows[torch.from_numpy(learner.rng.integers(0, len(learned.rows), shape))]


def _learn(learner: Learner, learned: Targets, vectors: Tensor, until: float) -> None:
    """A pass over the targets, of few targets several."""
    config = learner.config
    optimizer = torch.optim.AdamW(learner.heads.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    steps_of_epoch = math.ceil(len(learned.rows) / _BATCH_TARGETS)
    epochs = min(max(math.ceil(_MIN_STEPS / steps_of_epoch), 1), _MAX_EPOCHS)
    order = np.concatenate([learner.rng.permutation(len(learned.rows)) for _ in range(epochs)])
    steps = np.array_split(order, math.ceil(len(order) / _BATCH_TARGETS))
    learner.heads.train()
    for step, part in enumerate(map(torch.from_numpy, steps)):
        if time.monotonic() > until:
            break
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * (1 - step / len(steps))
        drawn = _drawn(learner, learned, (len(part), config.head_references))
        items = vectors[torch.cat([learned.rows[part].unsqueeze(1), drawn], dim=1)]  # (b, 1 + R, d)
        logits, values = learner.heads.of_best_interest(learned.interests[part], items)
        loss = _loss(logits, values[:, 0], learned.types[part], learned.values[part], config.reference_exposure)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _loss(logits: Tensor, values: Tensor, types: Tensor, true_values: Tensor, exposure: int) -> Tensor:
    """Both losses on one scale: a target's, not a pair's. Args: logits: (P, 1 + R, n_types), values: (P,)."""
    by_type = type_loss(logits[:, 0], types, logits[:, 1:], exposure)
    return value_loss(values, true_values) + (1 + exposure) * by_type


class _Outputs(NamedTuple):
    """What towers and heads say of held-out targets and the items drawn for them."""

    type_logits: Tensor
    """(P, 1 + R, n_types)."""
    scores: Tensor
    """(P, 1 + R)."""
    values: Tensor
    """(P,), of the targets' own items."""


@torch.no_grad()
def _held_outputs(learner: Learner, asked: _Asked, vectors: Tensor) -> _Outputs:
    learner.heads.eval()
    parts = []
    for start in range(0, len(asked.rows), _BATCH_TARGETS):
        part = slice(start, start + _BATCH_TARGETS)
        interests, items = asked.targets.interests[part], vectors[asked.rows[part]]
        type_logits, values = learner.heads.of_best_interest(interests, items)
        scores = torch.einsum("pkd,prd->prk", interests, items).amax(-1)  # (p, 1 + R)
        parts.append(_Outputs(type_logits, scores, values[:, 0]))
    return _Outputs(*map(torch.cat, zip(*parts, strict=True)))


@torch.no_grad()
def _held_loss(learner: Learner, asked: _Asked, vectors: Tensor) -> float:
    """After calibration, as it will be: what the learned logits say of their own certainty does not count."""
    outputs = _held_outputs(learner, asked, vectors)
    logits = calibrated(_calibration(outputs, asked), outputs.type_logits, outputs.scores, asked.bonuses)
    return float(_loss(logits, outputs.values, asked.targets.types, asked.targets.values, asked.rows.shape[1] - 1))


def _calibration(outputs: _Outputs, asked: _Asked) -> Tensor:
    """What speaks for each type, and how much, (n_types, 4); see `JointHeads.probabilities`."""
    n_types = outputs.type_logits.shape[2]
    found = torch.tensor(UNCALIBRATED).repeat(n_types, 1)
    happened = F.one_hot(asked.targets.types, n_types).bool()  # (P, n_types)
    for index in torch.nonzero(happened.sum(0) >= _MIN_EVENTS).flatten().tolist():
        true = np.zeros(outputs.scores.shape, bool)
        true[:, 0] = happened[:, index].numpy()
        columns = outputs.type_logits[..., index], outputs.scores, asked.bonuses, torch.ones_like(outputs.scores)
        evidence = torch.stack(columns, dim=-1).reshape(-1, 4)
        found[index] = torch.from_numpy(platt(evidence.numpy(), true.ravel())).float()
    return found
