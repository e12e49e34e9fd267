"""The soak's judge: what may not appear, from when on, and which events must be in the log."""

from __future__ import annotations

import pytest
from soak_checker import GRACE_S, HISTORY, RECOVERY_S, Asked, Checker, Ledger

MISSING = "events unavailable"
ITEMS = [f"item-{number}" for number in range(10)]


@pytest.fixture
def checker() -> Checker:
    """Ten items, the odd ones of another category."""
    return Checker({item_id: frozenset(["odd" if number % 2 else "even"]) for number, item_id in enumerate(ITEMS)})


def test_a_whole_answer_is_right(checker: Checker) -> None:
    """Ten items that were written, once each, of whatever category."""
    assert checker.judge(Asked(0.0), ITEMS) == []


@pytest.mark.parametrize(
    ("item_ids", "wrong"),
    [
        (ITEMS[:9], "9 items only"),
        ([*ITEMS, "item-0"], "item-0 twice"),
        ([*ITEMS, "item-0"], "11 items instead of 10"),
        ([*ITEMS[:9], "stranger"], "stranger was never written"),
    ],
)
def test_what_is_wrong_by_itself(checker: Checker, item_ids: list[str], wrong: str) -> None:
    """Too few, too many, the same twice, what nobody wrote."""
    assert wrong in checker.judge(Asked(0.0), item_ids)


def test_a_filter_and_an_exclusion_hold(checker: Checker) -> None:
    """Of the category alone, and without what the request left out; a filter may leave few."""
    asked = Asked(0.0, categories=frozenset(["even"]), excluded=frozenset(["item-2"]))
    assert checker.judge(asked, ["item-0"]) == []
    assert checker.judge(asked, ["item-1", "item-2"]) == [
        "item-1 is not of the category",
        "item-2 was excluded",
    ]


def test_a_further_page_goes_on(checker: Checker) -> None:
    """It may be shorter, and holds nothing of the pages before."""
    asked = Asked(0.0, shown=frozenset(ITEMS[:9]))
    assert checker.judge(asked, ITEMS[9:]) == []
    assert checker.judge(asked, ITEMS[8:]) == ["item-8 was on a page before"]


def test_what_is_hidden_may_appear_for_a_moment_and_again_when_it_is_shown(checker: Checker) -> None:
    """Until the grace is over; an item that is written anew may appear too."""
    checker.hide("item-0", 10.0)
    assert checker.judge(Asked(10.0 + GRACE_S / 2), ITEMS) == []
    assert len(checker.judge(Asked(10.0 + GRACE_S), ITEMS)) == 1
    checker.show("item-0")
    assert checker.judge(Asked(20.0), ITEMS) == []


def test_a_degraded_answer_may_lack_what_was_told_right_before_the_outage(checker: Checker) -> None:
    """And nothing older than that, nor any longer once the database has been back for a while."""
    checker.hide("item-0", 10.0)
    checker.meet("ada", "item-1", 10.0)
    checker.away(10.5)
    assert checker.judge(Asked(20.0, "ada"), ITEMS, [MISSING]) == []
    assert len(checker.judge(Asked(20.0, "ada"), ITEMS)) == 2
    checker.back(12.0)
    assert checker.judge(Asked(12.0 + RECOVERY_S / 2, "ada"), ITEMS, [MISSING]) == []
    assert len(checker.judge(Asked(12.0 + RECOVERY_S, "ada"), ITEMS, [MISSING])) == 2
    checker.away(15.0)
    assert len(checker.judge(Asked(20.0, "ada"), ITEMS, [MISSING])) == 2


def test_scores_are_of_what_was_asked_for_and_can_be_had(checker: Checker) -> None:
    """Each once; not of what is hidden, and what was hidden once may lack its score for a moment."""
    checker.hide("item-0", 10.0)
    assert checker.judge_scores(20.0, ITEMS[:3], ["item-1", "item-2"]) == []
    assert checker.judge_scores(20.0, ITEMS[:3], ITEMS[:3]) == ["item-0 scored, though hidden"]
    checker.show("item-0")
    for scored in (ITEMS[:3], ITEMS[1:3]):
        assert checker.judge_scores(20.0, ITEMS[:3], scored) == []
    assert checker.judge_scores(20.0, ITEMS[:2], ["item-0", "item-0", "item-5"]) == [
        "item-0 scored 2 times",
        "item-5 scored 1 times",
        "item-1 not scored",
    ]


def test_without_a_history_nobody_knows_what_was_met(checker: Checker) -> None:
    """What is hidden is known all the same, and a token lets nothing be missing."""
    checker.hide("item-0", 10.0)
    checker.meet("ada", "item-1", 10.0)
    assert checker.judge(Asked(20.0, "ada"), ITEMS, [HISTORY]) == ["item-0 was hidden 10.0 s before"]
    assert len(checker.judge(Asked(20.0, "ada", covered=checker.met("ada")), ITEMS, [HISTORY])) == 2


def test_what_a_token_covers_is_never_shown(checker: Checker) -> None:
    """Not even a moment after; without the token it may be, for the grace."""
    checker.meet("ada", "item-1", 10.0)
    assert checker.judge(Asked(10.1, "ada"), ITEMS) == []
    assert checker.judge(Asked(10.1, "ada", covered=checker.met("ada")), ITEMS, [MISSING]) != []
    assert checker.judge(Asked(20.0, "bob"), ITEMS) == []


def test_the_ledger_tells_what_is_lost_twice_or_from_nowhere() -> None:
    """What was sent and never acknowledged may be there or not."""
    ledger = Ledger(sent={"a", "b", "c"}, acknowledged={"a", "b"})
    assert dict(ledger.compare(["a", "c", "c", "d"])) == {
        "sent": 3,
        "acknowledged": 2,
        "found": 3,
        "lost": 1,
        "twice": 1,
        "never_sent": 1,
    }
