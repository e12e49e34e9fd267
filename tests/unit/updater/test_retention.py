"""Which generations stay."""

from __future__ import annotations

from headwater_core.registry import GenerationRecord
from headwater_updater.retention import generations_to_keep


def records(*numbers_and_parents: tuple[int, int]) -> list[GenerationRecord]:
    return [GenerationRecord(n, parent, False, 0, 0, 0, 0, 4, 0) for n, parent in sorted(numbers_and_parents)[::-1]]


CHAIN = records(*((n, n - 1) for n in range(1, 10)))


def test_the_newest_stay() -> None:
    """Without labels and servers the newest stay, as many as are wanted; all when there are fewer."""
    assert generations_to_keep(CHAIN, {}, set(), 3) == {9, 8, 7}
    assert generations_to_keep(CHAIN, {}, set(), 100) == set(range(1, 10))
    assert generations_to_keep([], {}, set(), 3) == set()


def test_labelled_generations_stay_with_their_parents() -> None:
    """What a label names stays, and what it could be rolled back to."""
    assert generations_to_keep(CHAIN, {"stable": 9, "canary": 4}, set(), 2) == {9, 8, 4, 3}


def test_what_a_server_holds_stays() -> None:
    """A live server's generation stays however old it is."""
    assert generations_to_keep(CHAIN, {"stable": 9}, {1}, 2) == {9, 8, 1}


def test_numbers_without_a_record_are_no_generations() -> None:
    """A held or parent number that is recorded no more is not waited for."""
    assert generations_to_keep(records((5, 2), (9, 8)), {"stable": 9}, {1, 7}, 1) == {9}
