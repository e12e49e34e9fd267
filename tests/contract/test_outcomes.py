"""Outcomes: events joined to what was shown, each once, whoever reads the log and however often."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine, delete

from headwater_core import allocation, outcome_report, paging
from headwater_core.attribution import attribution_token
from headwater_core.database import Database, advance
from headwater_core.events import Event, Subject, SubjectKind
from headwater_core.experiments import Assignment, Experiment
from headwater_core.feedback_log import ERASURE, FeedbackLog, subject_hash
from headwater_core.impressions import Impression, ImpressionLog, ShownItem
from headwater_core.outcomes import Attributed, OutcomeLog
from headwater_core.schema import events
from headwater_core.tallies import Tallies

SECOND_US = 1_000_000
NOW_US = 1_700_000_000 * SECOND_US
WINDOW_US = 3_600 * SECOND_US
ANN = Subject(SubjectKind.USER, "ann")
BEN = Subject(SubjectKind.USER, "ben")
TEST = Experiment.from_dict(
    {
        "arms": [{"name": "a"}, {"name": "b"}],
        "allocation": "thompson",
        "rewards": {"click": 0.25, "purchase": 1.0},
        "window_s": 600,
        "half_life_slates": 10,
    }
)


class World:
    """One database, and a clock that a test moves."""

    def __init__(self, database: Database) -> None:
        self.log, self.impressions = FeedbackLog(database), ImpressionLog(database)
        self.outcomes, self.tallies = OutcomeLog(database), Tallies(database)
        self.n_events = 0

    def show(
        self,
        slate_id: str,
        *items: str,
        at_s: float = 0.0,
        subject: Subject | None = ANN,
        arms: str = "",
        **more: Any,
    ) -> None:
        """Args: arms: of an interleaved slate, a letter for the arm of each item; a space: of none."""
        shown = tuple(
            ShownItem(item_id, 1.0, 1.0, ("tower", "fresh"), arm.strip())
            for item_id, arm in zip(items, arms or " " * len(items), strict=True)
        )
        time_us = NOW_US + round(at_s * SECOND_US)
        self.impressions.append(
            [Impression(slate_id, subject, strategy="home/1", time_us=time_us, items=shown, **more)]
        )

    def write(self, event_type: str, item_id: str, slate_id: str = "", at_s: float = 1.0, **more: Any) -> str:
        self.n_events += 1
        event_id = f"event-{self.n_events}"
        token = attribution_token("default", slate_id) if slate_id else ""
        fields = {"user_id": "ann", "attribution_token": token, **more}
        event = Event(event_id, event_type, item_id=item_id, **fields)
        self.log.append([event], NOW_US + round(at_s * SECOND_US))
        return event_id

    def attribute(
        self, at_s: float = 10_000.0, experiments: Mapping[str, Experiment] | None = None
    ) -> Attributed | None:
        return self.outcomes.attribute(
            experiments or {}, NOW_US + round(at_s * SECOND_US), window_us=WINDOW_US, grace_us=SECOND_US
        )

    def found(self, **options: Any) -> list[tuple[str, str, str]]:
        attributed = self.attribute(**options)
        assert attributed is not None
        return [(each.slate_id, each.item_id, each.event_type) for each in attributed.outcomes]

    def recent(self, arm: str, segment: str = "") -> allocation.Record:
        (found,) = (each.recent for each in self.tallies.of("test") if (each.arm, each.segment) == (arm, segment))
        return found


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


INTERLEAVED = Experiment.from_dict({**TEST.to_dict(), "allocation": "interleaved"})


def assigned(arm: str, half_life: float = 10.0, segment: str = "") -> Assignment:
    return Assignment("test", arm, segment, 0.5, half_life)


def test_a_token_joins_an_event_to_its_place_in_the_slate(world: World) -> None:
    """With the sources, the strategy and both times; what was read is not read again."""
    world.show("slate-1", "x", "y", surface="home")
    world.write("click", "y", "slate-1", at_s=5)
    attributed = world.attribute()
    assert attributed is not None
    (outcome,) = attributed.outcomes
    assert (outcome.slate_id, outcome.item_id, outcome.place) == ("slate-1", "y", 2)
    assert (outcome.sources, outcome.strategy, outcome.surface) == (("tower", "fresh"), "home/1", "home")
    assert outcome.received_time_us - outcome.shown_time_us == 5 * SECOND_US
    assert list(world.outcomes.between(NOW_US, NOW_US + WINDOW_US)) == [outcome]
    assert world.attribute() is None


def test_outcomes_are_read_in_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, those of one moment too."""
    monkeypatch.setattr(paging, "PAGE", 2)
    items = "abcde"
    world.show("slate-1", *items)
    for item_id in items:
        world.write("click", item_id, "slate-1", at_s=5)
        world.write("like", item_id, "slate-1", at_s=6)
    world.attribute()
    read = [(each.event_type, each.item_id) for each in world.outcomes.between(NOW_US, NOW_US + WINDOW_US)]
    assert read == [(event_type, item_id) for event_type in ("click", "like") for item_id in items]


