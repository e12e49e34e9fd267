"""A soak of a minute, on a few hundred films: `make soak` runs the hour."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).resolve().parents[2] / "benchmarks" / "soak.py"
SHORT = (
    "--minutes 1 --fault-every 12 --ratings-of 40 --epochs 1 --users 200 --capacity-seconds 5 --load 0.4 --workers 2 "
    "--grace 10"
)

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(600)]


def test_nothing_is_lost_and_nothing_wrong_is_shown() -> None:
    """Under mixed traffic, swaps, killed workers and a killed database; how fast it is is not judged here."""
    done = subprocess.run([sys.executable, SOAK, *SHORT.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "verdict: nothing lost, nothing wrong" in done.stdout
