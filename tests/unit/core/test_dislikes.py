"""What a user turned away from."""

from __future__ import annotations

import pytest

from headwater_core.dislikes import voters


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