def test_what_an_item_brought_counts_once(world: World) -> None:
    """Two clicks are one, over two looks too; another type, item or slate is another outcome."""
    world.show("slate-1", "x", "y")
    world.show("slate-2", "x")
    for _ in range(2):
        world.write("click", "x", "slate-1")
    assert world.found() == [("slate-1", "x", "click")]
    world.write("click", "x", "slate-1")
    assert world.found() == []
    world.write("purchase", "x", "slate-1")
    world.write("click", "y", "slate-1")
    world.write("click", "x", "slate-2")
    assert len(world.found()) == 3


def test_a_token_that_joins_nothing_is_counted_by_its_reason(world: World) -> None:
    """And costs nothing else: what comes with it is joined."""
    world.show("slate-1", "x")
    world.write("click", "x", "slate-1", at_s=WINDOW_US / SECOND_US + 1)
    world.write("click", "z", "slate-1")
    world.write("click", "x", "nowhere")
    world.write("click", "x", attribution_token="rubbish")
    world.write("click", "x", attribution_token=attribution_token("other", "slate-1"))
    world.write("click", "x", "slate-1", backfill=True)
    world.write("click", "x", "slate-1")
    attributed = world.attribute()
    assert attributed is not None
    assert len(attributed.outcomes) == 1
    assert attributed.unmatched == {"late": 1, "other_item": 1, "unknown_slate": 1, "malformed": 2}


def test_a_callers_clock_does_not_matter(world: World) -> None:
    """The window is between when a server showed and when a server heard, whatever the event says of its time."""
    world.show("slate-1", "x", "y")
    world.write("click", "x", "slate-1", event_time_us=NOW_US - 50 * WINDOW_US)
    world.write("click", "y", "slate-1", at_s=2 * WINDOW_US / SECOND_US, event_time_us=NOW_US + SECOND_US)
    assert world.found() == [("slate-1", "x", "click")]


def test_events_wait_for_their_slates(world: World) -> None:
    """Impressions are written behind the answer: an event is not looked at before its slate can be there."""
    world.write("click", "x", "slate-1", at_s=1.0)
    assert world.attribute(at_s=1.5) is None
    world.show("slate-1", "x")
    assert world.found(at_s=2.0) == [("slate-1", "x", "click")]


def test_a_servers_clock_that_was_ahead_stops_nothing(world: World) -> None:
    """What it received later than now is looked at, with all behind it; within the clocks' differences it waits."""
    world.show("slate-1", "x", "y", "z")
    world.write("click", "x", "slate-1", at_s=3_000)
    world.write("click", "y", "slate-1", at_s=1)
    world.write("click", "z", "slate-1", at_s=14)
    world.write("like", "x", "slate-1", at_s=2)
    assert world.outcomes.lag() == 4
    assert world.found(at_s=10) == [("slate-1", "x", "click"), ("slate-1", "y", "click")]
    assert world.outcomes.lag() == 2
    assert world.attribute(at_s=14) is None
    assert world.found(at_s=15) == [("slate-1", "z", "click"), ("slate-1", "x", "like")]
    assert world.outcomes.lag() == 0


def test_what_callers_report_is_joined_without_a_token(world: World) -> None:
    """To the latest impression of the user on the item, within the window; the report itself counts as shown."""
    first = world.write("impression", "x", at_s=1, slate_position=3)
    second = world.write("impression", "x", at_s=2)
    world.write("click", "x", at_s=3)
    world.write("click", "y", at_s=3)
    world.write("click", "x", at_s=3, user_id="ben")
    world.write("purchase", "x", at_s=2 + WINDOW_US / SECOND_US + 1)
    assert world.found() == [(first, "x", "impression"), (second, "x", "impression"), (second, "x", "click")]
    (row,) = outcome_report.report([], world.outcomes.between(NOW_US, NOW_US + WINDOW_US), "strategy")
    assert (row.key, row.shown, row.events) == ("reported", 2, {"click": 1})


