"""Histories as flat arrays, and co-visitation, cosines and recency on cases worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from item_neighbours import (
    ItemNeighbours,
    Recency,
    co_visits,
    cosine_neighbours,
    damped,
    nearest,
    rank_in_row,
)
from scipy import sparse
from sequences import Sequences, encode

from headwater_core.events import HistoryEvent

PLACES = {"a": 0, "b": 1, "c": 2, "d": 3}


def sequences(*written: str) -> Sequences:
    """Each user's events as item@second."""
    histories = []
    for theirs in written:
        pairs = [each.split("@") for each in theirs.split()]
        histories.append([HistoryEvent(1, int(second) * 1_000_000, "click", item) for item, second in pairs])
    return encode(histories, PLACES, lambda event: True)


def pairs(matrix: sparse.csr_array) -> Mapping[str, object]:
    names = "abcd"
    dense = matrix.toarray()
    return {names[i] + names[j]: pytest.approx(float(dense[i, j])) for i, j in zip(*np.nonzero(dense), strict=True)}


def test_events_that_share_a_time_are_one_block_of_one_user() -> None:
    """Two users never share a block, even at the same time."""
    found = sequences("a@1 b@1 c@2", "", "d@2 a@2")
    assert found.blocks.tolist() == [0, 0, 1, 2, 2]
    assert found.users.tolist() == [0, 0, 0, 2, 2]


def test_a_part_holds_its_users_alone() -> None:
    """Starts begin at 0 again; asking for more users than there are gives those that are left."""
    part = sequences("a@1 b@2", "c@1", "d@1 a@3").part(1, 9)
    assert part.starts.tolist() == [0, 1, 3]
    assert part.items.tolist() == [2, 3, 0]


def test_events_without_a_place_or_that_are_no_target_are_left_out() -> None:
    """What nobody learned cannot be counted, and a cancelled purchase speaks for nothing."""
    history = [HistoryEvent(1, 0, "click", "a"), HistoryEvent(2, 1, "cancel", "b"), HistoryEvent(3, 2, "click", "?")]
    assert encode([history], PLACES, lambda event: event.event_type == "click").items.tolist() == [0]


def test_later_items_count_by_their_distance() -> None:
    """1 / distance within the window; nothing backwards, nothing across users."""
    found = co_visits(sequences("a@1 b@2 c@3", "d@1 a@2"), 4, 2, by_block=False, pairs_in_block=False)
    assert pairs(found) == {"ab": 1.0, "bc": 1.0, "ac": 0.5, "da": 1.0}


def test_items_of_one_block_do_not_follow_each_other() -> None:
    """The order inside a basket means nothing."""
    learned = sequences("a@1 b@1 c@2")
    assert pairs(co_visits(learned, 4, 2, by_block=False, pairs_in_block=False)) == {"bc": 1.0, "ac": 0.5}
    assert pairs(co_visits(learned, 4, 2, by_block=True, pairs_in_block=False)) == {"bc": 1.0, "ac": 1.0}


def test_pairs_in_a_block_count_both_ways() -> None:
    """And no item is its own neighbour because it stands in the basket twice."""
    found = co_visits(sequences("a@1 b@1 a@1"), 4, 2, by_block=True, pairs_in_block=True)
    assert pairs(found) == {"ab": 1.0, "ba": 1.0}


def test_an_item_may_follow_itself_in_a_later_block() -> None:
    """That is what a repeat is."""
    assert pairs(co_visits(sequences("a@1 a@2"), 4, 3, by_block=False, pairs_in_block=False)) == {"aa": 1.0}


def test_cosines_are_of_binary_columns() -> None:
    """How often a user met an item does not matter."""
    found = cosine_neighbours(sequences("a@1 b@2 a@3", "a@1"), 4)
    assert pairs(found) == {"ab": 1 / np.sqrt(2), "ba": 1 / np.sqrt(2)}


def test_the_nearest_are_each_rows_highest() -> None:
    """Rows with fewer keep what they have."""
    matrix = co_visits(sequences("a@1 b@2 c@3 d@4"), 4, 3, by_block=False, pairs_in_block=False)
    assert pairs(nearest(matrix, rank_in_row(matrix), 1)) == {"ab": 1.0, "bc": 1.0, "cd": 1.0}


def test_popular_columns_are_damped() -> None:
    """By popularity^exponent; an item without an event is not divided by zero."""
    matrix = co_visits(sequences("a@1 b@2"), 4, 1, by_block=False, pairs_in_block=False)
    assert pairs(damped(matrix, np.array([0.0, 16.0, 0.0, 0.0]), 0.25)) == {"ab": 0.5}


def test_age_is_counted_from_the_last_event_or_block() -> None:
    """Repeated items add up unless counted once."""
    asked = sequences("a@1 b@2 a@3 c@3")
    assert Recency(2, 0.5).weights(asked, 4).toarray().tolist() == [[0.5, 0.0, 1.0, 0.0]]
    assert Recency(3, 0.5, by_block=True).weights(asked, 4).toarray().tolist() == [[1.25, 0.5, 1.0, 0.0]]
    assert Recency(9, binary=True).weights(asked, 4).toarray().tolist() == [[1.0, 1.0, 1.0, 0.0]]


def test_scores_add_up_over_the_users_items_and_are_nothing_without_any() -> None:
    """An empty history is a row of zeros."""
    matrix = co_visits(sequences("a@1 b@2", "c@1 b@2"), 4, 1, by_block=False, pairs_in_block=False)
    scores = ItemNeighbours(matrix, Recency(5, 0.5)).score(sequences("a@1 c@2", ""))
    assert scores.tolist() == [[0.0, 1.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
