"""Retention forgets the oldest events, and never one that somebody has still to read."""

from __future__ import annotations

import random

import pytest

from headwater_core.database import Database, advance
from headwater_core.events import Event, Subject, SubjectKind
from headwater_core.feedback_log import FeedbackLog, Rejection
from headwater_core.log_pruning import LogPruning
from headwater_core.log_writing import AppendOutcome, AppendResult
from headwater_core.outcomes import OFFSET
from headwater_core.registry import GenerationRecord, GenerationRegistry

NOW_US = 1_700_000_000_000_000
ANN = Subject(SubjectKind.USER, "ann")


def write(database: Database, received: list[int], tenant: str = "default") -> None:
    """An event for each number, received so many microseconds after NOW_US."""
    log = FeedbackLog(database, tenant)
    for number, after in enumerate(received, start=log.head() + 1):
        log.append([Event(f"e{number}", "click", "ann", item_id="item", event_time_us=NOW_US + number)], NOW_US + after)


def learn(database: Database, watermark: int) -> int:
    registry = GenerationRegistry(database)
    number = registry.allocate()
    registry.record(GenerationRecord(number, 0, True, NOW_US, watermark, 0, 0, 8, 0))
    return number


def attribute(database: Database, count: int) -> None:
    with database.write() as connection:
        advance(connection, "default", OFFSET, count)


def left(database: Database) -> list[int]:
    return [each.position for each in FeedbackLog(database).read_after(0, 1_000)]


def test_the_oldest_go_up_to_the_first_that_stays(database: Database) -> None:
    """In the order of positions, in chunks; one whose server's clock was ahead keeps those behind it, no more."""
    write(database, [0, 1, 2, 50, 3, 4, 60])
    learn(database, 7)
    attribute(database, 7)
    pruning = LogPruning(database)
    assert [pruning.prune(NOW_US + 10, 2, NOW_US + 100) for _ in range(3)] == [2, 1, 0]
    assert left(database) == [4, 5, 6, 7]
    assert pruning.prune(NOW_US + 55, 10, NOW_US + 100) == 3
    assert left(database) == [7]


def test_what_a_clock_far_ahead_wrote_goes_with_what_is_around_it(database: Database) -> None:
    """In chunks, too, and not before the next of those events whose age is known."""
    years = 10**15
    write(database, [0, years, years, 1, years, 2, years, 50, years])
    learn(database, 9)
    attribute(database, 9)
    pruning = LogPruning(database)
    assert [pruning.prune(NOW_US + 10, 2, NOW_US + 100) for _ in range(4)] == [2, 2, 2, 0]
    assert left(database) == [7, 8, 9]
    assert pruning.prune(NOW_US + 55, 10, NOW_US + 100) == 2
    assert left(database) == [9]


def test_what_was_pruned_was_there(database: Database) -> None:
    """Positions and ids stay used, histories and links go on with what is kept."""
    write(database, [0, 0, 5])
    log = FeedbackLog(database)
    log.reject([Rejection(2, "robot", "…"), Rejection(3, "robot", "…")])
    learn(database, 3)
    attribute(database, 3)
    assert LogPruning(database).prune(NOW_US + 1, 10, NOW_US + 5) == 2
    again = Event("e1", "click", "ann", item_id="item", event_time_us=NOW_US + 1)
    assert log.append([again], NOW_US) == [AppendResult(AppendOutcome.DUPLICATE, 1)]
    assert log.head() == 3
    assert [each.position for each in log.history(ANN, 10)] == [3]
    assert log.recall(ANN, 10, []).head == 3
    assert [each.position for each in log.list_rejections("", 0, 10)] == [3]
    write(database, [6])
    assert [each.position for each in log.read_after(3, 10)] == [4]


@pytest.mark.parametrize(
    ("watermarks", "attributed", "gone"),
    [
        ([], 5, 0),  # nobody has learned anything
        ([5], 0, 0),  # nothing is attributed
        ([5], 5, 5),
        ([3], 5, 3),
        ([5], 2, 2),
        ([2, 5], 5, 2),  # a label may go back to the older one, which then learns on from there
    ],
)
def test_what_somebody_has_still_to_read_stays(
    database: Database, watermarks: list[int], attributed: int, gone: int
) -> None:
    """However old it is: generations learn on from their watermarks, attribution from its offset."""
    write(database, [0] * 5)
    write(database, [0] * 3, "other")
    for watermark in watermarks:
        learn(database, watermark)
    attribute(database, attributed)
    pruning = LogPruning(database)
    assert pruning.read_by_all() == gone
    assert pruning.prune(NOW_US + 1_000, 100, NOW_US + 1_000) == gone
    assert left(database) == list(range(gone + 1, 6))
    assert len(FeedbackLog(database, "other").read_after(0, 10)) == 3


@pytest.mark.parametrize("seed", range(5))
def test_pruning_at_any_moment(database: Database, seed: int) -> None:
    """Writing, learning, retiring generations, attributing, erasing, pruning, in any order; some clocks are ahead."""
    chooser = random.Random(seed)
    log, registry, pruning = FeedbackLog(database), GenerationRegistry(database), LogPruning(database)
    received: dict[int, int] = {}
    kept: set[int] = set()
    watermarks: dict[int, int] = {}
    offset = newest = 0
    for step in range(60):
        match chooser.choice(["write", "learn", "retire", "attribute", "erase", "prune", "prune"]):
            case "write":
                head = log.head()
                times = [step + chooser.choice([-2, -1, 0, 1, 2, 1_000]) for _ in range(chooser.randint(1, 4))]
                write(database, times)
                received.update(enumerate(times, start=head + 1))
                kept.update(range(head + 1, head + 1 + len(times)))
            case "learn":
                newest = chooser.randint(newest, log.head())
                watermarks[learn(database, newest)] = newest
            case "retire" if len(watermarks) > 1:
                number = chooser.choice(sorted(watermarks))
                registry.delete([number])
                del watermarks[number]
            case "attribute":
                further = chooser.randint(0, log.head() - offset)
                attribute(database, further)
                offset += further
            case "erase" if kept:
                position = chooser.choice(sorted(kept))
                log.delete_events([f"e{position}"])
                kept.discard(position)
            case "prune":
                before, limit = chooser.randint(0, step + 1), chooser.randint(1, 5)
                gone = pruning.prune(NOW_US + before, limit, NOW_US + step + 2)
                went = kept - set(left(database))
                assert len(went) == gone <= limit
                assert all(position <= min(offset, *watermarks.values(), log.head()) for position in went)
                assert not any(before <= received[position] <= step + 2 for position in went)
                kept -= went
                assert not went or max(went) < min(kept, default=log.head() + 1)
        assert left(database) == sorted(kept)