def test_a_slate_earns_one_at_most(world: World) -> None:
    """Rewards by event type add up, within the experiment's own window, and what is over is not paid."""
    world.show("slate-1", "x", "y", "z", assignment=assigned("a"))
    world.write("click", "x", "slate-1")
    world.write("purchase", "x", "slate-1", at_s=2)
    world.write("click", "z", "slate-1", at_s=3)
    world.write("click", "y", "slate-1", at_s=601)
    attributed = world.attribute(experiments={"test": TEST})
    assert attributed is not None
    assert [each.reward for each in attributed.outcomes] == [0.25, 0.75, 0.0, 0.0]
    assert world.recent("a") == (1.0, 1.0)
    assert world.tallies.users("test")["a"].reward == 1.0


def test_older_slates_count_less(world: World) -> None:
    """After as many further slates of the segment as the half-life, half; other segments stand still."""
    for number in range(4):
        world.show(f"a-{number}", "x", assignment=assigned("a"))
    world.show("elsewhere", "x", assignment=assigned("a", segment="new"))
    for number in range(10):
        world.show(f"b-{number}", "x", assignment=assigned("b"))
    assert world.recent("a").slates == pytest.approx(sum(0.5 ** ((number + 10) / 10) for number in range(4)))
    assert world.recent("a", "new").slates == 1.0
    assert {each.arm: each.slates for each in world.tallies.of("test") if not each.segment} == {"a": 4, "b": 10}


def test_of_an_interleaved_slate_each_place_counts_for_its_arm(world: World) -> None:
    """An item earns one at most, for its own arm; a place that was drawn for nobody counts for nobody."""
    world.show("slate-1", "x", "y", "z", "w", arms="aab ", assignment=assigned("", 1e9))
    for event_type, item_id in (("purchase", "x"), ("click", "x"), ("click", "y"), ("click", "z"), ("click", "w")):
        world.write(event_type, item_id, "slate-1")
    attributed = world.attribute(experiments={"test": INTERLEAVED})
    assert attributed is not None
    assert [(each.arm, each.reward) for each in attributed.outcomes] == [
        ("a", 1.0),
        ("a", 0.0),
        ("a", 0.25),
        ("b", 0.25),
        ("", 0.0),
    ]
    assert world.recent("a") == pytest.approx((2.0, 1.25))
    assert world.recent("b") == pytest.approx((1.0, 0.25))
    assert world.tallies.users("test") == {}
    shown = world.impressions.between(NOW_US, NOW_US + WINDOW_US)
    rows = outcome_report.report(shown, world.outcomes.between(NOW_US, NOW_US + WINDOW_US), "arm")
    assert [(row.key, row.shown, row.events["click"]) for row in rows] == [("test/a", 2, 2), ("test/b", 1, 1)]


def test_interleaved_places_fade_by_slates(world: World) -> None:
    """A half-life is of slates, however many places they have; what is frozen learns nothing."""
    for number in range(11):
        world.show(f"slate-{number}", "x", "y", arms="ab" if number == 0 else "bb", assignment=assigned(""))
    assert world.recent("a").slates == pytest.approx(0.5)
    before = world.recent("b")
    world.show("frozen", "x", "y", arms="bb", assignment=assigned("", 0.0))
    assert world.recent("b") == before
    assert {each.arm: each.slates for each in world.tallies.of("test")} == {"a": 1, "b": 23}


def test_a_slate_that_is_written_again_counts_once(world: World) -> None:
    """The writer repeats a batch of which it does not know whether it was written."""
    for _ in range(3):
        world.show("slate-1", "x", assignment=assigned("a"))
    assert world.recent("a").slates == 1.0
    assert world.tallies.users("test")["a"] == (1, 1, 0, 1, 0, 0)


