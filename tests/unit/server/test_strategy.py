"""How strategies put a slate together, without any I/O."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_core.catalogue import Item
from headwater_core.strategies import FRESH, POPULAR, TOWER, Boost, Cap, Pin, SourceUse
from headwater_server.item_space import Found
from headwater_server.strategy import PINNED, Candidate, boost, cap, give_places, lower, pin

ITEMS = {
    item.item_id: item
    for item in (
        Item("a", categories=("x",), attributes={"brand": "one"}),
        Item("b", categories=("x", "y"), attributes={"brand": "two"}),
        Item("c", categories=("y",)),
        Item("d"),
    )
}


def slate(*ids: str, sources: tuple[str, ...] = (TOWER,)) -> list[Candidate]:
    return [Candidate(item_id, 10.0 - place, sources) for place, item_id in enumerate(ids)]


def found(source: str, *ids: str) -> list[Found]:
    return [Found(item_id, 1.0, source) for item_id in ids]


def ids(candidates: list[Candidate]) -> list[str]:
    return [candidate.item_id for candidate in candidates]


def test_a_boost_multiplies_what_a_score_stands_for() -> None:
    """Scores of a softmax are logarithms: four times as likely is log 4 more. Others are multiplied themselves."""
    logs = [Candidate("a", 2.0, ()), Candidate("b", 1.0, ()), Candidate("d", 0.5, ())]
    twice = [Boost(key="category", value="y", factor=2), Boost(key="attributes.brand", value="two", factor=2)]
    assert ids(boost(logs, twice, ITEMS, is_log=True)) == ["b", "a", "d"]
    buried = [Boost(key="category", value="x", factor=0.1)]
    assert ids(boost(logs, buried, ITEMS, is_log=False)) == ["d", "a", "b"]
    assert boost(logs, (), ITEMS, is_log=True) == logs


def test_what_is_like_disliked_items_is_lowered_and_all_else_is_not() -> None:
    """By at most the strength, whatever the scores stand for; items without categories are like nothing."""
    logs = [Candidate("a", 2.0, ()), Candidate("c", 1.5, ()), Candidate("d", 1.0, ())]
    lowered = lower(logs, [ITEMS["a"]], 4.0, ITEMS, is_log=True)
    assert ids(lowered) == ["c", "d", "a"]
    assert [each.score for each in lowered] == pytest.approx([1.5, 1.0, 2.0 - 4.0 * 0.3])
    ranks = lower(logs, [ITEMS["a"]] * 20, 4.0, ITEMS, is_log=False)
    assert 2.0 * math.exp(-4.0) < ranks[-1].score < 2.0 * math.exp(-3.0)
    assert lower(logs, [ITEMS["d"]], 4.0, ITEMS, is_log=True) == logs


def test_of_two_sources_due_at_one_place_the_second_takes_the_next() -> None:
    """Both get as many places as they were promised."""
    uses = [SourceUse(name=FRESH, every=3), SourceUse(name=POPULAR, every=3)]
    proposals = {FRESH: found(FRESH, "f1", "f2"), POPULAR: found(POPULAR, "p1", "p2")}
    placed = give_places(slate("a", "b", "c", "d", "e", "f", "g"), uses, proposals)
    assert ids(placed) == ["a", "b", "f1", "p1", "e", "f2", "p2"]
    assert [placed[place].sources for place in (2, 3)] == [(FRESH,), (POPULAR,)]


def test_a_source_that_proposed_nothing_gives_its_places_back() -> None:
    """And one whose items are all in the slate already."""
    uses = [SourceUse(name=FRESH, every=1)]
    assert give_places(slate("a", "b"), uses, {}) == slate("a", "b")
    assert give_places(slate("a", "b"), uses, {FRESH: found(FRESH, "b", "a")}) == slate("a", "b")


@given(st.integers(1, 6), st.integers(1, 6), st.integers(2, 8), st.integers(0, 40), st.integers(0, 40))
def test_places_are_the_same_wherever_a_page_begins(every: int, below: int, other: int, page: int, rest: int) -> None:
    """One long page has its places where two shorter ones have theirs, as long as no natural ones come between."""
    use = [SourceUse(name=FRESH, every=every, every_below=below)]
    new = found(FRESH, *(f"new-{number}" for number in range(100)))
    all_ = slate(*(f"i{number}" for number in range(page + rest)))
    long = [FRESH in each.sources for each in give_places(all_, use, {FRESH: new})]
    first = [FRESH in each.sources for each in give_places(all_[:page], use, {FRESH: new})]
    second = [FRESH in each.sources for each in give_places(all_[page:], use, {FRESH: new}, before=page)]
    assert first + second == long
    assert sum(long[:every]) == (1 if len(long) >= every else 0)


def test_pinned_items_stand_where_they_were_put() -> None:
    """Others move down; an item that was there already moves; a short slate has them last."""
    assert ids(pin(slate("a", "b", "c"), [Pin(place=2, item_id="d")])) == ["a", "d", "b", "c"]
    assert ids(pin(slate("a", "b", "c"), [Pin(place=3, item_id="a"), Pin(place=1, item_id="d")])) == [
        "d",
        "b",
        "a",
        "c",
    ]
    assert ids(pin(slate("a"), [Pin(place=9, item_id="d")])) == ["a", "d"]
    assert pin([], [Pin(place=1, item_id="d")]) == [Candidate("d", 0.0, (PINNED,))]


def test_a_cap_lets_the_best_of_a_kind_stand() -> None:
    """Items of several categories count for each; what is pinned counts and stays; what has no value is free."""
    caps = [Cap(key="category", at_most=1)]
    assert ids(cap(slate("a", "b", "c", "d"), caps, ITEMS, 10)) == ["a", "c", "d"]
    assert ids(cap(slate("a", "b", "c", "d"), caps, ITEMS, 2)) == ["a", "c"]
    pinned = [*slate("a"), *slate("b", sources=(PINNED,)), *slate("c", "d")]
    assert ids(cap(pinned, caps, ITEMS, 10)) == ["a", "b", "d"]
    brands = [Cap(key="attributes.brand", at_most=1)]
    assert ids(cap(slate("a", "b", "c", "d"), brands, ITEMS, 10)) == ["a", "b", "c", "d"]
