"""The gate lets through what is not worse, and says by how much it could be wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest

from headwater_core.events import Subject, SubjectKind
from headwater_updater.gate import MIN_TARGETS, WINDOW, Gate, Reference
from headwater_updater.held_out import is_held_out


def gate(n: int = 200) -> Gate:
    made = Gate()
    made.take_in([Reference(position, 5.0) for position in range(n)])
    made.old = [Reference(position, 4.0) for position in range(1000, 1000 + n)]
    return made


def log_ranks(of: Gate, new_rise: float, old_rise: float, spread: float = 0.5) -> dict[int, float]:
    rng = np.random.default_rng(0)
    found = {each.position: each.log_rank + new_rise for each in of.new}
    found |= {each.position: each.log_rank + old_rise for each in of.old}
    noise = rng.normal(0, spread, len(found))
    noise -= noise.mean()
    return {position: loss + extra for (position, loss), extra in zip(found.items(), noise, strict=True)}


@pytest.mark.parametrize(
    ("new_rise", "old_rise", "refused_by"),
    [
        (0.0, 0.0, []),
        (-1.0, -1.0, []),
        (0.05, 0.15, []),
        (0.4, 0.0, ["new"]),
        (0.0, 0.6, ["old"]),
        (1, 1, ["new", "old"]),
    ],
)
def test_only_what_is_worse_beyond_the_tolerance_is_refused(
    new_rise: float, old_rise: float, refused_by: list[str]
) -> None:
    """The reason names the window, the rise, how sure that is and the tolerance."""
    tried = gate()
    verdict = tried.judge(log_ranks(tried, new_rise, old_rise), 0.1, 0.3)
    assert verdict.passes == (not refused_by)
    for window in refused_by:
        assert f"{window} held-out targets" in verdict.reason
    metrics = verdict.metrics()
    assert metrics["gate_new_log_rank_rise"] == pytest.approx(new_rise, abs=0.1)
    assert 0 < metrics["gate_new_margin"] < 0.2
    assert metrics["gate_old_targets"] == 200


def test_chance_alone_refuses_nothing() -> None:
    """Few targets, or a rise that their spread explains."""
    tried = gate(MIN_TARGETS - 1)
    assert tried.judge(log_ranks(tried, 3.0, 3.0), 0.1, 0.3).passes
    wide = gate(40)
    assert wide.judge(log_ranks(wide, 0.5, 0.5, spread=20.0), 0.1, 0.3).passes
    assert Gate().judge({}, 0.1, 0.3).passes


def test_targets_that_are_gone_are_left_out() -> None:
    """Erased, or on an item that was taken away."""
    tried = gate()
    some = {position: loss for position, loss in log_ranks(tried, 1.0, 0.0).items() if position % 2}
    verdict = tried.judge(some, 0.1, 0.3)
    assert (verdict.passes, verdict.changes[0].targets) == (False, 100)


def test_the_new_window_moves_and_state_survives() -> None:
    """The newest stay; JSON loses nothing."""
    tried = gate(WINDOW)
    tried.take_in([Reference(5000, 1.0)])
    assert len(tried.new) == WINDOW
    assert (tried.new[0].position, tried.new[-1].position) == (1, 5000)
    again = Gate.load_state(json.loads(json.dumps(tried.state())))
    assert (again.new, again.old) == (tried.new, tried.old)


def test_one_subject_in_twenty_is_held_out() -> None:
    """By a hash that is the same everywhere: a change would mix what was learned with what is judged on."""
    held = [n for n in range(20_000) if is_held_out(Subject(SubjectKind.USER, f"user-{n}"))]
    assert 900 < len(held) < 1100
    assert held[:3] == [67, 96, 185]
    assert is_held_out(Subject(SubjectKind.VISITOR, "user-1")) in {True, False}


def test_the_next_candidate_is_compared_with_the_last_published() -> None:
    """On the new window; the old one stays with what full training gave."""
    tried = gate()
    found = log_ranks(tried, 0.4, 0.2)
    assert not tried.judge(found, 0.1, 0.3).passes
    tried.accept(found)
    verdict = tried.judge(found, 0.1, 0.3)
    assert (verdict.passes, verdict.changes[0].rise) == (True, 0.0)
    assert verdict.changes[1].rise == pytest.approx(0.2, abs=0.1)