def test_where_nothing_is_learned_the_totals_still_count(world: World) -> None:
    """A frozen experiment, and one of fixed shares."""
    world.show("slate-1", "x", assignment=assigned("a", half_life=0.0))
    world.write("purchase", "x", "slate-1")
    frozen = Experiment.from_dict({**TEST.to_dict(), "frozen": True})
    world.attribute(experiments={"test": frozen})
    (tally,) = world.tallies.of("test")
    assert (tally.slates, tally.reward, tally.recent) == (1, 1.0, (0.0, 0.0))


def test_many_readers_count_each_event_once(world: World, database: Database) -> None:
    """However many servers attribute at once, and however the log is cut: each reward is applied exactly once."""
    for number in range(60):
        world.show(f"slate-{number}", "x", assignment=assigned("a", half_life=1e9))
        world.write("purchase", "x", f"slate-{number}")

    def read(_: int) -> int:
        log, n_outcomes = OutcomeLog(database), 0
        for _ in range(40):
            found = log.attribute(
                {"test": TEST}, NOW_US + 10 * SECOND_US, window_us=WINDOW_US, grace_us=SECOND_US, limit=7
            )
            n_outcomes += len(found.outcomes) if found else 0
        return n_outcomes

    with ThreadPoolExecutor(4) as threads:
        counted = list(threads.map(read, range(4)))
    assert sum(counted) == 60
    assert world.recent("a").reward == pytest.approx(60.0)


def test_an_erased_user_leaves_nothing_but_totals(world: World) -> None:
    """Outcomes of its slates and of its own reports go, and what it showed and earned by itself."""
    world.show("slate-1", "x", assignment=assigned("a"))
    world.show("slate-2", "x", subject=Subject(SubjectKind.USER, "ben"), assignment=assigned("a"))
    world.write("purchase", "x", "slate-1")
    world.write("purchase", "x", "slate-2", user_id="ben")
    world.write("impression", "y")
    world.attribute(experiments={"test": TEST})
    world.log.delete_subject(ANN)
    assert [each.slate_id for each in world.outcomes.between(NOW_US, NOW_US + WINDOW_US)] == ["slate-2"]
    assert world.tallies.users("test")["a"].users == 1
    assert subject_hash(ANN) != subject_hash(Subject(SubjectKind.USER, "ben"))
    (tally,) = world.tallies.of("test")
    assert (tally.slates, tally.reward) == (2, 2.0)


def erase_in_between(world: World, monkeypatch: pytest.MonkeyPatch, erase: Callable[[], object]) -> None:
    """Erase once an attribution has read what it joins, and before it writes."""
    read = world.outcomes._by_report

    def read_then_erase(*args: Any) -> Any:
        found = read(*args)
        erase()
        return found

    monkeypatch.setattr(world.outcomes, "_by_report", read_then_erase)


@pytest.mark.parametrize("actor", ["ann", "ben"])
def test_who_is_erased_while_outcomes_are_found_does_not_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch, actor: str
) -> None:
    """Neither by what the user did nor by what another did on the user's slate; others' outcomes are written."""
    world.show("slate-1", "x", assignment=assigned("a"))
    world.show("slate-2", "x", subject=BEN)
    world.write("purchase", "x", "slate-1", user_id=actor)
    world.write("purchase", "x", "slate-2", user_id="ben")
    world.write("impression", "y")
    erase_in_between(world, monkeypatch, lambda: world.log.delete_subject(ANN))
    assert world.found(experiments={"test": TEST}) == [("slate-2", "x", "purchase")]
    assert [each.slate_id for each in world.outcomes.between(NOW_US, NOW_US + WINDOW_US)] == ["slate-2"]
    assert world.tallies.users("test") == {}
    (tally,) = world.tallies.of("test")
    assert (tally.slates, tally.reward) == (1, 0.0)
    assert world.attribute() is None


