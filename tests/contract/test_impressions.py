"""Impressions come back as they were shown."""

from __future__ import annotations

from dataclasses import replace

from headwater_core.database import Database
from headwater_core.events import Subject, SubjectKind
from headwater_core.impressions import Impression, ImpressionLog, ShownItem

SHOWN = Impression(
    slate_id="slate-1",
    subject=Subject(SubjectKind.USER, "ann"),
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


def test_tenants_are_kept_apart(database: Database) -> None:
    """Another tenant sees nothing and may use the same slate ids."""
    ImpressionLog(database).append([SHOWN])
    other = ImpressionLog(database, "other")
    assert other.get("slate-1") is None
    other.append([SHOWN])
    assert (other.count(), ImpressionLog(database).count()) == (1, 1)
