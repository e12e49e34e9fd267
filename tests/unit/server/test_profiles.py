"""What a user's profile says."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_core.catalogue import Item
from headwater_core.events import BUILT_IN_EVENT_TYPES, Event, EventType, LoggedEvent
from headwater_server.profiles import (
    CATEGORY,
    MAX_AFFINITIES,
    MAX_RECENT_EVENTS,
    MAX_STRONGEST,
    Affinity,
    Profile,
    make_profile,
)

HOUR_US = 3600 * 1_000_000
NOW_US = 1_800_000_000 * 1_000_000
ITEMS = {
    "war": Item("war", categories=("drama", "war"), attributes={"decade": "90s", "studio": "Big"}),
    "love": Item("love", categories=("romance",), attributes={"decade": "00s"}),
    "bare": Item("bare"),
}


def logged(
    position: int, item_id: str, event_type: str = "click", time_us: int | None = None, session_id: str = ""
) -> LoggedEvent:
    time_us = position * 1000 if time_us is None else time_us
    event = Event(
        str(position), event_type, user_id="ann", item_id=item_id, event_time_us=time_us, session_id=session_id
    )
    return LoggedEvent(position, 0, event)


def profile_of(history: Sequence[LoggedEvent]) -> Profile:
    return make_profile(history, ITEMS, BUILT_IN_EVENT_TYPES, NOW_US)


def of(affinities: Sequence[Affinity], key: str = CATEGORY) -> dict[str, Affinity]:
    return {each.value: each for each in affinities if each.key == key}


def test_interests_are_shares_of_the_weight_of_what_was_done() -> None:
    """A purchase weighs five clicks; an item's categories share its weight; shares add up to 1."""
    found = of(profile_of([logged(1, "love"), logged(2, "war", "purchase")]).affinities)
    assert list(found) == ["drama", "war", "romance"]
    assert sum(each.share for each in found.values()) == pytest.approx(1.0)
    assert found["drama"].share == pytest.approx(found["war"].share)


def test_attributes_are_shares_among_the_values_of_their_key() -> None:
    """Each key adds up to 1 by itself: an item has the whole of an event's weight for each of its attributes."""
    affinities = profile_of([logged(1, "love", "purchase"), logged(2, "war", "purchase")]).affinities
    decades = of(affinities, "decade")
    assert sum(each.share for each in decades.values()) == pytest.approx(1.0)
    assert decades["90s"].share > decades["00s"].share
    assert of(affinities, "studio")["Big"].share == 1.0


def test_each_interest_says_what_it_rests_on() -> None:
    """The time of the last event, how many there were, and the items that count most, each once."""
    history = [logged(1, "war", "purchase"), logged(2, "love"), logged(3, "love", "like"), logged(4, "war", "view")]
    found = of(profile_of(history).affinities)
    assert found["romance"][3:] == (3000, 2, ["love"])
    assert found["war"][3:] == (4000, 2, ["war"])
    many = {f"film-{number}": Item(f"film-{number}", categories=("drama",)) for number in range(5)}
    bought = [logged(1, "film-3", "purchase"), *(logged(2 + number, f"film-{number}") for number in range(5))]
    [drama] = make_profile(bought, many, BUILT_IN_EVENT_TYPES, NOW_US).affinities
    assert drama.strongest_item_ids == ["film-3", "film-4", "film-2"]
    assert drama.event_count == 6


def test_what_speaks_against_an_item_stands_apart() -> None:
    """A dislike is an aversion and takes nothing from the interests; items that are gone or bare say nothing."""
    history = [logged(1, "love", "dislike"), logged(2, "gone"), logged(3, "bare"), logged(4, "love")]
    profile = profile_of(history)
    assert of(profile.affinities)["romance"][2:5] == (1.0, 4000, 1)
    assert of(profile.aversions)["romance"][2:5] == (1.0, 1000, 1)
    assert of(profile.aversions, "decade").keys() == {"00s"}
    assert profile.affinities[0].share == profile_of(history[1:]).affinities[0].share
    assert profile.event_counts == {"dislike": 1, "click": 3}
    assert (profile.first_event_time_us, profile.last_event_time_us) == (1000, 4000)


