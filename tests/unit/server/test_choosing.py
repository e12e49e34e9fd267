"""Popularity, filters and strategy: how a slate comes about, without any I/O."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_core.catalogue import Item, ItemChange
from headwater_core.strategies import FRESH, POPULAR, TOWER, SourceUse
from headwater_server.catalogue_view import CatalogueView
from headwater_server.filters import ItemFilter
from headwater_server.item_space import Found
from headwater_server.popularity import RecentPopularity
from headwater_server.strategy import Candidate, diversify, fill, give_places

# --- popularity


def test_popularity_halves_with_further_events() -> None:
    """After as many events as the half-life, one counts half."""
    popularity = RecentPopularity(half_life_events=10)
    popularity.add("a", 4.0)
    assert popularity.score("a") == pytest.approx(4.0)
    for _ in range(10):
        popularity.add("b", 1.0)
    assert popularity.score("a") == pytest.approx(2.0)
    assert next(popularity.ranking()) == "b"


def test_popularity_survives_any_number_of_events() -> None:
    """Weights are scaled back before they overflow, and the order stays."""
    popularity = RecentPopularity(half_life_events=1)
    for number in range(5_000):
        popularity.add(f"item-{number % 3}", 1.0)
    scores = [popularity.score(f"item-{number}") for number in range(3)]
    assert all(0.0 < score <= 2.0 for score in scores)
    assert max(scores) == popularity.score("item-1")


def test_a_removed_item_is_not_ranked_again() -> None:
    """It may stay in a ranking made before; the next one is without it."""
    popularity = RecentPopularity()
    popularity.add("a", 1.0)
    popularity.remove("a")
    popularity.remove("never counted")
    assert popularity.score("a") == 0.0
    for number in range(50):
        popularity.add(f"item-{number}", 1.0)
    assert "a" not in list(popularity.ranking())


def test_only_known_items_are_ranked() -> None:
    """An event may name anything; what becomes known later is ranked by what was counted before."""
    known = {"a"}
    popularity = RecentPopularity(known=known)
    popularity.add("a", 1.0)
    popularity.add("b", 2.0)
    assert list(popularity.ranking()) == ["a"]
    known.add("b")
    popularity.admit("b")
    popularity.admit("never counted")
    assert list(popularity.ranking()) == ["b", "a"]


def test_popularity_is_bounded_however_many_ids_events_name() -> None:
    """Over the bound the least popular go, and so does what has decayed to nothing."""
    popularity = RecentPopularity(half_life_events=1_000_000, capacity=100)
    for number in range(20_000):
        popularity.add(f"item-{number}", 1.0)
        popularity.add("popular", 1.0)
    assert len(popularity) <= 100 + 10_000
    assert next(popularity.ranking()) == "popular"
    fading = RecentPopularity(half_life_events=10)
    fading.add("old", 1.0)
    for _ in range(10_000):
        fading.add("new", 1.0)
    assert list(fading.ranking()) == ["new"]


# --- filters

NOW_US = 1_000
ITEM = Item("i", categories=("film", "drama"), attributes={"lang": "en"}, publish_time_us=500, expire_time_us=2_000)


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, True),
        ({"excluded": frozenset({"i"})}, False),
        ({"excluded": frozenset({"j"})}, True),
        ({"categories": frozenset({"drama", "comedy"})}, True),
        ({"categories": frozenset({"comedy"})}, False),
        ({"attributes": {"lang": "en"}}, True),
        ({"attributes": {"lang": "de"}}, False),
        ({"attributes": {"lang": "en", "year": "1996"}}, False),
        ({"published_after_us": 500}, True),
        ({"published_after_us": 501}, False),
        ({"published_before_us": 501}, True),
        ({"published_before_us": 500}, False),
    ],
)
def test_every_condition_must_hold(changes: dict[str, Any], passes: bool) -> None:
    """Alone here; together below."""
    assert ItemFilter(**changes).passes(ITEM, NOW_US) is passes


def test_what_is_not_in_the_catalogue_never_passes() -> None:
    """Whatever the filter."""
    assert not ItemFilter(available_only=False).passes(None, NOW_US)


def test_hidden_and_expired_items_pass_only_when_asked_for() -> None:
    """An item expires at its expire time, not after it."""
    hidden = Item("i", available=False)
    expired = Item("i", expire_time_us=NOW_US)
    for item in (hidden, expired):
        assert not ItemFilter().passes(item, NOW_US)
        assert ItemFilter(available_only=False).passes(item, NOW_US)
    assert ItemFilter().passes(expired, NOW_US - 1)


def test_candidates_are_all_that_can_pass() -> None:
    """By category or over everything; a category that no item has has none; later changes do not touch them."""
    view = CatalogueView()
    items = [Item("a", categories=("x",)), Item("b", categories=("x", "y")), Item("c", available=False)]
    for revision, item in enumerate(items, start=1):
        view.apply(ItemChange(revision, item.item_id, item))
    everything = ItemFilter().candidates(view)
    assert set(ItemFilter(categories=frozenset({"x"})).candidates(view)) == {"a", "b"}
    assert set(ItemFilter(categories=frozenset({"y", "z"})).candidates(view)) == {"b"}
    assert ItemFilter(categories=frozenset({"z"})).candidates(view) == []
    view.apply(ItemChange(4, "b", None))
    assert ItemFilter(categories=frozenset({"y"})).candidates(view) == []
    assert set(everything) == {"a", "b", "c"}
    assert view.revision == 4


def test_a_changed_item_is_replaced_in_its_place() -> None:
    """A thread that looks it up meanwhile finds the old one or the new one: it is never taken out first."""
    view = CatalogueView()
    for revision, item_id in enumerate(("a", "b"), start=1):
        view.apply(ItemChange(revision, item_id, Item(item_id, categories=("x",))))
    view.apply(ItemChange(3, "a", Item("a", categories=("y",))))
    assert list(view.items) == ["a", "b"]
    assert (view.in_category("x"), view.in_category("y")) == ({"b"}, {"a"})


# --- strategy


def candidates(source: str, *scored: tuple[str, float]) -> list[Candidate]:
    return [Candidate(item_id, score, (source,)) for item_id, score in scored]


def found(source: str, *scored: tuple[str, float]) -> list[Found]:
    return [Found(item_id, score, source) for item_id, score in scored]


def with_places(slate: list[Candidate], fresh: list[Found], every: int, below: int, before: int = 0) -> list[Candidate]:
    return give_places(slate, [SourceUse(name=FRESH, every=every, every_below=below)], {FRESH: fresh}, before)


def ids(slate: list[Candidate]) -> list[str]:
    return [candidate.item_id for candidate in slate]


def test_popular_items_fill_up_behind_personal_ones() -> None:
    """Each item once, in order, and sorted by score."""
    personal = candidates(TOWER, ("a", 0.5), ("b", -3.0))
    popular = found(POPULAR, ("b", 90.0), ("c", 80.0), ("d", 70.0), ("e", 60.0))
    slate = fill(personal, popular, 4)
    assert ids(slate) == ["a", "b", "c", "d"]
    assert [candidate.sources for candidate in slate] == [(TOWER,), (TOWER,), (POPULAR,), (POPULAR,)]
    scores = [candidate.score for candidate in slate]
    assert scores == sorted(scores, reverse=True)


def test_without_personal_candidates_popularity_is_the_score() -> None:
    """A cold start is ranked by what is popular, in its own units."""
    popular = found(POPULAR, ("a", 3.0), ("b", 2.0))
    assert fill([], popular, 10) == candidates(POPULAR, ("a", 3.0), ("b", 2.0))
    assert fill([], [], 10) == []


def test_enough_personal_candidates_need_no_popular_ones() -> None:
    """The slate is cut to its size."""
    personal = candidates(TOWER, ("a", 3.0), ("b", 2.0), ("c", 1.0))
    assert ids(fill(personal, found(POPULAR, ("d", 1.0)), 2)) == ["a", "b"]


def test_a_new_item_gets_the_last_place_of_each_window() -> None:
    """Of the first places, then of those below; the best one not yet shown; the answer stays sorted by score."""
    slate = candidates(TOWER, *((f"i{number}", 10.0 - number) for number in range(9)))
    fresh = found(FRESH, ("new-1", 1.0), ("i0", 0.9), ("new-2", 0.5), ("new-3", 0.1))
    placed = with_places(slate, fresh, 4, 2)
    assert ids(placed) == ["i0", "i1", "i2", "new-1", "i4", "new-2", "i6", "new-3", "i8"]
    assert [candidate.score for candidate in placed] == [candidate.score for candidate in slate]
    assert slate[3].item_id == "i3"


def test_later_pages_go_on_where_the_first_ended() -> None:
    """Of all places the fourth and the sixth are for new items, whatever page they are on."""
    slate = candidates(TOWER, *((f"i{number}", 10.0 - number) for number in range(3)))
    fresh = found(FRESH, ("new-1", 1.0), ("new-2", 0.5))
    assert ids(with_places(slate, fresh, 4, 2, 4)) == ["i0", "new-1", "i2"]
    assert ids(with_places(slate, fresh, 4, 2, 3)) == ["new-1", "i1", "new-2"]


def test_no_place_is_given_where_a_new_item_stands_already() -> None:
    """Or where the slate is short, or nothing new fits."""
    slate = [*candidates(TOWER, ("a", 3.0)), *candidates(FRESH, ("new", 2.0)), *candidates(TOWER, ("b", 1.0))]
    assert with_places(slate, found(FRESH, ("other", 5.0)), 3, 2) == slate
    assert with_places(slate[:2], found(FRESH, ("other", 5.0)), 3, 2) == slate[:2]
    assert with_places(slate, [], 2, 2) == slate
    assert ids(with_places([*slate, *slate[:1]], found(FRESH, ("other", 5.0)), 2, 2)) == ["a", "new", "b", "other"]


def test_diversity_prefers_what_is_unlike_the_chosen() -> None:
    """Of two equal groups one of each is shown before a second of the first; 0 keeps the order."""
    near = candidates(TOWER, ("a1", 1.0), ("a2", 0.99), ("a3", 0.98), ("b1", 0.9))
    alike = np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=np.float32)
    assert ids(diversify(near, alike, 0.0, 3)) == ["a1", "a2", "a3"]
    assert ids(diversify(near, alike, 0.9, 2)) == ["a1", "b1"]


@given(
    st.lists(st.tuples(st.floats(-5, 5, width=32), st.integers(-3, 3), st.integers(-3, 3)), max_size=12),
    st.floats(0, 1),
    st.integers(0, 15),
)
def test_diversity_chooses_each_candidate_once(rows: list[tuple[float, int, int]], diversity: float, size: int) -> None:
    """As many as asked for or there are, the best first, also with equal scores and vectors of zeros."""
    rows.sort(key=lambda row: -row[0])
    given_ = [Candidate(str(index), score, (TOWER,)) for index, (score, _, _) in enumerate(rows)]
    vectors = np.array([row[1:] for row in rows], dtype=np.float32).reshape(len(rows), 2)
    chosen = diversify(given_, vectors @ vectors.T / np.float32(18), diversity, size)
    assert len(chosen) == len(set(ids(chosen))) == min(size, len(rows))
    if chosen and diversity < 1.0:
        assert chosen[0].score == given_[0].score
