"""Which events raised an item: exactly those without which it scores lower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from headwater_core.co_visits import NO_BONUSES, Bonuses
from headwater_core.events import HistoryEvent
from headwater_core.shards import Vectors
from headwater_server.explanations.removal import LATEST_EVENTS, Raiser, falls, raisers

VECTORS = {"space": (1.0, 0.0), "love": (0.0, 1.0), "anti-space": (-1.0, 0.0), "far": (0.0, 0.0)}
ITEM_IDS = list(VECTORS)


class Space:
    """Items with rows, in their order."""

    def row(self, item_id: str) -> int | None:
        return ITEM_IDS.index(item_id) if item_id in VECTORS else None

    def vectors(self, rows: Sequence[int]) -> Vectors:
        return np.array([VECTORS[ITEM_IDS[row]] for row in rows], np.float32)

    def inherited(self, bonuses: Bonuses) -> Bonuses:
        return bonuses


class Generation:
    """One interest: the sum of the history's vectors, a search being worth (0, 0.5). A bonus of 1 for what was met."""

    def embed(self, histories: Sequence[Sequence[HistoryEvent]]) -> list[Vectors]:
        return [self._interests(events) for events in histories]

    def _interests(self, events: Sequence[HistoryEvent]) -> Vectors:
        read = [VECTORS.get(event.item_id, (0.0, 0.5)) for event in events if event.item_id in VECTORS or event.query]
        return np.array([np.sum(read, axis=0)] if read else np.zeros((0, 2)), np.float32)

    def bonuses(self, history: Sequence[HistoryEvent], weights: Mapping[str, float]) -> Bonuses:
        met = sorted({ITEM_IDS.index(event.item_id) for event in history if event.item_id in VECTORS})
        if not met:
            return NO_BONUSES
        return Bonuses(np.array(met), np.full(len(met), weights.get("repeat", 1.0), np.float32))


def history(*item_ids: str) -> list[HistoryEvent]:
    """Oldest first; ?words is a search."""
    return [
        HistoryEvent(n, n, "search", query=each[1:]) if each.startswith("?") else HistoryEvent(n, n, "like", each)
        for n, each in enumerate(item_ids, start=1)
    ]


def raised(
    events: Sequence[HistoryEvent],
    *item_ids: str,
    weights: Mapping[str, float] | None = None,
    n_context: int = 0,
) -> dict[str, list[Raiser]]:
    generation: Any = Generation()
    space: Any = Space()
    return raisers(generation, space, events, item_ids, weights or {}, n_context)


def test_a_fall_is_the_difference_that_an_event_makes() -> None:
    """Towers and bonuses together: two likes of one item share a bonus, so neither is what it rests on."""
    generation: Any = Generation()
    space: Any = Space()
    events = history("space", "love", "love", "anti-space")
    found = falls(generation, space, events, [0, 1, 2, 3], [0, 1], {})
    np.testing.assert_allclose(found, [[2.0, 0.0], [0.0, 1.0], [0.0, 1.0], [-1.0, 0.0]])


def test_only_events_that_raise_are_named_the_strongest_first() -> None:
    """Shares are of all that raises; what lowers the score is left out, and so are items that nothing raises."""
    found = raised(history("?rose", "anti-space", "space", "love"), "love", "space", "far")
    assert [(each.event.item_id, each.event.query) for each in found["love"]] == [("love", ""), ("", "rose")]
    assert [each.fall for each in found["love"]] == pytest.approx([2.0, 0.5])
    assert [each.share for each in found["love"]] == pytest.approx([0.8, 0.2])
    assert [each.event.item_id for each in found["space"]] == ["space"]
    assert "far" not in found


def test_sources_that_do_not_count_raise_nothing() -> None:
    """By the request's weights: without towers it is the bonus alone that falls."""
    found = raised(history("?rose", "love"), "love", weights={"tower": 0.0, "repeat": 3.0})
    assert [each.event.item_id for each in found["love"]] == ["love"]
    assert [each.fall for each in found["love"]] == pytest.approx([3.0])
    assert raised(history("?rose", "love"), "love", weights={"tower": 0.0, "repeat": 0.0}) == {}


def test_what_is_looked_at_now_is_known_as_that() -> None:
    """The history's last events are the request's context."""
    [now, past] = raised(history("love", "love"), "love", n_context=1)["love"]
    assert {now.is_context, past.is_context} == {True, False}
    assert {each.event.position for each in (now, past) if each.is_context} == {2}


def test_events_that_nobody_can_read_are_passed_over() -> None:
    """Unknown items take no place among the latest; items without a row, and empty histories, have no reasons."""
    events = history("love", *["unknown"] * LATEST_EVENTS)
    assert [each.event.position for each in raised(events, "love")["love"]] == [1]
    assert raised(history("unknown"), "love") == {}
    assert raised([], "love") == {}
    assert raised(history("love"), "unknown") == {}


def test_of_earlier_events_only_those_on_the_items_themselves_are_looked_at() -> None:
    """A history may be long, and what it costs is bounded; but users come back to what they had long ago."""
    events = history("love", "?rose", *["space"] * LATEST_EVENTS)
    found = raised(events, "love", "space")
    assert [each.event.position for each in found["love"]] == [1]
    assert len(found["space"]) == LATEST_EVENTS
    assert "love" not in raised(history("love", "?rose", *["?rose"] * LATEST_EVENTS), "space")


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Histories are embedded a few at a time, and each event keeps its own fall."""
    events = history("space", "love", "?rose", "space", "love")
    whole = raised(events, "space", "love")
    monkeypatch.setattr("headwater_server.explanations.removal._BATCH_EVENTS", 1)
    assert raised(events, "space", "love") == whole