def test_events_of_no_weight_say_nothing() -> None:
    """A type of weight 0, and one that is not registered, count as events alone."""
    types = {"look": EventType("look", weight=0.0)}
    profile = make_profile([logged(1, "war", "look"), logged(2, "love", "unheard-of")], ITEMS, types, NOW_US)
    assert (profile.affinities, profile.event_counts) == ([], {"look": 1, "unheard-of": 1})


def test_the_newest_events_come_first_and_old_ones_fade() -> None:
    """At most so many events are shown; twenty events later one counts half."""
    history = [logged(1, "love"), *(logged(position, "bare") for position in range(2, 21)), logged(21, "war")]
    profile = profile_of(history)
    assert [each.position for each in profile.recent_events] == list(range(21, 21 - MAX_RECENT_EVENTS, -1))
    found = of(profile.affinities)
    assert found["romance"].share == pytest.approx(0.5 * (found["war"].share + found["drama"].share))


def test_activity_counts_by_time() -> None:
    """Days count back from now; an hour is one of the day, in UTC; sessions are those with a name."""
    ages_h = {1: "a", 23: "a", 25: "b", 7 * 24 + 1: "", 29 * 24: "c", 31 * 24: "c"}
    history = [
        logged(n, "bare", time_us=NOW_US - age * HOUR_US, session_id=session)
        for n, (age, session) in enumerate(sorted(ages_h.items(), reverse=True), start=1)
    ]
    activity = profile_of(history).activity
    assert activity is not None
    assert activity[:3] == (2, 3, 5)
    assert activity.sessions == 3
    assert activity.active_days == len({(NOW_US // HOUR_US - age) // 24 for age in ages_h})
    hours = [(NOW_US // HOUR_US - age) % 24 for age in ages_h]
    assert activity.by_hour == [hours.count(hour) for hour in range(24)]


def test_times_before_1970_are_times_like_others() -> None:
    """A history of old records keeps its last event's time, and its hour."""
    profile = profile_of([logged(1, "love", time_us=-HOUR_US)])
    assert of(profile.affinities)["romance"].last_event_time_us == -HOUR_US
    assert profile.activity is not None
    assert profile.activity.by_hour[23] == 1


def test_nobody_has_an_empty_profile() -> None:
    """Without events there are no times, no counts, no activity and no interests."""
    assert profile_of([]) == Profile([], [], {}, None, None, None, [])


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*(f"item-{number}" for number in range(40)), "gone"]),
            st.sampled_from(["view", "purchase", "dislike", "cancel"]),
        ),
        max_size=60,
    )
)
def test_shares_and_what_they_rest_on_add_up(history: list[tuple[str, str]]) -> None:
    """Strongest first, bounded; shares of one key sum to at most 1, and to 1 when nothing was cut off."""
    items = {
        f"item-{number}": Item(
            f"item-{number}",
            categories=(f"c{number % 30}", f"c{number % 7 + 30}"),
            attributes={"parity": str(number % 2)},
        )
        for number in range(40)
    }
    events = [logged(position, *each) for position, each in enumerate(history, start=1)]
    profile = make_profile(events, items, BUILT_IN_EVENT_TYPES, NOW_US)
    for affinities, types in ((profile.affinities, {"view", "purchase"}), (profile.aversions, {"dislike", "cancel"})):
        told = [item_id for item_id, event_type in history if event_type in types and item_id != "gone"]
        shares = [each.share for each in of(affinities).values()]
        assert shares == sorted(shares, reverse=True)
        assert len(shares) <= MAX_AFFINITIES
        assert sum(shares) == pytest.approx(1.0) if told and len(shares) < MAX_AFFINITIES else sum(shares) <= 1.0001
        parities = of(affinities, "parity")
        assert sum(each.event_count for each in parities.values()) == len(told)
        assert sum(each.share for each in parities.values()) == pytest.approx(1.0 if told else 0.0)
        for each in affinities:
            assert 0 < len(each.strongest_item_ids) <= MAX_STRONGEST
            assert set(each.strongest_item_ids) <= set(told)
