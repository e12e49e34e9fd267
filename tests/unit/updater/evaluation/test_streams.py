"""A file as a stream: cut in time, in rounds, without a look ahead."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_core.errors import InvalidFieldError
from headwater_core.events import HistoryEvent
from headwater_updater.evaluation.splits import Histories
from headwater_updater.evaluation.streams import Rounds, by_user, sampled_targets, timeline


def histories(times: list[tuple[int, int, int]]) -> Histories:
    """By (user, second, item)."""
    found: Histories = {}
    for position, (user, second, item) in enumerate(sorted(times, key=lambda each: each[1]), start=1):
        found.setdefault(f"u{user}", []).append(HistoryEvent(position, second * 1_000_000, "click", f"i{item}"))
    return found


EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60), st.integers(0, 9)), min_size=20, max_size=120)


@given(EVENTS, st.integers(1, 30))
def test_nothing_is_asked_after_it_was_learned(events: list[tuple[int, int, int]], size: int) -> None:
    """Every event is in one round, in order; what shares a time is in one; a history ends with its round."""
    try:
        parts = timeline(histories(events))
    except InvalidFieldError:
        return
    asked = sampled_targets(parts.stream, lambda _: True, 10**6)
    whole = Rounds(by_user(parts.before_stream), parts.stream, size, asked)
    found = list(whole)
    assert len(whole) == len(found)
    assert list(whole) == found
    assert frozenset().union(*(part.asked for part in found)) == {event.position for _, event in parts.stream}
    for earlier, later in itertools.pairwise(found):
        assert earlier.end_us < later.start_us
    known = {event.item_id for _, event in parts.before_stream}
    for part in found:
        new = {e.item_id for x in part.examples for e in x.events[len(x.events) - x.n_new :]}
        assert set(part.new_item_ids) == new - known
        known |= new
        for example in part.examples:
            assert all(event.event_time_us <= part.end_us for event in example.events)
            split = len(example.events) - example.n_new
            assert all(event.event_time_us < part.start_us for event in example.events[:split])
            assert all(part.start_us <= event.event_time_us for event in example.events[split:])


@given(EVENTS)
def test_the_cuts_are_between_times(events: list[tuple[int, int, int]]) -> None:
    """And no event is lost."""
    try:
        parts = timeline(histories(events))
    except InvalidFieldError:
        return
    assert len(parts.warm_up) + len(parts.tuning) + len(parts.stream) == len(events)
    for first, second in ((parts.warm_up, parts.tuning), (parts.tuning, parts.stream)):
        assert first[-1].event.event_time_us < second[0].event.event_time_us


def test_events_of_one_time_are_no_stream() -> None:
    """Said, not guessed around."""
    with pytest.raises(InvalidFieldError, match="too few different times"):
        timeline(histories([(user, 7, user) for user in range(5)]))


def test_a_sample_is_spread_over_the_stream() -> None:
    """First and last included."""
    parts = timeline(histories([(second % 3, second, 0) for second in range(1000)]))
    chosen = sorted(sampled_targets(parts.stream, lambda _: True, 11))
    assert len(chosen) == 11
    assert (chosen[0], chosen[-1]) == (parts.stream[0].event.position, parts.stream[-1].event.position)
