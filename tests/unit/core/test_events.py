"""What makes an event valid, and what it is identified by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from headwater_core.errors import InvalidFieldError
from headwater_core.events import (
    BUILT_IN_EVENT_TYPES,
    MAX_AHEAD_US,
    Event,
    EventType,
    Subject,
    SubjectKind,
    check_event,
    check_event_type,
    check_id,
)

NOW_US = 1_700_000_000_000_000
TYPES: Mapping[str, EventType] = {
    **BUILT_IN_EVENT_TYPES,
    "stars": EventType("stars", value_min=0.5, value_max=5.0),
}
CLICK = Event("id", "click", user_id="ann", item_id="item", event_time_us=NOW_US)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"event_time_us": None},
        {"event_time_us": 0},
        {"event_time_us": NOW_US + MAX_AHEAD_US},
        {"user_id": "", "visitor_id": "cookie"},
        {"user_id": "ann", "visitor_id": "cookie"},
        {"event_id": "é" * 128},
        {"event_type": "search", "item_id": "", "query": "x" * 1_024},
        {"event_type": "stars", "value": 0.5},
        {"event_type": "stars", "value": 5.0},
        {"value": -1e300},
        {"slate_position": 1},
        {"attributes": {f"k{n}": "v" * 1_024 for n in range(64)}},
    ],
)
def test_good_events_pass(changes: dict[str, Any]) -> None:
    """Everything on the good side of a limit is accepted."""
    check_event(CLICK._replace(**changes), TYPES, NOW_US)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"event_id": ""}, "event_id"),
        ({"event_id": "x" * 257}, "event_id"),
        ({"event_id": "é" * 129}, "event_id"),
        ({"event_id": "a\x00b"}, "event_id"),
        ({"event_type": ""}, "event_type"),
        ({"event_type": "nobody-registered-this"}, "event_type"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": "x" * 257}, "user_id"),
        ({"visitor_id": "x" * 257}, "visitor_id"),
        ({"session_id": "x" * 257}, "session_id"),
        ({"item_id": ""}, "item_id"),
        ({"item_id": "x" * 257}, "item_id"),
        ({"event_type": "search", "item_id": "", "query": "  "}, "query"),
        ({"query": "x" * 1_025}, "query"),
        ({"query": "a\x00b"}, "query"),
        ({"value": float("nan")}, "value"),
        ({"value": float("inf")}, "value"),
        ({"event_type": "stars", "value": 0.4}, "value"),
        ({"event_type": "stars", "value": 5.1}, "value"),
        ({"event_time_us": -1}, "event_time"),
        ({"event_time_us": NOW_US + MAX_AHEAD_US + 1}, "event_time"),
        ({"attribution_token": "x" * 8_193}, "attribution_token"),
        ({"slate_position": 0}, "position"),
        ({"attributes": {str(n): "" for n in range(65)}}, "attributes"),
        ({"attributes": {"": "v"}}, "attributes"),
        ({"attributes": {"k" * 129: "v"}}, "attributes"),
        ({"attributes": {"k": "v" * 1_025}}, "attributes[k]"),
        ({"attributes": {"k": "\x00"}}, "attributes"),
    ],
)
def test_bad_events_are_refused_by_field(changes: dict[str, Any], field: str) -> None:
    """Everything just over a limit is refused, naming the field at fault."""
    with pytest.raises(InvalidFieldError) as refused:
        check_event(CLICK._replace(**changes), TYPES, NOW_US)
    assert refused.value.field == field
    assert refused.value.reason


def test_an_event_that_is_not_stored_needs_no_ids() -> None:
    """Inline events of a request have neither an id nor a subject of their own."""
    check_event(CLICK._replace(event_id="", user_id=""), TYPES, NOW_US, id_required=False)


def test_the_subject_is_the_user_when_there_is_one() -> None:
    """Else the visitor."""
    assert CLICK._replace(visitor_id="cookie").subject == Subject(SubjectKind.USER, "ann")
    assert CLICK._replace(user_id="", visitor_id="cookie").subject == Subject(SubjectKind.VISITOR, "cookie")


def test_the_content_hash_is_of_all_the_caller_said() -> None:
    """Any field changes it but the id and the way it was written; the order of attributes does not."""
    base = CLICK._replace(attributes={"a": "1", "b": "2"})
    same = [
        base._replace(event_id="other"),
        base._replace(backfill=True),
        base._replace(attributes={"b": "2", "a": "1"}),
    ]
    different = [
        base._replace(**change)
        for change in (
            {"event_type": "like"},
            {"user_id": "", "visitor_id": "ann"},
            {"session_id": "s"},
            {"item_id": "other"},
            {"query": "q"},
            {"value": 0.0},
            {"event_time_us": None},
            {"attribution_token": "t"},
            {"slate_position": 1},
            {"attributes": {"a": "1"}},
        )
    ]
    assert {event.content_hash() for event in same} == {base.content_hash()}
    assert len({event.content_hash() for event in [base, *different]}) == len(different) + 1
    assert len(base.content_hash()) == 32


@pytest.mark.parametrize(
    ("event_type", "field"),
    [
        (EventType(""), "name"),
        (EventType("Upper"), "name"),
        (EventType("x" * 65), "name"),
        (EventType("new\n"), "name"),
        (EventType("t", weight=-0.1), "weight"),
        (EventType("t", weight=100.1), "weight"),
        (EventType("t", weight=float("nan")), "weight"),
        (EventType("t", value_min=float("nan")), "value_min"),
        (EventType("t", value_max=float("inf")), "value_max"),
        (EventType("t", value_min=2.0, value_max=1.0), "value_min"),
    ],
)
def test_event_types_that_cannot_work_are_refused(event_type: EventType, field: str) -> None:
    """The error names the field of the type."""
    with pytest.raises(InvalidFieldError) as refused:
        check_event_type(event_type)
    assert refused.value.field == field


def test_the_built_in_types_are_valid() -> None:
    """Every one passes its own check under its own name."""
    for name, event_type in BUILT_IN_EVENT_TYPES.items():
        check_event_type(event_type)
        assert event_type.name == name


def test_a_refusal_can_be_seen_from_outside() -> None:
    """within() puts the outer path before the field."""
    with pytest.raises(InvalidFieldError) as refused:
        check_id("item_id", "", required=True)
    assert refused.value.within("events[3]").field == "events[3].item_id"
    assert str(refused.value.within("events[3]")) == "events[3].item_id: must not be empty"
