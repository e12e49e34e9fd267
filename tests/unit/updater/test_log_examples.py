"""From events to examples: what is new, what is context, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headwater_core.cleaning import Cleaner, CleaningLimits
from headwater_core.database import Database
from headwater_core.events import BUILT_IN_EVENT_TYPES, Event, LoggedEvent
from headwater_core.feedback_log import FeedbackLog
from headwater_updater.examples import Example
from headwater_updater.log_examples import events_before_their_item, links_of, new_examples, replay_examples

SECOND = 1_000_000


@pytest.fixture
def log(tmp_path: Path) -> Iterator[FeedbackLog]:
    database = Database(f"sqlite:///{tmp_path / 'log.db'}")
    database.migrate()
    yield FeedbackLog(database)
    database.close()


def write(log: FeedbackLog, at_s: int, event_type: str = "click", **fields: Any) -> LoggedEvent:
    content: dict[str, Any] = {"item_id": f"i{at_s}", "event_time_us": at_s * SECOND}
    if not {"user_id", "visitor_id"} & fields.keys():
        content["user_id"] = "u"
    event = Event(f"e{log.head() + 1}", event_type, **{**content, **fields})
    position = log.append([event], at_s * SECOND)[0].position
    return log.read_after(position - 1, 1)[0]


def positions(example: Example) -> tuple[list[int], int]:
    return [event.position for event in example.events], example.n_new


def test_new_events_stand_behind_what_came_before(log: FeedbackLog) -> None:
    """Context is the subject's own earlier events, at most a history long; new events are last, in time's order."""
    events = [write(log, at_s) for at_s in (10, 20, 30, 50, 40)]
    write(log, 35, user_id="other")
    found = list(new_examples(log, events[3:], BUILT_IN_EVENT_TYPES, history_length=2).values())
    assert [positions(example) for example in found] == [([2, 3, 5, 4], 2)]


def test_what_was_written_after_the_batch_is_not_seen(log: FeedbackLog) -> None:
    """An event that is already in the log, but not read yet, is no context: it will be new itself."""
    first = write(log, 20)
    write(log, 10)
    assert [positions(e) for e in new_examples(log, [first], BUILT_IN_EVENT_TYPES, 10).values()] == [([1], 1)]


def test_a_late_event_sees_only_what_happened_before_it(log: FeedbackLog) -> None:
    """An out-of-order event is learned from the state before its own time."""
    write(log, 10)
    write(log, 30)
    late = write(log, 20)
    assert [positions(e) for e in new_examples(log, [late], BUILT_IN_EVENT_TYPES, 10).values()] == [([1, 3], 1)]


def test_impressions_are_in_no_history(log: FeedbackLog) -> None:
    """What is not part of histories is neither new nor context."""
    shown = write(log, 10, "impression")
    clicked = write(log, 20)
    found = list(new_examples(log, [shown, clicked], BUILT_IN_EVENT_TYPES, 10).values())
    assert [positions(example) for example in found] == [([2], 1)]


def test_a_linked_visitors_events_are_the_users(log: FeedbackLog) -> None:
    """Visitor and user are one history from the link on."""
    before = write(log, 10, visitor_id="v")
    link = write(log, 20, user_id="u", visitor_id="v")
    after = write(log, 30, visitor_id="v")
    links = links_of(log, [before, after])
    assert links == {"v": "u"}
    cleaned = Cleaner().clean([link, after], BUILT_IN_EVENT_TYPES, links).events
    assert [positions(e) for e in new_examples(log, cleaned, BUILT_IN_EVENT_TYPES, 10).values()] == [([1, 2, 3], 2)]


def test_replayed_events_stand_last_behind_their_past(log: FeedbackLog) -> None:
    """Each replayed event is learned from the state it was learned from; what was erased is left out."""
    for at_s in range(1, 7):
        write(log, at_s)
    log.delete_events(["e5"])
    found = replay_examples(log, log.read_at([3, 6, 5]), history_length=3)
    assert [positions(example) for example in found] == [([1, 2, 3], 1), ([2, 3, 4, 6], 1)]


def test_a_replayed_visitors_event_is_found_in_the_users_history(log: FeedbackLog) -> None:
    """Whose event it is counts when it is replayed, not when it was learned: the visitor may have been linked since."""
    write(log, 10, visitor_id="v")
    write(log, 5, user_id="u")
    write(log, 20, user_id="u", visitor_id="v")
    assert [positions(each) for each in replay_examples(log, log.read_at([1]), history_length=3)] == [([2, 1], 1)]


def test_events_that_waited_for_their_item_are_found(log: FeedbackLog) -> None:
    """Only those on the item, and only up to the offset: the later ones come by themselves."""
    write(log, 10, item_id="late")
    write(log, 20, item_id="other")
    write(log, 30, item_id="late", visitor_id="v")
    offset = log.head()
    write(log, 40, item_id="late")
    found = events_before_their_item(log, ["late", "unheard-of"], offset, BUILT_IN_EVENT_TYPES, CleaningLimits())
    assert [each.position for each in found] == [1, 3]
