"""The cleaning rules, each by name, and what they must leave alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_core.cleaning import Cleaner, CleaningLimits, Rule, count_by_rule, fill_missing
from headwater_core.errors import InvalidFieldError
from headwater_core.events import BUILT_IN_EVENT_TYPES, Event, EventType, LoggedEvent, SubjectKind

SECOND = 1_000_000
RECEIVED = 1_700_000_000 * SECOND
TYPES = {**BUILT_IN_EVENT_TYPES, "stars": EventType("stars", value_min=1.0, value_max=5.0)}


def logged(position: int, event_type: str = "click", **fields: Any) -> LoggedEvent:
    """An event as read from the log: every position its own second, unless a time is given."""
    content: dict[str, Any] = {"user_id": "u", "item_id": "i", "event_time_us": RECEIVED + position * SECOND * 10}
    event = Event(f"e{position}", event_type, **{**content, **fields})
    return LoggedEvent(position, RECEIVED + position * SECOND * 10, event)


def rules(*events: LoggedEvent, limits: CleaningLimits | None = None) -> list[str | None]:
    """For each event the rule that rejected it, or None."""
    batch = Cleaner(limits).clean(events, TYPES)
    by_position = {rejection.position: rejection.rule for rejection in batch.rejections}
    assert [each.position for each in batch.events] == [e.position for e in events if e.position not in by_position]
    return [by_position.get(each.position) for each in events]


@pytest.mark.parametrize(
    ("event", "rule"),
    [
        (logged(1), None),
        (logged(1, "unheard_of"), Rule.UNKNOWN_TYPE),
        (logged(1, item_id=""), Rule.INCOMPLETE),
        (logged(1, "search", item_id="", query="  "), Rule.INCOMPLETE),
        (logged(1, "search", item_id="", query="shoes"), None),
        (logged(1, event_time_us=-1), Rule.IMPOSSIBLE_TIME),
        (logged(1, event_time_us=0), None),
        (logged(1, event_time_us=RECEIVED + 10 * SECOND + 300 * SECOND), None),
        (logged(1, event_time_us=RECEIVED + 10 * SECOND + 302 * SECOND), Rule.IMPOSSIBLE_TIME),
        (logged(1, value=math.nan), Rule.IMPOSSIBLE_VALUE),
        (logged(1, value=math.inf), Rule.IMPOSSIBLE_VALUE),
        (logged(1, "stars", value=0.5), Rule.IMPOSSIBLE_VALUE),
        (logged(1, "stars", value=5.5), Rule.IMPOSSIBLE_VALUE),
        (logged(1, "stars", value=5.0), None),
        (logged(1, "view", value=-1.0), Rule.IMPOSSIBLE_VALUE),
    ],
)
def test_events_impossible_by_themselves(event: LoggedEvent, rule: Rule | None) -> None:
    """Unknown types, missing items and queries, and values and times that cannot be are rejected by name."""
    assert rules(event) == [rule]


def test_a_double_click_counts_once() -> None:
    """The same said again within a second is a duplicate; later, or of another item, it is a second event."""
    at = RECEIVED
    events = [
        logged(1, event_time_us=at),
        logged(2, event_time_us=at + SECOND // 2),
        logged(3, event_time_us=at + SECOND // 2, item_id="other"),
        logged(4, event_time_us=at + SECOND // 2, user_id="other"),
        logged(5, event_time_us=at + 3 * SECOND),
    ]
    assert rules(*events) == [None, Rule.DUPLICATE, None, None, None]


def test_a_late_original_is_recognised_too() -> None:
    """Duplicates are found whichever of the two times comes first."""
    assert rules(logged(1), logged(2, event_time_us=RECEIVED + 10 * SECOND - 1)) == [None, Rule.DUPLICATE]


def test_imports_keep_events_of_one_second_but_not_copies() -> None:
    """Backfill's times may be coarse, so only the very same event at the very same time is a duplicate."""
    first = logged(1, backfill=True)
    again = logged(2, backfill=True, event_time_us=first.event.event_time_us)
    close = logged(3, backfill=True, event_time_us=RECEIVED + 10 * SECOND + 1)
    assert rules(first, again, close) == [None, Rule.DUPLICATE, None]


def test_nobody_likes_and_dislikes_in_one_instant() -> None:
    """Of two opposite statements at the same instant the second is rejected; a change of mind later is kept."""
    at = {"event_time_us": RECEIVED}
    assert rules(logged(1, "like", **at), logged(2, "dislike", **at)) == [None, Rule.CONTRADICTION]
    assert rules(logged(1, "like", **at), logged(2, "dislike")) == [None, None]
    assert rules(logged(1, "like", **at), logged(2, "dislike", item_id="other", **at)) == [None, None]
    assert rules(logged(1, "view", **at), logged(2, "like", **at)) == [None, None]


def test_nobody_rates_an_item_twice_in_one_instant() -> None:
    """Two values of one type at the same instant contradict each other."""
    at = {"event_time_us": RECEIVED}
    assert rules(logged(1, "stars", value=2.0, **at), logged(2, "stars", value=4.0, **at)) == [None, "contradiction"]
    assert rules(logged(1, "stars", value=2.0, **at), logged(2, "stars", value=4.0)) == [None, None]


def burst(count: int, apart_us: int, **fields: Any) -> list[LoggedEvent]:
    return [
        logged(n, **{"item_id": f"i{n}", "event_time_us": RECEIVED + n * apart_us, **fields})
        for n in range(1, count + 1)
    ]


