"""What a user's profile says."""

from __future__ import annotations

import pytest

from headwater_core.catalogue import Item
from headwater_core.events import BUILT_IN_EVENT_TYPES, Event, LoggedEvent
from headwater_server.profiles import MAX_RECENT_EVENTS, make_profile

ITEMS = {
    "war": Item("war", categories=("drama", "war")),
    "love": Item("love", categories=("romance",)),
    "bare": Item("bare"),
}


def logged(position: int, item_id: str, event_type: str = "click") -> LoggedEvent:
    event = Event(str(position), event_type, user_id="ann", item_id=item_id, event_time_us=position * 1000)
    return LoggedEvent(position, 0, event)


def test_interests_are_shares_of_the_weight_of_what_was_done() -> None:
    """A purchase weighs five clicks; an item's categories share its weight; shares add up to 1."""
    profile = make_profile([logged(1, "love"), logged(2, "war", "purchase")], ITEMS, BUILT_IN_EVENT_TYPES)
    assert [name for name, _ in profile.interests] == ["drama", "war", "romance"]
    assert sum(share for _, share in profile.interests) == pytest.approx(1.0)
    assert profile.interests[0][1] == pytest.approx(profile.interests[1][1])


def test_what_speaks_against_an_item_or_is_gone_gives_no_interest() -> None:
    """A dislike, an item that was deleted and one without categories count as events, not as interests."""
    history = [logged(1, "love", "dislike"), logged(2, "gone"), logged(3, "bare")]
    profile = make_profile(history, ITEMS, BUILT_IN_EVENT_TYPES)
    assert profile.interests == []
    assert profile.event_counts == {"dislike": 1, "click": 2}
    assert (profile.first_event_time_us, profile.last_event_time_us) == (1000, 3000)


def test_the_newest_events_come_first_and_old_ones_fade() -> None:
    """At most so many events are shown; twenty events later one counts half."""
    history = [logged(1, "love"), *(logged(position, "bare") for position in range(2, 21)), logged(21, "war")]
    profile = make_profile(history, ITEMS, BUILT_IN_EVENT_TYPES)
    assert [each.position for each in profile.recent_events] == list(range(21, 21 - MAX_RECENT_EVENTS, -1))
    shares = dict(profile.interests)
    assert shares["romance"] == pytest.approx(0.5 * (shares["war"] + shares["drama"]))


def test_nobody_has_an_empty_profile() -> None:
    """Without events there are no times, no counts and no interests."""
    profile = make_profile([], ITEMS, BUILT_IN_EVENT_TYPES)
    assert (profile.interests, profile.event_counts, profile.first_event_time_us) == ([], {}, None)
