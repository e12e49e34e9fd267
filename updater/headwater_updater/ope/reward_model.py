"""The reward model behind the direct method: a ridge regression on item, place, context and pairs, cross-fitted.

It is linear, so that its mean over all that a policy would show is one product, however many items there are. Items and
context cells that say little are shrunk to the mean; how much, generalised cross-validation decides on what each model
is fitted to (Golub, Heath & Wahba, Technometrics 1979).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from headwater_updater.ope.log import BanditLog
from headwater_updater.ope.predictions import Predictions
from headwater_updater.ope.target import Distribution

FOLDS = 5
MAX_ITEMS = 1_000
"""Items shown most often that have a coefficient; the others are expected to earn the mean."""
MAX_CELLS = 50
"""Most frequent values of a place or of a context column that have one."""
MAX_PAIRS = 1_000
"""Pairs of an item with a place or a cell that have one: those of as many items as there is room for."""
_PENALTIES = np.logspace(0, 6, 25)
_CHUNK = 4_096


def cross_fitted(
    log: BanditLog, distribution: Distribution, seed: int, weights: np.ndarray | None = None
) -> Predictions:
    """What models expect that saw neither the row nor any that belongs with it.

    Clusters are dealt into FOLDS folds; a fold's rows are predicted by a model of all others.

    Args:
        log: of at least two clusters.
        distribution: what the policy to be evaluated shows.
        seed: of the dealing.
        weights: (N,) how much each row counts in fitting; None: all alike.
    """
    design = _Design(log, distribution, np.ones(len(log)) if weights is None else weights)
    n_clusters = int(log.clusters.max()) + 1
    n_folds = min(FOLDS, n_clusters)
    folds = (np.random.default_rng(seed).permutation(n_clusters) % n_folds)[log.clusters]  # (N,)
    parts = [_Moments.of(design, np.flatnonzero(folds == fold)) for fold in range(n_folds)]
    whole = functools.reduce(_Moments.plus, parts)
    shown, value, leverage = np.zeros(len(log)), np.zeros(len(log)), np.zeros(len(log))
    directions = np.zeros((design.width + 1, n_folds))  # of each model's sum of `value`, by a row's own reward
    for fold, part in enumerate(parts):
        model = _Model.fit(whole.plus(part, -1))
        would_sum = np.zeros(design.width)
        for rows, x, would in design.chunks(np.flatnonzero(folds == fold)):
            shown[rows] = model.intercept + x @ model.coefficients
            value[rows] = model.intercept + would @ model.coefficients
            would_sum += would.sum(0)
        directions[:, fold] = model.direction(would_sum, int((folds == fold).sum()))
    for rows, x, _ in design.chunks(np.arange(len(log))):
        moved = np.column_stack([x, np.ones(len(rows))]) @ directions  # (n, folds)
        moved[np.arange(len(rows)), folds[rows]] = 0.0  # its own fold's model did not see it
        leverage[rows] = design.weights[rows] * moved.sum(1)
    return Predictions(shown, value, leverage)


class _Design:
    """Rows as numbers: items, places, context cells as 0 or 1; context columns of numbers alone, standardised; products
    of items with these."""

    def __init__(self, log: BanditLog, distribution: Distribution, weights: np.ndarray) -> None:
        often = np.argsort(-np.bincount(log.items, minlength=len(log.item_ids)), kind="stable")[:MAX_ITEMS]
        self._column = np.full(len(log.item_ids), -1)
        self._column[often] = np.arange(len(often))
        self._items = log.items
        self._table = distribution.table[:, often]  # (K, items)
        self._policy_rows = distribution.rows
        self._n_items = len(often)
        columns = [_indicators(log.positions), *(_context(cells) for cells in log.context.values())]
        self._rest = np.concatenate(columns, axis=1)  # (N, rest)
        self.rewards = log.rewards
        self.weights = weights
        width = self._rest.shape[1]
        self._n_paired = min(self._n_items, MAX_PAIRS // width)
        self.width = self._n_items + width + self._n_paired * width

    def chunks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Some of the rows at a time, (n,): what was shown, and the mean of what would be shown; (n, width) each."""
        for start in range(0, len(rows), _CHUNK):
            some = rows[start : start + _CHUNK]
            items = np.zeros((len(some), self._n_items))
            columns = self._column[self._items[some]]
            known = np.flatnonzero(columns >= 0)
            items[known, columns[known]] = 1.0
            yield some, self._joined(some, items), self._joined(some, self._table[self._policy_rows[some]])

    def _joined(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """With what is the same whatever is shown, and the pairs; (n, width)."""
        rest = self._rest[rows]
        pairs = items[:, : self._n_paired, None] * rest[:, None, :]
        return np.concatenate([items, rest, pairs.reshape(len(rows), -1)], axis=1)


class _Moments(NamedTuple):
    """All that a model needs to know of the rows that it is fitted to; sums, so that parts add up."""

    n: float
    """How many, by weight; so are the other sums."""
    gram: np.ndarray
    """(D, D)."""
    x_sum: np.ndarray
    """(D,)."""
    xy: np.ndarray
    """(D,)."""
    y_sum: float
    yy: float

    @classmethod
    def of(cls, design: _Design, rows: np.ndarray) -> _Moments:
        width = design.width
        gram, x_sum, xy = np.zeros((width, width)), np.zeros(width), np.zeros(width)
        for some, x, _ in design.chunks(rows):
            weighted = x * design.weights[some, None]
            gram += weighted.T @ x
            x_sum += weighted.sum(0)
            xy += weighted.T @ design.rewards[some]
        y, w = design.rewards[rows], design.weights[rows]
        return cls(float(w.sum()), gram, x_sum, xy, float(w @ y), float(w @ y**2))

    def plus(self, other: _Moments, times: int = 1) -> _Moments:
        """Of both together; with -1, of these without the other."""
        return _Moments(
            self.n + times * other.n,
            self.gram + times * other.gram,
            self.x_sum + times * other.x_sum,
            self.xy + times * other.xy,
            self.y_sum + times * other.y_sum,
            self.yy + times * other.yy,
        )


class _Model(NamedTuple):
    """Ridge regression with an intercept that is not shrunk."""

    intercept: float
    coefficients: np.ndarray
    """(D,)."""
    n: float
    x_mean: np.ndarray
    """(D,)."""
    inverse: np.ndarray
    """(D, D) of the centred gram matrix plus the penalty."""

    @classmethod
    def fit(cls, rows: _Moments) -> _Model:
        x_mean, y_mean = rows.x_sum / rows.n, rows.y_sum / rows.n
        values, vectors = np.linalg.eigh(rows.gram - rows.n * np.outer(x_mean, x_mean))
        values = np.maximum(values, 0.0)  # rounding
        along = vectors.T @ (rows.xy - rows.n * y_mean * x_mean)  # (D,)
        shrunk = values[:, None] + _PENALTIES  # (D, penalties)
        errors = rows.yy - rows.n * y_mean**2 - (2 * along[:, None] ** 2 / shrunk).sum(0)
        errors += (values[:, None] * (along[:, None] / shrunk) ** 2).sum(0)
        freedom = rows.n - 1 - (values[:, None] / shrunk).sum(0)
        penalty = _PENALTIES[np.argmin(np.maximum(errors, 0.0) / np.maximum(freedom, 1.0) ** 2)]
        inverse = (vectors / (values + penalty)) @ vectors.T
        coefficients = vectors @ (along / (values + penalty))
        return cls(y_mean - float(x_mean @ coefficients), coefficients, rows.n, x_mean, inverse)

    def direction(self, x_sum: np.ndarray, n: int) -> np.ndarray:
        """How far the sum of n predictions, for rows of sum x_sum (D,), moves with the reward of a row z of weight 1:
        z @ result[:-1] + result[-1] for each unit."""
        along = self.inverse @ (x_sum - n * self.x_mean)
        return np.append(along, n / self.n - along @ self.x_mean)


def _context(cells: np.ndarray) -> np.ndarray:
    """(N, columns): one where all cells are numbers, else one for each frequent value."""
    try:
        numbers = cells.astype(np.float64)
    except ValueError:
        return _indicators(cells)
    if not np.isfinite(numbers).all():
        return _indicators(cells)
    standardised: np.ndarray = (numbers - numbers.mean()) / (numbers.std() or 1.0)
    return standardised[:, None]


def _indicators(cells: np.ndarray) -> np.ndarray:
    """(N, columns) of 0 and 1: which of the frequent values it is."""
    found, places, counts = np.unique(cells, return_inverse=True, return_counts=True)
    frequent = np.argsort(-counts, kind="stable")[:MAX_CELLS]
    column = np.full(len(found), -1)
    column[frequent] = np.arange(len(frequent))
    indicators: np.ndarray = column[places][:, None] == np.arange(len(frequent))
    return indicators.astype(np.float64)
