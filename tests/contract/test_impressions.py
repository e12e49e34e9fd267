"""Impressions come back as they were shown."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

import pytest

from headwater_core.database import Database, advance, insert
from headwater_core.events import Event, Subject, SubjectKind
from headwater_core.feedback_log import ERASURE, FeedbackLog, subject_hash
from headwater_core.impressions import ERASED_FOR_US, Impression, ImpressionLog, ShownItem
from headwater_core.schema import erasures

ANN = Subject(SubjectKind.USER, "ann")
SHOWN = Impression(
    slate_id="slate-1",
    subject=ANN,
    session_id="visit",
    surface="home",
    context={"device": "phone"},
    strategy="diverse",
    generation=7,
    time_us=1_700_000_000_000_000,
    items=(ShownItem("a", 1.5, 0.25, ("tower", "fresh")), ShownItem("b", -0.5, None, ())),
)


def test_an_impression_comes_back_whole(database: Database) -> None:
    """Every field is kept, the items in their places; one for nobody too."""
    log = ImpressionLog(database)
    nobody = Impression("slate-2", None)
    log.append([SHOWN, nobody])
    assert log.get("slate-1") == SHOWN
    assert log.get("slate-2") == nobody
    assert log.get("slate-3") is None
    assert log.count() == 2


def test_a_slate_is_written_once(database: Database) -> None:
    """Writing a slate again changes nothing, within one batch too."""
    log = ImpressionLog(database)
    log.append([SHOWN, SHOWN])
    log.append([replace(SHOWN, surface="elsewhere")])
    log.append([])
    assert log.count() == 1
    assert log.get("slate-1") == SHOWN


def test_impressions_are_listed_by_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a time on and before another, those of one moment by slate, each once, however many pages they fill."""
    monkeypatch.setattr("headwater_core.paging.PAGE", 2)
    log = ImpressionLog(database)
    times_us = {"e": 10, "d": 20, "c": 20, "b": 20, "a": 20, "g": 30, "f": 40}
    shown = [replace(SHOWN, slate_id=slate_id, time_us=time_us) for slate_id, time_us in times_us.items()]
    log.append(shown)
    ImpressionLog(database, "other").append([replace(SHOWN, slate_id="x", time_us=25)])
    assert [each.slate_id for each in log.between(20, 40)] == ["a", "b", "c", "d", "g"]
    assert list(log.between(10, 11)) == [shown[0]]
    assert list(log.between(41, 100)) == []


def test_what_was_shown_before_an_erasure_is_not_written_after_it(database: Database) -> None:
    """A replica that flushes late, or an answer on its way, does not bring an erased user back, nor do the seconds in
    which an answer could still be made of what was there.
    """
    impressions, feedback = ImpressionLog(database), FeedbackLog(database)
    ben = Subject(SubjectKind.USER, "ben")
    impressions.append([SHOWN])
    assert feedback.delete_subject(ANN, SHOWN.time_us).impressions == 1
    late = replace(SHOWN, slate_id="late")
    on_its_way = replace(SHOWN, slate_id="on-its-way", time_us=SHOWN.time_us + ERASED_FOR_US)
    after = replace(SHOWN, slate_id="after", time_us=SHOWN.time_us + ERASED_FOR_US + 1)
    another = replace(SHOWN, slate_id="another", subject=ben)
    impressions.append([late, on_its_way, after, another])
    impressions.append([late, on_its_way])
    found = [impressions.get(each.slate_id) for each in (late, on_its_way, after, another)]
    assert found == [None, None, after, another]
    ImpressionLog(database, "other").append([late])
    assert impressions.count() == 2


def test_erased_events_leave_impressions_alone(database: Database) -> None:
    """Only the erasure of a whole subject speaks against what was shown to it."""
    feedback = FeedbackLog(database)
    feedback.append([Event("e", "click", user_id="ann", item_id="a")], SHOWN.time_us)
    feedback.delete_events(["e"], SHOWN.time_us)
    log = ImpressionLog(database)
    log.append([SHOWN])
    assert log.count() == 1


def test_an_erasure_and_a_late_impression_take_turns(database: Database, database_url: str) -> None:
    """While an erasure is under way nothing is written that it would miss."""
    own = Database(database_url)
    with ThreadPoolExecutor(1) as pool:
        with database.write() as connection:
            advance(connection, "default", ERASURE, 1)
            writing = pool.submit(ImpressionLog(own).append, [SHOWN])
            row = {
                "tenant": "default",
                "number": 1,
                "subject_hash": subject_hash(ANN),
                "is_whole": True,
                "position": 0,
                "erase_time_us": SHOWN.time_us,
            }
            connection.execute(insert(connection, erasures), row)
            assert not wait([writing], timeout=0.3).done
        writing.result()
    assert ImpressionLog(own).count() == 0
    own.close()


def test_old_impressions_are_pruned_in_chunks(database: Database) -> None:
    """Only what was shown before the time goes, no more than asked for at once."""
    log = ImpressionLog(database)
    log.append([replace(SHOWN, slate_id=f"slate-{n}", time_us=n) for n in range(5)])
    ImpressionLog(database, "other").append([SHOWN])
    assert [log.prune(4, 3), log.prune(4, 3), log.prune(4, 3)] == [3, 1, 0]
    assert log.get("slate-4") is not None
    assert log.count() == 1


def test_tenants_are_kept_apart(database: Database) -> None:
    """Another tenant sees nothing and may use the same slate ids."""
    ImpressionLog(database).append([SHOWN])
    other = ImpressionLog(database, "other")
    assert other.get("slate-1") is None
    other.append([SHOWN])
    assert (other.count(), ImpressionLog(database).count()) == (1, 1)
