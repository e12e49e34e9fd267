"""Adam for tables: only rows that take part move, and a new one moves further."""

from __future__ import annotations

import pytest
import torch

from headwater_updater.optimizer import LazyAdam


def moved(adam: LazyAdam, boost: float, row: int = 1) -> float:
    """How far the row moves by a gradient of ones."""
    table = torch.zeros(3, 4)
    rows = torch.tensor([row])
    adam.update(table, rows, torch.ones(1, 4), learning_rate=0.01, weight_decay=0.0, new_row_boost=boost)
    assert not table[torch.arange(3) != row].any()
    return float(-table[row, 0])


def test_a_new_row_moves_further_and_less_so_with_every_step() -> None:
    """By the boost at first, by half of it after ten steps, at last by the rate alone."""
    adam = LazyAdam(3, 4)
    steps = [moved(adam, 20.0) for _ in range(400)]
    assert steps[0] == pytest.approx(0.21, rel=1e-3)
    assert steps[10] == pytest.approx(0.11, rel=1e-2)
    assert steps[-1] == pytest.approx(0.01, rel=0.6)
    assert steps == sorted(steps, reverse=True)
    assert moved(adam, 20.0, row=2) == pytest.approx(0.21, rel=1e-3)  # each row counts its own steps


def test_without_a_boost_all_rows_move_alike() -> None:
    """By the rate, as Adam's first step does."""
    adam = LazyAdam(3, 4)
    assert moved(adam, 0.0) == moved(adam, 0.0, row=2) == pytest.approx(0.01, rel=1e-3)
