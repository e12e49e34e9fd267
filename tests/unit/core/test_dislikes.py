"""What a user turned away from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_core.dislikes import aversion, disliked, voters


@pytest.mark.parametrize(
    ("items", "against", "found"),
    [
        ([], [], []),
        ("abc", [False, False, False], [0, 1, 2]),
        ("abc", [False, True, False], [0, 2]),
        ("aba", [True, False, False], [1]),
        ("aba", [False, False, True], [0, 1]),
        ("aaa", [False, True, False], [0, 2]),
    ],
)
def test_who_dislikes_an_item_now_speaks_for_it_no_more(items: str, against: list[bool], found: list[int]) -> None:
    """The latest event on an item, which comes first, says how the user stands to it."""
    assert voters(items, against) == found


def test_disliked_is_what_the_latest_event_speaks_against() -> None:
    """The latest dislike first, each item once; what is liked again is not among them."""
    assert list(disliked("abcab", [True, False, True, True, True])) == ["a", "c"]
    assert list(disliked("", [])) == []


CATEGORIES = st.lists(st.sampled_from("abcdef"), max_size=4)


@given(CATEGORIES, st.lists(CATEGORIES.map(frozenset), max_size=30))
def test_an_aversion_is_a_share_and_grows_with_every_dislike(own: list[str], averse: list[frozenset[str]]) -> None:
    """From 0 to 1; one more dislike, an older one, takes nothing back; what shares nothing is left alone."""
    found = [aversion(own, averse[:n]) for n in range(len(averse) + 1)]
    assert found[0] == 0.0
    assert found == sorted(found)
    assert found[-1] < 1.0
    assert (found[-1] > 0) == any(theirs & set(own) for theirs in averse)


def test_the_more_alike_and_the_fresher_the_more_averse() -> None:
    """One dislike takes 0.3 of what is just alike, hardly anything of what shares one category of many."""
    assert aversion(["a", "b"], [frozenset("ab")]) == pytest.approx(0.3)
    assert aversion(["a", "b"], [frozenset("abcd")]) == pytest.approx(0.3 / 4)
    assert aversion(["a"], [frozenset("x")] * 20 + [frozenset("a")]) == pytest.approx(0.15)
