"""What is on its way to others is given on at once after a quiet time, and else together."""

from __future__ import annotations

from headwater_core.notifications import APART_S, Gathered, Topic


def test_the_first_goes_at_once_and_those_behind_it_together() -> None:
    """However many come, no two are given on within APART_S of each other."""
    gathered = Gathered()
    assert (gathered.take(0.0), gathered.due_s) == (frozenset(), float("inf"))
    gathered.add(Topic.WRITES)
    assert gathered.due_s <= 0.0
    assert gathered.take(0.0) == {Topic.WRITES}
    for topic in (Topic.WRITES, Topic.LABELS, Topic.WRITES):
        gathered.add(topic)
        assert gathered.take(APART_S / 2) == frozenset()
    assert gathered.due_s == APART_S
    assert gathered.take(APART_S) == {Topic.WRITES, Topic.LABELS}
    assert gathered.due_s == float("inf")
