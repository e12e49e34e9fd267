"""Our own log: impressions in a database, joined with what users did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater_core.attribution import attribution_token
from headwater_core.database import Database
from headwater_core.errors import InvalidFieldError, NotFoundError
from headwater_core.events import Event, Subject, SubjectKind
from headwater_core.feedback_log import FeedbackLog
from headwater_core.impressions import Impression, ImpressionLog, ShownItem
from headwater_updater.ope.log import BanditLog
from headwater_updater.ope.own_log import OwnRewards, read_own_log

HOUR_US = 3_600_000_000
NOW_US = 1_000 * HOUR_US
ANN, BEN = Subject(SubjectKind.USER, "ann"), Subject(SubjectKind.VISITOR, "ben")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/headwater.db")
    database.migrate()
    yield database
    database.close()


def show(
    database: Database, slate_id: str, hours_ago: float, items: dict[str, float | None], subject: Subject | None = ANN,
    **more: object,
) -> None:  # fmt: skip
    shown = tuple(ShownItem(item_id, 1.0, propensity, ("tower",)) for item_id, propensity in items.items())
    time_us = NOW_US - round(hours_ago * HOUR_US)
    ImpressionLog(database).append([Impression(slate_id, subject, time_us=time_us, items=shown, **more)])  # type: ignore[arg-type]


def act(database: Database, item_id: str, hours_ago: float, token: str, event_type: str = "click") -> None:
    event_time_us = NOW_US - round(hours_ago * HOUR_US)
    event = Event(
        f"{event_type}-{item_id}-{hours_ago}-{token}",
        event_type,
        user_id="ann",
        item_id=item_id,
        event_time_us=event_time_us,
        attribution_token=token,
    )
    FeedbackLog(database).append([event], NOW_US)


def token(slate_id: str, tenant: str = "default") -> str:
    return attribution_token(tenant, slate_id)


def read(database: Database, *event_types: str, window_hours: float = 24, days: float = 30) -> BanditLog:
    rewards = OwnRewards(event_types or ("click",), round(window_hours * HOUR_US))
    return read_own_log(database, "default", rewards, NOW_US - round(days * 24 * HOUR_US), NOW_US)


def rewarded(log: BanditLog) -> set[tuple[str, int]]:
    """Item and place of the rows with a reward."""
    rows = zip(log.items, log.positions, log.rewards, strict=True)
    return {(log.item_ids[item], int(position)) for item, position, reward in rows if reward}


def test_what_was_shown_and_what_came_of_it(database: Database) -> None:
    """A row for each item in its place, rewarded by an event that carries the slate's token and names the item."""
    show(database, "s1", 100, {"a": 0.5, "b": 0.25}, surface="home", context={"device": "phone"})
    show(database, "s2", 50, {"b": 0.125, "c": 1.0}, BEN, context={"hour": "9"})
    act(database, "b", 99, token("s1"))
    log = read(database)
    assert [log.item_ids[item] for item in log.items] == ["a", "b", "b", "c"]
    assert log.positions.tolist() == [1, 2, 1, 2]
    assert log.propensities.tolist() == [0.5, 0.25, 0.125, 1.0]
    assert rewarded(log) == {("b", 2)}
    assert log.rewards.tolist() == [0, 1, 0, 0]
    assert {name: cells.tolist() for name, cells in log.context.items()} == {
        "surface": ["home", "home", "", ""],
        "context.device": ["phone", "phone", "", ""],
        "context.hour": ["", "", "9", "9"],
    }


def test_rows_of_one_subject_belong_together(database: Database) -> None:
    """Whatever the slate; those of nobody by slate."""
    for slate_id, subject in (("s1", ANN), ("s2", BEN), ("s3", ANN), ("s4", None), ("s5", None)):
        show(database, slate_id, 60 - int(slate_id[1]), {"a": 0.5, "b": 0.5}, subject)
    log = read(database)
    assert log.clustered_by == "subject"
    first, second, third, fourth, fifth = log.clusters.reshape(5, 2).tolist()
    assert first == third
    assert first[0] == first[1]
    assert len({first[0], second[0], fourth[0], fifth[0]}) == 4


def test_an_event_counts_within_the_window(database: Database) -> None:
    """Not at its end or later; the first of several decides; a clock that is behind does no harm."""
    for slate_id in ("in", "end", "twice", "early"):
        show(database, slate_id, 100, {slate_id: 0.5})
    act(database, "in", 76.001, token("in"))
    act(database, "end", 76, token("end"))
    act(database, "twice", 10, token("twice"))
    act(database, "twice", 90, token("twice"))
    act(database, "early", 100.01, token("early"))
    assert {item for item, _ in rewarded(read(database))} == {"in", "twice", "early"}
    assert {item for item, _ in rewarded(read(database, window_hours=12))} == {"twice", "early"}


def test_only_the_events_that_are_asked_for_count(database: Database) -> None:
    """One type, another, or either."""
    show(database, "s", 100, {"a": 0.5, "b": 0.5})
    act(database, "a", 99, token("s"))
    act(database, "b", 99, token("s"), "purchase")
    assert rewarded(read(database)) == {("a", 1)}
    assert rewarded(read(database, "purchase")) == {("b", 2)}
    assert rewarded(read(database, "purchase", "click")) == {("a", 1), ("b", 2)}
    with pytest.raises(InvalidFieldError, match="reward: 'clicks' is no event type; there are bookmark, cancel, cart"):
        read(database, "clicks")


def test_what_was_left_out_is_counted(database: Database) -> None:
    """Slates whose window is open, items without a propensity, events that lead to no slate of ours."""
    show(database, "old", 31 * 24, {"a": 0.5})
    show(database, "s", 100, {"a": 0.5, "b": None})
    show(database, "edge", 24, {"a": 0.5})
    show(database, "young", 23.9, {"a": 0.5})
    act(database, "a", 99, token("s"))
    act(database, "a", 98, "")
    act(database, "a", 97, token("s", "other"))
    act(database, "a", 96, "made up")
    act(database, "a", 95, token("unknown"))
    log = read(database)
    assert len(log) == 2
    assert log.facts == {
        "impressions": 2,
        "impressions_with_an_open_window": 1,
        "items_without_a_propensity": 1,
        "rewarded_items": 1,
        "events_of_the_reward": 5,
        "events_without_a_token": 1,
        "events_with_a_foreign_token": 2,
    }


def test_nothing_to_evaluate_on_is_said(database: Database) -> None:
    """With what there was."""
    show(database, "young", 1, {"a": 0.5})
    show(database, "s", 100, {"b": None})
    with pytest.raises(NotFoundError, match=r"1 impressions whose window is over, 1 whose window is open, 1 items"):
        read(database)


def test_events_are_read_in_parts(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are."""
    monkeypatch.setattr("headwater_updater.ope.own_log._EVENTS", 2)
    show(database, "s", 100, {f"i{n}": 0.5 for n in range(5)})
    for n in range(5):
        act(database, f"i{n}", 99, token("s"))
    assert len(rewarded(read(database))) == 5