def test_keeping_at_one_item_is_a_burst() -> None:
    """By one subject, on one item, until it slows down; what is imported is believed."""
    on_one = burst(15, 2 * SECOND, item_id="i")
    late = logged(900, item_id="i", event_time_us=RECEIVED + 3600 * SECOND)
    assert rules(*on_one, late) == [None] * 10 + [Rule.BURST] * 5 + [None]
    assert set(rules(*burst(15, 2 * SECOND, item_id="i", backfill=True))) == {None}
    crowd = [each._replace(event=each.event._replace(user_id=f"u{each.position}")) for each in on_one]
    assert set(rules(*crowd)) == {None}


def test_rules_can_be_switched_off() -> None:
    """But not those without which nothing could be learned."""
    without = CleaningLimits(without=frozenset({Rule.BURST, Rule.IMPOSSIBLE_VALUE}))
    assert set(rules(*burst(15, 2 * SECOND, item_id="i"), limits=without)) == {None}
    assert rules(logged(1, "stars", value=9.0), limits=without) == [None]
    with pytest.raises(InvalidFieldError, match="unknown_type"):
        CleaningLimits(without=frozenset({Rule.UNKNOWN_TYPE}))


def test_a_rate_no_person_reaches_is_a_robots() -> None:
    """From the event on that passes the limit, a robot's events are rejected until it slows down."""
    found = rules(*burst(200, SECOND // 10), logged(900, item_id="x", event_time_us=RECEIVED + 3600 * SECOND))
    assert found == [None] * 120 + [Rule.ROBOT] * 80 + [None]


def test_a_hasty_person_is_no_robot() -> None:
    """Two events a second for a minute pass; so does any pace spread over many subjects."""
    assert set(rules(*burst(600, SECOND // 2))) == {None}
    crowd = [each._replace(event=each.event._replace(user_id=f"u{each.position}")) for each in burst(500, 10)]
    assert set(rules(*crowd)) == {None}


def test_imports_and_impressions_are_never_a_robots() -> None:
    """Backfill at one instant, and pages that report many impressions at once, are not a pace."""
    assert set(rules(*burst(500, 0, backfill=True))) == {None}
    events = [each._replace(event=each.event._replace(event_type="impression")) for each in burst(500, 1000)]
    assert set(rules(*events)) == {None}
    assert rules(*burst(500, 0, backfill=True), logged(999))[-1] is None


def test_missing_fields_are_filled() -> None:
    """No time: the receipt's; a linked visitor: the user; a query's blanks: one each."""
    event = logged(1, "search", user_id="", visitor_id="v", item_id="", query="  red \t shoes ", event_time_us=None)
    filled = fill_missing(event, {"v": "u"}).event
    assert (filled.event_time_us, filled.query) == (event.received_time_us, "red shoes")
    assert filled.subject == (SubjectKind.USER, "u")
    complete = logged(2)
    assert fill_missing(complete, {"v": "u"}) is complete


def test_memory_reaches_over_batches() -> None:
    """Duplicates, contradictions and robots are found across batches as within one."""
    events = burst(150, SECOND // 10)
    cleaner = Cleaner()
    batches = [cleaner.clean(events[start : start + 7], TYPES) for start in range(0, 150, 7)]
    assert sum(len(batch.events) for batch in batches) == 120
    assert count_by_rule(r for batch in batches for r in batch.rejections) == {"robot": 30}
    assert cleaner.clean([events[0]._replace(position=999)], TYPES).rejections[0].rule == Rule.DUPLICATE


def test_memory_is_bounded() -> None:
    """However many subjects come by, only the latest are remembered."""
    cleaner = Cleaner(CleaningLimits(remembered_events=10))
    for n in range(1, 100):
        cleaner.clean([logged(n, user_id=f"u{n}")], TYPES)
    repeated = [logged(900 + n, user_id=f"u{n}", event_time_us=RECEIVED + n * 10 * SECOND) for n in (1, 99)]
    found = cleaner.clean(repeated, TYPES)
    assert [rejection.position for rejection in found.rejections] == [999]


def test_reasons_name_no_person() -> None:
    """What is stored with a rejection says why, never who."""
    secret = {"user_id": "alice-secret", "visitor_id": "visitor-secret", "session_id": "session-secret"}
    events = [logged(1, **secret), logged(2, "dislike", event_time_us=RECEIVED + 10 * SECOND, **secret)]
    events += [logged(3, "nonsense", **secret), logged(4, value=math.nan, **secret), logged(5, item_id="", **secret)]
    rejections = Cleaner().clean(events, TYPES).rejections
    assert len(rejections) == 4
    assert not any("secret" in rejection.reason for rejection in rejections)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*TYPES, "unheard_of"]),
            st.sampled_from(["", "a", "b"]),
            st.sampled_from(["", "q"]),
            st.none() | st.floats(),
            st.none() | st.integers(-(2**40), 2**62),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_every_event_has_exactly_one_fate(raw: list[tuple[str, str, str, float | None, int | None, bool]]) -> None:
    """Whatever the log holds, each event is kept or rejected, once, and cleaning does not fail."""
    events = [
        LoggedEvent(n, RECEIVED, Event(f"e{n}", t, "u", "", "", item, query, value, time_us, backfill=backfill))
        for n, (t, item, query, value, time_us, backfill) in enumerate(raw, start=1)
    ]
    batch = Cleaner().clean(events, TYPES)
    fates = [e.position for e in batch.events] + [r.position for r in batch.rejections]
    assert sorted(fates) == [e.position for e in events]
    assert [e.position for e in batch.events] == sorted(e.position for e in batch.events)
