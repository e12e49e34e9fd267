"""The figures of benchmarks/strategy/sources.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_SCRIPT = Path(__file__).parents[3] / "benchmarks" / "strategy" / "sources.py"


@pytest.fixture(scope="module")
def sources() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_of_sources", _SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_target_counts_by_itself(sources: Any) -> None:
    """Of two targets one at the second place: half of its discounted gain; what is below the tenth is no hit."""
    slate = [str(number) for number in range(12)]
    assert sources.scored(slate, ["1", "elsewhere"]) == (pytest.approx(0.5 / np.log2(3)), 1.0)
    assert sources.scored(slate, ["11"]) == (0.0, 0.0)


def test_intervals_are_over_users(sources: Any) -> None:
    """A user's many blocks are drawn together: with one user there is no spread, with two that differ there is."""
    values = np.array([1.0, 0.0, 1.0, 0.0])
    assert sources.difference(values, np.array(["ada"] * 4)) == [0.5, 0.5, 0.5]
    assert sources.difference(values, np.array(["ada", "bob", "ada", "bob"])) == [0.5, 0.0, 1.0]