def test_events_erased_while_outcomes_are_found_leave_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a report leave what was joined to it."""
    world.show("slate-1", "x", "y")
    clicked = world.write("click", "x", "slate-1")
    world.write("click", "y", "slate-1")
    reported = world.write("impression", "z")
    world.write("click", "z", at_s=2)
    erase_in_between(world, monkeypatch, lambda: world.log.delete_events([clicked, reported]))
    assert world.found() == [("slate-1", "y", "click")]


def test_an_erasure_and_an_attribution_take_turns(world: World, database_url: str, database: Database) -> None:
    """While an erasure is under way nothing is written that it would miss."""
    world.show("slate-1", "x")
    world.write("click", "x", "slate-1")
    own = Database(database_url)
    options = {"window_us": WINDOW_US, "grace_us": SECOND_US}
    with ThreadPoolExecutor(1) as pool:
        with database.write() as connection:
            advance(connection, "default", ERASURE, 1)
            attributing = pool.submit(OutcomeLog(own).attribute, {}, NOW_US + 10 * SECOND_US, **options)
            connection.execute(delete(events))
            assert not wait([attributing], timeout=0.3).done
        attributing.result()
    assert list(world.outcomes.between(NOW_US, NOW_US + WINDOW_US)) == []
    own.close()


def test_erased_events_take_their_outcomes_along(world: World) -> None:
    """So that a user who is erased later leaves none; what was joined to a report goes with the report."""
    world.show("slate-1", "x")
    clicked = world.write("click", "x", "slate-1")
    first, second = (world.write("impression", item_id) for item_id in "yz")
    on_reports = [world.write("click", item_id, at_s=2) for item_id in "yz"]
    world.attribute()

    def left() -> set[tuple[str, str]]:
        return {(each.slate_id, each.event_type) for each in world.outcomes.between(NOW_US, NOW_US + WINDOW_US)}

    world.log.delete_events([clicked, on_reports[0]])
    assert left() == {(first, "impression"), (second, "impression"), (second, "click")}
    world.log.delete_events([second])
    assert left() == {(first, "impression")}
    world.log.delete_subject(ANN)
    assert left() == set()


def test_an_erased_event_that_bears_a_slates_name_leaves_the_slates_outcomes(world: World) -> None:
    """Callers may name their events as they like."""
    world.show("event-1", "x")
    world.write("view", "x")
    world.write("click", "x", "event-1")
    world.attribute()
    world.log.delete_events(["event-1"])
    assert [each.slate_id for each in world.outcomes.between(NOW_US, NOW_US + WINDOW_US)] == ["event-1"]


def test_old_outcomes_are_pruned_and_an_experiment_can_be_forgotten(world: World) -> None:
    """In chunks; and a new experiment of an old name begins at nothing."""
    world.show("slate-1", "x", "y", assignment=assigned("a"))
    for item_id, at_s in (("x", 1), ("y", 100)):
        world.write("click", item_id, "slate-1", at_s=at_s)
    world.attribute()
    assert world.outcomes.prune(NOW_US + 50 * SECOND_US, 10) == 1
    assert [each.item_id for each in world.outcomes.between(NOW_US, NOW_US + WINDOW_US)] == ["y"]
    world.tallies.forget("test")
    assert world.tallies.of("test") == []
    assert world.tallies.users("test") == {}


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        ("source", [("fresh", 3, 1), ("tower", 3, 1)]),
        ("strategy", [("home/1", 3, 1)]),
        ("place", [("1", 2, 0), ("2", 1, 1)]),
        ("arm", [("test/a", 2, 1)]),
        ("surface", [("home", 2, 1), ("", 1, 0)]),
    ],
)
def test_a_report_adds_up(world: World, group_by: str, expected: Sequence[tuple[str, int, int]]) -> None:
    """Shown items and clicks, by each group; an item of two sources counts for both."""
    world.show("slate-1", "x", "y", surface="home", assignment=assigned("a"))
    world.show("slate-2", "x")
    world.write("click", "y", "slate-1")
    world.attribute()
    shown = world.impressions.between(NOW_US, NOW_US + WINDOW_US)
    rows = outcome_report.report(shown, world.outcomes.between(NOW_US, NOW_US + WINDOW_US), group_by)
    assert [(row.key, row.shown, row.events["click"]) for row in rows] == expected


# SQLite alone: PostgreSQL's plan depends on the table's size.
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_reports_are_found_without_a_walk_through_histories(world: World, database: Database) -> None:
    """By an index that holds nothing but reports."""
    world.write("click", "x")
    statements: list[tuple[str, Any]] = []

    def remember(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        statements.append((statement, parameters))

    sqlalchemy.event.listen(Engine, "before_cursor_execute", remember)
    try:
        world.attribute()
    finally:
        sqlalchemy.event.remove(Engine, "before_cursor_execute", remember)
    [(sql, parameters)] = [each for each in statements if "FROM events" in each[0] and "'impression'" in each[0]]
    with database.read() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters)]
    assert any("ix_events_reports (tenant=? AND subject_kind=? AND subject_id=?" in line for line in plan), plan
