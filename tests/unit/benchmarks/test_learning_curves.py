"""Learning curves from evaluate's reports."""

from __future__ import annotations

from pathlib import Path

import learning_curves
import pytest

CURVE = [
    {"elapsed_fraction": 0.5, "epoch": 1, "loss": 5.0, "validation_ndcg_at_10": 0.1},
    {"elapsed_fraction": 1.0, "epoch": 2, "loss": 4.0, "validation_ndcg_at_10": 0.2},
]


def test_points_are_in_minutes_of_training() -> None:
    """Half of a budget of two minutes is one."""
    assert learning_curves.points({"training": {"budget_s": 120.0, "curve": CURVE}}) == ([1.0, 2.0], [0.1, 0.2])


def test_a_report_without_a_curve_is_refused() -> None:
    """It says so."""
    with pytest.raises(ValueError, match="no learning curve"):
        learning_curves.points({"training": {"budget_s": 1.0}})


def test_a_report_that_is_not_there_ends_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its path."""
    monkeypatch.setattr("sys.argv", ["learning_curves.py", "--plot", str(tmp_path / "p.png"), "a=gone.json"])
    with pytest.raises(SystemExit, match=r"gone\.json"):
        learning_curves.main()
