"""Adam for embedding tables: only the rows that took part in a step move, and only their moments decay."""

from __future__ import annotations

import torch
from torch import Tensor

_BETA_1, _BETA_2 = 0.9, 0.98
_EPSILON = 1e-9
_BOOST_STEPS = 10.0
"""After so many steps half of a new row's boost is left."""


class LazyAdam:
    """The moments of one table, row by row (Kingma & Ba 2015; decoupled decay of Loshchilov & Hutter 2019).

    Each row counts its own steps, so that the bias correction is right for an item that joined today: its first
    gradient moves it as far as any other row's first gradient did.
    """

    def __init__(self, n_rows: int, dimension: int) -> None:
        self.mean = torch.zeros(n_rows, dimension)
        self.square = torch.zeros(n_rows, dimension)
        self.steps = torch.zeros(n_rows)

    def grow(self, n: int) -> None:
        """Append n rows that have not moved yet."""
        self.mean = torch.cat([self.mean, self.mean.new_zeros(n, self.mean.shape[1])])
        self.square = torch.cat([self.square, self.square.new_zeros(n, self.square.shape[1])])
        self.steps = torch.cat([self.steps, self.steps.new_zeros(n)])

    def update(
        self,
        table: Tensor,
        rows: Tensor,
        gradient: Tensor,
        *,
        learning_rate: float,
        weight_decay: float,
        new_row_boost: float = 0.0,
    ) -> None:
        """Move `table[rows]` one step, in place.

        Args:
            table: (n_rows, d).
            rows: (m,) int64, each row once.
            gradient: (m, d), of those rows.
            learning_rate: the step's size.
            weight_decay: how much of a row is lost per unit of learning rate.
            new_row_boost: by how much more a row moves in its first step, falling with its steps: what was never
                trained has all the way to go.
        """
        boost = 1 + new_row_boost / (1 + self.steps[rows] / _BOOST_STEPS)  # (m,)
        rate = (learning_rate * boost).unsqueeze(1)  # (m, 1)
        self.steps[rows] += 1
        steps = self.steps[rows].unsqueeze(1)  # (m, 1)
        mean = self.mean[rows].lerp_(gradient, 1 - _BETA_1)
        square = self.square[rows].lerp_(gradient.square(), 1 - _BETA_2)
        self.mean[rows], self.square[rows] = mean, square
        direction = (mean / (1 - _BETA_1**steps)) / ((square / (1 - _BETA_2**steps)).sqrt_() + _EPSILON)
        table[rows] = table[rows] * (1 - rate * weight_decay) - rate * direction
